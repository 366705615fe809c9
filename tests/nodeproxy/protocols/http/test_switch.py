"""A connection that becomes another protocol: 101 and CONNECT."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nodeproxy.errors import Refused
from tests.nodeproxy.protocols.http.conftest import House, Pipe, answering, read_head

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n"
)


async def echo(stream: Pipe) -> None:
    """Switches, says hello at once, then sends back what comes until the end."""
    rest = bytearray()
    head = await read_head(stream, rest)
    assert b"connection: upgrade\r\nupgrade: websocket" in head or head.startswith(b"CONNECT")
    await stream.send_all((SWITCH if b"websocket" in head else b"HTTP/1.1 200 OK\r\n\r\n") + b"hello")
    data = bytes(rest)
    while True:
        if data:
            await stream.send_all(data)
        data = bytes(await stream.receive_some(65536))
        if not data:
            break
    await stream.send_all(b"bye")
    await stream.send_eof()


@pytest.mark.parametrize(
    ("request_", "protocol", "status"),
    [(UPGRADE, "websocket", 101), (b"CONNECT db:1 HTTP/1.1\r\nHost: db:1\r\n\r\n", "http", 200)],
)
async def test_a_switched_connection_carries_bytes_both_ways(
    house: House, request_: bytes, protocol: str, status: int
) -> None:
    house.servers = [echo]
    caller = house.connect()
    await caller.send_all(request_ + b"early")  # bytes behind the request are not lost
    data = b""
    while b"early" not in data:
        data += await caller.receive_some()
    head, _, after = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    if status == 101:
        assert b"connection: upgrade\r\nupgrade: websocket" in head
        assert b"Sec-WebSocket-Accept: y" in head
    assert b"transfer-encoding" not in head
    assert after == b"helloearly"
    assert house.conn.active  # so that a policy change can cut it
    await caller.send_all(b"ping")
    assert await caller.receive_some() == b"ping"
    assert house.records == []
    await caller.send_eof()  # half-close: the other direction goes on
    assert await caller.receive_some() == b"bye"
    assert await caller.receive_some() == b""
    await house.done.wait()
    assert house.failure is None
    (record,) = house.records
    assert (record.flag, record.status, record.protocol) == ("", status, protocol)
    assert record.bytes_in >= len(request_) + len(b"earlyping")
    assert record.bytes_out >= len(b"helloearlypingbye")
    assert len(house.context.pool) == 0
    assert not house.context.live.in_flight


async def test_a_server_that_does_not_switch(house: House) -> None:
    seen: list[bytes] = []
    house.servers = [
        answering(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nContent-Length: 0\r\n\r\n", seen=seen)
    ]
    caller = house.connect()
    await caller.send_all(UPGRADE)
    assert b"connection: upgrade\r\nupgrade: other" in await caller.receive_some()
    await caller.send_all(UPGRADE)
    assert await caller.receive_some()
    assert len(seen) == 2


async def test_h2c_is_not_offered_on(house: House) -> None:
    """Requests inside an HTTP/2 connection that was upgraded through us would be decided by nobody."""
    seen: list[bytes] = []
    house.servers = [answering(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", seen=seen)]
    caller = house.connect()
    await caller.send_all(
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n"
    )
    assert (await caller.receive_some()).startswith(b"HTTP/1.1 502 ")
    assert b"h2c" not in seen[0]
    assert b"settings" not in seen[0].lower()


async def test_an_idle_switched_connection_ends(house: House, autojump_clock: MockClock) -> None:
    house.limit(idle_timeout=20, response_timeout=5)
    house.servers = [echo]
    caller = house.connect()
    await caller.send_all(UPGRADE)
    begin = trio.current_time()
    await house.done.wait()
    assert trio.current_time() - begin == 20
    assert isinstance(house.failure, Refused)
    assert [r.flag for r in house.records] == ["idle"]


async def test_a_switched_connection_that_is_cut(house: House) -> None:
    house.servers = [echo]
    caller = house.connect()
    await caller.send_all(UPGRADE)
    await wait_all_tasks_blocked()
    house.conn.verdict = "cut"
    house.conn.scope.cancel()
    await house.done.wait()
    assert [(r.flag, r.status) for r in house.records] == [("cut", 101)]
    assert house.upstreams[0].closed


async def test_an_upgrade_with_a_body_that_is_not_finished_is_not_switched(house: House) -> None:
    house.servers = [answering(SWITCH)]
    caller = house.connect()
    await caller.send_all(UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"))
    assert (await caller.receive_some()).startswith(b"HTTP/1.1 502 ")
