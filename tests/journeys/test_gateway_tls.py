"""HTTPS listeners of Gateways, over sockets: real curl, real handshakes; renewal under load, WebSockets, proxies before us."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import ssl
import time

import pytest
import trio
from msgspec import structs

from nodeproxy.context import Front
from nodeproxy.tls.certificates import ServerCertificate
from nodeproxy.tls.contexts import load_key
from policy.model import Identity, Revoked, ServicePort
from tests.journeys.stand_ins import Caller
from tests.journeys.test_gateway import V1, V2, ask, dial, gateway, made, route, rule
from tests.ports import free_port

PORT = free_port()
PLAIN = free_port()


def listener(name="web", hostname=None, *, certificates=("tls",), port=PORT):
    tls = {"mode": "Terminate", "certificateRefs": [{"name": one} for one in certificates]}
    said = {
        "name": name,
        "port": port,
        "protocol": "HTTPS",
        "tls": tls,
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    return said | ({"hostname": hostname} if hostname else {})


def lets_in(backend="bookstore-v1", *sources, **more):
    backends = [{"name": backend, "port": {"number": 14001, "protocol": "http"}}]
    sources = list(sources) or [{"kind": "Gateway", "name": "front"}]
    return made("IngressBackend", backend, {"backends": backends, "sources": sources, **more})


def secret(mint, name="tls", *hosts):
    hosts = hosts or ("books.example",)
    given = mint.credentials(dns=hosts)
    return ServerCertificate(f"bookstore/{name}", hosts, given.chain, given.key, given.not_before, given.not_after)


def holds(mesh, *certificates, roots=None):
    mesh.proxy.context.front.certificates.take(certificates, roots)


async def curl(mesh, mint, tmp_path, url, *options, code=0):
    """What real curl prints of a response: its head and body."""
    (tmp_path / "ca").write_bytes(mint.root.pem)
    host = url.partition("//")[2].partition("/")[0]
    resolve = f"{host}:{mesh.node}"
    command = ["curl", "-sS", "-i", "--max-time", "20", "--cacert", str(tmp_path / "ca"), "--resolve", resolve]
    command += ["--interface", mesh.stranger, *options, url]
    # Sanitizers are for us: with them loaded curl does not end
    plain = os.environ | {"LD_PRELOAD": ""}
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=plain)
    assert done.returncode == code, done.stderr
    return done.stdout.decode()


class Tls:
    """A TLS client: one connection to the listener."""

    def __init__(self, mesh, mint, host="books.example", alpn=("http/1.1",), shows=None, caller=None, before=b""):
        self.mesh, self.host, self.caller, self.before = mesh, host, caller, before
        self.context = ssl.create_default_context(cadata=mint.root.pem.decode())
        self.context.set_alpn_protocols(list(alpn))
        if shows is not None:
            load_key(self.context, shows.chain + shows.key)

    async def open(self):
        plain = (await dial(self.mesh, self.host, PORT, self.caller)).stream
        if self.before:
            await plain.send_all(self.before)
        stream = trio.SSLStream(plain, self.context, server_hostname=self.host or None, https_compatible=True)
        await stream.do_handshake()
        return Caller(stream, self.host)

    async def get(self, path="/", **more):
        call = await self.open()
        try:
            return await call.get(path, **more)
        finally:
            await trio.aclose_forcefully(call.stream)


async def test_real_curl_over_both_versions_of_http(mesh, mint, tmp_path):
    one = mesh.web("store-v1")
    holds(mesh, secret(mint))
    mesh.publish(gateway=gateway(mesh, listener()), route=route(rule(V1)), let=lets_in())
    url = f"https://books.example:{PORT}/books"
    for option, version in (("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")):
        told = await curl(mesh, mint, tmp_path, url, option)
        assert told.startswith(version)
        assert told.endswith("store-v1")
    for _, _, _, fields, _ in one.requests:
        assert fields[b"x-forwarded-proto"] == b"https"
        assert fields[b"x-forwarded-host"] == f"books.example:{PORT}".encode()
        assert fields[b"x-forwarded-for"] == mesh.stranger.encode()
    big = tmp_path / "big"
    big.write_bytes(b"x" * 3_000_000)
    for option in ("--http1.1", "--http2"):
        assert "200" in await curl(mesh, mint, tmp_path, url, option, "--data-binary", f"@{big}", "-H", "Expect:")
        assert len(one.requests[-1][4]) == 3_000_000
    tls12 = await curl(mesh, mint, tmp_path, url, "--tls-max", "1.2")
    assert "200" in tls12.split("\r\n")[0]
    await curl(mesh, mint, tmp_path, f"http://books.example:{PORT}/", code=56)  # plain text is reset


async def test_the_name_chooses_listener_and_certificate(mesh, mint):
    mesh.web("store-v1"), mesh.web("store-v2")
    holds(
        mesh,
        secret(mint, "one", "one.example"),
        secret(mint, "any", "*.any.example"),
        secret(mint, "rest", "rest.example"),
    )
    mesh.publish(
        gateway=gateway(
            mesh,
            listener("one", "one.example", certificates=("one",)),
            listener("any", "*.any.example", certificates=("rest", "any")),
        ),
        one=made("HTTPRoute", "one", {"parentRefs": [{"name": "front", "sectionName": "one"}], "rules": [rule(V1)]}),
        any=made("HTTPRoute", "any", {"parentRefs": [{"name": "front", "sectionName": "any"}], "rules": [rule(V2)]}),
        let=lets_in() + lets_in("bookstore-v2"),
    )
    assert (await Tls(mesh, mint, "one.example").get()).body == "store-v1"
    assert (await Tls(mesh, mint, "a.any.example").get()).body == "store-v2"
    with pytest.raises(trio.BrokenResourceError):  # no listener is for that host
        await Tls(mesh, mint, "other.example").get()
    await mesh.until(lambda: "tls-failed" in [record.flag for record in mesh.records])


async def test_a_request_for_another_listeners_host_is_misdirected(mesh, mint):
    """An HTTP client may reuse a connection whose certificate has both names."""
    mesh.web("store-v1"), mesh.web("store-v2")
    holds(mesh, secret(mint, "both", "one.example", "two.example"))
    mesh.publish(
        gateway=gateway(
            mesh,
            listener("one", "one.example", certificates=("both",)),
            listener("two", "two.example", certificates=("both",)),
        ),
        route=route(rule(V1)),
        let=lets_in(),
    )
    call = await Tls(mesh, mint, "one.example").open()
    for host, status in (("one.example", 200), ("two.example", 421), ("three.example", 404), ("one.example", 200)):
        call.host = host
        assert (await call.get()).status == status
    assert (await Tls(mesh, mint, "two.example").get()).status == 200


async def test_a_renewed_certificate_drops_no_connection_under_load(mesh, mint):
    mesh.web("store-v1")
    holds(mesh, secret(mint))
    mesh.publish(gateway=gateway(mesh, listener()), route=route(rule(V1)), let=lets_in())
    served, stop, serials = [0], trio.Event(), set()

    async def keeps():
        """One connection through all renewals."""
        call = await Tls(mesh, mint).open()
        while not stop.is_set():
            assert (await call.get()).body == "store-v1"
            served[0] += 1

    async def anew():
        while not stop.is_set():
            call = await Tls(mesh, mint).open()
            serials.add(call.stream.getpeercert()["serialNumber"])
            assert (await call.get()).body == "store-v1"
            served[0] += 1
            await trio.aclose_forcefully(call.stream)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(keeps)
            nursery.start_soon(anew)
        for _ in range(10):
            before = served[0]
            await mesh.until(lambda before=before: served[0] >= before + 20)
            holds(mesh, secret(mint))
        stop.set()
    assert len(serials) >= 8
    assert not [record for record in mesh.records if record.flag not in ("", "client-gone")]
    assert len(mesh.proxy.context.front.contexts) <= 12


async def test_without_a_certificate_nothing_is_served(mesh, mint):
    mesh.publish(gateway=gateway(mesh, listener()), route=route(rule(V1)), let=lets_in())
    with pytest.raises(trio.BrokenResourceError):
        await Tls(mesh, mint).get()
    await mesh.until(lambda: "no-server-certificate" in [record.flag for record in mesh.records])
    mesh.web("store-v1")
    holds(mesh, secret(mint))
    assert (await Tls(mesh, mint).get()).status == 200


# certificates of callers


def checks(mesh, *listeners):
    validation = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "partners"}]}
    spec = {
        "gatewayClassName": "edgemesh",
        "listeners": list(listeners),
        "addresses": [{"value": mesh.node}],
        "tls": {"frontend": {"default": {"validation": validation}}},
    }
    return made("GatewayClass", "edgemesh", {"controllerName": "edgemesh.io/gateway-controller"}) + made(
        "Gateway", "front", spec
    )


async def test_a_certificate_is_asked_for_and_decides_who_comes_in(mesh, mint):
    mesh.web("store-v1"), mesh.web("store-v2")
    partners = type(mint)()
    holds(mesh, secret(mint), roots={"ConfigMap bookstore/partners": partners.root.pem})
    mesh.publish(
        gateway=checks(mesh, listener()),
        route=route(rule(V1), rule(V2, path="/two")),
        let=lets_in("bookstore-v1", {"kind": "AuthenticatedPrincipal", "name": "till.partner.example"}),
    )
    till = partners.credentials(dns=("till.partner.example",))
    assert (await Tls(mesh, mint, shows=till).get()).body == "store-v1"
    assert (await Tls(mesh, mint, shows=till).get("/two")).status == 403
    assert (await Tls(mesh, mint, shows=partners.credentials(dns=("other.partner.example",))).get()).status == 403
    for shows in (None, mint.credentials(dns=("till.partner.example",))):
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError, EOFError)):
            await Tls(mesh, mint, shows=shows).get()
    await mesh.until(lambda: [record.flag for record in mesh.records].count("client-untrusted") == 2)


async def test_a_connection_for_which_less_was_asked_leads_to_no_listener_that_asks_more(mesh, mint):
    mesh.web("store-v1"), mesh.web("store-v2")
    partners = type(mint)()
    holds(mesh, secret(mint), roots={"ConfigMap bookstore/partners": partners.root.pem})
    # An older Gateway of somebody else has the same host and port, and asks for nothing
    other = made(
        "Gateway",
        "another",
        {"gatewayClassName": "edgemesh", "listeners": [listener()], "addresses": [{"value": mesh.node}]},
    )
    mesh.publish(
        gateway=checks(mesh, listener()) + other,
        route=route(rule(V1), name="checked")
        + route(rule(V2, path="/two"), name="open", parentRefs=[{"name": "another"}]),
        let=lets_in("bookstore-v1") + lets_in("bookstore-v2", {"kind": "Gateway", "name": "another"}),
    )
    call = await Tls(mesh, mint).open()
    assert (await call.get("/two")).status == 200
    assert (await call.get()).status == 404
    assert not [one for one in mesh.records if one.endpoint.startswith(mesh.addresses["store-v1"])]


async def test_a_check_of_certificates_that_begins_holds_for_connections_that_are_open(mesh, mint):
    mesh.web("store-v1")
    partners = type(mint)()
    holds(mesh, secret(mint), roots={"ConfigMap bookstore/partners": partners.root.pem})
    mesh.publish(gateway=gateway(mesh, listener()), route=route(rule(V1)), let=lets_in("bookstore-v1"))
    call = await Tls(mesh, mint).open()
    assert (await call.get()).status == 200
    await mesh.until(lambda: [one.status for one in mesh.records if one.protocol == "http"] == [200])
    mesh.publish(gateway=checks(mesh, listener()))
    assert (await call.get()).status == 421
    till = partners.credentials(dns=("till.partner.example",))
    assert (await Tls(mesh, mint, shows=till).get()).status == 200


class Mesh2:
    """Certificates of a node of a mesh of several nodes."""

    def __init__(self, trust):
        self._trust = trust

    def trust(self):
        return self._trust

    def of(self, identity):
        return None

    def node(self):
        return None

    def now(self):
        return time.time()

    def doubt(self):
        pass


async def test_an_identity_of_the_mesh_comes_in_as_itself_and_a_revocation_ends_it(mesh, mint):
    mesh.web("store-v1")
    holds(mesh, secret(mint), roots={"ConfigMap bookstore/partners": mint.root.pem})
    mesh.proxy.context.identities = Mesh2(mint.trust())
    mesh.publish(gateway=checks(mesh, listener()), route=route(rule(V1)))
    buyer = mint.credentials(mint.spiffe("bookbuyer", "bookbuyer"), node="n7")
    call = await Tls(mesh, mint, shows=buyer).open()
    assert (await call.get("/books/new")).status == 200  # a TrafficTarget admits bookbuyer
    assert (
        await Tls(mesh, mint, shows=mint.credentials(mint.spiffe("thief", "bookthief"))).get("/books/new")
    ).status == 403
    for revoked in (
        Revoked(identities=(Identity("bookbuyer", "bookbuyer"),)),
        Revoked(serials=(buyer.serial.lstrip("0"),)),
        Revoked(nodes=("n7",)),
    ):
        mesh.proxy.publish(structs.replace(mesh.built.snapshot, revoked=revoked))
        assert (await call.get("/books/new")).status == 403
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError, EOFError)):
            await Tls(mesh, mint, shows=buyer).get()
    mesh.proxy.publish(mesh.built.snapshot)
    assert (await call.get("/books/new")).status == 200


# WebSockets


async def echoing(stream):
    """A WebSocket server (RFC 6455) that answers each message with the same, until the client closes."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some()
    head, _, data = data.partition(b"\r\n\r\n")
    key = next(
        line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
    )
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )
    while True:
        while len(data) < 6 or len(data) < 6 + (data[1] & 127):
            more = await stream.receive_some()
            if not more:
                return
            data += more
        size = data[1] & 127
        mask, masked = data[2:6], data[6 : 6 + size]
        text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
        opcode, data = data[0], data[6 + size :]
        await stream.send_all(bytes((opcode, size)) + text)
        if opcode & 15 == 8:
            return


