"""A caller outside the mesh comes in by a listener of one node, and its server is on the other: over sockets, in both lanes.

`west` has the buyers, `east` the stores. What a gateway does for servers of its own node is in test_gateway.py.
"""

from __future__ import annotations

import pytest
import trio

from nodeproxy.codec.entering import told
from nodeproxy.downstream import accept
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Connection
from nodeproxy.routing import source
from nodeproxy.tls import contexts, handshake
from policy.doors import Came
from policy.model import Identity, Revoked
from tests.compiled import needs_lane
from tests.journeys import bookstore
from tests.journeys.stand_ins import echo
from tests.journeys.test_gateway import V1, ask, dial, gateway, lets_in, made, route, rule
from tests.journeys.test_gateway_tls import Tls, checks, listener, secret
from tests.journeys.test_gateway_tls import lets_in as lets
from tests.journeys.two_nodes import TwoNodes
from tests.ports import free_port

PORT, RAW = free_port(), free_port()
FRONT = {"kind": "Gateway", "name": "front"}
LANES = [(), pytest.param(("west", "east"), marks=needs_lane)]


@pytest.fixture(params=LANES, ids=["no lane", "lanes"])
def lanes(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["node doors", "own doors"])
async def mesh(request, monkeypatch, mint, lanes):
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, request.param, lanes)
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
        mesh.node = mesh.addressed["west"]
        await mesh.start()
        yield mesh
        nursery.cancel_scope.cancel()
    mesh.close()


def everywhere(port=PORT, name="front"):
    """A Gateway that names no address: every node has its listeners."""
    listeners = [{"name": "http", "port": port, "protocol": "HTTP"}]
    return made("GatewayClass", "edgemesh", {"controllerName": "edgemesh.io/gateway-controller"}) + made(
        "Gateway", name, {"gatewayClassName": "edgemesh", "listeners": listeners}
    )


def claim(mesh, gateway="bookstore/front", **more):
    return Came(mesh.stranger, gateway, port=4000, **more)


async def test_a_server_of_the_other_node_is_reached_and_sees_the_caller(mesh):
    web = mesh.web("store-v1")
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=lets_in(mesh))
    answer = await ask(mesh, port=PORT, **{"x-forwarded-for": "198.51.100.1", "x-edgemesh-entering": "for=::1"})
    assert (answer.status, answer.body) == (200, "store-v1")
    assert web.peers == [mesh.stranger]
    assert web.requests[0][3][b"x-forwarded-for"] == mesh.stranger.encode()
    assert not [name for name in web.requests[0][3] if b"edgemesh" in name]
    (out,), (into,) = mesh.west.told("request"), mesh.east.told("request")
    assert (into.source, into.source_address, into.status) == (None, mesh.stranger, 200)
    assert into.tls_peer == "spiffe://cluster.local/node/west"
    assert into.rule == out.rule == "IngressBackend bookstore/bookstore-v1"
    assert (out.tls_version, into.tls_version) == ("TLSv1.3", "TLSv1.3")
    mesh.node = mesh.addressed["east"]
    assert (await ask(mesh, port=PORT)).body == "store-v1"
    assert mesh.east.told("request")[-1].tls_peer == "", "the server's own node needs no tunnel"


async def test_the_other_way_round(mesh):
    mesh.web("buyer", 14001)
    mesh.node = mesh.addressed["east"]
    ports = "[{name: web, port: 14001, appProtocol: http}]"
    service = bookstore.service("buyers", "{app: bookbuyer}", ports, "bookbuyer")
    backend = [{"name": "buyers", "port": {"number": 14001, "protocol": "http"}}]
    let = made("IngressBackend", "buyers", {"backends": backend, "sources": [FRONT]}, "bookbuyer")
    mesh.publish(
        gateway=everywhere().replace(
            '"name": "front", "namespace": "bookstore"', '"name": "front", "namespace": "bookbuyer"'
        ),
        route=made(
            "HTTPRoute",
            "r",
            {"parentRefs": [{"name": "front"}], "rules": [rule({"name": "buyers", "port": 14001})]},
            "bookbuyer",
        ),
        buyers=service,
    )
    statuses = [(await ask(mesh, port=PORT)).status for _ in range(2)]
    assert statuses == [403, 403]
    mesh.publish(let=let)
    with trio.fail_after(5):
        while (await ask(mesh, port=PORT)).status != 200:  # buyer-2 has no server: the turn is the other one's then
            pass
    assert mesh.west.told("request")[-1].tls_peer == "spiffe://cluster.local/node/east"


