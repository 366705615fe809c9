"""A request that failed is attempted again as the policy says, and only if that does no harm."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nodeproxy.errors import Refused
from nodeproxy.upstream.retry_budget import BODIES_OF_ONE, BODY
from policy.route import FAILURES, Failure, Retry, Timeouts
from policy.upstream import ServiceBounds
from tests.nodeproxy.protocols.http.conftest import (
    BUYER,
    FIRST,
    OK,
    SECOND,
    Client,
    House,
    Pipe,
    Server,
    answering,
    read_head,
)

BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
GONE = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
AGAIN = Retry(5, (503,), 1.0, most=10.0)


def last(house: House) -> tuple[int, str, int, str]:
    record = [one for one in house.records if one.kind == "request"][-1]
    return record.status, record.flag, record.retries, record.retried


def budget_is_whole(house: House) -> bool:
    return repr(house.context.live.retries) == "<RetryBudget of 0 Services, 0 bytes of bodies>"


async def closing(stream: Pipe) -> None:
    await read_head(stream)
    stream.close()


async def silent(stream: Pipe) -> None:
    await read_head(stream)
    await trio.sleep_forever()


async def whole_body(stream: Pipe, rest: bytearray, size: int) -> bytes:
    data = bytes(rest)
    while len(data) < size:
        more = await stream.receive_some(65536)
        if not more:
            raise trio.BrokenResourceError
        data += more
    return data


# statuses


async def test_a_response_that_is_no_final_answer_is_dropped(house: House, autojump_clock: Any) -> None:
    seen: list[bytes] = []
    house.servers = [answering(BUSY, BUSY, OK, seen=seen)]
    house.route.retry = AGAIN
    house.connect()
    status, _, body = await house.request()
    assert (status, body) == (200, b"hello")
    assert len(seen) == 3
    assert len(house.dialled) == 1, "the connection of a small response is used again"
    assert last(house) == (200, "", 2, "success")
    assert budget_is_whole(house)


async def test_the_last_response_is_delivered_when_no_attempt_is_left(house: House, autojump_clock: Any) -> None:
    seen: list[bytes] = []
    house.servers = [answering(BUSY, seen=seen)]
    house.route.retry = AGAIN
    house.connect()
    status, _, body = await house.request()
    assert (status, body) == (503, b"busy")
    assert len(seen) == 6
    assert last(house) == (503, "", 5, "limit")
    assert budget_is_whole(house)
    assert (await house.request())[0] == 503, "the connection goes on"


async def test_another_status_is_final(house: House) -> None:
    seen: list[bytes] = []
    house.servers = [answering(GONE, seen=seen)]
    house.route.retry = AGAIN
    house.connect()
    assert (await house.request())[0] == 404
    assert len(seen) == 1
    assert last(house) == (404, "", 0, "")


async def test_a_large_response_that_is_dropped_is_not_read_to_its_end(house: House, autojump_clock: Any) -> None:
    sent = 0

    async def endless(stream: Pipe) -> None:
        nonlocal sent
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 100000000\r\n\r\n" + b"x" * 1000)
        await wait_all_tasks_blocked()
        while True:
            await stream.send_all(b"x" * 1000)
            sent += 1000

    house.lockstep = True
    house.servers = [endless, answering(OK)]
    house.route.retry = AGAIN
    house.connect()
    assert (await house.request())[0] == 200
    assert sent < 65536
    assert house.upstreams[0].closed


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_status_that_is_named_counts_for_every_method(house: House, autojump_clock: Any, method: str) -> None:
    seen: list[bytes] = []
    house.servers = [answering(BUSY, OK, seen=seen)]
    house.route.retry = AGAIN
    house.connect()
    assert (await house.request(method))[0] == 200
    assert len(seen) == 2


# failures before a response


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_where_no_connection_comes_about_every_method_is_attempted_again(
    house: House, autojump_clock: Any, method: str
) -> None:
    refused = Refused("connect-failed", "nobody listens")
    house.servers = [refused, refused, answering(OK)]
    house.route.retry = AGAIN
    house.connect()
    assert (await house.request(method))[0] == 200
    assert last(house) == (200, "", 2, "success")


@pytest.mark.parametrize(
    ("method", "any_method", "status"),
    [("GET", False, 200), ("PUT", False, 200), ("POST", False, 502), ("POST", True, 200), ("PATCH", False, 502)],
)
async def test_what_may_have_had_an_effect_is_repeated_if_that_does_no_harm(
    house: House, autojump_clock: Any, method: str, any_method: bool, status: int
) -> None:
    house.servers = [closing, answering(OK)]
    house.route.retry = Retry(1, any_method=any_method)
    house.connect()
    assert (await house.request(method))[0] == status
    assert len(house.dialled) == (2 if status == 200 else 1)
    assert budget_is_whole(house)


@pytest.mark.parametrize("allowed", FAILURES)
@pytest.mark.parametrize("failure", ["connect", "reset", "timeout"])
async def test_only_the_failures_that_are_named_count(
    house: House, autojump_clock: Any, failure: Failure, allowed: Failure
) -> None:
    first: dict[str, Server | Refused] = {
        "connect": Refused("connect-failed", "nobody"),
        "reset": closing,
        "timeout": silent,
    }
    house.servers = [first[failure], answering(OK)]
    house.route.retry = Retry(1, (), 0.1, failures=(allowed,), timeout=2.0)
    house.connect()
    status = (await house.request())[0]
    assert (status == 200) == (failure == allowed)
    assert status == (200 if failure == allowed else {"connect": 503, "reset": 502, "timeout": 504}[failure])


@pytest.mark.parametrize("flag", ["no-endpoint", "denied", "no-certificate", "too-many-connections"])
async def test_what_another_attempt_would_not_change_is_refused_at_once(house: House, flag: str) -> None:
    house.servers = [Refused(flag, "so"), answering(OK)]
    house.route.retry = Retry(5, tuple(range(400, 600)))
    house.connect()
    assert (await house.request())[0] != 200
    assert last(house)[2:] == (0, "")


async def test_a_denial_is_decided_anew_before_each_attempt(house: House, autojump_clock: Any) -> None:
    house.servers = [answering(BUSY, OK)]
    house.route.retry = AGAIN
    decided = 0

    def decide(_: object) -> Refused | None:
        nonlocal decided
        decided += 1
        return Refused("denied", "no-rule: ") if decided == 2 else None

    house.route.refuse = decide
    house.connect()
    assert (await house.request())[0] == 403
    assert len(house.dialled) == 1


async def test_another_endpoint_is_preferred_and_then_another_than_the_last(house: House, autojump_clock: Any) -> None:
    house.route.endpoints = [FIRST, SECOND]
    house.servers = [closing]
    house.route.retry = Retry(3, (), 0.1)
    house.connect()
    assert (await house.request())[0] == 502
    assert house.dialled == [FIRST, SECOND, FIRST, SECOND]


# how long


async def test_each_attempt_has_its_time(house: House, autojump_clock: Any) -> None:
    house.servers = [silent, silent, answering(OK)]
    house.route.retry = Retry(2, timeout=2.0)
    house.connect()
    began = trio.current_time()
    assert (await house.request())[0] == 200
    assert trio.current_time() - began == pytest.approx(4.0)


async def test_the_last_attempt_that_takes_too_long_is_answered_504(house: House, autojump_clock: Any) -> None:
    house.servers = [silent]
    house.route.retry = Retry(1, timeout=2.0)
    house.connect()
    assert (await house.request())[0] == 504
    assert last(house) == (504, "route-timeout", 1, "limit")


async def test_the_time_of_an_attempt_does_not_bound_its_response(house: House, autojump_clock: Any) -> None:
    async def slow(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
        await trio.sleep(30)
        await stream.send_all(b"b")

    house.servers = [slow]
    house.route.retry = Retry(1, timeout=2.0)
    house.connect()
    assert (await house.request())[2] == b"ab"


async def test_backend_request_bounds_each_attempt_to_the_end_of_its_response(
    house: House, autojump_clock: Any
) -> None:
    async def slow(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
        await trio.sleep_forever()

    house.servers = [silent, slow]
    house.route.retry = Retry(5)
    house.route.timeouts = Timeouts(None, 2.0)
    house.connect()
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await house.request()
    assert trio.current_time() - began == pytest.approx(4.0)
    assert last(house)[1] == "route-timeout"
    assert len(house.dialled) == 2, "never again after the response has begun"


async def test_all_attempts_together_have_the_time_of_the_request(house: House, autojump_clock: Any) -> None:
    house.servers = [silent]
    house.route.retry = Retry(50)
    house.route.timeouts = Timeouts(5.0, 2.0)
    house.connect()
    began = trio.current_time()
    assert (await house.request())[0] == 504
    assert trio.current_time() - began == pytest.approx(5.0)
    assert len(house.dialled) == 3
    assert last(house)[1] == "route-timeout"
    assert budget_is_whole(house)


async def test_a_response_is_delivered_where_no_time_is_left_to_wait_for_another(
    house: House, autojump_clock: Any
) -> None:
    house.servers = [answering(BUSY)]
    house.route.retry = Retry(5, (503,), 10.0, 10.0, 100.0)
    house.route.timeouts = Timeouts(5.0)
    house.connect()
    began = trio.current_time()
    assert (await house.request())[0] == 503
    assert trio.current_time() == began


@pytest.mark.parametrize("least", [0.0, 1.0])
async def test_the_wait_grows_by_chance_up_to_its_bound(house: House, autojump_clock: Any, least: float) -> None:
    at: list[float] = []

    async def notes(stream: Pipe) -> None:
        rest = bytearray()
        while await read_head(stream, rest):
            at.append(trio.current_time())
            await stream.send_all(BUSY)

    house.servers = [notes]
    house.route.retry = Retry(6, (503,), 1.0, least, 10.0)
    house.connect()
    assert (await house.request())[0] == 503
    waits = [b - a for a, b in itertools.pairwise(at)]
    longest = [min(least + 2.0**n - 1, 10.0) for n in range(1, 7)]
    assert len(waits) == 6
    assert all(least <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len(set(waits)) == 6
    assert max(waits) > 3


# bodies


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("size", [1, BODY - 1, BODY, BODY + 1, 3 * BODY])
async def test_a_body_is_sent_again_whole_or_not_at_all(
    house: House, autojump_clock: Any, size: int, pieces: int, chunked: bool
) -> None:
    body = bytes(number % 251 for number in range(size))
    cut = max(1, size // pieces)
    parts = [body[at : at + cut] for at in range(0, size, cut)]
    got: list[bytes] = []

    async def serve(stream: Pipe) -> None:
        end = b"0\r\n\r\n"
        rest = bytearray()
        while await read_head(stream, rest):
            data = bytes(rest)
            rest.clear()
            while not (data.endswith(end) if chunked else len(data) >= size):
                more = await stream.receive_some(65536)
                if not more:
                    return
                data += more
            got.append(dechunked(data) if chunked else data)
            await stream.send_all(BUSY if len(got) == 1 else OK)

    house.servers = [serve]
    house.route.retry = AGAIN
    caller = house.connect()
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
    await caller.send_all(b"POST / HTTP/1.1\r\nhost: store\r\n" + framing + b"\r\n\r\n")
    await wait_all_tasks_blocked()
    for part in parts:
        await caller.send_all(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        await wait_all_tasks_blocked()
    if chunked:
        await caller.send_all(b"0\r\n\r\n")
    head = await read_head(caller, bytearray())
    kept = size <= BODY
    assert head.startswith(b"HTTP/1.1 200" if kept else b"HTTP/1.1 503")
    assert got == [body] * (2 if kept else 1)
    await wait_all_tasks_blocked()
    assert last(house)[2] == (1 if kept else 0)
    assert budget_is_whole(house)


def dechunked(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        whole += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return whole


async def test_a_body_that_still_arrives_goes_on_with_the_next_attempt(house: House, autojump_clock: Any) -> None:
    got: list[bytes] = []

    async def early(stream: Pipe) -> None:
        rest = bytearray()
        await read_head(stream, rest)
        got.append(await whole_body(stream, rest, 2))
        await stream.send_all(BUSY)
        await trio.sleep_forever()

    async def later(stream: Pipe) -> None:
        rest = bytearray()
        await read_head(stream, rest)
        got.append(await whole_body(stream, rest, 5))
        await stream.send_all(OK)

    house.servers = [early, later]
    house.route.retry = Retry(1, (503,), 1.0)
    caller = house.connect()
    await caller.send_all(b"PUT / HTTP/1.1\r\nhost: store\r\ncontent-length: 5\r\n\r\nab")
    await trio.sleep(5)
    await caller.send_all(b"cde")
    assert (await Client(caller).response())[0] == 200
    assert got == [b"ab", b"abcde"]
    assert len(house.dialled) == 2


async def test_a_body_that_nothing_was_taken_of_needs_no_room(house: House, autojump_clock: Any) -> None:
    body = b"x" * (4 * BODY)

    async def serve(stream: Pipe) -> None:
        rest = bytearray()
        await read_head(stream, rest)
        assert await whole_body(stream, rest, len(body)) == body
        await stream.send_all(OK)

    house.servers = [Refused("connect-failed", "nobody"), serve]
    house.route.retry = Retry(1)
    house.connect()
    assert (await house.request("POST", body=body))[0] == 200


async def test_no_body_is_kept_where_the_workload_has_taken_its_room(house: House, autojump_clock: Any) -> None:
    assert house.context.live.retries.hold(BUYER.key, BODIES_OF_ONE)

    async def serve(stream: Pipe) -> None:
        rest = bytearray()
        await read_head(stream, rest)
        await whole_body(stream, rest, 4)
        await stream.send_all(BUSY)

    house.servers = [serve]
    house.route.retry = Retry(1, (503,))
    caller = house.connect()
    await caller.send_all(b"PUT / HTTP/1.1\r\nhost: store\r\ncontent-length: 4\r\n\r\n")
    await wait_all_tasks_blocked()
    await caller.send_all(b"abcd")
    assert (await Client(caller).response())[0] == 503
    assert last(house)[2] == 0


async def test_a_caller_that_leaves_in_its_body_is_not_served_again(house: House, autojump_clock: Any) -> None:
    house.servers = [answering(OK)]
    house.route.retry = AGAIN
    caller = house.connect()
    await caller.send_all(b"PUT / HTTP/1.1\r\nhost: store\r\ncontent-length: 4\r\n\r\na")
    await wait_all_tasks_blocked()
    caller.abort()
    await house.done.wait()
    assert last(house)[1:3] == ("client-gone", 0)
    assert budget_is_whole(house)


# what goes to the caller


async def test_continue_goes_to_the_caller_and_another_attempt_may_be_made(house: House, autojump_clock: Any) -> None:
    async def serve(stream: Pipe) -> None:
        rest = bytearray()
        await read_head(stream, rest)
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        await whole_body(stream, rest, 4)
        stream.close()

    house.servers = [serve, answering(OK)]
    house.route.retry = Retry(1)
    caller = house.connect()
    await caller.send_all(b"PUT / HTTP/1.1\r\nhost: store\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
    rest = bytearray()
    assert (await read_head(caller, rest)).startswith(b"HTTP/1.1 100")
    await caller.send_all(b"abcd")
    assert (await read_head(caller, rest)).startswith(b"HTTP/1.1 200")
    assert len(house.dialled) == 2


async def test_no_attempt_is_made_after_hints_of_a_response_went_to_the_caller(house: House) -> None:
    async def hints(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        await wait_all_tasks_blocked()
        stream.close()

    house.servers = [hints, answering(OK)]
    house.route.retry = Retry(1)
    house.connect()
    assert (await house.request())[0] == 502
    assert len(house.dialled) == 1


# the budget


async def test_the_number_of_an_upstream_traffic_setting_bounds_them(house: House, autojump_clock: Any) -> None:
    house.servers = [answering(BUSY)]
    house.route.retry = AGAIN
    house.route.upstream = ServiceBounds("UpstreamTrafficSetting shop/store", max_retries=0)
    house.connect()
    assert (await house.request())[0] == 503
    assert last(house)[2:] == (0, "overflow")


async def test_a_server_that_is_down_gets_no_more_retries_than_the_share(house: House, autojump_clock: Any) -> None:
    count = 100
    requests = 0

    async def busy(stream: Pipe) -> None:
        nonlocal requests
        rest = bytearray()
        while await read_head(stream, rest):
            requests += 1
            await trio.sleep(1)
            await stream.send_all(BUSY)

    house.servers = [busy]
    house.route.retry = Retry(1, (503,), 0.01)
    callers = [house.connect() for _ in range(count)]

    async def call(stream: Pipe) -> None:
        assert (await Client(stream).request())[0] == 503

    async with trio.open_nursery() as nursery:
        for stream in callers:
            nursery.start_soon(call, stream)
    assert requests == count + count // 5
    found = [one.retried for one in house.records if one.kind == "request"]
    assert (found.count("limit"), found.count("overflow")) == (count // 5, count - count // 5)
    assert budget_is_whole(house)
