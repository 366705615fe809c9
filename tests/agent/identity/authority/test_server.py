"""The authority's door over TLS: who comes with which certificate, and what the door bounds."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.identity import csr
from agent.identity.authority import authority, ca, server
from agent.identity.authority.authority import Authority
from agent.identity.authority.http import Caller
from agent.identity.authority.local import ServerCredentials
from agent.identity.authority.server import caller, serve
from agent.identity.authority.state import AuthorityState
from agent.identity.protocol import Issued, JoinRequest, SignRequest
from nodeproxy.errors import Refused
from nodeproxy.tls.contexts import Contexts
from nodeproxy.tls.credentials import Credentials, Peer, Trust
from nodeproxy.tls.handshake import connect
from policy.model import Identity

TD = "cluster.local"
TILL = f"spiffe://{TD}/node/till-3"
SHOP = f"spiffe://{TD}/ns/shop/sa/shop"
AUTHORITY = f"spiffe://{TD}/authority"


class Place:
    def __init__(self, path: Path) -> None:
        self.off = 0.0  # seconds by which the clock of the mesh was set
        self.holdings = AuthorityState(path, self.now)
        self.holdings.create(ca.make_root(TD, time.time(), 1 << 120), TD)
        self.authority = Authority(path, self.now, 3600, lambda node, spiffe: "", lambda node, identity, serial: "")
        self.contexts = Contexts()
        self.address = ("", 0)

    def now(self) -> float:
        return time.time() + self.off

    def held(self, spiffe: str = TILL, node: str = "till-3") -> Credentials:
        key = csr.new_key()
        return credentials(key, self.authority.sign(node, SignRequest(spiffe, csr.request(key, spiffe))))

    async def ask(
        self, sent: bytes, who: Credentials | None = None, trust: Trust | None = None
    ) -> tuple[int, dict[str, Any]]:
        trust = trust or self.authority.trust()
        async with await trio.open_tcp_stream(*self.address) as stream:
            secured = await connect(stream, self.contexts.client(who, trust, ()), trust, {AUTHORITY}, 10, self.now)
            with trio.fail_after(30):
                await secured.stream.send_all(sent)
                answer = b""
                while not answer.endswith(b"}\n"):
                    data = await secured.stream.receive_some(65536)
                    if not data:
                        raise trio.BrokenResourceError
                    answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body)


def credentials(key: bytes, issued: Issued) -> Credentials:
    said = csr.facts(issued.chain)
    return Credentials(said.spiffe, issued.chain.encode(), key, said.serial, said.not_before, said.not_after)


def post(path: str, document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"POST %b HTTP/1.1\r\nhost: authority\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def sign(spiffe: str) -> bytes:
    return post("/v1/sign", {"spiffe": spiffe, "csr": csr.request(csr.new_key(), "x")})


BUNDLE = b"GET /v1/bundle HTTP/1.1\r\nhost: authority\r\n\r\n"


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[None]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    place.address = listeners[0].socket.getsockname()
    own = ServerCredentials(place.authority, place.now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listeners, place.authority, own, place.authority.trust, place.now)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "authority")


async def test_a_node_joins_without_a_certificate_and_renews_with_it(place: Place) -> None:
    with place.holdings.held():
        token = place.holdings.tokens.make("till-3", 60, time.time())
    key = csr.new_key()
    async with opened(place):
        status, document = await place.ask(BUNDLE)
        assert (status, document["trust_domain"]) == (200, TD)
        status, document = await place.ask(
            post("/v1/join", {"node": "till-3", "token": token, "csr": csr.request(key, TILL)})
        )
        assert status == 200
        said = csr.facts(document["chain"])
        own = Credentials(said.spiffe, document["chain"].encode(), key, said.serial, said.not_before, said.not_after)
        for spiffe in (TILL, SHOP):
            status, document = await place.ask(sign(spiffe), own)
            assert (status, csr.facts(document["chain"]).spiffe) == (200, spiffe)
        status, _ = await place.ask(sign(f"spiffe://{TD}/node/till-4"), own)
        assert status == 403


@pytest.mark.parametrize("zeros", ["", "0", "00", "000"])
async def test_a_serial_number_may_begin_with_zeros(place: Place, monkeypatch: pytest.MonkeyPatch, zeros: str) -> None:
    """One in sixteen does. TLS gives the number without them and the ledger has it with them: the certificate is the same."""
    monkeypatch.setattr(
        authority.lineage, "serial", lambda *_: int(f"{zeros}{'ab' * 16}"[:32], 16)
    )  # as of versions before
    own = place.held()
    place.off = 30 * 86400.0  # it has ended: what the ledger knows counts
    async with opened(place):
        status, document = await place.ask(sign(TILL), own)
    assert status == 200, document


async def test_only_a_node_s_certificate_makes_a_node(place: Place) -> None:
    own = ServerCredentials(place.authority, time.time)()
    async with opened(place):
        for who in (None, place.held(SHOP), own):
            status, document = await place.ask(sign(TILL), who)
            assert (status, document["error"]) == (403, "only a node may ask for certificates, with its own")


async def test_a_certificate_of_another_root_is_turned_away(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    async with opened(place):
        with pytest.raises(Exception):  # noqa: B017 - TLS 1.3: the client hears of it with its first read
            await place.ask(BUNDLE, other.held(), place.authority.trust())
        assert (await place.ask(BUNDLE))[0] == 200


async def test_a_rotation_goes_through_the_open_door(place: Place) -> None:
    """The root changes twice under a running daemon; who believes the bundle can always speak to it."""
    from agent.identity.authority import rotation

    held = place.held()
    async with opened(place):
        for step in (rotation.add, rotation.issue, rotation.retire):
            assert (await place.ask(BUNDLE, held))[0] == 200
            with place.holdings.held():
                step(place.holdings)
            assert (await place.ask(sign(TILL), held))[0] == 200
            held = place.held()
        assert len(place.authority.bundle().roots) == 1


async def test_plain_text_and_silence_hurt_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_OF_SOURCE", 3)
    async with opened(place):
        lines = [await trio.open_tcp_stream(*place.address) for _ in range(2)]
        await lines[0].send_all(b"GET / HTTP/1.1\r\n\r\n")
        with trio.fail_after(30):
            while await receive(lines[0]):
                pass
        assert (await place.ask(BUNDLE))[0] == 200
        for line in lines:
            await line.aclose()


async def test_who_stands_in_the_door_makes_room_for_who_comes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_OF_SOURCE", 2)
    async with opened(place):
        lines = [await trio.open_tcp_stream(*place.address) for _ in range(3)]
        with trio.fail_after(30):
            assert await receive(lines[0]) == b"", "the oldest goes"
            assert (await place.ask(BUNDLE))[0] == 200
        for line in lines:
            await line.aclose()


async def test_a_node_that_has_proved_itself_makes_room_for_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_OF_SOURCE", 1)
    trust, held = place.authority.trust(), place.held()
    async with opened(place), await trio.open_tcp_stream(*place.address) as stream:
        secured = await connect(stream, place.contexts.client(held, trust, ()), trust, {AUTHORITY}, 10, time.time)
        await secured.stream.send_all(BUNDLE)
        assert await secured.stream.receive_some(65536)
        lines = [await trio.open_tcp_stream(*place.address) for _ in range(3)]
        with trio.fail_after(30):
            assert await receive(lines[0]) == b""
            await secured.stream.send_all(BUNDLE)
            assert await secured.stream.receive_some(65536)
        for line in lines:
            await line.aclose()


async def test_one_node_does_not_take_the_places_of_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_OF_NODE", 1)
    trust, held = place.authority.trust(), place.held()
    async with opened(place), await trio.open_tcp_stream(*place.address) as stream:
        secured = await connect(stream, place.contexts.client(held, trust, ()), trust, {AUTHORITY}, 10, time.time)
        await secured.stream.send_all(BUNDLE)
        assert await secured.stream.receive_some(65536)
        with pytest.raises((trio.BrokenResourceError, Refused)):
            await place.ask(BUNDLE, held)
        other = place.held(f"spiffe://{TD}/node/till-4", "till-4")
        assert (await place.ask(BUNDLE, other))[0] == 200


async def test_a_door_without_a_folder_is_shut_and_opens_again(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = place.authority.trust()
    async with opened(place):
        (tmp_path / "authority").rename(tmp_path / "gone")
        for _ in range(2):
            line = await trio.open_tcp_stream(*place.address)
            with trio.fail_after(30):
                assert await receive(line) == b""
            await line.aclose()
        assert caplog.text.count("the authority's door is shut") == 1
        (tmp_path / "gone").rename(tmp_path / "authority")
        assert (await place.ask(BUNDLE, trust=trust))[0] == 200


async def receive(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some(65536))
    except trio.BrokenResourceError:
        return b""


def test_who_is_a_node() -> None:
    trust = Trust(TD, b"")

    def peer(spiffe: str, node: str, identity: Identity | None = None) -> Peer:
        return Peer(spiffe, identity, node, "0a", 2000.0, "TLSv1.3", "x", "", 1000.0)

    assert caller("a", peer(TILL, "till-3"), trust, 1500.0).node == "till-3"
    assert caller("a", peer(TILL, "till-4"), trust, 1500.0).node == ""
    assert caller("a", peer(SHOP, "till-3", Identity("shop", "shop")), trust, 1500.0).node == ""
    assert caller("a", peer(AUTHORITY, ""), trust, 1500.0).node == ""
    assert caller("a", peer(f"spiffe://{TD}/node/", ""), trust, 1500.0).node == ""
    assert caller("a", peer("spiffe://b.example/node/till-3", "till-3"), trust, 1500.0).node == ""
    assert caller("a", None, trust, 1500.0) == Caller("a")


@pytest.mark.parametrize(("now", "holds"), [(699, False), (700, True), (2300, True), (2301, False)])
def test_whether_a_node_s_certificate_holds_now_is_told_with_it(now: float, holds: bool) -> None:
    peer = Peer(TILL, None, "till-3", "0a", 2000.0, "TLSv1.3", "x", "", 1000.0)
    assert caller("a", peer, Trust(TD, b"", 300.0), now) == Caller("a", "till-3", "0a", holds)


def test_join_requests_show_no_token() -> None:
    assert "secret" not in repr(JoinRequest("a", "secret", "x"))
