"""What peers, callers and servers of ill will tried: each test was an attack that worked, and says what must hold all the same."""

# ruff: noqa: F401, F811 - fixtures of other files

from __future__ import annotations

import contextlib
import time

import msgspec
import pytest
import trio
import trio.testing
from hpack import Encoder
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, SettingsFrame, WindowUpdateFrame

from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds
from nodeproxy.tls import handshake
from nodeproxy.upstream.http2_pool import Http2Pool
from policy.model import Grant, Workload
from policy.route import HttpMatch, Regex
from tests.nodeproxy.conftest import BUYER, SPARE, STORE
from tests.nodeproxy.downstream.test_hbone import HTTP, THIEF, WEB, doors, everything, opened, publish, request, settled
from tests.nodeproxy.mesh.test_pool import PICK, buyer, open_tunnel, peers, remote
from tests.nodeproxy.protocols.http.conftest import answering, house, read_head
from tests.nodeproxy.protocols.http.test_room import caller, requests

STRANGE = DataFrame(
    1001, b"x"
).serialize()  # of a stream that nobody opened: the connection ends for it (RFC 9113 section 5.1)
GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"store")]
POST = [(b":method", b"POST"), *GET[1:]]
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def ask(connection, *heads, body=b"", then=STRANGE):
    """Queue requests, a body of the first one, and what comes after them, to go out in one piece."""
    machine = connection.machine
    first = machine.get_next_available_stream_id()
    for fields in heads:
        machine.send_fields(machine.get_next_available_stream_id(), fields, False)
    for start in range(0, len(body), 16000):
        machine.send_data(first, body[start : start + 16000])
    machine._data_to_send += then
    connection.transport.stir()


def flags(records):
    return {record.flag for record in records}


# HTTP/2 that breaks while its streams are being served


async def test_a_tunnel_door_forgets_the_streams_of_a_connection_that_broke_http2(doors, monkeypatch):
    """Each stream of such a connection stayed in context.conns for ever: with enough of them every door turned everybody away."""
    raised = []
    own = doors._own

    async def guarded(visitor, door):  # as downstream/accept.py, which catches everything
        try:
            await own(visitor, door)
        except Exception as error:
            raised.append(error)

    monkeypatch.setattr(doors, "_own", guarded)
    visitor = await doors.knock(door=STORE)
    ask(visitor.connection, *[[(b":method", b"CONNECT"), (b":authority", b"10.0.0.3:8080")]] * 5)
    await visitor.over.wait()
    await settled()
    assert not doors.context.conns
    assert not raised
    assert visitor.end == "http2-abuse"
    assert "internal" not in flags(doors.records)


async def test_a_tunnel_that_carries_when_its_connection_breaks_http2(doors):
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    visitor.connection.machine.send_data(channel.id, b"x" * 16000)
    visitor.connection.machine.send_data(channel.id, b"x" * 16000)
    visitor.connection.machine.send_data(
        channel.id, b"x" * 16000
    )  # read by the relay in the turn that ends the connection
    visitor.connection.machine._data_to_send += STRANGE
    visitor.connection.transport.stir()
    await visitor.over.wait()
    await settled()
    assert server.was_reset
    assert not doors.context.conns
    assert visitor.end == "http2-abuse"
    assert "internal" not in flags(doors.records)


async def test_a_caller_that_breaks_http2_while_it_is_served(house, nursery):
    house.protocol = "http"
    connection = await caller(house, nursery)
    await settled()
    ask(connection, *[POST] * 5, body=b"x" * 40000)
    await house.done.wait()
    await settled()
    assert isinstance(house.failure, Refused)
    assert house.failure.flag == "http2-abuse"
    assert not house.context.conns
    assert "internal" not in flags(house.records)


async def test_a_server_that_breaks_http2_while_it_answers(house, nursery):
    house.protocol = "grpc"
    house.context.http2_pool = Http2Pool(Bounds(), 30.0)
    await nursery.start(house.context.http2_pool.run)

    async def server(stream):
        await stream.receive_some()
        await stream.send_all(SettingsFrame().serialize())
        await trio.sleep(0.01)
        head = HeadersFrame(1, Encoder().encode([(b":status", b"200")]), flags=["END_HEADERS"]).serialize()
        await stream.send_all(head + DataFrame(1, b"x" * 16000).serialize() * 3 + STRANGE)

    house.servers = [server]
    house.connect()
    await house.caller.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    answer = await read_head(house.caller)
    await house.caller.aclose()  # otherwise it may ask again until keepalive_timeout
    await house.done.wait()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert flags(house.records) == {"upstream-broken"}


# connections that end as soon as they begin