async def test_without_an_ingress_backend_nothing_leaves(mesh):
    web = mesh.web("store-v1")
    mesh.publish(gateway=everywhere(), route=route(rule(V1)))
    for let in ("", lets_in(mesh, network="192.0.2.0/24"), lets("bookstore-v1", {"kind": "Gateway", "name": "other"})):
        mesh.publish(let=let)
        answer = await ask(mesh, port=PORT)
        assert (answer.status, answer.reason) == (403, "no-identity")
    assert not web.requests
    assert not mesh.west.peers
    assert not mesh.east.told("request")
    mesh.publish(let=lets("bookstore-v1", FRONT))
    assert (await ask(mesh, port=PORT)).status == 200


async def test_the_server_s_node_decides_last(mesh):
    web = mesh.web("store-v1")
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=lets("bookstore-v1", FRONT))
    call = await dial(mesh, port=PORT)
    assert (await call.get()).status == 200
    mesh.manifests["let"] = ""
    mesh.east.publish()
    answer = await call.get()
    assert (answer.status, answer.reason) == (403, "no-identity")
    (refusal,) = mesh.east.told("request", flag="no-identity")
    assert answer.headers["x-edgemesh-request"] == refusal.id
    assert len(web.requests) == 1


async def test_a_head_that_one_node_admits_passes_two(mesh):
    web = mesh.web("store-v1")
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=lets_in(mesh))
    fields = {f"x-{number}": "y" for number in range(98)}  # with Host and User-Agent as many as limits.headerCount
    assert (await ask(mesh, port=PORT, **fields)).status == 200
    assert len([name for name in web.requests[0][3] if name.startswith(b"x-")]) > 98
    assert (await ask(mesh, port=PORT, **fields, more="y")).status == 431


async def test_requests_are_judged_one_by_one(mesh):
    mesh.web("store-v1")
    group = bookstore.ROUTES
    let = lets("bookstore-v1", FRONT, matches=[{"kind": "HTTPRouteGroup", "name": "books"}])
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=let, routes=group)
    call = await dial(mesh, port=PORT)
    assert [(await call.get(path)).status for path in ("/books/1", "/admin", "/books")] == [200, 403, 200]


async def test_a_body_each_way_and_callers_share_connections(mesh):
    web = mesh.web("store-v1")
    web.answers["/up"] = (200, b"x" * 300_000)
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=lets_in(mesh))
    for _ in range(3):
        answer = await ask(mesh, "/up", port=PORT, method="POST", body=b"y" * 300_000)
        assert answer.body == "x" * 300_000
    assert web.requests[-1][4] == b"y" * 300_000
    assert len(mesh.east.peers.accepted) == 1


async def test_an_upgrade_goes_through_a_tunnel_and_is_judged_there(mesh):
    """A tunnel is kept for who it was opened for: a caller of another Gateway does not get it."""
    web = mesh.web("store-v1")
    two = made(
        "Gateway",
        "back",
        {"gatewayClassName": "edgemesh", "listeners": [{"name": "http", "port": RAW, "protocol": "HTTP"}]},
    )
    mesh.publish(
        gateway=everywhere() + two,
        route=route(rule(V1), parentRefs=[{"name": "front"}, {"name": "back"}]),
        let=lets("bookstore-v1", FRONT, {"kind": "Gateway", "name": "back"}),
    )
    asks = {"connection": "upgrade", "upgrade": "websocket"}
    assert (await ask(mesh, port=PORT, **asks)).status == 200  # the server does not switch, and the tunnel is free
    mesh.manifests["let"] = lets("bookstore-v1", FRONT)
    mesh.east.publish()
    assert (await ask(mesh, port=RAW, **asks)).status == 503  # the other node refuses the tunnel: "peer-refused"
    assert (await ask(mesh, port=PORT, **asks)).status == 200
    assert len(web.requests) == 2


def stream(mesh, port=RAW):
    listeners = [{"name": "raw", "port": port, "protocol": "TCP"}]
    way = {"parentRefs": [{"name": "raw"}], "rules": [{"backendRefs": [{"name": "bookstore-v1", "port": 9000}]}]}
    made_of = made("GatewayClass", "edgemesh", {"controllerName": "edgemesh.io/gateway-controller"})
    made_of += made("Gateway", "raw", {"gatewayClassName": "edgemesh", "listeners": listeners})
    return made_of + made("TCPRoute", "raw", way).replace('networking.k8s.io/v1"', 'networking.k8s.io/v1alpha2"')


async def test_opaque_bytes_and_what_cuts_them(mesh):
    server = mesh.serve("store-v1", echo, 9000)
    backends = [{"name": "bookstore-v1", "port": {"number": 9000, "protocol": "tcp"}}]
    let = made("IngressBackend", "raw", {"backends": backends, "sources": [{"kind": "Gateway", "name": "raw"}]})
    mesh.publish(gateway=stream(mesh), let=let)
    call = await dial(mesh, port=RAW)
    await call.send(b"ping")
    assert await call.read(4) == b"ping"
    assert server.peers == [mesh.stranger]
    mesh.manifests["let"] = ""
    mesh.east.publish()
    assert await call.is_over()
    mesh.west.publish()
    other = await dial(mesh, port=RAW)
    await other.send(b"ping")
    assert await other.is_over()
    assert len(server.peers) == 1


