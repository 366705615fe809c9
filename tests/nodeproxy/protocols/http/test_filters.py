"""Filters of a rule: when they act and on what, that they may respond, and that nothing passes one that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.protocols.http import filters
from nodeproxy.protocols.http.filters import FILTERS
from nodeproxy.upstream.http2_pool import Http2Pool
from policy.route import Filter
from tests.nodeproxy.protocols.http.conftest import OK, SECOND, House, answering, read_head
from tests.nodeproxy.protocols.http.test_room import CALL, GET, H2Server, body, caller, echo, requests


class Note(Filter, frozen=True):
    """Configuration of a filter that adds its name to two fields."""

    name: str


class Noting:
    """`does`, `says`: what else it does with a request, and with a response."""

    def __init__(self, book: Book, name: str) -> None:
        self.book = book
        self.name = name.encode()

    async def request(self, head: RequestHead) -> None:
        self.book.order.append(f"request {self.name.decode()}")
        self.book.decided.append(len(self.book.house.route.requests))
        head.set_field(b"x-" + self.name, b"1")
        if (does := self.book.does.get(self.name.decode())) is not None:
            await does(head)

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        self.book.order.append(f"response {self.name.decode()}")
        response.set_field(b"x-noted", b"%d by %b of %b" % (response.status, self.name, head.method))
        if (says := self.book.says.get(self.name.decode())) is not None:
            says(response)


class Book:
    """What the filters of a test have done."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.made: list[str] = []
        self.order: list[str] = []
        self.decided: list[int] = []  # how many decisions there were before each request
        self.does: dict[str, Callable[[RequestHead], Awaitable[None]]] = {}
        self.says: dict[str, Callable[[ResponseHead], object]] = {}

    def make(self, config: Note) -> Noting:
        self.made.append(config.name)
        return Noting(self, config.name)

    def rule(self, *names: str) -> None:
        self.house.route.filters = tuple(map(Note, names))


