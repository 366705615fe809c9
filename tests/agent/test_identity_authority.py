"""Who gets which certificate: tokens, policy, revocations, bounds; and that no secret is where people look."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.identity import ca, csr
from agent.identity.attempts import Attempts
from agent.identity.authority import Authority, Exhausted, Malformed, is_node_name, is_trust_domain, workload_of
from agent.identity.folder import FolderError
from agent.identity.holdings import Holdings
from agent.identity.near import DoorCredentials, NearSigner
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Issued, JoinRequest, SignRequest
from agent.identity.tokens import OUTSTANDING, TooMany
from policy.model import Identity

START = 1_800_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR
TD = "cluster.local"
TILL = f"spiffe://{TD}/node/till-3"
SHOP = f"spiffe://{TD}/ns/shop/sa/shop"


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Mesh:
    """An authority with the policy, revocations and clocks that a test sets."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.monotonic = Clock()
        self.placed = {("till-3", SHOP)}
        self.revoked: set[object] = set()
        self.holdings = Holdings(path, self.clock)
        self.holdings.create(ca.make_root(TD, START, 1 << 120), TD)
        self.authority = self.open()

    def open(self) -> Authority:
        attempts = Attempts(5, 60, self.monotonic)
        return Authority(self.holdings.folder.path, self.clock, DAY, self.allowed, self.refused, attempts)

    def allowed(self, node: str, spiffe: str) -> str:
        return "" if (node, spiffe) in self.placed else f"{spiffe} does not run on {node}"

    def refused(self, node: str, identity: Identity | None, serial: str) -> str:
        found = {node, identity, serial} & self.revoked
        return f"{found.pop()} is revoked" if found else ""

    def token(self, node: str = "till-3", seconds: float = HOUR) -> str:
        with self.holdings.held():
            return self.holdings.tokens.make(node, seconds, self.clock())

    def join(self, token: str, node: str = "till-3", source: str = "10.0.0.9") -> Issued:
        return self.authority.join(JoinRequest(node, token, request()), source)

    def sign(self, spiffe: str, node: str = "till-3", **more: str) -> Issued:
        return self.authority.sign(node, SignRequest(spiffe, request()), **more)


def request() -> str:
    return csr.request(csr.new_key(), "spiffe://whatever")


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path / "authority")


# joins


def test_a_token_enrols_its_node(mesh: Mesh) -> None:
    key = csr.new_key()
    issued = mesh.authority.join(JoinRequest("till-3", mesh.token(), csr.request(key, TILL)))
    assert issued.bundle == mesh.authority.bundle()
    assert issued.bundle.issuer == csr.fingerprint(issued.bundle.roots[0])
    csr.check(issued.chain, key, TILL, "".join(issued.bundle.roots), START)
    assert csr.facts(issued.chain).node == "till-3"
    assert csr.facts(issued.chain).not_after == START + DAY


def test_the_whole_word_that_people_copy_is_a_token(mesh: Mesh) -> None:
    mesh.join(f" {mesh.token()}.{'ab' * 32}\n")


def wrong_tokens(mesh: Mesh) -> list[Callable[[], Issued]]:
    used, expired, other, early = mesh.token(), mesh.token(seconds=10), mesh.token("till-4"), mesh.token()
    mesh.join(used)
    mesh.clock.now += 10
    return [
        lambda: mesh.join("unknown"),
        lambda: mesh.join(""),
        lambda: mesh.join(used),
        lambda: mesh.join(expired),
        lambda: mesh.join(other),
        lambda: early_join(mesh, early),
    ]


def early_join(mesh: Mesh, token: str) -> Issued:
    """The clock was set back: a token must not live longer for that."""
    mesh.clock.now = START - 301
    return mesh.join(token)


def test_every_wrong_token_is_refused_in_the_same_words(mesh: Mesh) -> None:
    said = set()
    for number, attempt in enumerate(wrong_tokens(mesh)):
        mesh.monotonic.now += 60
        with pytest.raises(AuthorityRefused) as caught:
            attempt()
        said.add((type(caught.value), caught.value.error, caught.value.hint))
        assert len(said) == 1, number


def test_a_token_stays_used_in_another_process(mesh: Mesh) -> None:
    token = mesh.token()
    mesh.join(token)
    with pytest.raises(AuthorityRefused, match="not good"):
        mesh.open().join(JoinRequest("till-3", token, request()))


