"""The journey of one call in the native lane, step by step: who is asked again and who is not, which connections are used again, and ends."""

from __future__ import annotations

import contextlib
import socket

import pytest

from nodeproxy import native
from tests.compiled import needs_lane
from tests.nodeproxy.fastpath.test_path import GET, OK, POST, SENT, Place

pytestmark = needs_lane

if native.AVAILABLE:
    from nodeproxy.native import END, FAILED, REQUEST, RESPONSE

CHUNKED = b"POST /books HTTP/1.1\r\nhost: store\r\ntransfer-encoding: chunked\r\n\r\n"


def told(place):
    """(what, flag, detail, the head that was asked, begun) of the one that came up."""
    place.turn()
    (one,) = place.lane.ups()
    return one[1], one[2], one[3], one[6], one[8]


def asked(method, body=b""):
    length = b"content-length: %d\r\n" % len(body) if body else b""
    return method + b" /books HTTP/1.1\r\nhost: store\r\n" + length + b"\r\n" + body


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    sock.close()


# a server that closes before it answers


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE", b"PUT"])
def test_what_may_be_done_twice_is_asked_again(place, method):
    """RFC 9110 section 9.2.2. Python does it."""
    place.lane.learn(place.plan, place.target, 0, method, b"/books", b"store")
    assert place.say(asked(method))
    place.d.close()
    assert told(place) == (REQUEST, "", "", asked(method), False)
    assert place.lane.gone() == [7]


@pytest.mark.parametrize(
    "request_", [asked(b"POST"), POST % 0, asked(b"PATCH")], ids=["post", "post of length 0", "patch"]
)
def test_what_may_not_be_done_twice_is_asked_once(place, request_):
    place.lane.learn(place.plan, place.target, 0, b"PATCH", b"/books", b"store")
    assert place.say(request_)
    place.d.close()
    assert told(place) == (FAILED, "upstream-broken", "closed the connection before it answered", request_, False)
    assert place.lane.gone() == [7]


def test_a_body_is_not_asked_again(place):
    """It has gone, and is nowhere any more."""
    place.lane.learn(place.plan, place.target, 0, b"PUT", b"/books", b"store")
    assert place.say(asked(b"PUT", b"abc"))
    place.d.close()
    assert told(place)[:3] == (FAILED, "upstream-broken", "closed the connection before it answered")


def test_a_response_that_has_begun_is_not_asked_for_again(place):
    place.say(GET)
    assert place.answer(b"HTTP/1.1 200") == b""
    place.d.close()
    assert told(place) == (FAILED, "upstream-broken", "the connection ended in the middle of a response", GET, False)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE"])
def test_a_body_of_a_method_that_has_none_goes_up(place, method):
    """codec/message.py: servers disagree on it."""
    place.lane.learn(place.plan, place.target, 0, method, b"/books", b"store")
    assert place.say(asked(method, b"abc")) == b""
    assert told(place) == (REQUEST, "", "", asked(method, b"abc"), False)


def test_a_body_of_length_0_is_none(place):
    assert place.say(b"GET /books HTTP/1.1\r\nhost: store\r\ncontent-length: 0\r\n\r\n")
    assert place.answer(OK) == OK


# which connections are used again


def used_again(place):
    return place.lane.gone() == [] and place.say(GET) == SENT and place.answer(OK) == OK


@pytest.mark.parametrize(
    "pieces",
    [
        [OK + b"x"],
        [OK, b"x"],
        [OK[:-1], b"kx"],
        [OK[:-2], b"ok" + OK],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"0\r\n\r\n", b"x"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"0\r\n\r\nx"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nx"],
        [b"HTTP/1.1 204 No\r\n\r\nx"],
        [b"HTTP/1.1 304 No\r\ncontent-length: 1\r\n\r\nx"],
    ],
)
def test_a_server_that_says_more_than_its_answer_is_used_no_more(place, pieces):
    """What follows would be read as the answer to whoever asks next."""
    place.say(GET)
    heard = b"".join(place.answer(piece) for piece in pieces)
    assert b"x" not in heard.replace(b"transfer-encoding", b"")
    assert place.lane.gone() == [7]
    assert place.say(GET) == b""
    assert told(place) == (REQUEST, "", "", GET, False)


