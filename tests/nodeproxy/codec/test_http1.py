"""HTTP/1.1 syntax: every case is fed whole, byte by byte, and with bytes of the next message behind it."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.http1 import Incoming, framed, response_framing, write_request, write_response
from nodeproxy.codec.message import CHUNKED, UNTIL_CLOSE, RequestHead, ResponseHead
from nodeproxy.errors import FLAGS, Refused
from nodeproxy.limits import Limits

LIMITS = Limits()
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"

Message = tuple[RequestHead, bytes, list[bytes], bytes]


def read_request(pieces: list[bytes], limits: Limits = LIMITS) -> Message | None:
    """Feed the pieces and read one message; None when it is incomplete. Answers head, body, trailers and what was not read."""
    incoming = Incoming("bad-request")
    head: RequestHead | None = None
    body = b""
    for number, piece in enumerate(pieces):
        incoming.feed(piece)
        if head is None:
            head = incoming.request_head(limits)
        while head is not None and not incoming.complete:
            part = incoming.body()
            if part is None:
                break
            body += part
        if head is not None and incoming.complete:
            return head, body, incoming.trailers, incoming.rest() + b"".join(pieces[number + 1 :])
    return None


def every_way(data: bytes) -> list[tuple[list[bytes], bytes]]:
    """The ways to feed it, each with the bytes that must be left over."""
    singles = [data[i : i + 1] for i in range(len(data))]
    return [
        ([data], b""),
        (singles, b""),
        ([data + NEXT], NEXT),
        ([*singles, NEXT], NEXT),
        ([data[:-1], data[-1:] + NEXT], NEXT),
    ]


def accepts(data: bytes) -> RequestHead:
    seen = None
    for pieces, left in every_way(data):
        message = read_request(pieces)
        assert message is not None
        head, body, trailers, rest = message
        assert rest == left
        shown = (head.method, head.target, head.host, head.length, head.close, head.fields, head.lines, body, trailers)
        assert seen in (None, shown)
        seen = shown
    return head


def refuses(data: bytes, flag: str, limits: Limits = LIMITS) -> str:
    """Refused in every way that it can arrive, and always with the same words; answers them."""
    details = set()
    for pieces, _ in every_way(data):
        with pytest.raises(Refused) as caught:
            read_request(pieces, limits)
        assert caught.value.flag == flag
        details.add(caught.value.detail)
    assert len(details) == 1, details
    return details.pop()


HOST = b"Host: h\r\n"


def head_of(lines: bytes, request: bytes = b"GET / HTTP/1.1\r\n") -> bytes:
    return request + lines + b"\r\n"


def test_a_plain_request() -> None:
    head = accepts(head_of(HOST + b"Accept:  text/html \r\nX-Empty:\r\n"))
    assert (head.method, head.target, head.minor, head.host, head.length, head.close) == (
        b"GET",
        b"/",
        1,
        b"h",
        0,
        False,
    )
    assert (b"accept", b"text/html") in head.fields
    assert (b"x-empty", b"") in head.fields
    assert b"Accept:  text/html " in head.lines  # spelled as it came
    assert not any(line.lower().startswith(b"host") for line in head.lines)


def test_one_empty_line_before_a_request_is_ignored() -> None:
    accepts(b"\r\n" + head_of(HOST))
    refuses(b"\r\n\r\n" + head_of(HOST), "bad-request")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"GET / HTTP/1.1\nHost: h\r\n\r\n", "LF without CR"),
        (b"GET / HTTP/1.1\r\nHost: h\n\r\n", "LF without CR"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\nC: d\r\n\r\n", "LF without CR"),
        (b"GET / HTTP/1.1\nHost: h\n\n", "LF without CR"),
        (b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", "CR without LF"),
        (b"GET / HTTP/1.1\rHost: h\r\n\r\n", "CR without LF"),
        (head_of(HOST + b"A: b\x00c\r\n"), "NUL"),
        (head_of(HOST + b"A: b\r\n c\r\n"), "folded"),
        (head_of(b" Host: h\r\n"), "folded"),
        (head_of(HOST + b"A: b\r\n\tc\r\n"), "folded"),
        (head_of(b"Host : h\r\n"), "white space between"),
        (head_of(HOST + b"A\t: b\r\n"), "white space between"),
        (head_of(HOST + b"Content-Length : 5\r\n"), "white space between"),
        (head_of(HOST + b"A: b\x01\r\n"), "control character"),
        (head_of(HOST + b"A: b\x7f\r\n"), "control character"),
        (head_of(HOST + b"A\r\n"), "no field"),
        (head_of(HOST + b": b\r\n"), "no field"),
        (head_of(HOST + b"A b: c\r\n"), "no field"),
        (head_of(HOST + b"\xe9: c\r\n"), "no field"),
        (head_of(HOST, b"GET  / HTTP/1.1\r\n"), "request line"),
        (head_of(HOST, b"GET / HTTP/1.1 \r\n"), "request line"),
        (head_of(HOST, b"GET /\r\n"), "request line"),
        (head_of(HOST, b"GET /a b HTTP/1.1\r\n"), "request line"),
        (head_of(HOST, b"GET /\xe9 HTTP/1.1\r\n"), "request line"),
        (head_of(HOST, b"G(T / HTTP/1.1\r\n"), "request line"),
        (head_of(HOST, b"GET / http/1.1\r\n"), "request line"),
        (head_of(HOST, b"GET / HTTP/2.0\r\n"), "version"),
        (head_of(HOST, b"GET / HTTP/1.2\r\n"), "version"),
        (head_of(b"A: b\r\n"), "no Host"),
        (head_of(HOST + HOST), "several Host"),
        (head_of(b"Host: a b\r\n"), "Host is not"),
        (head_of(b"Host: a/b\r\n"), "Host is not"),
        (head_of(b"Host: u@h\r\n"), "Host is not"),
        (head_of(HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), "both"),
        (head_of(HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), "both"),
        (head_of(HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n"), "several Content-Length"),
        (head_of(HOST + b"Content-Length: 0\r\nContent-Length: 0\r\n"), "several Content-Length"),
        (head_of(HOST + b"Content-Length: 5, 5\r\n"), "not a number"),
        (head_of(HOST + b"Content-Length: +5\r\n"), "not a number"),
        (head_of(HOST + b"Content-Length: -5\r\n"), "not a number"),
        (head_of(HOST + b"Content-Length: 0x5\r\n"), "not a number"),
        (head_of(HOST + b"Content-Length:\r\n"), "not a number"),
        (head_of(HOST + b"Content-Length: 9999999999999999999\r\n"), "not a number"),
        (head_of(HOST + b"Transfer-Encoding: gzip, chunked\r\n"), "other than chunked"),
        (head_of(HOST + b"Transfer-Encoding: identity\r\n"), "other than chunked"),
        (head_of(HOST + b"Transfer-Encoding: chunked, chunked\r\n"), "other than chunked"),
        (head_of(HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), "other than chunked"),
        (head_of(HOST + b"Transfer-Encoding: \x0bchunked\r\n"), "control character"),
        (head_of(HOST + b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.0\r\n"), "HTTP/1.0"),
        (head_of(HOST + b"Content-Length: 1\r\n", b"CONNECT h:1 HTTP/1.1\r\n"), "CONNECT"),
    ],
)
def test_what_could_mean_two_things_is_refused(data: bytes, word: str) -> None:
    assert word in refuses(data, "bad-request")
    assert FLAGS["bad-request"].status == 400


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: b\0", b"\x16\x03\x01", b" GET", b"GET / HTTP/1.1\rA", b"\n"]
)
def test_a_head_that_nothing_can_complete_is_refused_at_once(begin: bytes) -> None:
    for pieces in ([begin], [begin[i : i + 1] for i in range(len(begin))]):
        with pytest.raises(Refused) as caught:
            read_request(pieces)
        assert caught.value.flag == "bad-request"


def test_heads_that_are_too_large() -> None:
    limits = Limits(head_bytes=100, header_count=3)
    assert read_request([head_of(HOST + b"A: b\r\nC: d\r\n")], limits)
    assert "4 fields, 3 allowed" in refuses(head_of(HOST + b"A: b\r\n" * 3), "head-too-large", limits)
    refuses(head_of(HOST + b"A: " + b"b" * 100 + b"\r\n"), "head-too-large", limits)
    refuses(head_of(HOST, b"GET /" + b"a" * 100 + b" HTTP/1.1\r\n"), "path-too-long", limits)
    # Not only when it is complete: nobody makes us hold more than the limit.
    for endless, flag in (
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20, "head-too-large"),
        (b"GET /" + b"a" * 100, "path-too-long"),
    ):
        with pytest.raises(Refused) as caught:
            read_request([endless], limits)
        assert caught.value.flag == flag
    assert (FLAGS["head-too-large"].status, FLAGS["path-too-long"].status) == (431, 414)


@pytest.mark.parametrize(
    ("data", "body", "trailers"),
    [
        (head_of(HOST + b"Content-Length: 5\r\n") + b"hello", b"hello", []),
        (head_of(HOST + b"Content-Length: 007\r\n") + b"1234567", b"1234567", []),
        (head_of(HOST + b"Transfer-Encoding: Chunked\r\n") + b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
        (head_of(HOST + b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n", b"", []),
        (
            head_of(HOST + b"Transfer-Encoding: chunked\r\n")
            + b'3;a=b;c="d"\r\nhel\r\n002 ;x\r\nlo\r\n000\r\nT: 1\r\nHost: evil\r\n\r\n',
            b"hello",
            [b"T: 1"],
        ),
        (
            head_of(HOST + b"Transfer-Encoding: chunked\r\n")
            + b"A\r\n0123456789\r\na\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
            b"0123456789" + b"\r\n" * 5,
            [],
        ),
    ],
)
def test_bodies(data: bytes, body: bytes, trailers: list[bytes]) -> None:
    for pieces, left in every_way(data):
        message = read_request(pieces)
        assert message is not None
        assert message[1:] == (body, trailers, left)


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",  # h11 would take this one
        b"5;\x00\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",  # and this
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nT: 1\n\r\n\r\n",  # bare LF in trailers: h11 would take it
        b"5\r\nhello\r\n0\r\nT: 1\n\nGET /evil HTTP/1.1\r\n\r\n",
        b"5\r\nhello\r\n0\r\nT: 1\r\n folded\r\n\r\n",
        b"5\r\nhello\r\n0\r\nT : 1\r\n\r\n",
        b"5\r\nhello\r\n0\r\nT\r\n\r\n",
        b"5;" + b"x" * 2000 + b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nT: " + b"x" * 9000 + b"\r\n\r\n",
    ],
)
def test_chunks_that_could_end_in_two_places_are_refused(chunks: bytes) -> None:
    refuses(head_of(HOST + b"Transfer-Encoding: chunked\r\n") + chunks, "bad-request")


def test_an_endless_chunk_line_is_not_held() -> None:
    head = head_of(HOST + b"Transfer-Encoding: chunked\r\n")
    for endless in (b"5;" + b"x" * 2000, b"0\r\nT: " + b"x" * 9000):
        with pytest.raises(Refused):
            read_request([head + endless])


def test_a_body_that_ends_early() -> None:
    for lines in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
        incoming = Incoming("bad-request")
        incoming.feed(head_of(HOST + lines))
        assert incoming.request_head(LIMITS)
        with pytest.raises(Refused) as caught:
            incoming.feed_end()
        assert caught.value.flag == "bad-request"


# responses


def read_response(
    pieces: list[bytes], method: bytes = b"GET", end: bool = False
) -> tuple[ResponseHead, bytes, bytes, bool] | None:
    incoming = Incoming("upstream-broken")
    head: ResponseHead | None = None
    body = b""
    for piece in pieces:
        incoming.feed(piece)
        if head is None:
            head = incoming.response_head(method, LIMITS)
        while head is not None and not incoming.complete:
            part = incoming.body()
            if part is None:
                break
            body += part
            if not part:
                break
    if end and head is not None:
        incoming.feed_end()
    return (head, body, incoming.rest(), incoming.complete) if head is not None else None


RESPONSE = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("data", "method", "length", "body"),
    [
        (RESPONSE + b"Content-Length: 2\r\n\r\nhi", b"GET", 2, b"hi"),
        (RESPONSE + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", b"GET", 2, b"hi"),
        (RESPONSE + b"Content-Length: 2\r\n\r\n", b"HEAD", 0, b""),
        (RESPONSE + b"Transfer-Encoding: chunked\r\n\r\n", b"HEAD", 0, b""),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", b"GET", 0, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", b"GET", 0, b""),
        (RESPONSE + b"\r\n", b"CONNECT", 0, b""),
        (b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nhi", b"CONNECT", 2, b"hi"),
        (RESPONSE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"GET", CHUNKED, b"hi"),
        (RESPONSE + b"Transfer-Encoding: chunked\r\n\r\n2 \r\nhi\r\n0 \r\n\r\n", b"GET", CHUNKED, b"hi"),
        (
            RESPONSE + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            b"GET",
            CHUNKED,
            b"hi",
        ),
        (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", b"GET", 2, b"hi"),
        # Not in the strict form: h11 reads these.
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", b"GET", 2, b"hi"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", b"GET", 2, b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n  c\r\n\r\nhi", b"GET", 2, b"hi"),
        (b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\r\nhi\r\n0\r\n\r\n", b"GET", CHUNKED, b"hi"),
    ],
)
def test_responses(data: bytes, method: bytes, length: int, body: bytes) -> None:
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        message = read_response(pieces, method)
        assert message is not None
        assert (message[0].length, message[1], message[2], message[3]) == (length, body, b"", True)
        assert not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in message[0].lines)


def test_folded_lines_of_a_server_go_on_unfolded() -> None:
    message = read_response([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: b\r\n  c\r\n\r\n"])
    assert message is not None
    assert message[0].lines == [b"A: b c"]


def test_white_space_before_the_colon_of_a_server_is_removed() -> None:
    """RFC 9112 section 5.1. It is read as the field that it is sent on as, framing included."""
    data = b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length \t: 2\r\nB: c\r\n d : e\r\n\r\nhi"
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        message = read_response(pieces)
        assert message is not None
        assert message[0].lines == [b"A: b", b"B: c d : e"]
        assert (message[0].length, message[1], message[2]) == (2, b"hi", b"")
    with pytest.raises(Refused):
        read_response([b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\nContent-Length: 3\r\n\r\nhi"])


def test_a_body_until_the_connection_ends() -> None:
    for data in (b"HTTP/1.0 200 OK\r\n\r\nhello", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"):
        for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
            message = read_response(pieces, end=True)
            assert message is not None
            assert message[0].length == UNTIL_CLOSE
            assert message[0].close
            assert message[1:] == (b"hello", b"", True)


def test_interim_responses_come_one_by_one() -> None:
    incoming = Incoming("upstream-broken")
    incoming.feed(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )
    statuses = []
    while (head := incoming.response_head(b"GET", LIMITS)) is not None:
        statuses.append(head.status)
        if head.status == 200:
            break
    assert statuses == [100, 103, 200]


@pytest.mark.parametrize(
    "data",
    [
        b"220 mail.example SMTP\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        b"HTTP/1.1 200 OK\nA: b\x01\n\n",
        b"HTTP/1.1 200 OK\r\n : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b : c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_response([data])
    assert caught.value.flag == "upstream-broken"


# what we send


def test_a_request_is_written_with_our_framing() -> None:
    head = accepts(
        head_of(HOST + b"A: b\r\nContent-Length: 05\r\nTE: trailers\r\nConnection: te\r\n", b"POST /x HTTP/1.1\r\n")
        + b"hello"
    )
    assert write_request(head, b"/y", b"h", b"1.2.3.4") == (
        b"POST /y HTTP/1.1\r\nhost: h\r\nA: b\r\nx-forwarded-proto: http\r\nx-forwarded-for: 1.2.3.4\r\ncontent-length: 5\r\n"
        b"connection: te\r\nte: trailers\r\n\r\n"
    )


def test_responses_are_framed_for_their_caller() -> None:
    head = ResponseHead(200, b"OK", 1)
    for length, declared, minor, expected in (
        (5, 5, 1, (5, False)),
        (5, 5, 0, (5, False)),
        (CHUNKED, CHUNKED, 1, (CHUNKED, True)),
        (CHUNKED, CHUNKED, 0, (None, False)),
        (UNTIL_CLOSE, UNTIL_CLOSE, 1, (CHUNKED, True)),
        (UNTIL_CLOSE, UNTIL_CLOSE, 0, (None, False)),
        (0, 5, 1, (5, False)),  # HEAD
        (0, CHUNKED, 1, (CHUNKED, False)),
        (0, CHUNKED, 0, (None, False)),
        (0, UNTIL_CLOSE, 1, (UNTIL_CLOSE, False)),
    ):
        head.length, head.declared = length, declared
        assert response_framing(head, minor) == expected
    head.status, head.length, head.declared = 204, 0, 5
    assert response_framing(head, 1) == (None, False)
    assert write_response(head, None, close=True) == b"HTTP/1.1 204 OK\r\nconnection: close\r\n\r\n"
    assert write_response(head, UNTIL_CLOSE, close=False) == b"HTTP/1.1 204 OK\r\n\r\n"


def test_a_chunk_is_never_empty_by_accident() -> None:
    source = Incoming("bad-request")
    source.complete = False
    assert framed(b"", source, chunked=True) == b""
    assert framed(b"ab", source, chunked=True) == b"2\r\nab\r\n"
    source.complete = True
    source.trailers = [b"T: 1"]
    assert framed(b"ab", source, chunked=True) == b"2\r\nab\r\n0\r\nT: 1\r\n\r\n"
    assert framed(b"ab", source, chunked=False) == b"ab"


def test_repr_shows_state() -> None:
    incoming = Incoming("bad-request")
    incoming.feed(head_of(HOST + b"Content-Length: 5\r\n") + b"he")
    assert repr(incoming.request_head(LIMITS)) == "<RequestHead GET / HTTP/1.1 body 5>"
    assert repr(incoming) == "<Incoming 2 bytes held, 5>"
    assert repr(ResponseHead(200, b"OK", 1)) == "<ResponseHead 200 HTTP/1.1 body -2>"


# hypothesis: nothing crashes, and what we accept h11 reads the same

tokens = st.sampled_from([b"Host", b"A", b"Content-Length", b"Transfer-Encoding", b"Connection", b"X-Y"])
values = st.sampled_from(
    [b" h", b"", b" 5", b" 0", b" chunked", b"\tx ", b" close", b" a:b", b" \xff", b" \x01", b" b\r\n c"]
)
ends = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b" \r\n"])
lines = st.tuples(tokens, st.sampled_from([b":"] * 12 + [b" :", b""]), values, ends).map(b"".join)
first = st.sampled_from(
    [b"GET / HTTP/1.1\r\n"] * 4 + [b"POST /a?b HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"GET  / HTTP/1.1\r\n", b"GET /\n"]
)
likely = st.tuples(
    first, st.lists(lines, max_size=5).map(b"".join), st.just(b"Host: h\r\n"), st.binary(max_size=3)
).map(lambda t: t[0] + t[2] + t[1] + b"\r\n" + t[3] if b"Host" not in t[1] else t[0] + t[1] + b"\r\n" + t[3])


@given(st.one_of(st.binary(max_size=200), likely), st.integers(1, 20))
def test_any_bytes_are_read_or_refused_and_accepted_heads_mean_to_h11_what_they_mean_to_us(
    data: bytes, step: int
) -> None:
    try:
        message = read_request([data])
        stepwise = read_request([data[i : i + step] for i in range(0, len(data), step)])
    except Refused as refused:
        assert refused.flag in ("bad-request", "head-too-large", "path-too-long")
        return
    assert (message is None) == (stepwise is None)
    if message is None:
        return
    head, body, _, _ = message
    other = h11.Connection(h11.SERVER)
    other.receive_data(data)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target, event.http_version) == (head.method, head.target, b"1.%d" % head.minor)
    theirs = [(bytes(n), bytes(v)) for n, v in event.headers if n in (b"a", b"x-y", b"host")]
    named = {o.strip().lower() for n, v in event.headers if n == b"connection" for o in v.split(b",")}
    ours = [(n, v) for n, v in head.fields if n in (b"a", b"x-y", b"host")]
    assert ours == [field for field in theirs if field[0] not in named]
    their_body = b""
    while isinstance(event := other.next_event(), h11.Data):
        their_body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert their_body == body


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", RESPONSE, RESPONSE + b"A: b\r\n\r\n", RESPONSE + b"Transfer-Encoding: chunked\r\n\r\n"]),
)
def test_any_bytes_of_a_server_are_read_or_refused(data: bytes, begin: bytes) -> None:
    try:
        read_response([begin + data])
    except Refused as refused:
        assert refused.flag == "upstream-broken"
