"""Listeners of Gateways: anybody may connect, and a route says where the call goes.

Theory of operation. Each address and port of the node that a listener names has one socket; which listener a call is
for, its host says (routing/gateway.py). `follow` opens and closes sockets as the snapshot says. One that cannot be
opened is a fault, by its address and port, and is tried again with the next snapshot and every few seconds: whoever has
the port keeps it.

Who connects has proved nothing. Until its first byte, or the end of its TLS handshake, a connection is one of few that
wait, of which the oldest has to go (tls/unauthenticated.py). Of one source only so many are open at once, and begin
handshakes in a second. A trusted proxy may say who calls (PROXY protocol): then that one's address is what counts.

TLS. Of the listeners at an address and port, the host that the handshake names chooses those that take the connection,
and with them the certificate and whose clients are let in. A request on it for another listener's host gets 421. Listeners
that ask for another certificate than the handshake did take no request on the connection, whoever made them and when.
Where a listener of protocol TLS is, the ClientHello is read first and left in the stream: whoever its name belongs to
ends TLS, and a connection that no route is for is closed without a word. What is not HTTP is relayed whole.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from nodeproxy.codec.client_hello import MOST, Hello, read_hello
from nodeproxy.context import GATE, Conn, Context, Edge
from nodeproxy.downstream.accept import accept_forever
from nodeproxy.downstream.proxied import hear_proxy
from nodeproxy.errors import Refused
from nodeproxy.limits import Gate
from nodeproxy.protocols.http.room import serve_http
from nodeproxy.protocols.tcp import serve_tcp
from nodeproxy.routing.gateway import Entering, EnteringStream
from nodeproxy.stream import Peeked, close_now
from nodeproxy.tls.gateway import ALPN, Chosen, accept_client
from nodeproxy.tls.stream import TlsStream
from nodeproxy.tls.unauthenticated import source
from policy.gateway import ClientCheck, Listener
from policy.snapshot import Snapshot

log = logging.getLogger("edgemesh.gateway")

AGAIN = 5.0  # seconds until a socket that could not be opened is tried again
_SHARE = 4  # one source has at most this part of the connections of one socket
_WILD = ("0.0.0.0", "::")
_HANDSHAKE = 0x16  # first byte of TLS (RFC 8446 section 5.1)

Place = tuple[str, int]  # address and port of the node


async def http(conn: Conn) -> None:
    """Serve a caller that speaks HTTP/1.1, or HTTP/2 with prior knowledge. Raise Refused."""
    conn.report.record.protocol = "http"
    conn.route = route = Entering(conn)
    await serve_http(conn, route)


async def https(conn: Conn) -> None:
    """Serve a caller whose TLS ends here. Raise Refused."""
    stream = await _end_tls(conn, "HTTPS", ALPN)
    await http(conn)
    close_now(stream)  # with close_notify


async def tcp(conn: Conn) -> None:
    """Relay a connection. Raise Refused."""
    conn.report.record.protocol = "tcp"
    await _relay(conn, lambda listener: listener.protocol == "TCP")


async def tls(conn: Conn) -> None:
    """Serve a caller where TLS may pass: the server name in its ClientHello says who ends it. Raise Refused."""
    hello = await _hello(conn)
    its = conn.context.snapshot.listeners_for(*conn.dialled, hello.sni)
    here = conn.context.snapshot.listeners_at(*conn.dialled)
    first = its[0] if its else next((one for one in here if not one.passes), None)
    record = conn.report.record
    record.protocol, record.host, conn.hello = "tls", hello.sni, hello
    if first is not None and first.protocol == "HTTPS":
        await https(conn)
    elif first is not None and not first.passes:
        stream = await _end_tls(conn, "TLS", ())
        await _relay(conn, partial(_ends, conn), hello.sni)
        close_now(stream)  # with close_notify
    else:
        await _relay(conn, lambda listener: listener.passes, hello.sni)


def _ends(conn: Conn, listener: Listener) -> bool:
    """Return whether a listener takes this connection, whose TLS has ended here."""
    its = listener.protocol == "TLS" and not listener.passes
    return its and conn.edge is not None and conn.edge.may_reach(listener)


async def _relay(conn: Conn, takes: Callable[[Listener], bool], sni: str = "") -> None:
    conn.route = route = EnteringStream(conn, takes, sni)
    await serve_tcp(conn, route)


async def _hello(conn: Conn) -> Hello:
    """Return the ClientHello, whose bytes stay in the stream. Raise Refused: then the connection is closed unanswered."""
    context, stream = conn.context, conn.stream
    hello: Hello | None = None
    with (
        context.front.anteroom.waits(conn.peer[0], False) as waiting,
        trio.move_on_after(context.limits.head_timeout),
    ):
        seen = -1
        while True:
            try:
                hello = read_hello(stream.held)
            except ValueError as error:
                flag = "tls-failed" if stream.held[0] == _HANDSHAKE else "plain-to-tls"
                raise Refused(flag, str(error)) from error
            if hello is not None or len(stream.held) == seen:
                break
            seen = len(stream.held)
            await stream.peek(MOST // 4)
    if waiting.sent_away:
        raise Refused("too-many-connections", "others needed its place before its ClientHello was whole")
    if hello is None:
        raise Refused("tls-failed", f"no whole ClientHello in {context.limits.head_timeout:g} s, or before its end")
    return hello


async def _end_tls(conn: Conn, protocol: str, alpn: tuple[str, ...]) -> TlsStream:
    """Run the handshake with a caller: then what is inside TLS is the stream of `conn`. Raise Refused."""
    context, record = conn.context, conn.report.record
    front, identities = context.front, context.identities
    record.protocol = protocol.lower()
    if not front.anteroom.admits(conn.peer[0], False, trio.current_time()):
        raise Refused("too-many-connections", f"{conn.peer[0]} begins too many TLS handshakes")
    asked: list[ClientCheck | None] = []
    with front.anteroom.waits(conn.peer[0], False) as waiting:
        accepted = await accept_client(
            conn.stream,
            partial(_chosen, context, conn.dialled, asked, protocol, alpn),
            front.contexts,
            context.limits.head_timeout,
            identities.now,
            identities.trust(),
        )
    if waiting.sent_away:
        raise Refused("too-many-connections", "others needed its place before its TLS handshake was over")
    cipher = accepted.stream.object.cipher()
    record.host, record.tls_version = accepted.sni, accepted.stream.object.version() or ""
    record.tls_cipher = cipher[0] if cipher else ""
    client = accepted.client
    if client is not None:
        record.tls_peer = client.names[0] if client.names else ""
        if client.identity is not None:
            if why := context.snapshot.refuses(client.identity, client.node, client.serial):
                raise Refused("peer-revoked", why)
            conn.identity = client.identity
    conn.edge = Edge(b"https", front.trusts(conn.peer[0]), accepted.sni, client, asked[0])
    conn.stream = Peeked(accepted.stream)
    return accepted.stream


def _chosen(
    context: Context,
    dialled: Place,
    asked: list[ClientCheck | None],
    protocol: str,
    alpn: tuple[str, ...],
    sni: str,
) -> Chosen | None:
    """Return what a caller gets that names this host, and add to `asked` what it has to show. Raise Refused."""
    listeners = [
        one for one in context.snapshot.listeners_for(*dialled, sni) if one.protocol == protocol and not one.passes
    ]
    if not listeners:
        return None
    front, first = context.front, listeners[0]
    certificate = front.certificates.choose(first.certificates, sni)
    if certificate is None:
        raise Refused("no-server-certificate", f"{first.key}: none of {', '.join(first.certificates)} can be used")
    check = first.clients
    asked.append(check)
    # Callers without a valid certificate are let in, and then nobody needs one: it is not asked for.
    if check is None or check.optional:
        return Chosen(certificate, alpn=alpn)
    cas = front.certificates.cas(check.roots, True)
    if cas is None:
        raise Refused("no-server-certificate", f"{first.key}: its CAs in {', '.join(check.roots)} cannot be read")
    return Chosen(certificate, cas, alpn)


# How the connections of a listener are served, by its protocol.
SERVES: dict[str, Callable[[Conn], Awaitable[None]]] = {"HTTP": http, "HTTPS": https, "TLS": tls, "TCP": tcp}
_SERVER_FIRST = ("TCP",)  # the server may speak before the caller does


class _Socket:
    """One open socket. One scope holds the accepting task; another, around it, the connections."""

    def __init__(self, place: Place, sock: socket.socket, gate: Gate) -> None:
        self.place = place
        self.sock = sock
        self.gate = gate
        self.sources: dict[str, int] = {}  # open connections
        self.accepting = trio.CancelScope()
        self.living = trio.CancelScope()


class Gateway:
    """The sockets of this node's listeners."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open: dict[Place, _Socket] = {}
        self._nursery: trio.Nursery | None = None
        self.faults: dict[Place, str] = {}  # why a socket is not open
        self._opened: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Gateway at {', '.join(f'{address} {port}' for address, port in sorted(self._open))}>"

    @property
    def places(self) -> frozenset[Place]:
        """Where a socket is open."""
        return frozenset(self._open)

    async def run(self, opened: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Nothing is accepted before `opened`."""
        self._opened = opened
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                self.follow(self._context.snapshot)
                while True:
                    await trio.sleep(AGAIN)
                    self.follow(self._context.snapshot)
            finally:
                self._nursery = None
                for one in list(self._open.values()):
                    one.living.cancel()
                self._open.clear()

    def follow(self, snapshot: Snapshot) -> None:
        """Open what the snapshot's listeners need, and close what none needs any more."""
        if self._nursery is None or self._context.draining:
            return
        wanted = self._wanted(snapshot)
        for place in self._open.keys() - wanted:
            self._close(self._open[place])
        faults: dict[Place, str] = {}
        for place in sorted(wanted - self._open.keys()):
            try:
                sock = self._context.sockets.gateway_door(*place)
            except OSError as error:
                faults[place] = error.strerror or str(error)
                continue
            self._begin(place, sock)
        for place, why in faults.items():
            if self.faults.get(place) != why:
                log.warning("no listener of a Gateway at %s port %d: %s", *place, why)
        self.faults = faults

    def _wanted(self, snapshot: Snapshot) -> set[Place]:
        """Return the addresses and ports to listen at: those of this node that a listener names, or all that are known."""
        if not snapshot.listeners:
            return set()
        here = self._context.sockets.node_addresses()
        own = next((node.addresses for node in snapshot.nodes if node.name == snapshot.node), ())
        found: set[Place] = set()
        for listener in snapshot.listeners:
            if listener.protocol in SERVES:
                found.update((address, listener.port) for address in listener.addresses if address in here)
                if not listener.addresses:
                    found.update((address, listener.port) for address in own or _WILD)
        # A socket for all addresses has those that are named, too.
        wild = {(":" in address, port) for address, port in found if address in _WILD}
        return {(address, port) for address, port in found if address in _WILD or (":" in address, port) not in wild}

    def _begin(self, place: Place, sock: socket.socket) -> None:
        assert self._nursery is not None
        one = self._open[place] = _Socket(place, sock, self._context.gate())
        self._nursery.start_soon(self._live, one)
        log.info("a listener of a Gateway is open at %s port %d", *place)

    def _close(self, one: _Socket) -> None:
        """Stop accepting, and end the connections: nothing leads through this address and port any more."""
        self._open.pop(one.place, None)
        one.accepting.cancel()
        one.living.cancel()
        self._context.sockets.close_gateway_door(*one.place)

    def stop_accepting(self) -> None:
        """Take no more connections: the daemon drains."""
        for one in self._open.values():
            one.accepting.cancel()

    async def _live(self, one: _Socket) -> None:
        try:
            with one.living:
                assert self._opened is not None
                await self._opened.wait()
                async with trio.open_nursery() as connections:
                    try:
                        with one.accepting:
                            listener = trio.socket.from_stdlib_socket(one.sock)
                            await accept_forever(
                                listener, self._context, GATE, "gateway", self._door(one), one.gate, connections
                            )
                    finally:
                        one.sock.close()
                    if one.place in self.faults:  # it is wanted again, and this socket had its place
                        self.follow(self._context.snapshot)
        except Exception:
            log.exception("the listener at %s port %d is closed", *one.place)
            if self._open.get(one.place) is one:
                self._close(one)
        finally:
            one.sock.close()

    def _door(self, one: _Socket) -> Callable[[Conn], Awaitable[None]]:
        async def serve(conn: Conn) -> None:
            await self._hear_proxy(conn)
            whose = source(conn.peer[0])
            if one.sources.get(whose, 0) >= max(one.gate.full // _SHARE, 1):
                raise Refused("too-many-connections", f"{whose} has its share of this listener")
            one.sources[whose] = one.sources.get(whose, 0) + 1
            try:
                await self._serve(conn)
            finally:
                one.sources[whose] -= 1
                if not one.sources[whose]:
                    del one.sources[whose]

        return serve

    async def _hear_proxy(self, conn: Conn) -> None:
        """Learn from a trusted proxy who calls. Raise Refused if it does not say."""
        front = self._context.front
        if not front.proxied or not front.trusts(conn.peer[0]):
            return
        with front.anteroom.waits(conn.peer[0], True) as waiting:
            said = await hear_proxy(conn.stream, self._context.limits.head_timeout)
            if said.source is not None:
                conn.unmask(said.source)
        if waiting.sent_away:
            raise Refused("too-many-connections", "others needed its place before the proxy said who calls")

    async def _serve(self, conn: Conn) -> None:
        context = self._context
        protocol = _protocol(context.snapshot.listeners_at(*conn.dialled))
        serve = SERVES.get(protocol)
        if serve is None:
            raise Refused("no-port", f"no Gateway has a listener at {conn.dialled[0]} port {conn.dialled[1]}")
        conn.edge = Edge(b"http", context.front.trusts(conn.peer[0]))
        if protocol in _SERVER_FIRST:
            await serve(conn)
            return
        with (
            context.front.anteroom.waits(conn.peer[0], False) as waiting,
            trio.move_on_after(context.limits.head_timeout),
            contextlib.suppress(trio.BrokenResourceError),
        ):
            if not conn.stream.held:
                await conn.stream.peek(1)
        if waiting.sent_away:
            raise Refused("too-many-connections", "others needed its place before it asked for anything")
        if conn.stream.held:
            await serve(conn)


def _protocol(listeners: tuple[Listener, ...]) -> str:
    """Return the protocol of the listeners that share an address and port; `tls` tells those of HTTPS and TLS apart."""
    if any(one.protocol == "TLS" for one in listeners):
        return "TLS"
    return listeners[0].protocol if listeners else ""