def test_of_many_at_once_one_token_enrols_one(mesh: Mesh) -> None:
    """Two authorities on one folder, as two processes have: the lock is between them and between threads."""
    token = mesh.token()
    ours = [mesh.authority, mesh.open()]

    def attempt(number: int) -> bool:
        try:
            ours[number % 2].join(JoinRequest("till-3", token, request()), f"10.0.3.{number}")
        except AuthorityRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_a_bad_request_does_not_use_the_token_up(mesh: Mesh) -> None:
    token = mesh.token()
    with pytest.raises(Malformed, match="PKCS #10"):
        mesh.authority.join(JoinRequest("till-3", token, "nonsense"))
    with pytest.raises(Malformed, match="larger than 8 KiB"):
        mesh.authority.join(JoinRequest("till-3", token, "x" * 9000))
    mesh.join(token)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\n", "ä", "x" * 254, "Till-3", "till_3", "-a", "a."])
def test_a_node_name_is_one_segment_of_a_path(name: str, mesh: Mesh) -> None:
    assert not is_node_name(name)
    with pytest.raises(Malformed, match="no name of a node"):
        mesh.join(mesh.token(name), name)


def test_a_revoked_node_does_not_join(mesh: Mesh) -> None:
    mesh.revoked = {"till-3"}
    token = mesh.token()
    with pytest.raises(AuthorityRefused, match="till-3 is revoked"):
        mesh.join(token)
    mesh.revoked = set()
    mesh.join(token)


def test_failing_joins_of_one_address_are_bounded(mesh: Mesh) -> None:
    token = mesh.token()
    for _ in range(5):
        with pytest.raises(AuthorityRefused, match="not good"):
            mesh.join("wrong")
    with pytest.raises(Exhausted):
        mesh.join(token)
    with pytest.raises(AuthorityRefused, match="not good"):
        mesh.join("wrong", source="10.0.0.8")
    mesh.clock.now -= 5 * HOUR  # the wall clock has no say
    with pytest.raises(Exhausted):
        mesh.join(token)
    mesh.clock.now = START
    mesh.monotonic.now += 60
    mesh.join(token)


def test_an_ipv6_source_is_a_64(mesh: Mesh) -> None:
    for host in range(5):
        with pytest.raises(AuthorityRefused, match="not good"):
            mesh.join("wrong", source=f"2001:db8::{host}")
    with pytest.raises(Exhausted):
        mesh.join("wrong", source="2001:db8::ffff:1")
    with pytest.raises(AuthorityRefused, match="not good"):
        mesh.join("wrong", source="2001:db8:0:1::1")


