"""Deadlines of a connection: each phase has one, each ends as its flag says."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nodeproxy.protocols.http.deadline import Phase
from tests.nodeproxy.protocols.http.conftest import FIRST, OK, Client, House, Pipe, answering, read_head


async def silent(stream: Pipe) -> None:
    await trio.sleep_forever()


async def until_over(house: House) -> float:
    begin = trio.current_time()
    await house.done.wait()
    return trio.current_time() - begin


async def test_a_head_that_comes_slowly(house: House, autojump_clock: MockClock) -> None:
    house.limit(head_timeout=10)
    caller = house.connect()
    begin = trio.current_time()

    async def drip() -> None:
        with pytest.raises(trio.BrokenResourceError):
            for byte in b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 100:
                await caller.send_all(bytes((byte,)))
                await trio.sleep(1)

    house.nursery.start_soon(drip)
    data = await caller.receive_some()
    assert data.startswith(b"HTTP/1.1 408 ")
    assert trio.current_time() - begin == 10  # from the first byte, however many come
    await house.done.wait()
    assert [r.flag for r in house.records] == ["head-timeout"]


async def test_between_two_requests(house: House, autojump_clock: MockClock) -> None:
    house.limit(keepalive_timeout=75)
    house.connect()
    assert (await house.request())[0] == 200
    assert await until_over(house) == 75
    assert house.failure is None
    assert await house.caller.receive_some() == b""  # it just ends: there is no request to answer
    assert [r.flag for r in house.records] == [""]


async def test_a_server_that_does_not_answer(house: House, autojump_clock: MockClock) -> None:
    house.limit(response_timeout=60)
    house.servers = [silent, answering(OK)]
    house.connect()
    client = Client(house.caller)
    begin = trio.current_time()
    status, fields, _ = await client.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (504, b"response-timeout")
    assert trio.current_time() - begin == 60
    assert house.upstreams[0].closed
    assert [r.flag for r in house.records] == ["response-timeout"]
    assert (await client.request())[0] == 200  # the caller did nothing wrong


async def test_the_response_deadline_begins_when_the_request_is_whole(house: House, autojump_clock: MockClock) -> None:
    house.limit(response_timeout=60, idle_timeout=20)
    house.servers = [silent]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n")
    for _ in range(10):
        await trio.sleep(10)
        await caller.send_all(b"x")
    begin = trio.current_time()
    assert (await caller.receive_some()).startswith(b"HTTP/1.1 504 ")
    assert trio.current_time() - begin == 60


async def test_a_request_body_that_stops(house: House, autojump_clock: MockClock) -> None:
    house.limit(idle_timeout=20)
    house.servers = [silent]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    assert (await caller.receive_some()).startswith(b"HTTP/1.1 408 ")
    assert await until_over(house) <= 20
    assert [r.flag for r in house.records] == ["idle"]


async def test_a_response_body_that_stops(house: House, autojump_clock: MockClock) -> None:
    house.limit(idle_timeout=20)

    async def stops(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(5):
            await trio.sleep(15)
            await stream.send_all(b"x")
        await trio.sleep_forever()

    house.servers = [stops]
    caller = house.connect()
    await caller.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert await until_over(house) == pytest.approx(5 * 15 + 20, abs=1)
    with pytest.raises(trio.BrokenResourceError):
        while await caller.receive_some():
            pass
    assert [r.flag for r in house.records] == ["idle"]
    assert not house.context.live.in_flight


async def test_a_caller_that_does_not_read(house: House, autojump_clock: MockClock) -> None:
    house.limit(idle_timeout=20)
    house.lockstep = True

    async def endless(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"1\r\nx\r\n")

    house.servers = [endless]
    caller = house.connect()
    await caller.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert await caller.receive_some(10)
    assert await until_over(house) <= 40
    assert [r.flag for r in house.records] == ["idle"]


async def test_an_answer_that_nobody_takes_does_not_hold_the_connection(
    house: House, autojump_clock: MockClock
) -> None:
    house.limit(head_timeout=10)
    house.lockstep = True
    caller = house.connect()
    await caller.send_all(b"GET /%5c HTTP/1.1\r\nHost: h\r\n\r\n")
    assert await until_over(house) <= 15


async def test_dialling_is_not_hurried_by_an_older_deadline(house: House, autojump_clock: MockClock) -> None:
    house.limit(keepalive_timeout=5, head_timeout=5)
    real = house.dial

    async def slow_dial(conn: object, pick: object) -> Pipe:
        await trio.sleep(8)
        return await real(conn, pick)  # type: ignore[arg-type]

    house.dial = slow_dial  # type: ignore[method-assign]
    from nodeproxy.protocols.http import attempt

    attempt.dial = slow_dial  # type: ignore[assignment]  # the fixture puts it back
    house.connect()
    assert (await house.request())[0] == 200
    assert house.dialled == [FIRST]


async def test_many_requests_one_after_the_other_do_not_run_into_the_first_ones_deadline(
    house: House, autojump_clock: MockClock
) -> None:
    house.limit(keepalive_timeout=10, response_timeout=10)
    house.connect()
    client = Client(house.caller)
    for _ in range(5):
        assert (await client.request())[0] == 200
        await trio.sleep(9)


async def test_phase_shows_itself(autojump_clock: MockClock) -> None:
    with trio.CancelScope() as scope:
        phase = Phase(scope)
        phase.begin("idle", 5)
        assert repr(phase) == "<Phase idle for 5.0 s more>"
        phase.begin("", 7)
        assert repr(phase) == "<Phase rest for 7.0 s more>"
        phase.moved(100)
        assert scope.deadline == trio.current_time() + 100
        await trio.sleep(0.5)
        phase.moved(100)  # not more than once a second
        assert scope.deadline == trio.current_time() + 99.5
        phase.unbounded()
        assert scope.deadline == float("inf")
    await wait_all_tasks_blocked()


async def test_the_timeouts_of_a_rule_end_every_phase_and_go_with_the_request(autojump_clock: MockClock) -> None:
    phase = Phase(trio.CancelScope())
    phase.bound(10, 4)
    phase.begin("idle", 60)
    assert phase.scope.deadline == 4
    phase.unbounded()
    assert phase.scope.deadline == 4
    phase.begin("response-timeout", 3)
    assert phase.scope.deadline == 3
    await trio.sleep(3)
    assert phase.expired == "response-timeout"
    phase.bound(float("inf"), 9)  # another attempt of the same request
    phase.begin("idle", 60)
    assert phase.scope.deadline == 10
    phase.moved(1)
    await trio.sleep(2)
    phase.moved(20)
    assert phase.scope.deadline == 10
    await trio.sleep(5)
    assert phase.expired == "route-timeout"
    phase.free()
    phase.begin("", 75)
    assert phase.scope.deadline == trio.current_time() + 75
    assert phase.expired == ""
