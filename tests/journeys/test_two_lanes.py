"""The same bytes through both lanes: what the server gets, what the caller gets and what is recorded is the same, byte for byte.

The slow lane is the reference. First the native lane is taught each key that a talk bends (method, path, Host), until it serves it: then
what is odd goes up for that alone. Which lane it was is asserted for every talk (SERVED), so that two lanes are compared and not one with itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket

import pytest
import trio

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from tests.compiled import needs_lane
from tests.journeys import bookstore
from tests.journeys.conftest import Mesh

pytestmark = needs_lane

HOST = b"host: bookstore-v1.bookstore:14001\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET /books HTTP/1.1\r\n" + HOST + b"\r\n"


def get(fields=b"", target=b"/books", method=b"GET", version=b"1.1", host=HOST):
    return b"%s %s HTTP/%s\r\n%s%s\r\n" % (method, target, version, host, fields)


def post(body, fields=b""):
    return get(fields + b"content-length: %d\r\n" % len(body), method=b"POST") + body


CHUNKED = get(b"transfer-encoding: chunked\r\n", method=b"POST")

# name -> (what the caller sends, what the server answers to each request that reaches it)
TALKS = {
    "plain": (get(), OK),
    "fields as they came": (get(b"Accept:*/*\r\nX-A:  two  words \r\nCookie: a=b; c=d\r\nx-a: again\r\n"), OK),
    "ours are not believed": (get(b"X-Edgemesh-Destination: 10.0.0.1:1\r\nx-edgemesh-reason: no\r\n"), OK),
    "forwarded before": (
        get(b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Proto: https\r\n"),
        OK,
    ),
    "forwarded, nearly": (get(b"X-Forwarded-For: x127.64.0.1\r\nX-Forwarded-For: a,\r\n"), OK),
    "forwarded, empty": (get(b"X-Forwarded-For:\r\n"), OK),
    "hop by hop": (get(b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n"), OK),
    "connection names a field": (get(b"Connection: x-a\r\nX-A: 1\r\n"), OK),
    "close": (get(b"Connection: close\r\n"), OK),
    "te": (get(b"TE: trailers\r\nConnection: te\r\n"), OK),
    "te alone": (get(b"TE: trailers\r\n"), OK),
    "query": (get(target=b"/books?a=1&b=%2F..#"[:-1]), OK),
    "another path": (get(target=b"/books/1"), OK),
    "not allowed": (get(target=b"/admin") + GET + get(target=b"/admin"), OK),
    "dot segments": (get(target=b"/x/../books"), OK),
    "dot segments of a path that is learned": (
        get(target=b"/books/1/../../admin") + get(target=b"/books/./1") + get(target=b"/books/.x"),
        OK,
    ),
    "empty segments": (get(target=b"/books//1"), OK),
    "dots and escapes": (
        get(target=b"/books/x..%20") + get(target=b"/books/..%09") + get(target=b"/books/..%2500"),
        OK,
    ),
    "escapes": (get(target=b"/%62ooks") + get(target=b"/books%2Fx"), OK),
    "encoded slash": (get(target=b"/books/%2f/x") + GET, OK),
    "encoded slash, denied": (get(target=b"/admin%2Fbooks") + GET, OK),
    "hidden dots": (get(target=b"/books/..%20/x"), OK),
    "hidden dots, escaped twice": (get(target=b"/books/%252e%252e/x"), OK),
    "escaped twice": (get(target=b"/books/%252Fx"), OK),
    "absolute form": (get(target=b"http://bookstore-v1.bookstore/books"), OK),
    "no host": (get(host=b""), OK),
    "two hosts": (get(HOST), OK),
    "odd host": (get(host=b"host: a b\r\n"), OK),
    "host of another service": (get(host=b"host: mysql.bookwarehouse\r\n") + GET, OK),
    "empty host": (get(host=b"host:\r\n"), OK),
    "http 1.0 without host": (get(version=b"1.0", host=b""), OK),
    "http 1.0": (get(version=b"1.0"), OK),
    "http 2.0": (get(version=b"2.0"), OK),
    "bare lf": (b"GET /books HTTP/1.1\n" + HOST + b"\n", OK),
    "folded": (get(b"x-a: 1\r\n 2\r\n"), OK),
    "space before colon": (get(b"x-a : 1\r\n"), OK),
    "nul": (get(b"x-a: \x00\r\n"), OK),
    "high bytes": (get(b"x-a: \xe4\xff\r\n"), OK),
    "no method": (b" /books HTTP/1.1\r\n" + HOST + b"\r\n", OK),
    "method unknown": (get(method=b"BREW"), OK),
    "empty line first": (b"\r\n" + GET, OK),
    "many fields": (get(b"x: 1\r\n" * 101), OK),
    "99 fields": (get(b"x: 1\r\n" * 98), OK),
    "100 fields": (get(b"x: 1\r\n" * 99), OK),
    "large head": (get((b"x: " + b"y" * 640 + b"\r\n") * 99), OK),
    "huge head": (get(b"x: " + b"y" * 70000 + b"\r\n"), OK),
    "long path": (get(target=b"/books" + b"x" * 9000), OK),
    "pipelined": (GET * 5 + get(target=b"/admin") + GET * 2, OK),
    "head": (get(method=b"HEAD"), b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
    "body": (post(b"x" * 1000), OK),
    "large body": (post(b"y" * 300_000), OK),
    "empty body": (post(b""), OK),
    "body with get": (get(b"content-length: 3\r\n") + b"abc", OK),
    "two lengths": (get(b"content-length: 3\r\ncontent-length: 3\r\n", method=b"POST") + b"abc", OK),
    "wrong length": (get(b"content-length: +3\r\n", method=b"POST") + b"abc", OK),
    "length and chunks": (
        get(b"content-length: 3\r\ntransfer-encoding: chunked\r\n", method=b"POST") + b"0\r\n\r\n",
        OK,
    ),
    "other encoding": (get(b"transfer-encoding: gzip\r\n", method=b"POST"), OK),
    "chunks": (CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n" + GET, OK),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nHost: evil\r\nX-Edgemesh-Y: 2\r\n\r\n" + GET, OK),
    "bad chunk": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", OK),
    "bad chunk size": (CHUNKED + b"zz\r\n", OK),
    "expect": (get(b"expect: 100-continue\r\ncontent-length: 2\r\n", method=b"POST") + b"ab", OK),
    "chunk size of 17 digits": (CHUNKED + b"00000000000000003\r\nabc\r\n0\r\n\r\n", OK),
    "chunk extension of 2000 bytes": (CHUNKED + b"3;x=%b\r\nabc\r\n0\r\n\r\n" % (b"y" * 2000), OK),
    "chunks and a space": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", OK),
    "chunks of lf": (CHUNKED + b"3\nabc\n0\n\n", OK),
    "large trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nx-sum: %b\r\n\r\n" % (b"y" * 9000), OK),
    "put": (post(b"abc").replace(b"POST", b"PUT"), OK),
    "delete": (get(method=b"DELETE"), OK),
    "options": (get(method=b"OPTIONS"), OK),
    "pipelined bodies": (post(b"abc") + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + post(b"") + GET, OK),
    "half a head": (GET[:20], OK),
    "half a body": (post(b"abc")[:-1], OK),
    "half a chunk": (CHUNKED + b"5\r\nabc", OK),
    "no last chunk": (CHUNKED + b"3\r\nabc\r\n", OK),
    "a body, and that is all": (post(b"abc"), OK),
    "upgrade": (get(b"connection: upgrade\r\nupgrade: websocket\r\n"), OK),
    # answers
    "response fields": (
        GET,
        b"HTTP/1.1 200 Fine, thanks\r\nServer: x\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n",
    ),
    "response of 150 fields": (
        GET,
        b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: a\r\n" * 150 + b"Content-Length: 2\r\n\r\nok",
    ),
    "response of 999 fields": (GET, b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 998 + b"Content-Length: 2\r\n\r\nok"),
    "response of 1001 fields": (GET, b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 1000 + b"Content-Length: 2\r\n\r\nok"),
    "response large head": (
        GET,
        b"HTTP/1.1 200 OK\r\n" + (b"x: " + b"y" * 640 + b"\r\n") * 100 + b"Content-Length: 2\r\n\r\nok",
    ),
    "response hop by hop": (
        GET,
        b"HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nX-Edgemesh-Reason: fake\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    ),
    "response closes": (GET, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
    "response names a field": (GET, b"HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n"),
    "response 1.0": (GET, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "response of lf": (GET, b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    "response space before colon": (GET, b"HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length\t : 2\r\n\r\nok"),
    "response identity": (GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok"),
    "response gzip": (GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"),
    "response folded": (GET, b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok"),
    "response without reason": (GET, b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    "response interim": (GET, b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + OK),
    "response 204": (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
    "response 304": (GET, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\netag: x\r\n\r\n"),
    "response 404": (GET, b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno"),
    "response chunks": (GET, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    "response trailers": (
        GET,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
    ),
    "response trailers that travel": (
        GET,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nHost: x\r\n\r\n",
    ),
    "response to a post": (post(b"abc"), b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok"),
    "response chunk size of 17 digits": (
        GET,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n00000000000000003\r\nabc\r\n0\r\n\r\n",
    ),
    "response chunk extension of 2000 bytes": (
        GET,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=%b\r\nabc\r\n0\r\n\r\n" % (b"y" * 2000),
    ),
    "response large": (GET, b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n" + b"z" * 500_000),
    "response of two lengths": (GET, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
    "response twice as much": (GET, OK + OK),
    "response of rubbish": (GET, b"\x00\x01\x02\r\n\r\n"),
    "response huge head": (GET, b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70000 + b"\r\ncontent-length: 0\r\n\r\n"),
    "response bad chunk": (GET, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
    "response until it closes": (GET, b"HTTP/1.1 200 OK\r\n\r\nuntil the end"),
    "response cut short": (GET, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"),
    "response never": (GET, b""),
    "response never, post": (post(b"abc"), b""),
    "response never, empty post": (post(b""), b""),
    "response never, put": (post(b"abc").replace(b"POST", b"PUT"), b""),
    "response reset": (GET, b"HTTP/1.1 200 OK\r\n\r\nuntil the end"),
    "response with a length reset": (GET, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"),
    "response of chunks reset": (GET, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    "response of chunks cut short": (GET, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    "response head reset": (GET, b"HTTP/1.1 200 OK\r\nx: 1\r\n"),
    "response head cut short": (GET, b"HTTP/1.1 200 OK\r\nx: 1\r\n"),
}
# What the server does to its connection after its answer.
_ENDS = {
    **dict.fromkeys(("response until it closes", "response cut short", "response of rubbish"), "closes"),
    **dict.fromkeys(
        (name for name in TALKS if name.endswith("cut short") or name.startswith("response never")), "closes"
    ),
    **dict.fromkeys((name for name in TALKS if name.endswith("reset")), "resets"),
}
# The caller ends its sending when it has said this.
_STOPS = frozenset(
    TALKS[name][0]
    for name in ("half a head", "half a body", "half a chunk", "no last chunk", "a body, and that is all")
)
# By what is sent: what is to be learned beside LESSONS.
MORE_LESSONS = {
    TALKS["host of another service"][0]: (get(host=b"host: mysql.bookwarehouse\r\n"),),
}


class Script:
    """A server. While it teaches, it answers with OK; then with `answer`. `heard`: all that reached it since then."""

    def __init__(self, answer, ends=""):
        """`ends`: what it does to its connection after the answer: "closes", "resets", or nothing."""
        self.answer = answer
        self.ends = ends
        self.heard = b""
        self.teaches = True

    async def talk(self, stream):
        data = b""
        while True:
            while (whole := _message(data)) == 0:
                more = await stream.receive_some(65536)
                if not more:
                    return
                data += more
            message, data = data[:whole], data[whole:]
            answer = OK if self.teaches else self.answer
            if not self.teaches:
                self.heard += message
            await stream.send_all(answer.split(b"\r\n\r\n")[0] + b"\r\n\r\n" if message.startswith(b"HEAD") else answer)
            if self.ends and not self.teaches:
                if self.ends == "closes":
                    await stream.send_eof()
                else:
                    await trio.testing.wait_all_tasks_blocked(
                        0.01
                    )  # what came before a reset is lost where nobody has read it
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
                    stream.socket.close()
                return


def _message(data):
    """The size of the whole message that `data` begins with, 0 when it is not whole."""
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return 0
    size = len(head) + 4
    if b"transfer-encoding: chunked" in head:
        end = body.find(b"0\r\n")
        end = body.find(b"\r\n\r\n", end) if end >= 0 else -1
        return size + end + 4 if end >= 0 else 0
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length: "):
            size += int(line[16:])
    return size if len(data) >= size else 0


LIMITS = Limits(keepalive_timeout=1, head_timeout=20, response_timeout=3)  # by a clock that leaps where nothing happens
# /books with every method: what a lesson teaches is not hidden by a refusal.
ROUTES = bookstore.ROUTES.replace("[GET, POST]", '["*"]')
LESSONS = (
    *(get(method=method) for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")),
    post(b"abc"),
    post(b"abc").replace(b"POST", b"PUT"),
)


def serving(lanes):
    """How many requests each of them has served by itself."""
    return [lane.lane.stats["served"] for lane in lanes]


async def teach(mesh, lanes, stream, lesson):
    """Ask until it is the lanes that answer."""
    for _ in range(6):
        before = serving(lanes)
        await stream.send_all(lesson)
        heard, whole = b"", OK[:-2] if lesson.startswith(b"HEAD") else OK
        while len(heard) < len(whole):
            more = await stream.receive_some(65536)
            assert more, heard
            heard += more
        assert heard == whole, heard
        await mesh.settled()
        if all(now > was for now, was in zip(serving(lanes), before, strict=True)):
            return
    raise AssertionError(f"no lane serves {lesson!r}")


async def said(mesh, sides, lanes, stream, sent, pieces, script):
    """Teach, and then talk: what the caller hears, how its connection ends, and how many requests each lane serves."""
    for lesson in (*LESSONS, *MORE_LESSONS.get(sent, ())):
        await teach(mesh, lanes, stream, lesson)
    script.teaches = False
    for side in sides:
        side.records.clear()
    before = serving(lanes)

    async def send():
        with contextlib.suppress(trio.BrokenResourceError):
            for piece in pieces(sent):
                await stream.send_all(piece)
                if piece.endswith(b"\r\n\r\n") and piece != sent:
                    await mesh.settled()
                elif len(sent) < 2000:
                    await trio.sleep(0)
            if sent in _STOPS:
                await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        heard, end = b"", "closed"
        with trio.fail_after(100):
            try:
                while data := await stream.receive_some(65536):
                    heard += data
            except trio.BrokenResourceError:
                end = "reset"
        nursery.cancel_scope.cancel()
    await mesh.settled()
    return _comparable(heard), end, [now - was for now, was in zip(serving(lanes), before, strict=True)]


async def talk(monkeypatch, lane, sent, answer, ends, pieces):
    """What both ends saw and what was recorded, and how many requests the lane has served."""
    async with trio.open_nursery() as nursery:
        random.seed(b"%d" % os.getpid() + sent)  # the same addresses for both: they are in answers
        mesh = Mesh(nursery, LIMITS, lane)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        mesh.publish(routes=ROUTES)
        script = Script(answer, ends)
        mesh.serve("store-v1", script.talk)
        call = await mesh.call("buyer", "bookstore-v1.bookstore")
        lanes = [mesh.proxy.fast] if lane else []
        heard, end, served = await said(mesh, [mesh], lanes, call.stream, sent, pieces, script)
        records = sorted(
            (r.kind, r.method, r.path, r.host, r.status, r.flag, r.rule, r.service, bool(r.endpoint), *sizes(r))
            for r in mesh.records
            if r.kind == "request"
        )
        nursery.cancel_scope.cancel()
    mesh.close()
    prefix = mesh.addresses["buyer"].encode()
    return _joined(script.heard).replace(prefix, b"BUYER"), heard, end, records, sum(served)


def sizes(record):
    """How many bytes there were; but not of a body that breaks HTTP: how much of it is looked at, and what is said of it, differs."""
    return () if record.flag == "bad-request" and record.rule else (record.bytes_in, record.bytes_out)


def _joined(heard):
    """Requests whose chunks are one each: where one ends and the next begins means nothing (RFC 9112 section 7.1)."""
    parts = []
    while heard:
        message, heard = heard[: _message(heard) or len(heard)], heard[_message(heard) or len(heard) :]
        head, blank, rest = message.partition(b"\r\n\r\n")
        body = b""
        if b"transfer-encoding: chunked" in head:
            while size := int(rest[: rest.index(b"\r\n")], 16):
                begin = rest.index(b"\r\n") + 2
                body, rest = body + rest[begin : begin + size], rest[begin + size + 2 :]
        parts += [head, blank, body, rest]
    return b"".join(parts)


def _comparable(heard):
    """Without what differs from one run to the next: ids of refusals."""
    lines = re.sub(rb"[0-9a-f]{32}", b"ID", heard).split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"x-edgemesh-request"))


# How many requests of a talk are served by the lane when it comes in one piece; none of the others is.
SERVED = {
    **dict.fromkeys(
        (
            "plain", "fields as they came", "ours are not believed", "forwarded before", "forwarded, nearly", "forwarded, empty", "hop by hop", "close",
            "te alone", "query", "another path", "empty segments", "high bytes", "99 fields", "100 fields", "large head", "head", "body", "large body", "empty body", "put", "delete",
            "options", "a body, and that is all", "response fields", "response hop by hop", "response closes", "response 204", "response 304", "response 404",
            "response chunks", "response trailers", "response trailers that travel", "response of 150 fields", "response large head", "response to a post", "response large", "response twice as much",
            "response until it closes",
        ),
        1,
    ),
    **dict.fromkeys(("host of another service", "chunks", "trailers"), 2),
    "pipelined bodies": 4,
    "pipelined": 5,  # and what is behind the one that goes up, goes up with it
}  # fmt: skip
WAYS = {
    "at once": lambda sent: [sent],
    "in two": lambda sent: [sent[: len(sent) // 2], sent[len(sent) // 2 :]],
    "byte by byte": lambda sent: [sent[i : i + 1] for i in range(len(sent))],
    # The lane has the head before it knows what becomes of the body.
    "head first": lambda sent: [sent[: _head_size(sent)], sent[_head_size(sent) :]],
    "head first, then byte by byte": lambda sent: [
        sent[: _head_size(sent)],
        *(sent[i : i + 1] for i in range(_head_size(sent), len(sent))),
    ],
}
BODIES = [
    name
    for name, (sent, _) in TALKS.items()
    if len(sent) > (sent.find(b"\r\n\r\n") + 4 or len(sent)) and not sent.startswith(b"GET")
]


def _head_size(sent):
    return sent.index(b"\r\n\r\n") + 4


@pytest.mark.parametrize(
    "name,way",
    [
        *((name, "at once") for name in TALKS),
        *((name, "byte by byte") for name in TALKS if len(TALKS[name][0]) <= 2000),
        *((name, "in two") for name in ("large body", "huge head", "long path")),
        *((name, "head first") for name in BODIES),
        *((name, "head first, then byte by byte") for name in BODIES if len(TALKS[name][0]) <= 2000),
    ],
)
async def test_both_lanes_say_the_same(monkeypatch, quick_clock, name, way):
    sent, answer = TALKS[name]
    ends = _ENDS.get(name, "")
    slow = await talk(monkeypatch, False, sent, answer, ends, WAYS[way])
    fast = await talk(monkeypatch, True, sent, answer, ends, WAYS[way])
    heard, end, served = 1, 2, 4
    if way == "at once":
        assert fast[served] == SERVED.get(name, 0), "which lane it was"
    elif way.startswith("head first") and SERVED.get(name):
        assert fast[served] > 0, "which lane it was"
    if b"\r\nconnection: close\r\n" in slow[heard]:
        # We end it with bytes of the caller unread or on their way: whether he sees a reset after the answer is a race.
        slow, fast = (found[:end] + found[end + 1 :] for found in (slow, fast))
        assert fast[:3] == slow[:3]
    else:
        assert fast[:4] == slow[:4]


async def test_paths_with_ids_are_served_by_the_lane(monkeypatch, quick_clock):
    """One is decided by Python; whichever the same patterns fit are judged alike."""
    sent = b"".join(get(target=b"/books/%d" % number) for number in range(50))
    assert (await talk(monkeypatch, True, sent, OK, "", WAYS["at once"]))[4] == 50


async def test_a_refusal_that_was_learned_is_of_its_own_id_in_head_body_and_log(monkeypatch, nursery):
    """In the same words as Python's, and each time with what asks for this very one."""
    mesh = Mesh(nursery, Limits(head_timeout=2, response_timeout=2), True)
    monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
    await mesh.start()
    mesh.serve("store-v1", Script(OK).talk)
    call = await mesh.call("buyer", "bookstore-v1.bookstore")

    async def asked(request):
        await call.stream.send_all(request)
        heard = b""
        while not _message(heard):
            heard += await call.stream.receive_some(65536)
        return heard

    assert await asked(GET) == OK
    denied = get(target=b"/admin")
    answers, served = [], []
    for _ in range(3):
        answers.append(await asked(denied))
        await mesh.settled()
        served.append(mesh.proxy.fast.lane.stats["served"])
    ids = [re.search(rb"x-edgemesh-request: ([0-9a-f]{32})\r\n", answer)[1] for answer in answers]
    assert len(set(ids)) == 3
    assert served[2] > served[0], "the lane took part"
    assert [re.findall(rb"--request ([0-9a-f]{32})", answer) for answer in answers] == [[one] for one in ids]
    assert len({answer.replace(one, b"ID") for answer, one in zip(answers, ids, strict=True)}) == 1
    mesh.proxy.fast.count()
    refused = [(r.id.encode(), r.path, r.host) for r in mesh.records if r.flag == "denied"]
    assert sorted(refused) == sorted((one, "/admin", refused[0][2]) for one in ids)
    mesh.close()
