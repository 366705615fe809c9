"""TLS of the native lane, whose bytes OpenSSL reads from the descriptor itself: with itself, and with Python's at either end.

Who may speak and who not is in tests/journeys/test_attacks.py, over both; here is what belongs to the connection.
"""

from __future__ import annotations

import contextlib
import socket
import time

import msgspec
import pytest
import trio

from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Connection
from nodeproxy.native import AVAILABLE
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.tls import contexts, handshake
from nodeproxy.tls.contexts import ALPN_MESH
from tests.compiled import needs_lane
from tests.nodeproxy.fastpath.test_transport import NoContext
from tests.nodeproxy.h2.test_connection import GET, OK, everything
from tests.nodeproxy.tls.test_handshake import BUYER, DAY, STORE, ask_for_new_keys

if AVAILABLE:
    from nodeproxy.fastpath import tls as tls_native
    from nodeproxy.fastpath.path import NativePath
    from nodeproxy.fastpath.transport import NativeTransport

pytestmark = needs_lane

KINDS = ("native", "python")


class Pair:
    """Both ends of one TCP connection. `client` and `server`: what each came to, a Secured or a Refused."""

    def __init__(self, mint, client="native", server="native"):
        self.kinds = client, server
        self.client_has = mint.credentials(BUYER, node="n1")
        self.server_has = mint.credentials(STORE, node="n2")
        self.trust = self.client_trust = mint.trust()
        self.expects = {STORE}
        self.now = time.time
        self.client = self.server = None
        listener = socket.create_server(("127.0.0.1", 0))
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        listener.close()
        self.sockets = [trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (near, far)]

    async def connect(self):
        native = self.kinds[0] == "native"
        made = contexts.ContextCache(tls_native.make) if native else contexts.Contexts()
        context = made.client(self.client_has, self.client_trust, ALPN_MESH)
        try:
            self.client = await (tls_native if native else handshake).connect(
                self.sockets[0], context, self.client_trust, self.expects, 5, self.now
            )
        except Refused as refused:
            self.client = refused
            with contextlib.suppress(OSError):
                self.sockets[0].socket.shutdown(trio.socket.SHUT_WR)

    async def accept(self):
        native = self.kinds[1] == "native"
        made = contexts.ContextCache(tls_native.make) if native else contexts.Contexts()
        context = made.server(self.server_has, self.trust, ALPN_MESH)
        stream = Peeked(self.sockets[1])
        try:
            self.server = await (tls_native if native else handshake).accept(stream, context, self.trust, 5, self.now)
        except Refused as refused:
            self.server = refused
            with contextlib.suppress(OSError):
                self.sockets[1].socket.shutdown(trio.socket.SHUT_WR)

    async def meet(self):
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.connect)
                nursery.start_soon(self.accept)
        return self


@pytest.fixture
async def pair(mint):
    made = []

    def make(client="native", server="native"):
        made.append(Pair(mint, client, server))
        return made[-1]

    yield make
    for one in made:
        for stream in one.sockets:
            stream.socket.close()


def flag(end):
    return end.flag if isinstance(end, Refused) else ""


@pytest.mark.parametrize("server", KINDS)
@pytest.mark.parametrize("client", KINDS)
async def test_they_prove_the_same_to_each_other(pair, client, server):
    pair = await pair(client, server).meet()
    assert (flag(pair.client), flag(pair.server)) == ("", "")
    assert (pair.client.peer.spiffe, pair.client.peer.node) == (STORE, "n2")
    assert (pair.server.peer.spiffe, pair.server.peer.node) == (BUYER, "n1")
    assert pair.client.peer.version == pair.server.peer.version == "TLSv1.3"
    assert pair.client.peer.cipher == pair.server.peer.cipher
    assert pair.client.alpn == pair.server.alpn


@pytest.mark.parametrize("server", KINDS)
@pytest.mark.parametrize("client", KINDS)
async def test_both_name_the_same_fault(pair, client, server):
    """Whichever reads a certificate, the flag is the same."""
    wrong = pair(client, server)
    wrong.expects = {BUYER}
    assert flag((await wrong.meet()).client) == "peer-unexpected"
    late = pair(client, server)
    late.now = lambda: time.time() + 3000 * DAY
    await late.meet()
    assert flag(late.client) == flag(late.server) == "peer-expired"


