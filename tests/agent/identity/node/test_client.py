"""The authority from afar: over real TLS to the real door, and to servers that answer nonsense."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.authority import Authority
from agent.identity.authority.local import ServerCredentials
from agent.identity.authority.server import serve
from agent.identity.authority.state import AuthorityState
from agent.identity.node import client
from agent.identity.node.client import Address, RemoteSigner, WrongRoots, join, read_address
from agent.identity.node.clock import Clock
from agent.identity.node.manager import CertificateManager
from agent.identity.node.store import IdentityStore
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle, Refusal
from nodeproxy.tls.contexts import Contexts
from nodeproxy.tls.credentials import Credentials, NoIdentities, Trust
from nodeproxy.tls.handshake import accept
from policy.model import Identity
from tests.ports import free_port

TD = "cluster.local"
NODE = f"spiffe://{TD}/node/till-3"
SHOP = f"spiffe://{TD}/ns/shop/sa/shop"
SHOP_IDENTITY = Identity("shop", "shop")
DAY = 86400.0


class Mesh:
    """A real authority behind its real door, and what a node holds (as its keeper shows it)."""

    def __init__(self, path: Path) -> None:
        self.holdings = AuthorityState(path, time.time)
        self.holdings.create(ca.make_root(TD, time.time() - DAY, 1 << 120), TD)
        self.authority = Authority(path, time.time, 14 * DAY, self._allowed, lambda node, identity, serial: "")
        self.address = Address("", 0)
        self.credentials: Credentials | None = None
        self.roots: Trust | None = None
        self.clock = Clock(300.0)

    def _allowed(self, node: str, spiffe: str) -> str:
        return "" if spiffe == SHOP else "no workload of till-3 is that"

    def token(self, node: str = "till-3", seconds: float = 60.0) -> str:
        with self.holdings.held():
            return f"{self.holdings.tokens.make(node, seconds, time.time())}.{self.holdings.issuer.fingerprint}"

    def trust(self) -> Trust | None:
        return self.roots

    def proof(self) -> Credentials | None:
        return self.credentials

    async def join(self, token: str = "") -> None:
        pair, bundle = await join(self.address, "till-3", token or self.token(), self.clock)
        self.credentials = pair.credentials
        self.roots = Trust(bundle.trust_domain, "".join(bundle.roots).encode())

    def signer(self, clock: Clock | None = None) -> RemoteSigner:
        return RemoteSigner(self.address, self, clock or self.clock)


@asynccontextmanager
async def listening(handle: Callable[[trio.SocketStream], Any]) -> AsyncIterator[Address]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.fixture
async def mesh(tmp_path: Path, nursery: trio.Nursery) -> Mesh:
    mesh = Mesh(tmp_path / "authority")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    mesh.address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
    nursery.start_soon(
        serve, listeners, mesh.authority, ServerCredentials(mesh.authority, time.time), mesh.authority.trust, time.time
    )
    return mesh


async def test_a_node_joins_renews_and_asks_for_its_workloads(mesh: Mesh) -> None:
    await mesh.join()
    assert mesh.credentials is not None
    assert mesh.credentials.spiffe == NODE
    signer = mesh.signer()
    assert (await signer.bundle()).trust_domain == TD
    for spiffe in (NODE, SHOP):
        key = csr.new_key()
        issued = await signer.sign(spiffe, csr.request(key, spiffe))
        csr.check(issued.chain, key, spiffe, issued.bundle.roots[0], time.time())
        assert csr.facts(issued.chain).node == "till-3"
    with pytest.raises(AuthorityRefused, match="no workload of till-3 is that") as caught:
        await signer.sign(f"spiffe://{TD}/ns/shop/sa/thief", csr.request(key, "x"))
    assert caught.value.hint


async def test_a_token_is_good_once(mesh: Mesh) -> None:
    token = mesh.token()
    await mesh.join(token)
    with pytest.raises(AuthorityRefused, match="the token is not good for this node") as caught:
        await mesh.join(token)
    assert "edgemesh ca token" in caught.value.hint
    assert token.partition(".")[0] not in str(caught.value)


@pytest.mark.parametrize("token", ["", "secret", "secret.", ".".join(("secret", "ab"))])
async def test_what_is_no_token_is_not_sent_to_anybody(token: str) -> None:
    with pytest.raises(AuthorityRefused, match="this is no token"):
        await join(Address("127.0.0.1", 1), "till-3", token, Clock(300.0))


async def test_a_root_that_is_not_the_pinned_one_gets_no_token(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    exchange = client._exchange

    async def noting(*args: Any) -> Any:
        asked.append(args[5])
        return await exchange(*args)

    monkeypatch.setattr(client, "_exchange", noting)
    with pytest.raises(WrongRoots, match="has not the root that the token names"):
        await mesh.join(f"{mesh.token().partition('.')[0]}.{'0' * 64}")
    assert asked == ["GET /v1/bundle"]


@pytest.mark.parametrize("adds_his_own", [False, True])
async def test_somebody_who_shows_our_root_but_cannot_prove_it_gets_no_token(
    mesh: Mesh, tmp_path: Path, adds_his_own: bool
) -> None:
    """Roots are public: who relays the bundle, with or without a root of his own beside it, still has no certificate under ours."""
    bundle = mesh.authority.bundle()
    other = Mesh(tmp_path / "other")
    if adds_his_own:
        bundle = msgspec.structs.replace(bundle, roots=(*bundle.roots, *other.authority.bundle().roots))
    own = ServerCredentials(other.authority, time.time)()
    heard: list[bytes] = []

    async def lie(stream: trio.SocketStream) -> None:
        context = Contexts().server(own, other.authority.trust(), (), client_certificate=False)
        try:
            secured = await accept(stream, context, other.authority.trust(), 5, time.time)
            heard.append(await secured.stream.receive_some(65536))
            await secured.stream.send_all(answer(200, bundle))
        except (client.Refused, trio.BrokenResourceError):
            return

    async with listening(lie) as address:
        with pytest.raises(AuthorityUnreachable, match="peer-untrusted"):
            await join(address, "till-3", mesh.token(), Clock(300.0))
    assert len(heard) == 1
    assert heard[0].startswith(b"GET /v1/bundle ")


async def test_a_workload_of_the_mesh_is_not_the_authority(mesh: Mesh) -> None:
    await mesh.join()
    held = mesh.credentials
    assert held is not None

    async def pretend(stream: trio.SocketStream) -> None:
        trust = mesh.authority.trust()
        try:
            await accept(stream, Contexts().server(held, trust, (), client_certificate=False), trust, 5, time.time)
            await stream.receive_some()
        except (client.Refused, trio.BrokenResourceError):
            return

    async with listening(pretend) as address:
        mesh.address = address
        with pytest.raises(AuthorityUnreachable, match=r"peer-unexpected.*node/till-3"):
            await mesh.signer().bundle()


async def test_without_a_certificate_or_roots_nobody_is_asked(mesh: Mesh) -> None:
    with pytest.raises(AuthorityRefused, match="no certificate of its own"):
        await mesh.signer().sign(SHOP, "csr")
    with pytest.raises(AuthorityUnreachable, match="no roots"):
        await mesh.signer().bundle()


async def test_nobody_answers() -> None:
    port = free_port()
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(AuthorityUnreachable, match=f"{host}:{port} cannot be reached: Connection refused$"):
            await join(Address(host, port), "till-3", f"secret.{'0' * 64}", Clock(300.0))


async def test_silence_has_an_end(autojump_clock: MockClock) -> None:
    async def dial(host: str, port: int) -> Any:
        await trio.sleep_forever()

    began = trio.current_time()
    with pytest.raises(AuthorityUnreachable, match="did not answer within 15 s"):
        await join(Address("a", 1), "till-3", f"secret.{'0' * 64}", Clock(300.0), dial)
    assert trio.current_time() - began == 15


async def test_plain_text_is_not_the_authority() -> None:
    async def hello(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(hello) as address:
        with pytest.raises(AuthorityUnreachable, match="tls-failed"):
            await join(address, "till-3", f"secret.{'0' * 64}", Clock(300.0))


def answer(status: int, document: Any) -> bytes:
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


ANSWERS: dict[str, tuple[bytes, type[Exception], str]] = {
    "refusal": (answer(403, Refusal("revoked", "lift it")), AuthorityRefused, "^revoked$"),
    "flood": (answer(429, Refusal("too many")), AuthorityRefused, "^too many$"),
    "trouble": (answer(503, Refusal("its folder is gone")), AuthorityUnreachable, "is in trouble: its folder is gone"),
    "no json": (answer(200, b"<html>"), AuthorityUnreachable, r"answers \(200\) makes no sense"),
    "no refusal": (answer(404, b"[]"), AuthorityUnreachable, r"answers \(404\) makes no sense"),
    "no http": (b"220 smtp\r\n\r\n", AuthorityUnreachable, "broke HTTP/1.1"),
    "half": (
        answer(200, b"{}" * 50)[:-1],
        AuthorityUnreachable,
        "cannot be reached: the connection ended in the middle",
    ),
    "huge": (answer(200, b" " * 70_000), AuthorityUnreachable, "larger than 64 KiB"),
    "endless head": (b"HTTP/1.1 200 X\r\n" + b"a: b\r\n" * 5000, AuthorityUnreachable, "larger than 8192 bytes"),
    "nothing": (b"", AuthorityUnreachable, "cannot be reached"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_the_authority_may_answer(mesh: Mesh, name: str) -> None:
    sent, kind, words = ANSWERS[name]
    await mesh.join()
    own = ServerCredentials(mesh.authority, time.time)()
    trust = mesh.authority.trust()

    async def say(stream: trio.SocketStream) -> None:
        secured = await accept(stream, Contexts().server(own, trust, ()), trust, 5, time.time)
        assert b"connection: close" in await secured.stream.receive_some(65536)
        try:
            await secured.stream.send_all(sent)
        except trio.BrokenResourceError:
            return
        secured.stream.close()

    async with listening(say) as address:
        mesh.address = address
        with pytest.raises(kind, match=words):
            await mesh.signer().sign(SHOP, "csr")


async def test_what_comes_before_the_answer_is_skipped_and_chunks_are_read(mesh: Mesh) -> None:
    await mesh.join()
    own, trust = ServerCredentials(mesh.authority, time.time)(), mesh.authority.trust()
    body = msgspec.json.encode(mesh.authority.bundle())

    async def say(stream: trio.SocketStream) -> None:
        secured = await accept(stream, Contexts().server(own, trust, ()), trust, 5, time.time)
        await secured.stream.receive_some(65536)
        for piece in (
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        ):
            await secured.stream.send_all(piece)

    async with listening(say) as address:
        mesh.address = address
        assert isinstance(await mesh.signer().bundle(), Bundle)


@pytest.mark.parametrize("slow", [-400 * DAY, -20 * DAY, -DAY])
async def test_an_authority_whose_certificate_begins_later_than_now_proves_that_it_is_later(
    mesh: Mesh, slow: float
) -> None:
    await mesh.join()
    clock = Clock(300.0, wall=lambda: time.time() + slow)
    clock.heard((await mesh.signer(clock).bundle()).now)
    assert clock.now() == pytest.approx(time.time(), abs=60)


async def test_that_it_is_earlier_is_believed_where_our_own_clock_says_the_same(mesh: Mesh) -> None:
    """All clocks of a site were set back; what we took for the past is not past."""
    await mesh.join()
    clock = Clock(300.0)
    clock.at_least(time.time() + 400 * DAY, "the authority said so")
    clock.heard((await mesh.signer(clock).bundle()).now)
    assert clock.now() == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize("fast", [20 * DAY, 400 * DAY])
async def test_that_it_is_earlier_is_not_believed_of_somebody_who_shows_a_certificate_that_has_ended(
    mesh: Mesh, fast: float
) -> None:
    """Whoever found an old key of the authority could turn back the time with it, and make old certificates good again."""
    await mesh.join()
    clock = Clock(300.0, wall=lambda: time.time() + fast)
    for ask in (mesh.signer(clock).bundle, lambda: mesh.signer(clock).sign(f"spiffe://{TD}/ns/shop/sa/thief", "csr")):
        with pytest.raises(AuthorityUnreachable, match="set the clock that is wrong"):
            await ask()
    assert clock.ahead is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("boss:15012", Address("boss", 15012)),
        ("10.0.0.1:1", Address("10.0.0.1", 1)),
        ("[fe80::1%eth0]:65535", Address("fe80::1%eth0", 65535)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert read_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "boss",
        "boss:",
        ":1",
        "boss:0",
        "boss:65536",
        "::1:80",
        "[boss]:80",
        "boss\r\nx: y:80",
        "http://boss:80",
        "boss:+1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is no HOST:PORT"):
        read_address(text)


def test_a_signer_shows_no_secret() -> None:
    assert repr(RemoteSigner(Address("::1", 5), NoIdentities(), Clock(300.0))) == "<RemoteSigner [::1]:5>"


async def test_a_keeper_lives_on_it(mesh: Mesh, tmp_path: Path, nursery: trio.Nursery) -> None:
    """A whole node: it joins, keeps what it was given, starts, and gets what its workload needs over mTLS."""
    pair, bundle = await join(mesh.address, "till-3", mesh.token(), mesh.clock)
    vault = IdentityStore(tmp_path / "state")
    vault.open()
    vault.keep_bundle(bundle)
    vault.keep(pair)
    keeper = CertificateManager(vault, "till-3", mesh.clock)
    keeper.load()
    assert keeper.node() == pair.credentials
    keeper.want([SHOP_IDENTITY, Identity("shop", "thief")])
    nursery.start_soon(keeper.run, RemoteSigner(mesh.address, keeper, mesh.clock))
    with trio.fail_after(30):
        while keeper.of(SHOP_IDENTITY) is None or not keeper.holdings[Identity("shop", "thief")].standing.error:
            await trio.sleep(0.01)
    held, trust = keeper.of(SHOP_IDENTITY), keeper.trust()
    assert held is not None
    assert trust is not None
    csr.check(held.chain, held.key, SHOP, trust.roots, time.time())
    assert keeper.holdings[Identity("shop", "thief")].standing.error == "no workload of till-3 is that"
    with trio.fail_after(30):
        while not list((tmp_path / "state/identity").glob("shop.shop-*.pair")):
            await trio.sleep(0.01)