def test_a_server_that_says_more_while_the_body_is_still_on_its_way_is_used_no_more(place):
    place.say(POST % 5 + b"ab")
    assert place.answer(OK) == OK
    assert place.answer(OK) == b""
    assert place.say(b"cde" + GET) == b"", "the second answer would be the one to this request"
    assert place.heard(place.a) == b""
    assert told(place) == (REQUEST, "", "", GET, False)
    assert place.lane.gone() == [7]


def test_a_server_that_closes_while_the_body_is_still_on_its_way(place):
    place.say(POST % 5 + b"ab")
    assert place.answer(OK) == OK
    place.d.close()
    place.a.sendall(b"cde")
    assert place.heard(place.a) == b""
    assert place.lane.gone() == [7]
    assert place.ups() == []
    place.a.sendall(GET)
    assert told(place) == (REQUEST, "", "", GET, False), "its caller is where it was"


@pytest.mark.parametrize("rest", [b"cde", b""])
def test_a_server_whose_request_was_cut_is_used_no_more(place, rest):
    """It would take the next request for the rest of this one."""
    request = (POST % 5)[:-2] + b"connection: close\r\n\r\nab"
    place.say(request)
    assert place.answer(OK).endswith(b"connection: close\r\n\r\nok")
    assert told(place)[:2] == (END, "linger")
    assert place.lane.gone() == [7]


def test_a_server_that_answers_early_and_reads_on_is_used_again(place):
    assert place.say(POST % 5 + b"ab").endswith(b"\r\n\r\nab")
    assert place.answer(OK) == OK
    assert place.say(b"c") == b"c"
    assert place.say(b"de") == b"de"
    assert used_again(place)
    assert place.say(CHUNKED + b"3\r\nabc\r\n").endswith(b"3\r\nabc\r\n")
    assert place.answer(OK) == OK
    assert place.say(b"0\r\n\r\n") == b"0\r\n\r\n"
    assert used_again(place)


def test_a_request_that_follows_the_rest_of_a_body(place):
    """In one piece, after the answer to the first had come: no event tells of it."""
    place.say(POST % 5 + b"ab")
    assert place.answer(OK) == OK
    assert place.say(b"cde" + GET) == b"cde" + SENT
    assert place.answer(OK) == OK
    assert used_again(place)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 413 No\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nokx",
    ],
    ids=["close", "more"],
)
def test_an_early_answer_that_closes(place, answer):
    place.say(POST % 5 + b"ab")
    heard = place.answer(answer)
    if b"close" in answer:
        assert heard == b"HTTP/1.1 413 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        assert told(place)[:2] == (END, "linger")
    assert place.lane.gone() == [7] or place.say(b"cde") == b""


def test_an_early_answer_that_ends_with_its_connection(place):
    place.say(POST % 5 + b"ab")
    assert place.answer(b"HTTP/1.1 413 No\r\n\r\nno") == (
        b"HTTP/1.1 413 No\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nno\r\n"
    )
    place.d.close()
    assert place.heard(place.a) == b"0\r\n\r\n"
    assert told(place)[:2] == (END, "linger")
    assert place.lane.gone() == [7]


def test_an_answer_that_ends_with_its_connection(place):
    place.say(GET)
    assert (
        place.answer(b"HTTP/1.1 200 OK\r\n\r\nuntil")
        == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nuntil\r\n"
    )
    place.d.close()
    assert place.heard(place.a) == b"0\r\n\r\n"
    assert place.lane.gone() == [7]
    assert place.ups() == []
    server, place.d = place.pair()
    place.lane.lend(8, server.fileno(), place.target)
    assert used_again(place)


# an answer that is not plain


def test_an_odd_answer_waits_until_the_request_is_whole(place):
    """Python reads answers to whole requests only."""
    place.say(POST % 5 + b"ab")
    assert place.answer(b"HTTP/1.1 103 Early\r\n\r\n") == b""
    assert place.ups() == []
    assert place.say(b"c") == b"c"
    assert place.ups() == []
    assert place.say(b"de") == b"de"
    ((number, what, flag, data, rest),) = place.ups()
    assert (number, what, flag, rest) == (1, RESPONSE, "", b"HTTP/1.1 103 Early\r\n\r\n")
    assert data == POST % 5
    assert place.lane.gone() == []


def test_an_answer_that_is_not_whole_when_the_request_is(place):
    place.say(POST % 5 + b"ab")
    assert place.answer(OK[:20]) == b""
    assert place.say(b"cde") == b"cde"
    assert place.answer(OK[20:]) == OK
    assert used_again(place)