async def test_a_key_that_is_not_the_certificates_is_refused_by_name(mint, pair):
    mine, other = mint.credentials(BUYER, node="n1"), mint.credentials(STORE, node="n1")
    pair = pair()
    pair.client_has = msgspec.structs.replace(mine, key=other.key)
    with pytest.raises(Refused) as caught:
        await pair.connect()
        raise pair.client
    assert caught.value.flag == "no-certificate"
    assert BUYER in caught.value.detail


@pytest.mark.parametrize("server", KINDS)
@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x16\x03\x01\xff\xff" + bytes(100),
        bytes(2000),
    ],
)
async def test_garbage_is_a_refusal(pair, sent, server):
    pair = pair(server=server)
    await pair.sockets[0].send_all(sent)
    await pair.sockets[0].send_eof()
    with trio.fail_after(30):
        await pair.accept()
    assert flag(pair.server) == ("tls-failed" if sent[0] == 0x16 else "plain-to-tunnel")


async def test_one_that_leaves_in_the_middle(pair):
    pair = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.accept)
        await pair.sockets[0].send_all(b"\x16\x03\x01")
        abort(pair.sockets[0])
    assert flag(pair.server) == "tls-failed"


async def test_silence_has_a_deadline(pair, autojump_clock):
    pair = pair()
    await pair.accept()
    assert flag(pair.server) == "tls-failed"


# what comes after the handshake


@contextlib.asynccontextmanager
async def connected(pair, ended):
    """A client in Python calls a server in the lane. `ended`: filled with how the server's connection ended."""
    await pair.meet()
    lane = NativePath(NoContext())
    far = pair.server.stream.socket.fileno()
    client = Connection(pair.client.stream, True, Bounds(), "server")
    server = Connection(None, False, Bounds(), "client", NativeTransport(lane.streams, far, pair.server.secured))
    opened, channels = trio.open_memory_channel(100)

    async def run(connection, accept=None):
        try:
            await connection.run(accept)
            ended[connection is client] = ""
        except (Refused, trio.BrokenResourceError) as error:
            ended[connection is client] = str(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(lane.run)
        nursery.start_soon(run, client)
        nursery.start_soon(run, server, opened.send_nowait)
        with trio.fail_after(20):
            yield client, channels
        nursery.cancel_scope.cancel()


async def exchange(client, channels):
    ours = await client.open(GET, True)
    theirs = await channels.receive()
    await theirs.send_head(OK)
    await theirs.send_all(b"fine", end=True)
    assert await ours.head() == (OK, False)
    assert await everything(ours) == b"fine"
    theirs.close()
    ours.close()


async def until(condition):
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.001)


async def test_new_keys_whenever_the_peer_wants(pair):
    pair, ended = pair("python"), {}
    async with connected(pair, ended) as (client, channels):
        for _ in range(5):
            await exchange(client, channels)
            ask_for_new_keys(pair.client.stream)
        await exchange(client, channels)
        assert not ended


async def test_who_asks_for_nothing_but_new_keys_is_let_go(pair):
    pair, ended = pair("python"), {}
    async with connected(pair, ended) as (client, channels):
        await exchange(client, channels)
        for _ in range(200):
            ask_for_new_keys(pair.client.stream)
            pair.client.stream.object.do_handshake()  # writes the KeyUpdate, and nothing else
            with contextlib.suppress(trio.BrokenResourceError):
                await pair.sockets[0].send_all(pair.client.stream._out.read())
        await until(lambda: False in ended)
    assert "new keys" in ended[False]


@pytest.mark.parametrize("way", ["said", "cut off"])
async def test_an_end_is_told_from_a_cut(pair, way):
    pair, ended = pair("python"), {}
    async with connected(pair, ended) as (client, channels):
        await exchange(client, channels)
        if way == "said":
            close_now(pair.client.stream)
        else:
            pair.sockets[0].socket.shutdown(trio.socket.SHUT_WR)
        await until(lambda: False in ended)
    assert ("cut off" in ended[False]) == (way == "cut off"), ended


async def test_a_damaged_record_ends_it(pair):
    pair, ended = pair("python"), {}
    async with connected(pair, ended) as (client, channels):
        await exchange(client, channels)
        await pair.sockets[0].send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: False in ended)
    assert ended[False]
