"""Which server connection a request gets, and when it is tried again."""

import pytest
import trio

from nodeproxy.errors import Refused
from nodeproxy.protocols.http import attempt
from tests.nodeproxy.protocols.http.conftest import FIRST, OK, SECOND, Client, House, Pipe, answering, read_head

DEAD = Refused("connect-failed", "10.0.0.2:8080: refused")
GET = b"GET / HTTP/1.1\r\nHost: store\r\n\r\n"


async def test_a_dead_endpoint_is_passed_over_also_for_a_post(house: House) -> None:
    house.route.endpoints = [FIRST, SECOND]
    house.servers = [DEAD, answering(OK)]
    house.connect()
    assert (await house.request("POST", "/"))[0] == 200
    assert house.dialled == [FIRST, SECOND]
    assert [r.endpoint for r in house.records] == ["10.0.0.3:8080"]


async def test_three_endpoints_are_tried(house: House) -> None:
    house.route.endpoints = [FIRST, SECOND, FIRST.__class__("10.0.0.4", 1), FIRST.__class__("10.0.0.5", 1)]
    house.servers = [DEAD]
    house.connect()
    status, fields, _ = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (503, b"connect-failed")
    assert len(house.dialled) == 3
    assert (await house.request())[0] == 503  # the caller's connection goes on


async def test_the_last_failure_is_told_when_no_endpoint_is_left(house: House) -> None:
    house.servers = [Refused("connect-timeout", "10.0.0.2:8080: no answer")]
    house.connect()
    status, fields, body = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (504, b"connect-timeout")
    (record,) = house.records
    assert (record.flag, record.endpoint, record.detail) == (
        "connect-timeout",
        "10.0.0.2:8080",
        "10.0.0.2:8080: no answer",
    )
    assert b"10.0.0.2" not in body, "where a service runs is not its callers' affair"
    assert record.id.encode() in body


async def once(stream: Pipe) -> None:
    """Answers one request and closes when the next one comes: an idle connection that dies just as it is used."""
    await read_head(stream)
    await stream.send_all(OK)
    await read_head(stream)
    stream.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_a_stale_connection_is_replaced_for_a_request_that_may_be_repeated(house: House, method: str) -> None:
    house.servers = [once, answering(OK)]
    house.connect()
    client = Client(house.caller)
    assert (await client.request())[0] == 200
    assert (await client.request(method, "/"))[0] == 200
    assert len(house.dialled) == 2
    assert [r.flag for r in house.records] == ["", ""]
    assert not house.context.live.in_flight


@pytest.mark.parametrize(("method", "body"), [("POST", b""), ("PUT", b"data"), ("PATCH", b"")])
async def test_a_stale_connection_is_not_replaced_for_others(house: House, method: str, body: bytes) -> None:
    house.servers = [once, answering(OK)]
    house.connect()
    client = Client(house.caller)
    assert (await client.request())[0] == 200
    status, fields, _ = await client.request(method, "/", body=body)
    assert (status, fields[b"x-edgemesh-reason"]) == (502, b"upstream-broken")
    assert len(house.dialled) == 1
    assert (await client.request())[0] == 200  # the caller's connection goes on, with a new one to the server


async def test_what_has_begun_to_be_answered_is_not_asked_again(house: House) -> None:
    async def half(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(OK)
        await read_head(stream)
        await stream.send_all(OK[:20])
        stream.close()

    house.servers = [half, answering(OK)]
    house.connect()
    client = Client(house.caller)
    assert (await client.request())[0] == 200
    status, fields, _ = await client.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (502, b"upstream-broken")
    assert len(house.dialled) == 1


async def test_only_one_repetition(house: House) -> None:
    async def gone(stream: Pipe) -> None:
        await read_head(stream)
        stream.close()

    house.servers = [once, gone]
    house.connect()
    client = Client(house.caller)
    assert (await client.request())[0] == 200
    assert (await client.request())[0] == 502
    assert len(house.dialled) == 2


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 20",
        b"220 smtp\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_a_server_that_answers_nonsense_or_nothing(house: House, said: bytes) -> None:
    async def nonsense(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(said)
        stream.close()

    house.servers = [nonsense, answering(OK)]
    house.connect()
    client = Client(house.caller)
    assert (await client.request())[0] == 502
    assert len(house.dialled) == 1
    assert (await client.request())[0] == 200


async def test_bytes_behind_a_response_are_not_an_answer_to_the_next_request(house: House) -> None:
    house.servers = [answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), answering(OK)]
    house.connect()
    client = Client(house.caller)
    assert (await client.request())[2] == b"hello"
    assert (await client.request())[2] == b"hello"
    assert len(house.dialled) == 2


async def test_a_policy_that_changes_while_dialling_is_seen_by_the_next_attempt(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.route.endpoints = [FIRST, SECOND]

    async def dial(*_: object) -> Pipe:
        house.route.refuse = Refused("denied", "no-rule: x")
        await trio.lowlevel.checkpoint()
        raise DEAD

    monkeypatch.setattr(attempt, "dial", dial)
    house.connect()
    status, fields, _ = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (403, b"no-rule")