def test_an_odd_answer_in_pieces(place):
    place.say(GET)
    for piece in (b"HTTP/1.1 200 OK\r\nx: 1\r\n", b"connection: x", b"\r\n"):
        assert place.answer(piece) == b""
        assert place.ups() == []
    assert place.answer(b"\r\nrest") == b""
    assert place.ups() == [(1, RESPONSE, "", GET, b"HTTP/1.1 200 OK\r\nx: 1\r\nconnection: x\r\n\r\nrest")]


SIZED, LONGER, TRAILED = (
    "a chunk begins with no valid size",
    "a chunk is longer than it said",
    "the trailer section is malformed or too large",
)
BROKEN = {
    b"zz\r\n": SIZED,
    b"\r\n": SIZED,
    b";x\r\n": SIZED,
    b"-1\r\n": SIZED,
    b"g\r\n": SIZED,
    b"3\nabc\r\n": SIZED,
    b"3\r\r\nabc\r\n": SIZED,
    b"3\rxabc\r\n": SIZED,
    b"3 x\r\nabc\r\n": SIZED,
    b"3;\x00\r\nabc\r\n": SIZED,
    b"3;\nabc\r\n": SIZED,
    b"00000000000000003\r\nabc\r\n": SIZED,
    b"3;" + b"x" * 1022 + b"\r\n": SIZED,
    b"3\r\nabcd\r\n0\r\n\r\n": LONGER,
    b"3\r\nabc\rx": LONGER,
    b"3\r\nabc\n": LONGER,
    b"0\r\nx\r\n\r\n": TRAILED,
    b"0\r\n: x\r\n\r\n": TRAILED,
    b"0\r\nx : y\r\n\r\n": TRAILED,
    b"0\r\nx: \x00\r\n\r\n": TRAILED,
    b"0\r\nx: y\n\r\n": TRAILED,
    b"0\r\nx: y\rz": TRAILED,
    b"0\r\n\rx": TRAILED,
}