def frame(text, opcode=0x81):
    mask = b"\x01\x02\x03\x04"
    return bytes((opcode, 0x80 | len(text))) + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))


@pytest.mark.parametrize("tls", [True, False], ids=["wss", "ws"])
async def test_a_websocket_passes_both_ways_and_ends_in_order(mesh, mint, tls):
    mesh.serve("store-v1", echoing)
    holds(mesh, secret(mint))
    plain = {"name": "plain", "port": PLAIN, "protocol": "HTTP"}
    mesh.publish(gateway=gateway(mesh, listener(), plain), route=route(rule(V1)), let=lets_in())
    stream = (await Tls(mesh, mint).open() if tls else await dial(mesh, port=PLAIN)).stream
    key = base64.b64encode(b"0123456789abcdef")
    await stream.send_all(
        b"GET /chat HTTP/1.1\r\nHost: books.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    data = b""
    with trio.fail_after(10):
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(65536)
        assert data.startswith(b"HTTP/1.1 101")
        for text in (b"one", b"two", b"x" * 100):
            await stream.send_all(frame(text))
            wanted, got = bytes((0x81, len(text))) + text, b""
            while len(got) < len(wanted):
                got += await stream.receive_some(65536)
            assert got == wanted
        await stream.send_all(frame(b"", 0x88))
        assert await stream.receive_some(65536) == b"\x88\x00"
        assert await stream.receive_some(65536) == b""
    await trio.aclose_forcefully(stream)
    await mesh.until(mesh.at_rest)


# proxies before this node


def behind_a_proxy(mesh, proxied=True):
    front = Front((f"{mesh.stranger}/32",), proxied)
    front.certificates.take(mesh.proxy.context.front.certificates.held.values())
    mesh.proxy.context.front = front


async def test_a_trusted_proxy_says_who_calls(mesh, mint, tmp_path):
    one = mesh.web("store-v1")
    holds(mesh, secret(mint))
    behind_a_proxy(mesh)
    client = mesh.addresses["six"] and f"{mesh.node.rpartition('.')[0]}.77"
    mesh.publish(
        gateway=gateway(mesh, listener()),
        route=route(rule(V1)),
        let=lets_in("bookstore-v1", {"kind": "IPRange", "name": f"{client}/32"}),
    )
    header = f"PROXY TCP4 {client} {mesh.node} 4711 443\r\n".encode()
    assert (await Tls(mesh, mint, before=header).get(x_forwarded_for="10.9.9.9")).body == "store-v1"
    fields = one.requests[-1][3]
    assert fields[b"x-forwarded-for"] == client.encode()  # what the client itself said is not the proxy's word
    # one that names another client, none, and one from somebody else
    answer = await Tls(mesh, mint, before=f"PROXY TCP4 192.0.2.9 {mesh.node} 1 443\r\n".encode()).get()
    assert answer.status == 403
    for before, caller, flag in ((b"", mesh.stranger, "bad-proxy-header"), (header, mesh.node, "plain-to-tls")):
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            await Tls(mesh, mint, before=before, caller=caller).get()
        await mesh.until(lambda flag=flag: flag in [record.flag for record in mesh.records])


async def test_real_curl_with_a_proxy_header(mesh, mint, tmp_path):
    one = mesh.web("store-v1")
    holds(mesh, secret(mint))
    behind_a_proxy(mesh)
    mesh.publish(gateway=gateway(mesh, listener()), route=route(rule(V1)), let=lets_in())
    told = await curl(mesh, mint, tmp_path, f"https://books.example:{PORT}/", "--haproxy-protocol")
    assert told.endswith("store-v1")
    assert one.requests[-1][3][b"x-forwarded-for"] == mesh.stranger.encode()


async def test_forwarded_fields_of_a_trusted_proxy_are_kept_and_of_nobody_else(mesh, mint):
    one = mesh.web("store-v1")
    plain = {"name": "plain", "port": PLAIN, "protocol": "HTTP"}
    mesh.publish(gateway=gateway(mesh, plain), route=route(rule(V1)), let=lets_in())
    said = {"x_forwarded_for": "203.0.113.7", "x_forwarded_proto": "https", "x_forwarded_host": "www.example"}
    await ask(mesh, port=PLAIN, **said)
    fields = one.requests[-1][3]
    assert (fields[b"x-forwarded-for"], fields[b"x-forwarded-proto"]) == (mesh.stranger.encode(), b"http")
    assert fields[b"x-forwarded-host"] == b"books.example"
    behind_a_proxy(mesh, proxied=False)
    await ask(mesh, port=PLAIN, **said)
    fields = one.requests[-1][3]
    assert fields[b"x-forwarded-for"] == f"203.0.113.7, {mesh.stranger}".encode()
    assert (fields[b"x-forwarded-proto"], fields[b"x-forwarded-host"]) == (b"https", b"www.example")


# slow clients


async def test_handshakes_that_do_not_end_are_bounded_by_source_and_keep_nobody_out(mesh, mint):
    mesh.web("store-v1")
    holds(mesh, secret(mint))
    mesh.publish(gateway=gateway(mesh, listener()), route=route(rule(V1)), let=lets_in())
    slow = []
    for _ in range(60):
        call = await dial(mesh, port=PORT)
        await call.stream.send_all(b"\x16\x03\x01")
        slow.append(call)
    await mesh.until(
        lambda: len(mesh.proxy.context.front.anteroom) <= 32 and mesh.proxy.context.front.anteroom.sent_away >= 28
    )
    assert (await Tls(mesh, mint).get()).status == 200
    other = f"{mesh.node.rpartition('.')[0]}.78"
    assert (await Tls(mesh, mint, caller=other).get()).status == 200


async def test_one_source_has_a_share_of_a_listener(mesh, mint):
    mesh.web("store-v1")
    mesh.limit(connections=8)
    holds(mesh, secret(mint))
    mesh.publish(gateway=gateway(mesh, listener()), route=route(rule(V1)), let=lets_in())
    held = [await Tls(mesh, mint).open() for _ in range(2)]
    for call in held:
        assert (await call.get()).status == 200
    with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
        await Tls(mesh, mint).get()
    other = f"{mesh.node.rpartition('.')[0]}.78"
    assert (await Tls(mesh, mint, caller=other).get()).status == 200
    with contextlib.suppress(trio.BrokenResourceError):
        await held[0].stream.aclose()


# Ingress


def moved(listener, mesh):
    """A listener of Ingresses at an address and port of the test's own."""
    port = {80: PLAIN, 443: PORT}[listener.port]
    hosts = tuple(
        structs.replace(one, service=structs.replace(one.service, ports=(ServicePort("", port, "http"),)))
        for one in listener.hosts
    )
    return structs.replace(listener, addresses=(mesh.node,), port=port, hosts=hosts)


async def test_an_ingress_routes_by_host_and_path_with_and_without_tls(mesh, mint, tmp_path):
    mesh.web("store-v1"), mesh.web("store-v2")
    holds(mesh, secret(mint))

    def to(name, path, kind="Prefix"):
        return {"path": path, "pathType": kind, "backend": {"service": {"name": name, "port": {"number": 14001}}}}

    paths = [to("bookstore-v1", "/"), to("bookstore-v2", "/two"), to("bookstore-v1", "/two", "Exact")]
    spec = {
        "ingressClassName": "edgemesh",
        "tls": [{"hosts": ["books.example"], "secretName": "tls"}],
        "rules": [{"host": "books.example", "http": {"paths": paths}}],
    }
    ingress = made("Ingress", "books", spec).replace("gateway.networking.k8s.io/v1", "networking.k8s.io/v1")
    source = {"kind": "IngressClass", "name": "edgemesh"}
    mesh.publish(ingress=ingress, let=lets_in("bookstore-v1", source) + lets_in("bookstore-v2", source))
    snapshot = mesh.built.snapshot
    mesh.proxy.publish(structs.replace(snapshot, listeners=tuple(moved(one, mesh) for one in snapshot.listeners)))
    for path, body in (("/", "store-v1"), ("/two", "store-v1"), ("/two/x", "store-v2")):
        assert (await Tls(mesh, mint).get(path)).body == body
        assert (await ask(mesh, path, port=PLAIN)).body == body
    assert (await ask(mesh, "/", host="other.example", port=PLAIN)).status == 404
    told = await curl(mesh, mint, tmp_path, f"https://books.example:{PORT}/two/x", "--http2")
    assert told.endswith("store-v2")
