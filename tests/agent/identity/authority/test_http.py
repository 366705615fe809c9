"""HTTP behind the authority's door: the routes, and that no request however odd, large or slow does harm."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.authority import Authority
from agent.identity.authority.http import Caller, converse
from agent.identity.authority.state import AuthorityState

TD = "cluster.local"
TILL = f"spiffe://{TD}/node/till-3"


class Room:
    def __init__(self, path: Path) -> None:
        self.holdings = AuthorityState(path, time.time)
        self.holdings.create(ca.make_root(TD, time.time(), 1 << 120), TD)
        self.authority = Authority(
            path, time.time, 3600, lambda node, spiffe: "not here", lambda node, identity, serial: ""
        )

    def token(self, node: str = "till-3") -> str:
        with self.holdings.held():
            return self.holdings.tokens.make(node, 3600, time.time())

    async def say(self, *pieces: bytes, who: Caller = Caller("10.0.0.9"), end: bool = True) -> bytes:  # noqa: B008 - frozen
        """Send these bytes and read until the authority ends."""
        async with self.line(who) as ours:
            for piece in pieces:
                await ours.send_all(piece)
            if end:
                await ours.send_eof()
            found = b""
            while data := await ours.receive_some(65536):
                found += data
        return found

    @asynccontextmanager
    async def line(self, who: Caller) -> AsyncIterator[Any]:
        ours, theirs = memory_stream_pair()

        async def inside() -> None:
            await converse(theirs, who, self.authority)
            await theirs.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(inside)
            yield ours


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "authority")


def post(path: str, document: object, *lines: str) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = [f"POST {path} HTTP/1.1", "host: authority", f"content-length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def read(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head + b"\r\n"
    return int(head.split(b" ")[1]), json.loads(body)


BUNDLE = b"GET /v1/bundle HTTP/1.1\r\nhost: authority\r\n\r\n"
NODE = Caller("10.0.0.9", "till-3", "0a")


def request() -> str:
    return csr.request(csr.new_key(), "x")


async def test_the_bundle_is_for_everybody(room: Room) -> None:
    status, bundle = read(await room.say(BUNDLE))
    assert status == 200
    assert bundle["trust_domain"] == TD
    assert csr.fingerprint(bundle["roots"][0]) == bundle["issuer"]
    assert room.authority.bundle().roots == tuple(bundle["roots"])
    with room.holdings.held():
        assert not room.holdings.ledger.nodes


async def test_who_proved_to_be_a_node_is_noted_with_the_bundle(room: Room) -> None:
    await room.say(BUNDLE, who=NODE)
    with room.holdings.held():
        assert list(room.holdings.ledger.nodes) == ["till-3"]


async def test_join_then_sign_on_one_connection(room: Room) -> None:
    join = post("/v1/join", {"node": "till-3", "token": room.token(), "csr": request()})
    answer = await room.say(join[:100], join[100:] + BUNDLE)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    chain = json.loads(answer.split(b"\r\n\r\n")[1].partition(b"\n")[0])["chain"]
    assert csr.facts(chain).spiffe == TILL
    status, issued = read(await room.say(post("/v1/sign", {"spiffe": TILL, "csr": request()}), who=NODE))
    assert (status, csr.facts(issued["chain"]).spiffe) == (200, TILL)


async def test_a_chunked_body_and_expect(room: Room) -> None:
    body = json.dumps({"spiffe": TILL, "csr": request()}).encode()
    head = b"POST /v1/sign HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
    async with room.line(NODE) as ours:
        await ours.send_all(head)
        assert await ours.receive_some(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await ours.send_all(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert (await ours.receive_some(65536)).startswith(b"HTTP/1.1 200 OK\r\n")
        await ours.send_eof()


def refusals() -> list[tuple[bytes, int, str]]:
    small = {"spiffe": TILL, "csr": "x"}
    return [
        (post("/v1/sign", small), 403, "only a node"),
        (post("/v1/join", {"node": "a", "token": "t", "csr": "x"}), 403, "not good for this node"),
        (post("/v1/join", {"node": "a", "token": "t"}), 400, "missing required field `csr`"),
        (post("/v1/join", {"node": "a", "token": "t", "csr": "x", "admin": True}), 400, "unknown field `admin`"),
        (post("/v1/join", b"[" * 5000), 400, "JoinRequest"),
        (post("/v1/join", b"\xff"), 400, "JoinRequest"),
        (post("/v1/join", b""), 400, "JoinRequest"),
        (post("/v1/join", b"x" * 16385), 413, "larger than 16 KiB"),
        (b"POST /v1/join HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n", 413, "larger than 16 KiB"),
        (
            b"POST /v1/join HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4001\r\n" + b"x" * 0x4001,
            413,
            "larger than 16 KiB",
        ),
        (b"GET /v1/join HTTP/1.1\r\nhost: a\r\n\r\n", 404, "no GET /v1/join here"),
        (post("/v1/bundle", b""), 404, "no POST /v1/bundle"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 404, "no GET / here"),
        (b"GET /v1/bundle HTTP/1.1\nhost: a\n\n", 400, "LF without CR"),
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", 400, "RFC 9"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414, "longer than"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 9000 + b"\r\n\r\n", 431, "8192"),
    ]


@pytest.mark.parametrize(("sent", "status", "said"), refusals())
async def test_refusals_are_documents(sent: bytes, status: int, said: str, room: Room) -> None:
    found, document = read(await room.say(sent))
    assert found == status
    assert said in document["error"]


async def test_a_malformed_signing_request_is_400(room: Room) -> None:
    status, document = read(await room.say(post("/v1/sign", {"spiffe": TILL, "csr": "nonsense"}), who=NODE))
    assert (status, "PKCS #10" in document["error"]) == (400, True)
    status, document = read(
        await room.say(post("/v1/sign", {"spiffe": f"spiffe://{TD}/ns/a/sa/b", "csr": "x"}), who=NODE)
    )
    assert (status, document["error"]) == (403, "not here")


async def test_the_sixth_failing_join_of_a_minute_is_429(room: Room) -> None:
    join = post("/v1/join", {"node": "a", "token": "t", "csr": "x"})
    answer = await room.say(join * 6)
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", answer) == [b"403"] * 5 + [b"429"]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/bundle HT",
        post("/v1/join", b"x" * 100)[:-1],
        b"POST /v1/join HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5",
    ],
)
async def test_a_slow_request_is_not_waited_for(sent: bytes, room: Room, autojump_clock: MockClock) -> None:
    begin = trio.current_time()
    status, document = read(await room.say(sent, end=False))
    assert (status, document["error"]) == (408, "the request did not arrive within 10 s")
    assert trio.current_time() - begin == 10


async def test_drops_now_and_then_are_a_slow_request_too(room: Room, autojump_clock: MockClock) -> None:
    """The deadline is one for the whole request: bytes do not push it further."""
    sent = post("/v1/join", b"x" * 100)
    async with room.line(Caller("10.0.0.9")) as ours:
        for at in range(11):
            await ours.send_all(sent[at : at + 1])
            await trio.sleep(1)
        assert (await ours.receive_some(65536)).startswith(b"HTTP/1.1 408 ")


async def test_silence_and_a_cut_end_without_an_answer(room: Room, autojump_clock: MockClock) -> None:
    assert await room.say(end=False) == b""
    assert await room.say() == b""
    assert await room.say(b"GET /v1/bun") == b""
    assert (await room.say(BUNDLE, end=False)).count(b"HTTP/1.1") == 1


async def test_who_does_not_read_is_not_waited_for(room: Room, autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    blocked = trio.Event()

    async def never() -> None:
        blocked.set()
        await trio.sleep_forever()

    theirs.send_stream.send_all_hook = never
    await ours.send_all(BUNDLE)
    with pytest.raises(trio.TooSlowError):
        await converse(theirs, Caller("10.0.0.9"), room.authority)
    assert blocked.is_set()


async def test_a_folder_that_is_gone_is_503_without_our_paths(
    room: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "authority").rename(tmp_path / "gone")
    answer = await room.say(BUNDLE, end=False)
    status, document = read(answer)
    assert (status, b"connection: close" in answer) == (503, True)
    assert str(tmp_path) not in json.dumps(document)
    assert str(tmp_path) in caplog.text


async def test_a_fault_is_500_and_says_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(node: str, serial: str) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(room.authority, "bundle", fault)
    status, document = read(await room.say(BUNDLE, end=False))
    assert (status, "secret" in json.dumps(document)) == (500, False)
    assert "ZeroDivisionError" in caplog.text


async def test_no_token_in_the_log(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    token = room.token("till-4")
    answer = await room.say(
        post("/v1/join", {"node": "till-3", "token": token, "csr": request()}),
        post("/v1/join", {"node": "till-4", "token": token, "csr": "x"}),
        post("/v1/join", {"node": "till-4", "token": token, "csr": request()}),
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert token not in caplog.text and token.encode() not in answer