@pytest.mark.parametrize("rest", BROKEN)
@pytest.mark.parametrize("apart", [True, False])
def test_chunks_that_break_http(place, rest, apart):
    """In the answer: nothing of it has gone, so Python says what is wrong; later it is a fault, and a part must not pass for the whole."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    place.say(GET)
    if apart:
        assert place.answer(head) == head
        assert b"0\r\n\r\n" not in place.answer(rest)
        assert told(place) == (FAILED, "upstream-broken", BROKEN[rest], GET, True)
        assert place.lane.gone() == [7]
    else:
        assert place.answer(head + rest) == b""
        assert place.ups() == [(1, RESPONSE, "", GET, head + rest)]


@pytest.mark.parametrize("rest", BROKEN)
@pytest.mark.parametrize("apart", [True, False])
def test_chunks_of_a_request_that_break_http(place, rest, apart):
    if apart:
        assert place.say(CHUNKED).endswith(b"chunked\r\n\r\n")
        assert b"0\r\n\r\n" not in place.say(rest)
        assert told(place) == (FAILED, "bad-request", BROKEN[rest], CHUNKED, False)
        assert place.lane.gone() == [7], "the server must not take a part for the whole"
    else:
        assert place.say(CHUNKED + rest) == b""
        assert told(place) == (REQUEST, "", "", CHUNKED + rest, False)
        assert place.lane.gone() == []


@pytest.mark.parametrize(
    "chunks",
    [
        b"03\r\nabc\r\n",
        b"0000000000000003\r\nabc\r\n",
        b"3;\r\nabc\r\n",
        b"3;a=\t\x80\r\nabc\r\n",
        b"3 \t;x\r\nabc\r\n",
        b"3;" + b"x" * 1021 + b"\r\nabc\r\n",
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_chunks_that_are_said_in_other_ways(place, chunks, apart):
    pieces = [b"%c" % byte for byte in chunks + b"0\r\n\r\n"] if apart else [chunks + b"0\r\n\r\n"]
    said = place.say(CHUNKED) + b"".join(place.say(piece) for piece in pieces)
    assert (
        said.partition(b"\r\n\r\n")[2]
        == (b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n" if apart else b"3\r\nabc\r\n") + b"0\r\n\r\n"
    )
    assert place.answer(OK) == OK


def test_letters_of_a_chunks_size(place):
    for size in (b"A", b"a", b"0f", b"F"):
        said = b"%b\r\n%b\r\n0\r\n\r\n" % (size, b"x" * int(size, 16))
        assert place.say(CHUNKED + said).endswith(
            b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (int(size, 16), b"x" * int(size, 16))
        )
        assert place.answer(OK) == OK


def test_a_server_may_pad_the_size_of_a_chunk(place):
    """Some do; a caller must not."""
    place.say(GET)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert place.answer(head + b"3  \t\r\nabc\r\n0\r\n\r\n") == head + b"3\r\nabc\r\n0\r\n\r\n"
    assert place.say(CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n") == b""
    assert told(place)[0] == REQUEST


# callers that leave


def test_a_caller_that_ends_its_sending_in_the_middle_of_its_body(place):
    """Whoever does is gone: what came is not all, and the server must not be told that it is."""
    for request, rest in ((POST % 10, b"abc"), (CHUNKED, b"3\r\nabc\r\n")):
        place.say(request + rest)
        place.a.shutdown(socket.SHUT_WR)
        assert told(place) == (FAILED, "client-gone", "the connection ended in the middle of a body", request, False)
        assert len(place.lane.gone()) == 1
        assert place.heard(place.d) == b""
        server, place.d = place.pair()
        place.lane.lend(8, server.fileno(), place.target)
        place.a, place.caller = place.pair()
        place.carried = place.carry(1)


def test_a_caller_that_ends_its_sending_with_a_part_of_a_head(place):
    place.a.sendall(GET[:10])
    place.a.shutdown(socket.SHUT_WR)
    assert place.ups() == [(1, REQUEST, "", GET[:10], b"")]


def test_a_caller_that_ends_its_sending_after_two_requests(place):
    place.a.sendall(GET + GET)
    place.a.shutdown(socket.SHUT_WR)
    for _ in range(2):
        assert place.heard(place.d) == SENT
        assert place.answer(OK) == OK
    assert place.ups() == [(1, END, "", b"", b"")]


def test_a_caller_that_ends_its_sending_after_a_request_and_a_part(place):
    place.a.sendall(GET + GET[:10])
    place.a.shutdown(socket.SHUT_WR)
    assert place.heard(place.d) == SENT
    assert place.answer(OK) == OK
    assert place.ups() == [(1, REQUEST, "", GET[:10], b"")]


def test_a_caller_that_resets(place):
    near, far = _tcp()
    place.open += [near, far]
    carried = place.lane.carry(2, far.fileno(), place.plan, b"")
    near.sendall(GET)
    assert place.heard(place.d) == SENT
    reset(near)
    what, flag, detail, head, begun = told(place)
    assert (what, flag, head, begun) == (FAILED, "client-gone", GET, False)
    assert "reset" in detail
    assert not carried.here
    near, far = _tcp()
    place.open += [near, far]
    carried = place.lane.carry(3, far.fileno(), place.plan, b"")
    reset(near)
    assert told(place)[:2] == (FAILED, "client-gone")


def _tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
    return near, far


def test_a_caller_that_is_gone_before_its_answer(place):
    place.say(GET)
    place.a.close()
    place.turn()
    place.d.sendall(OK)
    assert told(place)[:2] == (FAILED, "client-gone")


# how much is kept


def test_pipelined_bodies(place):
    """What follows a body is the next request."""
    place.a.sendall(POST % 3 + b"abc" + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + GET)
    assert place.heard(place.d).endswith(b"content-length: 3\r\n\r\nabc")
    assert place.answer(OK) == OK
    assert place.heard(place.d).endswith(b"chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert place.answer(OK) == OK
    assert place.heard(place.d) == SENT
    assert place.answer(OK) == OK


def passed(place, near, said, far, whole):
    """What comes out at `far` of what is said at `near`, read as slowly as can be, until it is `whole`."""
    at, heard = 0, b""
    for _ in range(10_000):
        for _ in range(100):
            place.turn()
            try:
                at += near.send(said[at : at + 65536])
            except BlockingIOError:
                break
        heard += place.heard(far)
        if whole(heard):
            return heard
    raise AssertionError(f"{len(heard)} bytes came of {len(said)}")


SIZE = 3 << 20
BODY = bytes(range(256)) * (SIZE // 256)


def test_a_body_that_its_server_takes_late_arrives_whole(place):
    place.say(POST % SIZE)
    assert passed(place, place.a, BODY, place.d, lambda heard: len(heard) >= SIZE) == BODY
    assert place.answer(OK) == OK
    assert used_again(place)


def test_a_response_that_its_caller_takes_late_arrives_whole(place):
    place.say(GET)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE
    assert passed(place, place.d, head + BODY, place.a, lambda heard: len(heard) >= len(head) + SIZE) == head + BODY
    assert used_again(place)


@pytest.mark.parametrize("closes", [True, False])
def test_an_answer_whose_end_waits_for_its_caller(place, closes):
    """The server is done; the call is over when its caller has taken all of it, and not before."""
    place.caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = bytes(range(200)) * 250
    place.say(GET[:-2] + b"connection: close\r\n\r\n" if closes else GET)
    place.d.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 50000\r\n\r\n" + body)
    place.turn()
    assert place.lane.stats["calls"] == 1
    heard = b""
    while more := place.heard(place.a):
        heard += more
    assert heard.partition(b"\r\n\r\n")[2] == body
    assert place.lane.stats["calls"] == 0
    assert place.ups() == ([(1, END, "", b"", b"")] if closes else [])
    assert place.lane.gone() == []


def test_chunks_that_their_caller_takes_late_arrive_whole(place):
    place.say(GET)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    heard = passed(
        place,
        place.d,
        head + b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
        place.a,
        lambda heard: heard.endswith(b"\r\n0\r\n\r\n"),
    )
    assert heard.startswith(head)
    rest, found = heard[len(head) :], []
    while size := int(rest[: rest.index(b"\r\n")], 16):
        begin = rest.index(b"\r\n") + 2
        found.append(rest[begin : begin + size])
        rest = rest[begin + size + 2 :]
    assert b"".join(found) == BODY
    assert used_again(place)


# time


def timed(**limits):
    """A place whose clock is told."""
    place = Place(**limits)
    place.lane.tick(1000.0)
    place.carried.drop()
    place.carried = place.carry(1)
    return place


def late(place, now):
    place.lane.tick(1000.0 + now)
    return [(what, flag) for _, what, flag, _, _ in place.ups()]


def test_a_response_that_has_begun_has_the_idle_time():
    place = timed(response_timeout=1, idle_timeout=100)
    place.say(GET)
    assert late(place, 0.9) == []
    place.answer(OK[:-1])
    assert late(place, 50) == []
    assert place.answer(b"k") == b"k"
    assert late(place, 100) == [], "and then the time between two requests"
    place.close()


def test_the_time_to_answer_begins_when_the_request_is_whole():
    for request, rest in ((POST % 5 + b"ab", b"cde"), (CHUNKED, b"0\r\n\r\n")):
        place = timed(response_timeout=1, idle_timeout=100)
        place.say(request)
        assert late(place, 99) == []
        place.say(rest)
        assert late(place, 99.9) == []
        assert late(place, 101) == [(FAILED, "response-timeout")]
        place.close()


def test_a_body_that_stops_is_idle():
    place = timed(response_timeout=100, idle_timeout=1)
    place.say(GET)
    assert late(place, 50) == [], "it waits for its answer"
    place.answer(OK[:-1])
    assert late(place, 50.9) == []
    assert late(place, 51.1) == [(FAILED, "idle")]
    place.close()


def test_a_body_that_goes_on_is_not_idle():
    place = timed(response_timeout=100, idle_timeout=1)
    place.say(POST % 100)
    for number in range(10):
        assert place.say(b"x") == b"x"
        assert late(place, 0.9 * (number + 1)) == []
    place.say(b"x" * 90)
    place.d.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
    assert place.heard(place.a)
    for number in range(10):
        assert place.answer(b"x") == b"x"
        assert late(place, 9 + 0.9 * (number + 1)) == []
    place.close()


def test_after_an_answer_the_connection_rests_so_long():
    place = timed(keepalive_timeout=1)
    assert late(place, 0.9) == []
    place.say(GET)
    place.answer(OK)
    assert late(place, 1.8) == []
    assert late(place, 2) == [(END, "")]
    place.close()


def test_after_a_refusal_too():
    place = timed(keepalive_timeout=1)
    no = b"HTTP/1.1 403 Forbidden\r\nx: %b\r\ncontent-length: 0\r\n\r\n" % (b"0" * 32)
    place.lane.refuse(
        place.plan, place.target, place.lane.denial(no, len(no), no.index(b"0" * 32)), b"GET", b"/admin", b"store"
    )
    assert late(place, 0.9) == []
    place.a.sendall(GET.replace(b"books", b"admin"))
    assert place.heard(place.a).startswith(b"HTTP/1.1 403 ")
    assert late(place, 1.8) == []
    assert late(place, 2) == [(END, "")]
    place.close()


def test_after_an_early_head_it_is_the_body_that_must_go_on():
    """The time to answer is over when the answer has begun, though the request ends later."""
    place = timed(response_timeout=1, idle_timeout=100)
    place.say(POST % 5 + b"ab")
    assert place.answer(OK[:-1]) == OK[:-1]
    assert place.say(b"cde") == b"cde"
    assert late(place, 50) == []
    assert place.answer(b"k") == b"k"
    assert used_again(place)
    place.close()


# what is counted


def test_bytes_are_counted(place):
    place.say(POST % 5 + b"ab")
    place.say(b"cde")
    place.answer(OK)
    place.say(GET)
    place.answer(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
    place.say(GET)
    place.answer(b"HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n")
    place.say(GET)
    place.answer(b"HTTP/1.1 600 \r\ncontent-length: 0\r\n\r\n")
    ((_, answered, _, _, bytes_in, bytes_out),) = place.lane.counts()
    assert answered == (1, 0, 1, 0, 1, 1)
    total_in = len(POST % 5) + 5 + 3 * len(GET)
    assert bytes_in == total_in
    place.a.close()
    place.turn()
    (one,) = place.lane.ups()
    assert (one[13], one[14]) == (total_in, bytes_out)
    assert bytes_out == len(OK) + len(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n") + 2 * len(
        b"HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n"
    )


def test_bytes_of_chunks_are_counted_without_what_frames_them(place):
    place.say(CHUNKED + b"3;x=y\r\nabc\r\n")
    place.say(b"2\r\nde\r\n0\r\nx-a: 1\r\n\r\n")
    place.answer(OK)
    ((*_, bytes_in, _),) = place.lane.counts()
    assert bytes_in == len(CHUNKED) + 5


def test_a_fault_tells_what_had_passed(place):
    place.say(POST % 5 + b"ab")
    place.answer(b"HTTP/1.1 201 OK\r\ncontent-length: 100\r\n\r\nabc")
    place.d.close()
    place.turn()
    place.a.close()
    place.turn()
    (one,) = place.lane.ups()
    assert (one[1], one[9], one[11], one[12]) == (
        FAILED,
        201,
        len(POST % 5) + 2,
        len(b"HTTP/1.1 201 OK\r\ncontent-length: 100\r\n\r\nabc"),
    )
    assert one[5] == place.target.serial
    assert one[10] > 0


# servers that stop reading, and those that reset


@pytest.fixture
def tcp_place():
    """Its server is at the other end of a TCP connection: a reset is a thing of TCP."""
    place = Place()
    place.lane.clear(place.target)
    place.lane.gone()
    place.d, place.server = _tcp()
    place.open += [place.d, place.server]
    place.lane.lend(8, place.server.fileno(), place.target)
    place.lane.learn(place.plan, place.target, 0, b"PUT", b"/books", b"store")
    yield place
    place.close()


RESET = "reset the connection"


@pytest.mark.parametrize(
    ("request_", "answer", "detail"),
    [
        (GET, b"HTTP/1.1 200", RESET),
        (POST % 0, b"", RESET),
        (asked(b"PUT", b"abc"), b"", RESET),
        (GET, OK[:-1], RESET),
        (GET, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", RESET),
        (GET, b"HTTP/1.1 200 OK\r\n\r\nuntil the end", RESET),
    ],
    ids=[
        "in its head",
        "before it",
        "before it, with a body",
        "in its body",
        "in its chunks",
        "in what ends with the connection",
    ],
)
def test_a_reset_is_never_the_end_of_an_answer(tcp_place, request_, answer, detail):
    """RFC 9112 section 8: what came is a part, also of what only the connection's end would end."""
    assert tcp_place.say(request_)
    heard = tcp_place.answer(answer)
    assert bool(heard) is (b"\r\n\r\n" in answer)
    reset(tcp_place.d)
    assert told(tcp_place) == (
        FAILED,
        "upstream-broken",
        detail,
        request_[: request_.index(b"\r\n\r\n") + 4],
        bool(heard),
    )
    assert tcp_place.heard(tcp_place.a) == b""
    assert tcp_place.lane.gone() == [8]