async def test_names_in_the_caller_s_certificate_are_told(mesh, mint):
    mesh.web("store-v1")
    partners = type(mint)()
    front = mesh.west.proxy.context.front
    front.certificates.take([secret(mint)], {"ConfigMap bookstore/partners": partners.root.pem})
    said = lets("bookstore-v1", {"kind": "AuthenticatedPrincipal", "name": "till.partner.example"})
    mesh.publish(gateway=checks(mesh, listener()), route=route(rule(V1)), let=said)
    if not mesh.node_doors:
        return  # nobody says that the Gateway's address is that of a node
    till = partners.credentials(dns=("till.partner.example", "a" * 60 + ".example"))
    assert (await Tls(mesh, mint, shows=till).get()).body == "store-v1"
    assert mesh.east.told("request")[-1].tls_peer == "spiffe://cluster.local/node/west"
    assert (await Tls(mesh, mint, shows=partners.credentials(dns=("other.partner.example",))).get()).status == 403


async def test_an_identity_is_told_but_none_of_a_namespace_of_the_mesh(mesh, mint):
    mesh.web("store-v1")
    front = mesh.west.proxy.context.front
    front.certificates.take([secret(mint)], {"ConfigMap bookstore/partners": mint.root.pem})
    grants = bookstore.http("partners/till", "bookstore") + bookstore.http("bookbuyer", "bookstore")
    mesh.publish(gateway=checks(mesh, listener()), route=route(rule(V1)), access=grants)
    if not mesh.node_doors:
        return
    till = mint.credentials("spiffe://cluster.local/ns/partners/sa/till")
    buyer = mint.credentials("spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer")
    assert (await Tls(mesh, mint, shows=till).get("/books")).status == 200
    assert (await Tls(mesh, mint, shows=till).get("/admin")).status == 403
    assert (await Tls(mesh, mint, shows=buyer).get("/books")).status == 403, "workloads call from where they run"
    mesh.publish(revoked=Revoked(identities=(Identity("partners", "till"),)))
    with pytest.raises((trio.BrokenResourceError, OSError, EOFError)):
        await Tls(mesh, mint, shows=till).get("/books")


# who may speak as a gateway


class Forger:
    """Opens streams at the store's node with a certificate of its own."""

    def __init__(self, mesh, mint, credentials):
        self.mesh, self.mint, self.credentials = mesh, mint, credentials

    async def ask(self, came, path=b"/", destination=None, connect=False):
        """The status of a request, or of CONNECT, or the flag for which the connection ended."""
        mesh, trust = self.mesh, self.mint.trust()
        store = mesh.addresses["store-v1"]
        expects = {"spiffe://cluster.local/node/east", "spiffe://cluster.local/ns/bookstore/sa/bookstore"}
        socket = await trio.open_tcp_stream(mesh.addressed["east"] if mesh.node_doors else store, 15008)
        context = contexts.Contexts().client(self.credentials, trust, contexts.ALPN_MESH)
        secured = await handshake.connect(socket, context, trust, expects, 5.0, self.mesh.east.identities.now)
        connection = Connection(secured.stream, True, Bounds(native=False), "forger")
        where = f"{store}:14001".encode()
        fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", path), (b":authority", b"books.example")]
        fields = [(b":method", b"CONNECT"), (b":authority", where)] if connect else fields
        fields += [] if connect else [(b"x-edgemesh-destination", where)]
        fields += [(b"x-edgemesh-entering", one if isinstance(one, bytes) else told(one)) for one in came]
        async with trio.open_nursery() as nursery:

            async def run():
                try:
                    await connection.run()
                except (Refused, trio.BrokenResourceError):
                    nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            with trio.move_on_after(5):
                try:
                    channel = await connection.open(fields, end=not connect)
                    answer, _ = await channel.head()
                    return int(dict(answer)[b":status"])
                except (Refused, trio.BrokenResourceError):
                    return 0
                finally:
                    secured.stream.abort()
                    nursery.cancel_scope.cancel()
        return 0


def flags(mesh):
    return [record.flag for record in mesh.east.records if record.flag]