def test_failing_joins_of_all_are_bounded_but_the_right_token_passes(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    for host in range(60):
        with pytest.raises(AuthorityRefused, match="not good"):
            mesh.join("wrong", source=f"10.0.1.{host}")
    caplog.clear()
    with pytest.raises(Exhausted):
        mesh.join("wrong", source="10.0.2.1")
    assert not caplog.records
    mesh.join(mesh.token(), source="10.0.2.2")


def test_the_number_of_tokens_is_bounded_and_ended_ones_make_room(mesh: Mesh) -> None:
    for _ in range(OUTSTANDING):
        mesh.token(seconds=10)
    with pytest.raises(TooMany, match="64 tokens are outstanding"):
        mesh.token()
    mesh.clock.now += 10
    mesh.token()
    with mesh.holdings.held():
        assert mesh.holdings.tokens.outstanding(mesh.clock.now) == [("till-3", mesh.clock.now + HOUR)]


# renewals and workloads


def test_a_node_gets_its_own_certificate_and_those_of_its_workloads(mesh: Mesh) -> None:
    for spiffe in (TILL, SHOP):
        said = csr.facts(mesh.sign(spiffe).chain)
        assert (said.spiffe, said.node) == (spiffe, "till-3")


@pytest.mark.parametrize(
    "spiffe",
    [
        f"spiffe://{TD}/node/till-4",
        f"spiffe://{TD}/authority",
        f"spiffe://{TD}/node/till-3/",
        f"spiffe://{TD}/node/till-3\n",
        f"spiffe://{TD}/ns/shop/sa/../../../node/till-4",
        f"spiffe://{TD}/ns/../sa/shop",
        f"spiffe://{TD}/ns/shop/sa/shop?x",
        "spiffe://other.example/ns/shop/sa/shop",
        "SPIFFE://cluster.local/ns/shop/sa/shop",
        "https://cluster.local/ns/shop/sa/shop",
        "",
        "\0",
    ],
)
def test_a_node_gets_no_other_name(spiffe: str, mesh: Mesh) -> None:
    mesh.placed.add(("till-3", spiffe))
    with pytest.raises(AuthorityRefused, match="neither node till-3 itself nor a workload of"):
        mesh.sign(spiffe)


def test_a_workload_of_another_node_is_refused(mesh: Mesh) -> None:
    with pytest.raises(AuthorityRefused, match="does not run on till-4"):
        mesh.sign(SHOP, "till-4")
    with pytest.raises(AuthorityRefused, match="only a node"):
        mesh.sign(SHOP, "")


@pytest.mark.parametrize("revoked", ["till-3", Identity("shop", "shop"), "0a0b"])
def test_who_is_revoked_gets_nothing(revoked: object, mesh: Mesh) -> None:
    mesh.revoked = {revoked}
    with pytest.raises(AuthorityRefused, match="is revoked"):
        mesh.sign(SHOP, serial="0a0b")
    if isinstance(revoked, Identity):
        mesh.sign(TILL, serial="0a0b")
    else:
        with pytest.raises(AuthorityRefused, match="is revoked"):
            mesh.sign(TILL, serial="0a0b")


def test_who_proved_nothing_is_bounded_and_a_node_is_not(mesh: Mesh) -> None:
    for _ in range(5):
        with pytest.raises(AuthorityRefused, match="only a node"):
            mesh.sign(SHOP, "", source="10.0.0.9")
    with pytest.raises(Exhausted):
        mesh.sign(SHOP, "", source="10.0.0.9")
    for _ in range(100):
        with pytest.raises(AuthorityRefused, match="does not run"):
            mesh.sign(SHOP, "till-4", source="10.0.0.9")
    mesh.sign(SHOP, source="10.0.0.9")


def test_names() -> None:
    assert workload_of(SHOP, TD) == Identity("shop", "shop")
    assert workload_of(SHOP, "other.example") is None
    assert is_trust_domain("a-b_c.d1") and not is_trust_domain("A") and not is_trust_domain("")


# clocks


def test_a_clock_before_the_root_signs_nothing_and_says_why(mesh: Mesh) -> None:
    mesh.clock.now = 0.0  # no battery
    with pytest.raises(FolderError, match=r"cannot sign: .* valid from .* our clock says 1970-01-01"):
        mesh.sign(TILL)
    mesh.clock.now = START
    mesh.sign(TILL)


def test_a_clock_that_jumps_ahead_and_back(mesh: Mesh) -> None:
    mesh.clock.now += 400 * DAY
    mesh.sign(TILL)
    mesh.clock.now = START
    assert csr.facts(mesh.sign(TILL).chain).not_after == START + DAY


# what people see


def test_refusals_are_logged_once_without_the_token(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    secret = mesh.token("till-4")
    with pytest.raises(AuthorityRefused) as caught:
        mesh.join(secret, "till-3\nforged line")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == r"a join as node 'till-3\nforged line' from 10.0.0.9 was refused: the token is not good for this node"
    assert secret not in str(caught.value) + caught.value.hint
    caplog.clear()
    with pytest.raises(AuthorityRefused):
        mesh.sign(SHOP, "till-4")
    (record,) = caplog.records
    assert "till-4" in record.getMessage() and SHOP in record.getMessage()


def test_no_secret_in_any_repr_or_file_of_tokens(mesh: Mesh) -> None:
    secret = mesh.token()
    join = JoinRequest("till-3", secret, "x")
    door = DoorCredentials(mesh.authority, mesh.clock)
    shown = " ".join(map(repr, (mesh.authority, mesh.holdings, mesh.holdings.tokens, mesh.holdings.issuer, join, door, door())))
    assert secret not in shown and "PRIVATE" not in shown
    assert secret.encode() not in b"".join(path.read_bytes() for path in mesh.holdings.folder.path.iterdir() if path.is_file())


# inside one process


async def test_near_signer(mesh: Mesh) -> None:
    signer = NearSigner(mesh.authority, "till-3")
    assert csr.facts((await signer.sign(SHOP, request())).chain).spiffe == SHOP
    assert (await signer.bundle()).trust_domain == TD
    with pytest.raises(AuthorityRefused):
        await signer.sign(f"spiffe://{TD}/node/till-4", request())
    mesh.holdings.folder.path.rename(mesh.holdings.folder.path.with_name("gone"))
    with pytest.raises(AuthorityUnreachable, match="there is no authority"):
        await signer.sign(SHOP, request())
    with pytest.raises(AuthorityUnreachable, match="there is no authority"):
        await signer.bundle()


def test_the_door_s_own_certificate(mesh: Mesh) -> None:
    door = DoorCredentials(mesh.authority, mesh.clock)
    first = door()
    csr.check(first.chain, first.key, f"spiffe://{TD}/authority", mesh.authority.trust().roots, START)
    assert csr.facts(first.chain).node == ""  # it is no node: it may ask for nothing
    assert door() is first
    mesh.clock.now += DAY / 2
    second = door()
    assert second.serial != first.serial
    mesh.clock.now = START  # set back to before it was made
    assert door() is not second