def test_what_may_be_done_twice_is_asked_again_after_a_reset(tcp_place):
    """It is how a server that closed while the request was on its way looks."""
    assert tcp_place.say(GET)
    reset(tcp_place.d)
    assert told(tcp_place) == (REQUEST, "", "", GET, False)


def test_a_reset_that_is_found_by_writing_is_one(tcp_place):
    """The error of a write is told once: what is read afterwards looks like an end."""
    assert tcp_place.say(POST % 5 + b"ab")
    assert tcp_place.answer(b"HTTP/1.1 200 OK\r\n\r\nuntil") != b""
    for sock in (tcp_place.server, tcp_place.a):
        assert sock.fileno() >= 0
    tcp_place.a.sendall(b"c")  # its event comes first
    reset(tcp_place.d)
    assert told(tcp_place)[:3] == (FAILED, "upstream-broken", RESET)
    assert tcp_place.heard(tcp_place.a) == b"", "no end of chunks: it is a part"


def test_what_a_server_said_before_it_stopped_reading_is_heard(place):
    """Many refuse a large body so: they answer, and take no more."""
    place.say(POST % 500 + b"ab")
    place.d.shutdown(socket.SHUT_RD)
    place.a.sendall(b"c")
    place.turn()
    assert place.lane.ups() == []
    answer = b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno"
    assert place.answer(answer) == answer[:-4] + b"connection: close\r\n\r\nno"
    assert told(place)[:2] == (END, "linger")
    assert place.lane.gone() == [7]