@pytest.mark.parametrize("connect", [False, True])
async def test_a_workload_cannot_speak_as_a_gateway(mesh, mint, connect):
    """Also not one whose own calls are admitted, and not for the address that is let in."""
    web = mesh.web("store-v1")
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=lets_in(mesh) + lets("bookstore-v2", FRONT))
    for account in ("bookbuyer", "bookthief"):
        forger = Forger(mesh, mint, mint.credentials(f"spiffe://cluster.local/ns/{account}/sa/{account}", "west"))
        assert await forger.ask([claim(mesh)], b"/books", connect=connect) in (401, 403)
        assert "not-a-gateway" in flags(mesh)
    assert not web.requests
    assert not web.peers


async def test_a_node_speaks_only_as_a_gateway_that_is_programmed_on_it(mesh, mint):
    web = mesh.web("store-v1")
    node = {name: mint.credentials(f"spiffe://cluster.local/node/{name}", name) for name in ("west", "north")}
    mesh.publish(gateway="", route="", let=lets_in(mesh))
    west = Forger(mesh, mint, node["west"])
    assert await west.ask([claim(mesh)]) == 0, "no Gateway anywhere: a node opens no tunnels"
    assert flags(mesh)[-1] == "peer-no-identity"
    mesh.publish(gateway=everywhere(), route=route(rule(V1)))
    assert await west.ask([claim(mesh)]) == 200
    assert await west.ask([claim(mesh, "bookstore/other")]) == 403
    assert flags(mesh)[-1] == "not-a-gateway"
    assert await west.ask([]) in (403, 502), "without a caller: a node calls for itself nowhere"
    assert flags(mesh)[-1] == "peer-no-identity"
    assert await west.ask([claim(mesh), claim(mesh)]) == 403
    assert await west.ask([b"for=10.0.0.1"]) == 403
    assert await Forger(mesh, mint, node["north"]).ask([claim(mesh)]) == 0, "a node that no manifest names"
    authority = mint.credentials("spiffe://cluster.local/authority", "")
    assert await Forger(mesh, mint, authority).ask([claim(mesh)]) == 0
    assert len(web.requests) == 1


async def test_a_gateway_at_the_address_of_another_node_is_not_spoken_for(mesh, mint):
    web = mesh.web("store-v1")
    mesh.publish(
        gateway=gateway(mesh, port=PORT).replace(mesh.node, mesh.addressed["east"]),
        route=route(rule(V1)),
        let=lets_in(mesh),
    )
    west = Forger(mesh, mint, mint.credentials("spiffe://cluster.local/node/west", "west"))
    assert await west.ask([claim(mesh)]) == 0
    assert flags(mesh)[-1] == "peer-no-identity"
    assert not web.requests


async def test_names_count_only_where_the_gateway_asks_for_certificates(mesh, mint):
    """A node that lies about names, where nobody asks callers for one, opens nothing by it."""
    web = mesh.web("store-v1")
    said = lets("bookstore-v1", {"kind": "AuthenticatedPrincipal", "name": "till.partner.example"})
    grants = bookstore.http("partners/till", "bookstore")
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=said, access=grants)
    west = Forger(mesh, mint, mint.credentials("spiffe://cluster.local/node/west", "west"))
    assert await west.ask([claim(mesh, names=("till.partner.example",))]) == 403
    assert await west.ask([claim(mesh, identity=Identity("partners", "till"))], b"/books") == 403
    assert not web.requests


async def test_a_node_that_is_revoked_is_cut_off(mesh, mint):
    mesh.web("store-v1")
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=lets_in(mesh))
    assert (await ask(mesh, port=PORT)).status == 200
    mesh.revoked = Revoked(nodes=("west",))
    mesh.east.publish()
    west = Forger(mesh, mint, mint.credentials("spiffe://cluster.local/node/west", "west"))
    assert await west.ask([claim(mesh)]) == 0
    assert flags(mesh)[-1] == "peer-revoked"
    assert (await ask(mesh, port=PORT)).status >= 500


async def test_a_node_without_a_certificate_calls_its_own_servers(mesh):
    mesh.web("store-v1")
    mesh.publish(gateway=everywhere(), route=route(rule(V1)), let=lets_in(mesh))
    mesh.west.identities.node = lambda: None
    answer = await ask(mesh, port=PORT)
    assert (answer.status, answer.reason) == (503, "no-certificate")
    (refused,) = mesh.west.told("request")
    assert "is on node east" in refused.detail


async def test_a_gateway_that_names_an_address_without_a_node_is_refused_before_it_calls(mesh):
    """Where NodeConfigs give no addresses nobody knows at which node a Gateway's address is."""
    mesh.web("store-v1")
    mesh.publish(gateway=gateway(mesh, port=PORT), route=route(rule(V1)), let=lets_in(mesh))
    answer = await ask(mesh, port=PORT)
    if mesh.node_doors:
        assert answer.status == 200
    else:
        assert (answer.status, answer.reason) == (403, "not-a-gateway")
        assert not mesh.west.peers
