"""The same bytes through both lanes: what the server gets, what the caller gets and what is recorded is the same, byte for byte.

The slow lane is the reference. A first request teaches the native lane; what is compared comes after it, on the same connection.
"""

from __future__ import annotations

import os
import random

import pytest
import trio

from nodeproxy import listen
from nodeproxy.limits import Limits
from nodeproxy.native import AVAILABLE
from tests.journeys.conftest import Mesh

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the native lane was not compiled")

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
    "forwarded before": (get(b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Proto: https\r\n"), OK),
    "forwarded, nearly": (get(b"X-Forwarded-For: x127.64.0.1\r\nX-Forwarded-For: a,\r\n"), OK),
    "forwarded, empty": (get(b"X-Forwarded-For:\r\n"), OK),
    "hop by hop": (get(b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n"), OK),
    "connection names a field": (get(b"Connection: x-a\r\nX-A: 1\r\n"), OK),
    "close": (get(b"Connection: close\r\n"), OK),
    "te": (get(b"TE: trailers\r\nConnection: te\r\n"), OK),
    "query": (get(target=b"/books?a=1&b=%2F..#"[:-1]), OK),
    "another path": (get(target=b"/books/1"), OK),
    "not allowed": (get(target=b"/admin") + GET, OK),
    "dot segments": (get(target=b"/x/../books"), OK),
    "escapes": (get(target=b"/%62ooks") + get(target=b"/books%2Fx"), OK),
    "absolute form": (get(target=b"http://bookstore-v1.bookstore/books"), OK),
    "no host": (get(host=b""), OK),
    "two hosts": (get(HOST), OK),
    "odd host": (get(host=b"host: a b\r\n"), OK),
    "misdirected": (get(host=b"host: mysql.bookwarehouse\r\n") + GET, OK),
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
    "length and chunks": (get(b"content-length: 3\r\ntransfer-encoding: chunked\r\n", method=b"POST") + b"0\r\n\r\n", OK),
    "other encoding": (get(b"transfer-encoding: gzip\r\n", method=b"POST"), OK),
    "chunks": (CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n" + GET, OK),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nHost: evil\r\nX-Edgemesh-Y: 2\r\n\r\n" + GET, OK),
    "bad chunk": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", OK),
    "bad chunk size": (CHUNKED + b"zz\r\n", OK),
    "expect": (get(b"expect: 100-continue\r\ncontent-length: 2\r\n", method=b"POST") + b"ab", OK),
    "upgrade": (get(b"connection: upgrade\r\nupgrade: websocket\r\n"), OK),
    # answers
    "response fields": (GET, b"HTTP/1.1 200 Fine, thanks\r\nServer: x\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"),
    "response hop by hop": (
        GET,
        b"HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nX-Edgemesh-Reason: fake\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    ),
    "response closes": (GET, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
    "response names a field": (GET, b"HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n"),
    "response 1.0": (GET, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "response of lf": (GET, b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
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
    "response large": (GET, b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n" + b"z" * 500_000),
    "response of two lengths": (GET, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
    "response twice as much": (GET, OK + OK),
    "response of rubbish": (GET, b"\x00\x01\x02\r\n\r\n"),
    "response huge head": (GET, b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70000 + b"\r\ncontent-length: 0\r\n\r\n"),
    "response bad chunk": (GET, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
    "response until it closes": (GET, b"HTTP/1.1 200 OK\r\n\r\nuntil the end"),
    "response cut short": (GET, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"),
    "response never": (GET, b""),
}
_ENDS = ("response until it closes", "response cut short", "response never", "response of rubbish")


class Script:
    """A server that answers the first request of all with OK, and each further one with `answer`. `heard`: all that reached it."""

    def __init__(self, answer, ends):
        self.answer = answer
        self.ends = ends
        self.heard = b""
        self.taught = False

    async def talk(self, stream):
        data = b""
        while True:
            while (whole := _message(data)) == 0:
                more = await stream.receive_some(65536)
                if not more:
                    return
                data += more
            message, data = data[:whole], data[whole:]
            if not self.taught:
                self.taught = True
                await stream.send_all(OK)
                continue
            self.heard += message
            await stream.send_all(self.answer.split(b"\r\n\r\n")[0] + b"\r\n\r\n" if message.startswith(b"HEAD") else self.answer)
            if self.ends:
                await stream.send_eof()
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


async def talk(monkeypatch, lane, sent, answer, ends, pieces):
    """What both ends saw and what was recorded; again when the machine paused so long that the connection's rest was over first."""
    while (seen := await _talk(monkeypatch, lane, sent, answer, ends, pieces)) is None:
        pass
    return seen


async def _talk(monkeypatch, lane, sent, answer, ends, pieces):
    async with trio.open_nursery() as nursery:
        random.seed(b"%d" % os.getpid() + sent)  # the same addresses for both: they are in answers
        mesh = Mesh(nursery, Limits(keepalive_timeout=0.1, head_timeout=2, response_timeout=0.3), lane)
        monkeypatch.setattr(listen, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        script = Script(answer, ends)
        mesh.serve("store-v1", script.talk)
        call = await mesh.call("buyer", "bookstore-v1.bookstore")
        await call.stream.send_all(GET)
        heard = b""
        while len(heard) < len(OK):
            heard += await call.stream.receive_some(65536)
        assert heard == OK
        answered = trio.current_time()
        await mesh.settled()

        async def send():
            nonlocal paused
            try:
                for piece in pieces(sent):
                    await call.stream.send_all(piece)
                    paused = paused or trio.current_time() - answered
                    if len(sent) < 2000:
                        await trio.sleep(0)
            except trio.BrokenResourceError:
                pass

        paused = 0.0
        nursery.start_soon(send)
        heard, end = b"", "closed"
        with trio.move_on_after(5) as scope:
            try:
                while data := await call.stream.receive_some(65536):
                    heard += data
            except trio.BrokenResourceError:
                end = "reset"
        assert not scope.cancelled_caught
        await mesh.settled()
        # What the lane said itself, for the test to know that it took part.
        stats = mesh.proxy.lane.lane.stats if lane else {"served": 0}
        records = [
            (r.kind, r.method, r.path, r.status, r.flag, r.rule, r.service, r.bytes_in, r.bytes_out, bool(r.endpoint))
            for r in mesh.records
            if r.kind == "request"
        ]
        nursery.cancel_scope.cancel()
    mesh.close()
    if paused > 0.09:
        return None
    prefix = mesh.addresses["buyer"].encode()
    return script.heard.replace(prefix, b"BUYER"), _comparable(heard), end, records, stats["served"]


def _comparable(heard):
    """Without what differs from one run to the next: ids of refusals."""
    lines = heard.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"x-edgemesh-request"))


WAYS = {"at once": lambda sent: [sent], "byte by byte": lambda sent: [sent[i : i + 1] for i in range(len(sent))]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TALKS)
async def test_both_lanes_say_the_same(monkeypatch, name, way):
    sent, answer = TALKS[name]
    if way == "byte by byte" and len(sent) > 2000:
        pytest.skip("too long for that")
    pieces = WAYS[way]
    slow = await talk(monkeypatch, False, sent, answer, name in _ENDS, pieces)
    fast = await talk(monkeypatch, True, sent, answer, name in _ENDS, pieces)
    heard, end = 1, 2
    if b"\r\nconnection: close\r\n" in slow[heard]:
        # We end it with bytes of the caller unread or on their way: whether he sees a reset after the answer is a race.
        slow, fast = (found[:end] + found[end + 1 :] for found in (slow, fast))
        assert fast[:3] == slow[:3]
    else:
        assert fast[:4] == slow[:4]


async def test_the_lane_takes_part(monkeypatch):
    """What is plain is served by it, so that the test above compares two lanes."""
    for name in ("plain", "fields as they came", "close", "query", "pipelined", "response chunks", "response large"):
        sent, answer = TALKS[name]
        assert (await talk(monkeypatch, True, sent, answer, False, WAYS["at once"]))[4] > 0, name


async def test_paths_with_ids_are_served_by_the_lane(monkeypatch):
    """One is decided by Python; whichever the same patterns fit are judged alike."""
    sent = b"".join(get(target=b"/books/%d" % number) for number in range(50))
    assert (await talk(monkeypatch, True, sent, OK, False, WAYS["at once"]))[4] == 50