def test_what_a_server_said_before_it_stopped_reading_what_waits_is_heard(place):
    """The same, while a part of the body waits for it in the lane."""
    place.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    place.a.sendall(POST % 500_000 + bytes(50_000))
    place.turn()
    place.d.recv(1 << 20)  # the lane sends on
    place.d.shutdown(socket.SHUT_RD)
    place.turn()
    assert place.lane.ups() == []
    answer = b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno"
    assert place.answer(answer) == answer[:-4] + b"connection: close\r\n\r\nno"
    assert told(place)[:2] == (END, "linger")
    assert place.lane.gone() == [7]


def test_an_early_answer_does_not_end_the_request(place):
    """Its server hears all of it, and is used again only then."""
    place.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    head = POST % 50_000
    place.a.sendall(head + BODY[:50_000])
    place.turn()
    assert place.answer(OK) == OK
    assert (place.lane.stats["calls"], place.target.resting) == (1, 0), "the end of the body waits in the lane"
    assert place.heard(place.d).endswith(b"\r\n\r\n" + BODY[:50_000])
    assert (place.lane.stats["calls"], place.target.resting) == (0, 1)
    assert used_again(place)


# callers that are in a hurry


def test_a_second_request_waits_for_the_first_answer(place):
    assert place.say(GET) == SENT
    assert place.say(GET) == b""
    assert place.say(GET[:10]) == b""
    assert place.answer(OK) == OK
    assert place.heard(place.d) == SENT
    assert place.say(GET[10:]) == b""
    assert place.answer(OK) == OK
    assert place.heard(place.d) == SENT
    assert place.answer(OK) == OK


