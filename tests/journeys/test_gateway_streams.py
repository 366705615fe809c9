"""TLSRoutes and TCPRoutes at listeners of Gateways, over sockets: real TLS, in pieces and in excess; who is let in."""

from __future__ import annotations

import contextlib
import ssl

import pytest
import trio

from nodeproxy.tls.contexts import load_key
from tests.journeys.stand_ins import echo, greets
from tests.journeys.test_gateway import dial, gateway, made
from tests.journeys.test_gateway_tls import curl, holds, secret
from tests.ports import free_port

PORT = free_port()
OTHER = free_port()
ALL = {"namespaces": {"from": "All"}}


def passing(name="tls", hostname=None, port=PORT):
    said = {"name": name, "port": port, "protocol": "TLS", "tls": {"mode": "Passthrough"}, "allowedRoutes": ALL}
    return said | ({"hostname": hostname} if hostname else {})


def ending(name="ends", hostname=None, port=PORT, protocol="TLS"):
    tls = {"mode": "Terminate", "certificateRefs": [{"name": "tls"}]}
    said = {"name": name, "port": port, "protocol": protocol, "tls": tls, "allowedRoutes": ALL}
    return said | ({"hostname": hostname} if hostname else {})


def plain(name="tcp", port=PORT):
    return {"name": name, "port": port, "protocol": "TCP", "allowedRoutes": ALL}


def to(name, port=9000, **more):
    return {"name": name, "port": port, **more}


def route(kind, name, *backends, section=None, **more):
    parent = {"name": "front"} | ({"sectionName": section} if section else {})
    return made(kind, name, {"parentRefs": [parent], "rules": [{"backendRefs": list(backends)}], **more})


def lets_in(backend="bookstore-v1", port=9000, *sources):
    sources = list(sources) or [{"kind": "Gateway", "name": "front"}]
    backends = [{"name": backend, "port": {"number": port, "protocol": "tcp"}}]
    return made("IngressBackend", backend, {"backends": backends, "sources": sources})


class Server:
    """A server with TLS of its own: says its name to each caller, then gives back what it gets."""

    def __init__(self, mint, name, *hosts):
        given = mint.credentials(dns=hosts)
        self.name, self.sni = name, []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_key(self.context, given.chain + given.key)
        self.context.sni_callback = lambda _, host, __: self.sni.append(host)

    async def talk(self, stream):
        tls = trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)
        await tls.send_all(f"{self.name}\n".encode())
        async for data in tls:
            await tls.send_all(data)


def client(mint):
    return ssl.create_default_context(cadata=mint.root.pem.decode())


async def meet(mesh, mint, host, port=PORT, caller=None, pieces=None):
    """Shake hands through the listener. `pieces`: sends the ClientHello in its own way."""
    plain = (await dial(mesh, host, port, caller)).stream
    if pieces is not None:
        plain = Pieces(plain, pieces)
    stream = trio.SSLStream(plain, client(mint), server_hostname=host, https_compatible=True)
    await stream.do_handshake()
    return stream


class Pieces(trio.abc.Stream):
    """Sends what is sent first as `cut` says: in segments, or in records."""

    def __init__(self, stream, cut):
        self.stream, self.cut = stream, cut

    async def send_all(self, data):
        cut, self.cut = self.cut, None
        for piece in cut(bytes(data)) if cut is not None else [data]:
            await self.stream.send_all(piece)
            if cut is not None:
                await trio.sleep(0.002)

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, most=None):
        return await self.stream.receive_some(most)

    async def aclose(self):
        await self.stream.aclose()


def bytewise(hello):
    return [hello[:1], hello[1:5], hello[5:6], *[hello[at : at + 40] for at in range(6, len(hello), 40)]]