@pytest.fixture
def book(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    book = Book(house)
    monkeypatch.setitem(FILTERS, Note, book.make)
    filters._made.cache_clear()
    book.rule("a")
    yield book
    filters._made.cache_clear()


def raising(error: BaseException) -> Callable[[RequestHead], Awaitable[None]]:
    async def does(head: RequestHead) -> None:
        raise error

    return does


def that(error: Exception) -> Callable[[ResponseHead], object]:
    def says(response: ResponseHead) -> None:
        raise error

    return says


async def test_it_changes_what_the_server_gets_and_what_the_caller_gets(house: House, book: Book) -> None:
    seen: list[bytes] = []
    house.servers = [answering(b"HTTP/1.1 200 OK\r\nX-Noted: no\r\ncontent-length: 5\r\n\r\nhello", seen=seen)]
    house.connect()
    status, fields, content = await house.request(headers=[("X-A", "of the caller"), ("X-a", "and again")])
    assert (status, fields[b"x-noted"], content) == (200, b"200 by a of GET", b"hello")
    assert seen[0].lower().count(b"\r\nx-a:") == 1
    assert b"\r\nx-a: 1" in seen[0]
    assert book.decided == [1], "the decision says whose filters act"
    assert house.route.requests[0].header("x-a") == "of the caller, and again", "and was taken on what came"
    assert house.route.judged[0].header("x-a") == "1", "policy admits what is sent on, too"


async def test_they_act_in_the_order_of_the_rule_and_on_the_response_the_other_way_round(
    house: House, book: Book
) -> None:
    book.rule("a", "b", "c")
    house.connect()
    _, fields, _ = await house.request()
    assert book.order == ["request a", "request b", "request c", "response c", "response b", "response a"]
    assert fields[b"x-noted"] == b"200 by a of GET"


async def test_it_acts_once_for_all_attempts(house: House, book: Book) -> None:
    house.servers = [answering(OK, then_close=True), answering(OK)]
    house.connect()
    assert (await house.request())[0] == 200
    assert (await house.request())[0] == 200  # over a connection that had gone, and then over another
    assert len(house.dialled) == 2
    assert len(house.route.requests) == 3
    assert book.decided == [1, 2]
    assert house.route.requests[2].header("x-a") is None, (
        "decided once more on what came, not on what filters made of it"
    )
    assert house.conn.pick is not None
    assert len(house.route.judged) == 3


async def test_filters_are_made_once_for_their_configuration(house: House, book: Book) -> None:
    house.connect()
    for _ in range(3):
        book.rule("a", "b")  # equal ones, as a new snapshot has them
        assert (await house.request())[0] == 200
    assert book.made == ["a", "b"]


async def test_a_rule_without_filters_makes_none(house: House, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeproxy.protocols.http.call.made", None)
    monkeypatch.setattr("nodeproxy.protocols.http.call.on_response", None)
    book.rule()
    house.connect()
    assert (await house.request())[0] == 200
    assert not house.route.judged


async def test_another_endpoint_is_taken_by_the_same_filters_or_not_at_all(house: House, book: Book) -> None:
    seen: list[bytes] = []
    house.route.endpoints.append(SECOND)
    house.servers = [Refused("connect-failed", "first"), answering(OK, seen=seen)]
    house.connect()
    assert (await house.request())[0] == 200
    assert b"x-a: 1" in seen[0]
    assert book.order == ["request a", "response a"]


@pytest.mark.parametrize(("before", "after"), [(("a",), ("a", "b")), (("a",), ()), ((), ("a",))])
async def test_a_retry_by_a_rule_with_other_filters_is_refused(
    house: House, book: Book, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    seen: list[bytes] = []

    async def closes(stream: Any) -> None:
        await read_head(stream)
        await stream.send_all(OK)
        await read_head(stream)
        book.rule(*after)
        stream.close()

    book.rule(*before)
    house.servers = [closes, answering(OK, seen=seen)]
    house.connect()
    assert (await house.request())[0] == 200
    status, fields, _ = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (403, b"cut")
    assert not seen


async def test_it_may_refuse_and_nothing_is_sent(house: House, book: Book) -> None:
    book.does["a"] = raising(Refused("denied", "by a filter"))
    house.connect()
    status, fields, _ = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (403, b"by a filter")
    assert not house.dialled


async def test_what_it_made_of_a_request_is_refused_where_policy_does_not_admit_that(house: House, book: Book) -> None:
    house.route.refuse_sent = Refused("denied", "no-http-match: ")
    house.connect()
    status, fields, _ = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (403, b"no-http-match")
    assert not house.dialled


async def test_it_may_respond_itself_and_the_connection_goes_on(house: House, book: Book) -> None:
    book.rule("a", "b")
    book.does["a"] = raising(Answered(302, [(b"location", b"https://shop/")], b"moved", "to https"))
    house.connect()
    for method, told in (("GET", b"moved"), ("HEAD", b"")):
        if method == "HEAD":
            await house.caller.send_all(b"HEAD / HTTP/1.1\r\nhost: store\r\n\r\n")
            status, content = 302, b""
            raw = await read_head(house.caller)
            assert raw.startswith(b"HTTP/1.1 302 Found\r\n")
            assert b"content-length: 5" in raw
        else:
            status, fields, content = await house.request(method)
            assert fields[b"location"] == b"https://shop/"
            assert fields[b"x-edgemesh-reason"] == b"filtered"
            assert b"content-type" not in fields
        assert (status, content) == (302, told)
    assert book.order == ["request a"] * 2, "those after it do not act, and none on the response"
    assert [(r.flag, r.status, r.detail, r.rule != "") for r in requests(house)] == [
        ("filtered", 302, "to https", True)
    ] * 2
    assert not house.dialled
    book.does.clear()
    assert (await house.request())[0] == 200


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_says_no_length(house: House, book: Book, status: int) -> None:
    book.does["a"] = raising(Answered(status))
    house.connect()
    found, fields, _ = await house.request()
    assert found == status
    assert b"content-length" not in fields


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Answered(101),
        lambda: Answered(99),
        lambda: Answered(204, [], b"body"),
        lambda: Answered(200, [(b"x-a", b"1\r\nx-b: 2")]),
        lambda: Answered(200, [(b"X-A", b"1")]),
        lambda: Answered(200, [(b"content-length", b"1")]),
        lambda: Answered(200, [(b"x-edgemesh-reason", b"denied")]),
    ],
)
async def test_a_response_that_is_none_cannot_be_made(wrong: Callable[[], Answered]) -> None:
    with pytest.raises(ValueError):
        wrong()


FAULTS = [
    ValueError("a fault"),
    KeyError("a key"),
    trio.BrokenResourceError("who was asked has gone"),
    trio.ClosedResourceError("closed"),
    trio.TooSlowError(),
    OSError("no route"),
    ExceptionGroup("several", [ValueError("a fault")]),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_a_request_does_not_pass_a_filter_that_fails(house: House, book: Book, fault: Exception) -> None:
    book.rule("a", "b")
    book.does["a"] = raising(fault)
    house.connect()
    status, fields, _ = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (500, b"filter-failed")
    assert book.order == ["request a"]
    assert [(r.flag, r.status, r.detail) for r in requests(house)] == [("filter-failed", 500, "Noting")]
    assert not house.dialled
    book.does.clear()
    assert (await house.request())[0] == 200, "the connection goes on"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_a_response_does_not_pass_a_filter_that_fails(house: House, book: Book, fault: Exception) -> None:
    book.says["a"] = that(fault)
    house.connect()
    status, fields, content = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (500, b"filter-failed")
    assert content != b"hello"
    assert [(r.flag, r.status) for r in requests(house)] == [("filter-failed", 500)]
    assert not house.context.live.in_flight


async def test_a_response_that_is_refused_while_its_request_is_still_sent(house: House, book: Book) -> None:
    book.says["a"] = that(ValueError("a fault"))
    house.connect()
    await house.caller.send_all(b"POST / HTTP/1.1\r\nhost: store\r\ncontent-length: 9\r\n\r\nx")
    assert (await read_head(house.caller)).startswith(b"HTTP/1.1 500 ")
    assert [(r.flag, r.status) for r in requests(house)] == [("filter-failed", 500)]


async def test_a_filter_that_is_in_no_table_refuses(house: House, book: Book) -> None:
    house.route.filters = (Note("a"), Filter())
    house.connect()
    status, fields, _ = await house.request()
    assert (status, fields[b"x-edgemesh-reason"]) == (500, b"filter-failed")
    assert not book.order
    assert not house.dialled


async def test_a_filter_that_never_returns_is_given_up(
    house: House, book: Book, autojump_clock: trio.testing.MockClock
) -> None:
    async def waits(head: RequestHead) -> None:
        await trio.sleep_forever()

    book.does["a"] = waits
    house.connect()
    began = trio.current_time()
    assert (await house.request())[0] == 500
    assert trio.current_time() - began == pytest.approx(house.limits.response_timeout)
    assert [r.flag for r in requests(house)] == ["filter-failed"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-a", b"1\r\nhost: thief"),
        (b"x-a", b"\x00"),
        (b"x a", b"1"),
        (b"X-A", b"1"),
        (b"host", b"thief"),
        (b"content-length", b"3"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"x-forwarded-for", b"10.0.0.9"),
        (b"x-edgemesh-destination", b"10.0.0.9:80"),
    ],
)
async def test_what_frames_or_leads_a_message_is_not_a_filters_to_set(
    house: House, book: Book, name: bytes, value: bytes
) -> None:
    async def sets(head: RequestHead) -> None:
        head.set_field(name, value)

    book.does["a"] = sets
    house.connect()
    assert (await house.request())[0] == 500
    assert not house.dialled
    book.does.clear()
    book.says["a"] = lambda response: response.set_field(name, value)
    assert (await house.request())[0] == 500


async def test_over_http2_to_a_server_of_http1(house: House, book: Book, nursery: trio.Nursery) -> None:
    seen: list[bytes] = []
    house.protocol = "http"
    house.servers = [answering(OK, seen=seen)]
    connection = await caller(house, nursery)
    channel = await connection.open([*GET, (b"x-a", b"of the caller")], end=True)
    fields = dict((await channel.head())[0])
    assert (fields[b":status"], fields[b"x-noted"]) == (b"200", b"200 by a of GET")
    assert seen[0].count(b"\r\nx-a:") == 1
    assert b"\r\nx-a: 1" in seen[0]


async def test_over_http2_to_a_server_of_http2(
    house: House, book: Book, nursery: trio.Nursery, shared: Http2Pool
) -> None:
    server = H2Server(echo)
    house.protocol = "grpc"
    house.servers = [server]
    connection = await caller(house, nursery)
    channel = await connection.open([*CALL, (b"x-a", b"of the caller")])
    await channel.send_eof()
    fields = dict((await channel.head())[0])
    assert (fields[b":status"], fields[b"x-noted"]) == (b"200", b"200 by a of POST")
    assert [value for name, value in server.seen[0] if name == b"x-a"] == [b"1"]


async def test_over_http2_it_responds_fails_and_the_connection_goes_on(
    house: House, book: Book, nursery: trio.Nursery
) -> None:
    house.protocol = "http"
    connection = await caller(house, nursery)
    book.does["a"] = raising(Answered(418, [(b"x-tea", b"yes")], b"short and stout"))
    channel = await connection.open(GET, end=True)
    fields = dict((await channel.head())[0])
    assert (fields[b":status"], fields[b"x-tea"], fields[b"content-length"]) == (b"418", b"yes", b"15")
    assert await body(channel) == b"short and stout"
    book.does["a"] = raising(trio.BrokenResourceError("gone"))
    channel = await connection.open(GET, end=True)
    assert dict((await channel.head())[0])[b":status"] == b"500"
    book.does.clear()
    book.says["a"] = that(ValueError("a fault"))
    channel = await connection.open(GET, end=True)
    assert dict((await channel.head())[0])[b":status"] == b"500"
    book.says.clear()
    channel = await connection.open(GET, end=True)
    assert dict((await channel.head())[0])[b":status"] == b"200"
    with contextlib.suppress(trio.BrokenResourceError):
        channel.close()
    assert [(r.flag, r.status) for r in requests(house)][:3] == [
        ("filtered", 418),
        ("filter-failed", 500),
        ("filter-failed", 500),
    ]


async def test_a_grpc_caller_is_told_in_grpc(house: House, book: Book, nursery: trio.Nursery) -> None:
    house.protocol = "grpc"
    book.does["a"] = raising(Answered(403, [], b"no"))
    connection = await caller(house, nursery)
    channel = await connection.open(CALL)
    fields, ended = await channel.head()
    assert ended
    assert (dict(fields)[b":status"], dict(fields)[b"grpc-status"]) == (b"200", b"7")


def test_every_filter_that_a_rule_can_have_is_made_here() -> None:
    assert set(FILTERS) == {one for one in Filter.__subclasses__() if one.__module__.startswith("policy.")}