def test_who_asks_ahead_is_read_no_further_than_a_buffer(place):
    """One answer is awaited, and megabytes of requests follow: 64 KiB of them are kept, and one read. All are asked in the end."""
    place.caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    place.a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    one = GET[:-2] + b"x: " + b"y" * 8000 + b"\r\n\r\n"
    requests = one * 100
    at = 0
    for _ in range(1000):
        place.turn()
        try:
            at += place.a.send(requests[at : at + 8192])
        except BlockingIOError:
            break
    assert at < 65536 * 2 + 65536, "it was read without end"
    answered = 0
    while answered < 100:
        assert place.heard(place.d).count(b"GET /books") == 1
        assert place.answer(OK) == OK
        answered += 1
        while at < len(requests):
            try:
                at += place.a.send(requests[at : at + 8192])
            except BlockingIOError:
                break
        place.turn()
    assert place.ups() == []


# refusals


def refuses(place):
    """GET, HEAD and POST of /admin."""
    no = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nx-id: %b\r\n\r\nno" % (b"0" * 32)
    number = place.lane.denial(no, len(no) - 2, no.index(b"0" * 32))
    for method in (b"GET", b"HEAD", b"POST"):
        place.lane.refuse(place.plan, place.target, number, method, b"/admin", b"store")
    place.no = len(no)
    return place


