"""Gateways of two nodes on the real kernel: whoever comes in at one reaches servers of the other, and forgers do not.

curl (stranger) -> n1 or n2, port 8088 -> the store on n2, the buyer's own server on n1
"""

from __future__ import annotations

import json
import socket
import time

import pytest
import trio

from agent.identity.node.store import IdentityStore
from nodeproxy.codec.entering import told
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Connection
from nodeproxy.tls import contexts, handshake
from nodeproxy.tls.credentials import Trust
from policy.doors import Came
from tests.netns.conftest import named
from tests.netns.test_capture_kernel import inside
from tests.netns.two_nodes import WEB, mesh

__all__ = ("mesh",)  # a fixture

PORT = 8088
GATEWAY = "gateway.networking.k8s.io/v1"


def made(kind, name, spec, version=GATEWAY):
    return {"apiVersion": version, "kind": kind, "metadata": named(name), "spec": spec}


def gateway(*addresses, port=PORT):
    spec = {"gatewayClassName": "edgemesh", "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]}
    return spec | ({"addresses": [{"value": one} for one in addresses]} if addresses else {})


def way(prefix, service):
    match = [{"path": {"type": "PathPrefix", "value": prefix}}]
    return {"matches": match, "backendRefs": [{"name": service, "port": 80}]}


def opens(name, service, *sources):
    backend = {"name": service, "port": {"number": 80, "protocol": "http"}}
    version = "policy.openservicemesh.io/v1alpha1"
    return made("IngressBackend", name, {"backends": [backend], "sources": list(sources)}, version)


@pytest.fixture(scope="module")
def routed(mesh):
    """The mesh, with routes of a Gateway that lead to a server on each node."""
    mesh.leaves["buyer"].start(WEB, "buyer", 80)
    mesh.service("buyer", [{"name": "http", "port": 80}])
    mesh.write("class", made("GatewayClass", "edgemesh", {"controllerName": "edgemesh.io/gateway-controller"}))
    rules = [way("/store", "store"), way("/buyer", "buyer")]
    mesh.write("way", made("HTTPRoute", "front", {"parentRefs": [{"name": "front"}], "rules": rules}))
    return mesh


@pytest.fixture
def edge(routed):
    """The Gateway is at every node, and nobody is let in."""
    routed.write("gateway", made("Gateway", "front", gateway()))
    if (routed.nodes["n1"].config / "let.yaml").exists():
        routed.remove("let")
    routed.build()
    return routed


def ask(mesh, node, path):
    return mesh.leaves["stranger"].curl(f"http://{mesh.nodes[node].v4}:{PORT}{path}", timeout=8)


def let_in(mesh, *sources):
    mesh.write("let", opens("store", "store", *sources), opens("buyer", "buyer", *sources))
    mesh.build()


def test_without_an_ingress_backend_nobody_comes_in_at_either_node(edge):
    for node in ("n1", "n2"):
        for path in ("/store", "/buyer"):
            answer = ask(edge, node, path)
            assert (answer.status, answer.reason) == (403, "no-identity"), (node, path, answer)


@pytest.mark.parametrize("by", ["address", "gateway"])
def test_each_node_reaches_the_servers_of_both_and_they_see_the_caller(edge, by):
    stranger = edge.leaves["stranger"].v4
    let_in(
        edge, {"kind": "IPRange", "name": f"{stranger}/32"} if by == "address" else {"kind": "Gateway", "name": "front"}
    )
    for node in ("n1", "n2"):
        for name in ("store", "buyer"):
            answer = ask(edge, node, f"/{name}/x")
            assert (answer.status, answer.body) == (200, f"{name} saw ::ffff:{stranger} /{name}/x"), (node, answer)
    for here, there in (("n1", "n2"), ("n2", "n1")):
        records = edge.nodes[there].records()
        peer = f"/node/{edge.nodes[here].name}"
        passed = [one for one in records if one.get("kind") == "request" and one.get("tls_peer", "").endswith(peer)]
        assert {one["source_address"] for one in passed if not one.get("flag")} == {stranger}
    let_in(edge, {"kind": "IPRange", "name": "198.51.100.0/24"})
    assert {ask(edge, node, path).status for node in ("n1", "n2") for path in ("/store", "/buyer")} == {403}


def explained(mesh, node, path):
    outside = f"{mesh.leaves['stranger'].v4}%lab/front"
    url, socket = f"http://x.example:{PORT}{path}", mesh.nodes[node].socket
    words = ("explain", "--from-outside", outside, url, "-o", "json", "--socket", socket)
    done = mesh.nodes[node].edgemesh(*words, check=False)
    return done.returncode, json.loads(done.stdout)


def test_explain_and_status_say_what_is_so(edge):
    """What curl gets, `explain --from-outside` says; the listeners are in `status` and `routes`."""
    for sources, allowed in (((), False), (({"kind": "Gateway", "name": "front"},), True)):
        if sources:
            let_in(edge, *sources)
        for node, path in (("n1", "/store"), ("n1", "/buyer"), ("n2", "/store"), ("n2", "/buyer")):
            code, found = explained(edge, node, path)
            assert (code, found["allowed"]) == (0 if allowed else 1, allowed), found
            assert (ask(edge, node, path).status == 200) is allowed
    assert explained(edge, "n1", "/store")[1]["transport"] == "tunnel"
    assert explained(edge, "n2", "/store")[1]["transport"] == "direct"
    said = edge.nodes["n1"].edgemesh("status", "--socket", edge.nodes["n1"].socket, check=False).stdout
    assert f"open at {edge.nodes['n1'].v4}" in said
    assert "Gateway lab/front http" in said
    told = edge.nodes["n1"].edgemesh("routes", "--socket", edge.nodes["n1"].socket).stdout
    assert "HTTPRoute lab/front, rule 1" in told
    assert "Gateway lab/front, from outside" in told


def test_the_server_s_node_alone_may_refuse(edge):
    let_in(edge, {"kind": "Gateway", "name": "front"})
    assert ask(edge, "n1", "/store").status == 200
    nobody = {"kind": "IPRange", "name": "198.51.100.0/24"}
    edge.write("let", opens("store", "store", nobody), opens("buyer", "buyer", nobody), nodes=["n2"])
    edge.build()
    answer = ask(edge, "n1", "/store")
    assert (answer.status, answer.reason) == (403, "no-identity")
    assert ask(edge, "n2", "/buyer").status == 403, "as its own policy has it"


def forged(mesh, whose, identity=None, gateway="lab/front"):
    """The status of a request to the store's node with a certificate of node `whose`; 0: it was sent away.

    It says that a caller at the stranger's address came in by a Gateway. `identity` None: the node's own certificate.
    """
    here, there = mesh.nodes[whose], mesh.nodes["n2"]
    store = IdentityStore(here.state)
    _, bundle, pairs = store.load()
    suffix = f"/sa/{identity}" if identity else f"/node/{here.name}"
    (shown,) = [one.credentials for one in pairs if one.credentials.spiffe.endswith(suffix)]
    trust = Trust(bundle.trust_domain, "\n".join(bundle.roots).encode())
    with inside(here.name):
        sock = socket.create_connection((there.v4, 15008), 5)

    async def ask():
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        context = contexts.Contexts().client(shown, trust, contexts.ALPN_MESH)
        expects = {f"spiffe://{bundle.trust_domain}/node/{there.name}"}
        secured = await handshake.connect(stream, context, trust, expects, 5.0, time.time)
        connection = Connection(secured.stream, True, Bounds(native=False), "forger")
        status = 0
        async with trio.open_nursery() as nursery:

            async def run():
                try:
                    await connection.run()
                except (Refused, trio.BrokenResourceError):
                    nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/books"), (b":authority", b"store")]
            fields.append((b"x-edgemesh-destination", f"{mesh.leaves['store'].v4}:80".encode()))
            fields.append((b"x-edgemesh-entering", told(Came(mesh.leaves["stranger"].v4, gateway, port=4000))))
            with trio.move_on_after(5):
                try:
                    channel = await connection.open(fields, end=True)
                    status = int(dict((await channel.head())[0])[b":status"])
                except (Refused, trio.BrokenResourceError):
                    pass
            secured.stream.abort()
            nursery.cancel_scope.cancel()
        return status

    sock.setblocking(False)
    return trio.run(ask)


def flags(mesh, since):
    return {record.get("flag") for record in mesh.nodes["n2"].records()[since:]} - {None, ""}


def test_a_certificate_of_a_workload_says_nothing_of_callers_outside(edge):
    """The buyer may GET /books of the store: with its certificate a lie is refused all the same."""
    let_in(edge, {"kind": "Gateway", "name": "front"})
    since = len(edge.nodes["n2"].records())
    for identity in ("buyer", "thief"):
        assert forged(edge, "n1", identity) == 403
    edge.wait(lambda: "not-a-gateway" in flags(edge, since), "records of the refusals")
    assert forged(edge, "n1") == 200, "the node itself may"


def test_a_node_speaks_only_as_a_gateway_that_is_programmed_on_it(edge):
    let_in(edge, {"kind": "Gateway", "name": "front"})
    assert forged(edge, "n1", gateway="lab/other") == 403
    edge.write("gateway", made("Gateway", "front", gateway(edge.nodes["n1"].v4)))
    edge.build()
    assert forged(edge, "n1") == 200
    assert ask(edge, "n1", "/store").status == 200
    assert forged(edge, "hub") == 0, "a node without the Gateway"
    assert ask(edge, "n2", "/store").status == 0, "nothing listens there"
    edge.write("gateway", made("Gateway", "front", gateway(edge.nodes["n2"].v4)))
    edge.build()
    since = len(edge.nodes["n2"].records())
    assert forged(edge, "n1") == 0
    edge.wait(lambda: "peer-no-identity" in flags(edge, since), "a record of the refusal")
    assert ask(edge, "n2", "/buyer").status == 200
