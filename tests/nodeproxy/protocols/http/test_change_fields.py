"""change_fields.py: fields are set, added and removed in the message that is sent on; one that may not be is no filter."""

from __future__ import annotations

import pytest

from nodeproxy.codec.message import RequestHead, ResponseHead
from nodeproxy.protocols.http.change_fields import ChangesRequest, ChangesResponse
from policy.route import Fields, RequestFields, ResponseFields
from tests.nodeproxy.protocols.http.conftest import House, answering

CHANGE = Fields((("x-a", "1"),), (("x-b", "2"), ("x-d", "3")), ("x-c",))
OK = b"HTTP/1.1 200 OK\r\nX-A: 8\r\nX-B: 8\r\nX-C: 8\r\nx-c: 9\r\ncontent-length: 0\r\n\r\n"


def named(lines: list[bytes]) -> list[bytes]:
    return sorted(line.lower() for line in lines if line.lower().startswith(b"x-") and b"x-forwarded" not in line)


async def test_of_a_request(house: House) -> None:
    seen: list[bytes] = []
    house.servers = [answering(OK, seen=seen)]
    house.route.filters = (RequestFields(CHANGE),)
    house.connect()
    sent = [("X-A", "8"), ("x-a", "9"), ("X-B", "8"), ("X-C", "8"), ("X-E", "8")]
    assert (await house.request(headers=sent))[0] == 200
    assert named(seen[0].split(b"\r\n")) == [b"x-a: 1", b"x-b: 2", b"x-b: 8", b"x-d: 3", b"x-e: 8"]
    (judged,) = house.route.judged
    assert (judged.header("x-b"), judged.header("x-c")) == ("8, 2", None), "policy sees what is sent"


def test_of_a_response() -> None:
    head = ResponseHead(200, b"OK", 1)
    head.lines = [b"X-A: 8", b"X-B: 8", b"X-C: 8", b"x-c: 9", b"Server: s"]
    ChangesResponse(ResponseFields(CHANGE)).response(RequestHead(b"GET", b"/", 1), head)
    assert head.lines == [b"X-B: 8", b"Server: s", b"x-a: 1", b"x-b: 2", b"x-d: 3"]


async def test_the_other_message_is_left_as_it_is(house: House) -> None:
    seen: list[bytes] = []
    house.servers = [answering(OK, seen=seen)]
    house.route.filters = (ResponseFields(CHANGE),)
    house.connect()
    assert (await house.request(headers=[("X-A", "8")]))[1][b"x-a"] == b"1"
    assert named(seen[0].split(b"\r\n")) == [b"x-a: 8"]


@pytest.mark.parametrize(
    "change", [Fields((("host", "x"),)), Fields(add=(("X-A", "1"),)), Fields(remove=("te",)), Fields((("x", "a\nb"),))]
)
async def test_what_may_not_be_changed_refuses_the_call(house: House, change: Fields) -> None:
    with pytest.raises(ValueError, match="the field"):
        ChangesRequest(RequestFields(change))
    house.route.filters = (ResponseFields(change),)
    house.connect()
    assert (await house.request())[0] == 500
    assert [record.flag for record in house.records] == ["filter-failed"]
    assert not house.dialled