@pytest.fixture
def refusing(place):
    return refuses(place)


ADMIN = b"GET /admin HTTP/1.1\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"host: store\r\n",
        b"HOST:store\r\n",
        b"Host: \t store \t\r\n",
        b"date: x\r\nhost: store\r\n",
        b"a:b\r\nhost: store\r\n",
        b"ho: s\r\nhosts: else\r\nhost: store\r\nx-host: other\r\n",
    ],
)
def test_a_refusal_tells_which_host_was_asked_for(refusing, fields):
    refusing.a.sendall(ADMIN + fields + b"\r\n")
    assert refusing.heard(refusing.a).startswith(b"HTTP/1.1 403 ")
    assert [one[6] for one in refusing.lane.refusals()] == [b"GET /admin HTTP/1.1\nstore"]


@pytest.mark.parametrize("body", [b"content-length: 3\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_a_refusal_of_what_has_a_body_is_pythons(refusing, body):
    """It knows what to do with the rest of it."""
    said = b"POST /admin HTTP/1.1\r\nhost: store\r\n" + body
    assert refusing.say(said) == b""
    assert told(refusing) == (REQUEST, "", "", said, False)
    assert refusing.lane.refusals() == []


def test_a_refusal_is_told_though_its_caller_is_gone(refusing):
    refusing.a.sendall(ADMIN + b"host: store\r\n\r\n")
    refusing.a.close()
    assert told(refusing)[:2] == (FAILED, "client-gone")
    assert len(refusing.lane.refusals()) == 1


def unread(place, more=b""):
    """Requests that were refused, until the caller's own socket takes no more of the answers: how many were asked."""
    place.caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    one, count = ADMIN + b"host: store\r\n\r\n", 0
    refused = -1
    while refused != count:
        refused = count
        place.a.sendall(one)
        place.turn()
        count += len(place.lane.refusals())
    place.a.sendall(more)
    place.turn()
    assert place.lane.refusals() == []
    return count + 1


@pytest.mark.parametrize("ends", [True, False])
def test_refusals_that_are_not_read_hold_what_follows(refusing, ends):
    """And when they are read it is asked, and after that the connection's end is one."""
    count = unread(refusing, GET)
    if ends:
        refusing.a.shutdown(socket.SHUT_WR)
        refusing.turn()
        assert refusing.lane.ups() == []
    heard = refusing.heard(refusing.a)
    assert (len(heard), heard.count(b"HTTP/1.1 403 ")) == (count * refusing.no, count)
    assert len(refusing.lane.refusals()) == 1
    assert refusing.heard(refusing.d) == SENT
    assert refusing.answer(OK) == OK
    assert refusing.ups() == ([(1, END, "", b"", b"")] if ends else [])


@pytest.mark.parametrize("what", ["ends", "forget", "recall"])
def test_what_was_refused_is_told_before_its_connection_goes_up(what):
    """Whatever its socket has room for when that happens: Python must not answer behind a part of a refusal, nor instead of one."""
    one = ADMIN + b"host: store\r\n\r\n"
    for turns in range(40):
        place = refuses(Place())
        place.caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        place.a.sendall(one * 100)
        for _ in range(turns):
            place.lane.turn(1)
        if what == "ends":
            place.a.shutdown(socket.SHUT_WR)
        elif what == "forget":
            place.lane.forget()
        elif what == "recall":
            place.carried.recall()
        heard = b""
        while more := place.heard(place.a):
            heard += more
        (up,) = place.ups()
        assert up[1] == REQUEST or what == "ends"
        refused = len(place.lane.refusals())
        assert (len(heard), heard.count(b"HTTP/1.1 403 ")) == (refused * place.no, refused), (
            "what was refused is what was told"
        )
        rest = up[3]
        with contextlib.suppress(BlockingIOError):
            rest += place.caller.recv(1 << 20)
        assert rest == one * (100 - refused), "and what follows is Python's"
        place.close()


def test_who_leaves_without_reading_refusals(refusing):
    unread(refusing)
    refusing.a.close()
    assert told(refusing)[:2] == (FAILED, "client-gone")