def in_records(hello):
    """The same handshake message in records of 30 bytes, as RFC 8446 section 5.1 lets it be."""
    message = hello[5:]
    size = max(30, len(message) // 20)
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return [b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts]


async def first(stream):
    return (await stream.receive_some(100)).decode().strip()


async def talks(stream):
    await stream.send_all(b"ping")
    return await stream.receive_some(4) == b"ping"


async def is_closed(mesh, mint, host, **more):
    """Whether the connection ends without one byte, not even an alert."""
    try:
        await meet(mesh, mint, host, **more)
    except trio.BrokenResourceError as error:
        assert not isinstance(error.__cause__, ssl.SSLError) or "EOF" in str(error.__cause__)
        return True
    return False


def flags(mesh):
    return [record.flag for record in mesh.records]


async def test_the_server_name_chooses_the_server_and_tls_is_the_servers(mesh, mint):
    one, two = Server(mint, "one", "one.example"), Server(mint, "two", "two.example", "deep.two.example")
    mesh.serve("store-v1", one.talk, 9000), mesh.serve("store-v2", two.talk, 9000)
    mesh.publish(
        gateway=gateway(mesh, passing()),
        one=route("TLSRoute", "one", to("bookstore-v1"), hostnames=["one.example"]),
        two=route("TLSRoute", "two", to("bookstore-v2"), hostnames=["two.example", "*.two.example"]),
        let=lets_in() + lets_in("bookstore-v2"),
    )
    for host, name in (("one.example", "one"), ("two.example", "two"), ("deep.two.example", "two")):
        stream = await meet(mesh, mint, host)
        assert await first(stream) == name
        assert await talks(stream)
        await stream.aclose()
    assert (one.sni, two.sni) == (["one.example"], ["two.example", "deep.two.example"])
    await mesh.until(lambda: len(mesh.records) == 3)
    record = mesh.records[0]
    assert (record.protocol, record.host, record.flag) == ("tls", "one.example", "")
    assert all("IngressBackend" in one.rule for one in mesh.records)
    assert await is_closed(mesh, mint, "three.example")
    assert flags(mesh)[-1] == "no-route"


@pytest.mark.parametrize("cut", [bytewise, in_records])
async def test_a_client_hello_in_pieces(mesh, mint, cut):
    mesh.serve("store-v1", Server(mint, "one", "one.example").talk, 9000)
    mesh.publish(
        gateway=gateway(mesh, passing()),
        one=route("TLSRoute", "one", to("bookstore-v1"), hostnames=["one.example"]),
        let=lets_in(),
    )
    stream = await meet(mesh, mint, "one.example", pieces=cut)
    assert await first(stream) == "one"
    assert await talks(stream)
    assert await is_closed(mesh, mint, "other.example", pieces=cut)


HEAD = b"\x01\x00\x40\x01\x03\x03" + bytes(32) + b"\0\0\2\x13\x01\1\0"  # a ClientHello of 16,385 bytes
HOSTILE = {
    "too long": b"\x16\x03\x01\x40\x00" + HEAD + bytes(16384 - len(HEAD)),
    "a record of 40,000 bytes": b"\x16\x03\x01\x9c\x40" + HEAD,
    "many records": b"".join(b"\x16\x03\x01\0\1" + HEAD[at : at + 1] for at in range(40)),
    "another message": b"\x16\x03\x01\0\4\2\0\0\0",
    "plain text": b"GET / HTTP/1.1\r\nHost: one.example\r\n\r\n",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
async def test_what_is_no_client_hello_reaches_nobody(mesh, mint, data):
    server = mesh.serve("store-v1", echo, 9000)
    mesh.publish(gateway=gateway(mesh, passing()), one=route("TLSRoute", "one", to("bookstore-v1")), let=lets_in())
    call = await dial(mesh, port=PORT)
    await call.send(data)
    assert await call.is_over() == "reset"
    assert flags(mesh) == ["plain-to-tls" if data[:3] == b"GET" else "tls-failed"]
    assert server.peers == []


async def test_half_a_client_hello_is_waited_for_only_so_long(mesh, mint):
    mesh.limit(head_timeout=0.3)
    mesh.publish(gateway=gateway(mesh, passing()), one=route("TLSRoute", "one", to("bookstore-v1")), let=lets_in())
    call = await dial(mesh, port=PORT)
    await call.send(HOSTILE["too long"][:60])
    with trio.fail_after(5):
        assert await call.is_over() == "reset"
    assert flags(mesh) == ["tls-failed"]


async def test_a_client_without_a_server_name(mesh, mint):
    """It goes where routes name no host, and nowhere else."""
    mesh.serve("store-v1", Server(mint, "one", "one.example").talk, 9000)
    named = route("TLSRoute", "one", to("bookstore-v1"), hostnames=["one.example"])
    mesh.publish(gateway=gateway(mesh, passing()), one=named, let=lets_in())
    context = client(mint)
    context.check_hostname = False

    async def nameless():
        plain = (await dial(mesh, port=PORT)).stream
        stream = trio.SSLStream(plain, context, https_compatible=True)
        await stream.do_handshake()
        return await first(stream)

    with pytest.raises(trio.BrokenResourceError):
        await nameless()
    assert flags(mesh) == ["no-route"]
    mesh.publish(one=route("TLSRoute", "one", to("bookstore-v1")))
    assert await nameless() == "one"


async def test_a_listener_that_ends_tls_gives_the_server_what_is_inside(mesh, mint):
    mesh.serve("store-v1", greets, 9000)
    holds(mesh, secret(mint, "tls", "one.example"))
    mesh.publish(
        gateway=gateway(mesh, ending()),
        one=route("TLSRoute", "one", to("bookstore-v1"), hostnames=["one.example"]),
        let=lets_in(),
    )
    stream = await meet(mesh, mint, "one.example")
    assert (await stream.receive_some(100)).startswith(b"hello")
    await stream.aclose()
    await mesh.until(lambda: mesh.records)
    record = mesh.records[0]
    assert (record.protocol, record.host, record.tls_version[:4]) == ("tls", "one.example", "TLSv")


async def test_three_listeners_of_one_port(mesh, mint, tmp_path):
    """TLS passes, ends before a stream, and ends before HTTP: by the server name alone."""
    mesh.web("store-v1")
    mesh.serve("store-v2", Server(mint, "passed", "passes.example").talk, 9000)
    mesh.serve("store-v1", greets, 9000)
    holds(mesh, secret(mint, "tls", "ends.example", "web.example"))
    web = {"name": "bookstore-v1", "port": 14001}
    mesh.publish(
        gateway=gateway(
            mesh,
            passing("passes", "passes.example"),
            ending("ends", "ends.example"),
            ending("web", "web.example", protocol="HTTPS"),
        ),
        passes=route("TLSRoute", "passes", to("bookstore-v2"), hostnames=["*.example"], section="passes"),
        ends=route("TLSRoute", "ends", to("bookstore-v1"), hostnames=["*.example"], section="ends"),
        web=made("HTTPRoute", "web", {"parentRefs": [{"name": "front"}], "rules": [{"backendRefs": [web]}]}),
        mesh=mesh.permissive,
    )
    assert await first(await meet(mesh, mint, "passes.example")) == "passed"
    assert (await first(await meet(mesh, mint, "ends.example"))).startswith("hello")
    assert (await curl(mesh, mint, tmp_path, f"https://web.example:{PORT}/")).endswith("store-v1")
    # An HTTP request inside does not get to a stream's server by naming its host.
    told = await curl(mesh, mint, tmp_path, f"https://web.example:{PORT}/", "-H", "Host: ends.example")
    assert " 421" in told.split("\r\n")[0]


# TCPRoute


async def test_a_tcp_route_relays_at_once_in_both_directions(mesh):
    """The server speaks first, and both sides may end theirs first."""
    mesh.serve("store-v1", greets, 9000), mesh.serve("store-v2", echo, 9000)
    mesh.publish(
        gateway=gateway(mesh, plain(), plain("more", OTHER)),
        one=route("TCPRoute", "one", to("bookstore-v1"), section="tcp"),
        two=route("TCPRoute", "two", to("bookstore-v2"), section="more"),
        let=lets_in() + lets_in("bookstore-v2"),
    )
    call = await dial(mesh, port=PORT)
    assert (await call.stream.receive_some(5)) == b"hello"
    call = await dial(mesh, port=OTHER)
    big = bytes(range(256)) * 4000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.send, big)
        assert await call.read(len(big)) == big
    await call.stream.send_eof()
    assert await call.is_over() == "closed"
    await mesh.until(lambda: [one for one in mesh.records if one.bytes_in == len(big)])


async def test_a_route_alone_opens_no_server_of_the_mesh(mesh, mint):
    server = mesh.serve("store-v1", echo, 9000)
    listeners = gateway(mesh, plain(), passing(port=OTHER))
    tls = route("TLSRoute", "one", to("bookstore-v1"), hostnames=["one.example"])
    mesh.publish(gateway=listeners, one=route("TCPRoute", "one", to("bookstore-v1")), tls=tls)
    assert await (await dial(mesh, port=PORT)).is_over() == "reset"
    assert await is_closed(mesh, mint, "one.example", port=OTHER)
    assert flags(mesh) == ["no-identity", "no-identity"]
    elsewhere = {"kind": "IPRange", "name": "192.0.2.0/24"}
    mesh.publish(let=lets_in("bookstore-v1", 9000, elsewhere))
    assert await (await dial(mesh, port=PORT)).is_over() == "reset"
    assert server.peers == []
    # A rule about requests does not let in what is none.
    group = "\n---\n{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: all, namespace: "
    group += "bookstore}, spec: {matches: [{name: all, pathRegex: .*, methods: ['*']}]}}"
    backends = [{"name": "bookstore-v1", "port": {"number": 9000, "protocol": "http"}}]
    matches = [{"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "all"}]
    spec = {"backends": backends, "sources": [{"kind": "Gateway", "name": "front"}], "matches": matches}
    mesh.publish(let=group + made("IngressBackend", "bookstore-v1", spec))
    assert await (await dial(mesh, port=PORT)).is_over() == "reset"
    assert server.peers == []
    mesh.publish(let=lets_in())
    call = await dial(mesh, port=PORT)
    await call.send(b"ping")
    assert await call.read(4) == b"ping"
    mesh.publish(let="")  # what is no longer allowed ends, though it began when it was
    assert await call.is_over() == "reset"


async def test_shares_that_cannot_be_served_are_closed_by_their_weight(mesh):
    mesh.serve("store-v1", greets, 9000)
    mesh.publish(
        gateway=gateway(mesh, plain()),
        one=route("TCPRoute", "one", to("bookstore-v1", weight=3), to("nobody", weight=1), to("mysql", weight=0)),
        let=lets_in(),
    )
    served = 0
    for _ in range(40):
        call = await dial(mesh, port=PORT)
        with contextlib.suppress(trio.BrokenResourceError):
            served += await call.stream.receive_some(5) == b"hello"
        await trio.aclose_forcefully(call.stream)
    assert served == 30


async def test_the_older_of_two_routes_has_the_listener_and_a_connection_ends_with_its_route(mesh):
    mesh.serve("store-v1", echo, 9000), mesh.serve("store-v2", greets, 9000)
    mesh.publish(
        gateway=gateway(mesh, plain()),
        one=route("TCPRoute", "a", to("bookstore-v1")),
        two=route("TCPRoute", "b", to("bookstore-v2")),
        let=lets_in() + lets_in("bookstore-v2"),
    )
    call = await dial(mesh, port=PORT)
    await call.send(b"ping")
    assert await call.read(4) == b"ping"
    mesh.publish(one="")
    assert await call.is_over() == "reset"
    assert await (await dial(mesh, port=PORT)).stream.receive_some(5) == b"hello"
    mesh.publish(two="")
    assert await (await dial(mesh, port=PORT)).is_over() == "reset"
    assert "no-route" in flags(mesh)


async def test_silent_connections_of_one_source_leave_room_for_others(mesh):
    """Of one source only a quarter of a listener's connections are open at once."""
    mesh.serve("store-v1", echo, 9000)
    mesh.limit(connections=16)
    mesh.publish(gateway=gateway(mesh, plain()), one=route("TCPRoute", "one", to("bookstore-v1")), let=lets_in())
    held = [await dial(mesh, port=PORT) for _ in range(12)]
    await mesh.until(lambda: "too-many-connections" in flags(mesh))
    other = await dial(mesh, port=PORT, caller="127.0.0.99")
    await other.send(b"ping")
    assert await other.read(4) == b"ping"
    assert len(held) == 12