async def test_a_peer_that_leaves_as_soon_as_it_has_come_is_not_dialled_without_end(peers, remote, buyer):
    async def serve(pipe, hop):
        context = remote.contexts.server(remote.identities._of(hop.spiffe), remote.identities.trust(), remote.alpn)
        with contextlib.suppress(Refused, trio.BrokenResourceError):
            secured = await handshake.accept(pipe, context, remote.identities.trust(), 5.0, time.time)
            await secured.stream.send_all(SettingsFrame().serialize() + GoAwayFrame(0).serialize())
        if len(remote.dials) == 30:
            await trio.sleep_forever()
        pipe.close()

    remote._serve = serve
    with trio.move_on_after(5), contextlib.suppress(Refused):
        await open_tunnel(peers, buyer, PICK)
    assert len(remote.dials) < 10


# CONNECT where no tunnel is


async def test_connect_over_http2_in_the_room_is_no_fault_of_ours(house, nursery):
    """DATA after CONNECT is no body: it went to the server in chunks, and two tasks read it when that answered 200."""
    house.protocol = "http"
    seen = []

    async def server(stream):
        seen.append(await read_head(stream))
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        async for data in stream:
            await stream.send_all(data)

    house.servers = [server]
    connection = await caller(house, nursery)
    channel = await connection.open([(b":method", b"CONNECT"), (b":authority", b"store:80")])
    await channel.head()
    await settled()
    channel.close()
    await settled()
    assert "internal" not in flags(requests(house))
    assert not any(b"transfer-encoding" in head for head in seen)


# who calls


@pytest.mark.parametrize("said", ["110.0.0.1", "6.6.6.6, 110.0.0.1"])
async def test_a_caller_is_not_taken_for_one_whose_address_ends_as_its_own(house, said):
    seen = []
    house.servers = [answering(EMPTY, seen=seen)]
    house.connect()
    await house.request(headers=[("X-Forwarded-For", said)])
    assert seen[0].endswith(b"x-forwarded-for: %b, 10.0.0.1" % said.encode())


async def test_a_request_of_another_node_comes_from_whom_the_node_says_and_not_its_workload(doors):
    """`forwarded` of a request is an end-to-end field, which any workload can send: it named another workload of the same account."""
    publish(doors, grants=(HTTP,))
    twin = Workload("shop", "twin", "buyer", ("10.0.0.8",))
    doors.context.snapshot = msgspec.structs.replace(doors.context.snapshot, workloads=(BUYER, STORE, SPARE, twin))
    visitor = await doors.knock(alpn=("edgemesh-h2", "h2"))
    named = ((b"forwarded", b"for=10.0.0.8"), (b"x-forwarded-for", b"10.0.0.1"))
    await visitor.connection.open(request(b"GET", b"/books", b"10.0.0.2:8080", *named), end=True)
    await settled()
    assert [conn.source for conn in doors.context.conns.values() if conn.source is not None] == [BUYER]
    assert b"x-forwarded-for: 10.0.0.1\r\n" in await doors.dialler.servers[-1].receive_some()


async def test_identities_share_no_connection_to_a_server(doors):
    """Of two callers of one node whose addresses the door does not know, the second came over the first one's connection."""
    theirs = Grant(
        "TrafficTarget shop/theirs",
        THIEF.identity,
        STORE.identity,
        http=(HttpMatch("books", Regex("/books"), ("GET",)),),
    )
    publish(doors, grants=(HTTP, theirs))
    for account in ("buyer", "thief"):
        visitor = await doors.knock(account, alpn=("edgemesh-h2", "h2"))
        channel = await visitor.connection.open(request(), end=True)
        await settled()
        await doors.dialler.servers[-1].send_all(WEB)
        await channel.head()
        assert await everything(channel) == b"hello"
        await settled()
    assert len(doors.dialler.servers) == 2


# servers that take nothing


async def test_a_server_that_takes_no_request_is_waited_for_no_longer_than_for_a_response(house, autojump_clock):
    house.lockstep = True

    async def server(stream):
        await trio.sleep_forever()

    house.servers = [server]
    house.connect()
    await house.caller.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    with trio.fail_after(house.limits.response_timeout + 10):
        assert (await house.caller.receive_some()).startswith(b"HTTP/1.1 504")


async def test_a_server_that_opens_its_window_by_the_byte_is_waited_for_no_longer(house, nursery, autojump_clock):
    house.protocol = "grpc"
    house.context.http2_pool = Http2Pool(Bounds(), 3000.0)
    await nursery.start(house.context.http2_pool.run)

    async def server(stream):
        await stream.receive_some()
        shut = SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
        answer = HeadersFrame(1, Encoder().encode([(b":status", b"204")]), flags=["END_HEADERS", "END_STREAM"])
        await stream.send_all(shut.serialize() + answer.serialize())
        while True:
            await trio.sleep(200)
            await stream.send_all(WindowUpdateFrame(3, 1).serialize())

    house.servers = [server]
    house.connect()
    assert (await house.request())[0] == 204
    await house.caller.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789")
    with trio.fail_after(house.limits.response_timeout + 10):
        assert (await house.caller.receive_some()).startswith(b"HTTP/1.1 504")
