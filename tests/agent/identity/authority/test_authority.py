"""Who gets which certificate: tokens, policy, revocations, bounds; and that no secret is where people look."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.authority import (
    Authority,
    Exhausted,
    Malformed,
    is_node_name,
    is_trust_domain,
    workload_of,
)
from agent.identity.authority.local import LocalSigner, ServerCredentials
from agent.identity.authority.rate_limit import FailureLimit
from agent.identity.authority.state import AuthorityState
from agent.identity.authority.tokens import OUTSTANDING, TooMany
from agent.identity.folder import FolderError
from agent.identity.node import clock
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Issued, JoinRequest, SignRequest
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
        self.holdings = AuthorityState(path, self.clock)
        self.holdings.create(ca.make_root(TD, START, 1 << 120), TD)
        self.authority = self.open()

    def open(self) -> Authority:
        attempts = FailureLimit(5, 60, self.monotonic)
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

    def sign(self, spiffe: str, node: str = "till-3", **more: Any) -> Issued:
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


def test_a_token_is_used_up_before_anything_is_answered_or_noted(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills in between must not leave a token that enrols a second box."""
    token = mesh.token()

    def full(*_: object) -> None:
        raise FolderError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(mesh.authority._holdings.ledger, "record", full)
        with pytest.raises(FolderError):
            mesh.join(token)
    with pytest.raises(AuthorityRefused, match="not good for this node"):
        mesh.join(token)


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


def test_failing_joins_of_all_are_bounded_but_the_right_token_passes(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
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


def test_a_clock_that_is_set_while_it_answers_gives_a_certificate_and_the_time_by_one_clock(mesh: Mesh) -> None:
    """The node refuses a certificate that begins after what the same answer says is now."""
    mesh.join(mesh.token())
    looks = itertools.count()
    mesh.authority._clock = lambda: START if next(looks) else START + 400 * DAY
    issued = mesh.sign(TILL)
    assert csr.facts(issued.chain).not_before <= issued.bundle.now == START + 400 * DAY


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
    assert (
        record.getMessage()
        == r"a join as node 'till-3\nforged line' from 10.0.0.9 was refused: the token is not good for this node"
    )
    assert secret not in str(caught.value) + caught.value.hint
    caplog.clear()
    with pytest.raises(AuthorityRefused):
        mesh.sign(SHOP, "till-4")
    (record,) = caplog.records
    assert "till-4" in record.getMessage() and SHOP in record.getMessage()


def test_no_secret_in_any_repr_or_file_of_tokens(mesh: Mesh) -> None:
    secret = mesh.token()
    join = JoinRequest("till-3", secret, "x")
    door = ServerCredentials(mesh.authority, mesh.clock)
    shown = " ".join(
        map(repr, (mesh.authority, mesh.holdings, mesh.holdings.tokens, mesh.holdings.issuer, join, door, door()))
    )
    assert secret not in shown and "PRIVATE" not in shown
    assert secret.encode() not in b"".join(
        path.read_bytes() for path in mesh.holdings.folder.path.iterdir() if path.is_file()
    )


# certificates that do not hold now


def serial_of(issued: Issued) -> str:
    return csr.facts(issued.chain).serial


def test_a_node_may_renew_with_the_last_certificate_that_it_has_though_it_has_ended(mesh: Mesh) -> None:
    """It was off for a month; the door has seen that it holds the key."""
    joined = mesh.join(mesh.token())
    mesh.clock.now += 30 * DAY
    renewed = mesh.sign(TILL, serial=serial_of(joined), holds=False)
    assert csr.facts(renewed.chain).not_after == mesh.clock.now + DAY
    mesh.sign(SHOP, serial=serial_of(renewed))


def test_with_one_that_does_not_hold_it_gets_nothing_but_its_own_next_one(mesh: Mesh) -> None:
    joined = mesh.join(mesh.token())
    mesh.clock.now += 30 * DAY
    for spiffe in (SHOP, f"spiffe://{TD}/node/till-4"):
        with pytest.raises(AuthorityRefused, match="does not hold now"):
            mesh.sign(spiffe, serial=serial_of(joined), holds=False)


def test_a_copy_of_what_the_node_has_left_behind_renews_nothing(mesh: Mesh) -> None:
    first = mesh.join(mesh.token())
    second = mesh.sign(TILL, serial=serial_of(first))
    third = mesh.sign(TILL, serial=serial_of(second))
    mesh.clock.now += 30 * DAY
    with pytest.raises(AuthorityRefused, match="is older than one that the node has shown here") as caught:
        mesh.sign(TILL, serial=serial_of(first), holds=False)
    assert "join --again" in caught.value.hint
    mesh.sign(TILL, serial=serial_of(third), holds=False)


def test_an_answer_that_was_lost_many_times_leaves_the_node_the_certificate_that_it_has(mesh: Mesh) -> None:
    joined = mesh.join(mesh.token())
    for _ in range(20):
        mesh.sign(TILL, serial=serial_of(joined))
    mesh.clock.now += 30 * DAY
    mesh.authority = mesh.open()  # and what the ledger forgets meanwhile
    mesh.sign(TILL, serial=serial_of(joined), holds=False)
    mesh.sign(TILL, serial=serial_of(joined), holds=False)


def test_a_node_that_was_enrolled_anew_is_another_box(mesh: Mesh) -> None:
    old = mesh.join(mesh.token())
    mesh.join(mesh.token())
    mesh.clock.now += 30 * DAY
    with pytest.raises(AuthorityRefused, match="older than one that the node has shown here, or was not issued here"):
        mesh.sign(TILL, serial=serial_of(old), holds=False)


@pytest.mark.parametrize("serial", ["", "0a"])
def test_what_the_ledger_does_not_know_renews_nothing(mesh: Mesh, serial: str) -> None:
    mesh.sign(TILL)  # asked for from inside, with no certificate
    with pytest.raises(AuthorityRefused, match="older than one that the node has shown here, or was not issued here"):
        mesh.sign(TILL, serial=serial, holds=False)


def test_who_is_revoked_does_not_renew_what_has_ended(mesh: Mesh) -> None:
    joined = mesh.join(mesh.token())
    mesh.clock.now += 30 * DAY
    for who in ("till-3", serial_of(joined)):
        mesh.revoked = {who}
        with pytest.raises(AuthorityRefused, match="is revoked"):
            mesh.sign(TILL, serial=serial_of(joined), holds=False)


def test_failures_of_certificates_that_have_ended_are_bounded_as_those_of_strangers(mesh: Mesh) -> None:
    mesh.join(mesh.token())
    for _ in range(5):
        with pytest.raises(AuthorityRefused):
            mesh.sign(TILL, serial="0a", source="10.0.0.9", holds=False)
    with pytest.raises(Exhausted):
        mesh.sign(TILL, serial="0a", source="10.0.0.9", holds=False)


def test_failures_of_a_copy_do_not_keep_the_node_from_renewing(mesh: Mesh) -> None:
    """Nor those of other nodes, which may have the same address."""
    first = mesh.join(mesh.token())
    second = mesh.sign(TILL, serial=serial_of(first))
    mesh.authority.bundle("till-3", serial_of(second))
    for _ in range(5):
        with pytest.raises(AuthorityRefused):
            mesh.sign(TILL, serial=serial_of(first), source="10.0.0.9", holds=False)
    with pytest.raises(Exhausted, match="with your certificate"):
        mesh.sign(TILL, serial=serial_of(first), source="10.0.0.9", holds=False)
    mesh.sign(TILL, serial=serial_of(second), source="10.0.0.9", holds=False)


# answers that are lost, requests that overtake one another, and what a ledger does not know any more


def ended(mesh: Mesh) -> None:
    mesh.clock.now += 30 * DAY


def test_a_request_that_was_given_up_is_decided_after_the_one_that_was_sent_instead(mesh: Mesh) -> None:
    """The client waited for 15 s, asked again, and has that answer; then a thread gets to the first one."""
    first = mesh.join(mesh.token())
    held = mesh.sign(TILL, serial=serial_of(first))
    mesh.sign(TILL, serial=serial_of(first))  # the late one: nobody waits for its answer
    ended(mesh)
    renewed = mesh.sign(TILL, serial=serial_of(held), holds=False)
    with pytest.raises(AuthorityRefused, match="older than one"):
        mesh.sign(TILL, serial=serial_of(first), holds=False)
    mesh.sign(TILL, serial=serial_of(renewed), holds=False)


def test_a_certificate_that_the_node_has_shown_leaves_the_one_before_behind_at_once(mesh: Mesh) -> None:
    """Not only when it renews with it, days later."""
    for prove in (
        lambda serial: mesh.authority.bundle("till-3", serial),
        lambda serial: mesh.sign(SHOP, serial=serial),
    ):
        first = mesh.join(mesh.token())
        second = mesh.sign(TILL, serial=serial_of(first))
        prove(serial_of(second))
        mesh.authority = mesh.open()
        with pytest.raises(AuthorityRefused, match="older than one"):
            mesh.sign(TILL, serial=serial_of(first), holds=False)
        mesh.sign(TILL, serial=serial_of(second), holds=False)


def test_what_a_node_shows_is_written_once(mesh: Mesh) -> None:
    """The flash wears."""
    serial = serial_of(mesh.sign(TILL, serial=serial_of(mesh.join(mesh.token()))))
    path = mesh.holdings.folder.path / "ledger.jsonl"
    mesh.authority.bundle("till-3", serial)
    size = path.stat().st_size
    for _ in range(3):
        mesh.authority.bundle("till-3", serial)
    assert path.stat().st_size == size


@pytest.mark.parametrize("enrolled", [True, False])
def test_a_ledger_from_a_backup_knows_the_nodes_certificates_by_their_order(mesh: Mesh, enrolled: bool) -> None:
    path = mesh.holdings.folder.path / "ledger.jsonl"
    backup = path.read_bytes()
    first = mesh.join(mesh.token())
    backup = path.read_bytes() if enrolled else backup
    second = mesh.sign(TILL, serial=serial_of(first))
    third = mesh.sign(TILL, serial=serial_of(second))
    path.write_bytes(backup)
    ended(mesh)
    fourth = mesh.sign(TILL, serial=serial_of(third), holds=False)
    for old in (first, second):
        with pytest.raises(AuthorityRefused, match="older than one"):
            mesh.sign(TILL, serial=serial_of(old), holds=False)
    mesh.clock.now = START - DAY / 2  # and then a clock that goes back
    fifth = mesh.sign(TILL, serial=serial_of(fourth), holds=False)
    mesh.sign(TILL, serial=serial_of(fifth), holds=False)
    with pytest.raises(AuthorityRefused, match="older than one"):
        mesh.sign(TILL, serial=serial_of(fourth), holds=False)


def test_a_node_that_was_enrolled_anew_after_a_backup_was_restored_is_another_box(mesh: Mesh) -> None:
    path = mesh.holdings.folder.path / "ledger.jsonl"
    mesh.join(mesh.token())
    backup, tokens = path.read_bytes(), [mesh.token(), mesh.token()]
    stolen = mesh.join(tokens[0])
    path.write_bytes(backup)
    mesh.clock.now += 1
    mesh.join(tokens[1])
    ended(mesh)
    with pytest.raises(AuthorityRefused, match="older than one"):
        mesh.sign(TILL, serial=serial_of(stolen), holds=False)


def test_a_ledger_that_is_gone_admits_nobody_with_what_has_ended(mesh: Mesh) -> None:
    """What nodes have left behind is lost with it."""
    joined = mesh.join(mesh.token())
    (mesh.holdings.folder.path / "ledger.jsonl").unlink()
    with pytest.raises(AuthorityRefused, match="older than one"):
        mesh.sign(TILL, serial=serial_of(joined), holds=False)
    mesh.sign(TILL, serial=serial_of(joined))


def test_another_authority_s_certificate_that_has_ended_is_not_renewed_here(mesh: Mesh, tmp_path: Path) -> None:
    other = Mesh(tmp_path / "other")
    foreign = serial_of(other.join(other.token()))
    with pytest.raises(AuthorityRefused, match="not issued here"):
        mesh.sign(TILL, serial=foreign, holds=False)


def test_a_ledger_of_an_earlier_version_goes_on(mesh: Mesh) -> None:
    """Serial numbers that tell no order, with a zero in front; what was shown is known only from what was asked with it."""
    lines = [
        {"event": "joined", "node": "till-3", "at": START},
        {"event": "signed", "serial": "0aa0", "spiffe": TILL, "node": "till-3", "not_after": START, "root": "r"},
        {"event": "fetched", "node": "till-3", "roots": ["r"], "at": START},
        *(
            {
                "event": "signed",
                "serial": serial,
                "spiffe": TILL,
                "node": "till-3",
                "not_after": START,
                "root": "r",
                "before": before,
            }
            for serial, before in (("0bb0", "aa0"), ("0cc0", "bb0"), ("0dd0", "bb0"))
        ),
    ]
    path = mesh.holdings.folder.path / "ledger.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    for old in ("aa0", "0aa0", "ee0"):
        with pytest.raises(AuthorityRefused, match="older than one"):
            mesh.sign(TILL, serial=old, holds=False)
    for number in range(300):  # until it is written anew
        mesh.authority.bundle("till-3", serial="bb0") if number % 2 else mesh.sign(SHOP, serial="bb0")
    mesh.authority = mesh.open()
    issued = [mesh.sign(TILL, serial=serial, holds=False) for serial in ("bb0", "cc0")]
    with pytest.raises(AuthorityRefused, match="older than one"):
        mesh.sign(TILL, serial="bb0", holds=False)
    mesh.sign(TILL, serial=serial_of(issued[0]), holds=False)


class Box:
    """A node as the authority sees it: what it holds is on its disk before it is shown, and one request waits for its answer."""

    def __init__(self, mesh: Mesh, random: Random) -> None:
        self.mesh, self.random = mesh, random
        self.held = serial_of(mesh.join(mesh.token()))
        self.left_behind: list[
            str
        ] = []  # what it held before one that the authority has seen since the ledger was restored
        self.unseen: list[str] = []  # what it held before the one that it has, which the authority has not seen yet
        self.given_up: list[str] = []  # proofs of requests that the authority has not decided yet
        self.file = mesh.holdings.folder.path / "ledger.jsonl"
        self.backup = self.file.read_bytes()

    def shown(self, serial: str) -> None:
        if serial == self.held:
            self.left_behind += self.unseen
            self.unseen = []

    def renew(self) -> None:
        answer = serial_of(self.mesh.sign(TILL, serial=self.held, holds=self.random.random() < 0.5))
        self.shown(self.held)
        if self.random.random() < 0.6:  # else the answer is lost, or the box was killed before it was on the disk
            self.unseen.append(self.held)
            self.held = answer

    def give_up(self) -> None:
        self.given_up.append(self.held)

    def decide(self) -> None:
        """Late. A request with a proof that was left behind meanwhile may be refused, and nobody waits for that."""
        if self.given_up:
            proof = self.given_up.pop(self.random.randrange(len(self.given_up)))
            with contextlib.suppress(AuthorityRefused):
                self.mesh.sign(TILL, serial=proof, holds=False)
            self.shown(proof)

    def prove(self) -> None:
        self.mesh.authority.bundle("till-3", self.held)
        self.shown(self.held)

    def steal(self) -> None:
        for old in self.left_behind[-5:]:
            self.mesh.monotonic.now += 60
            with pytest.raises(AuthorityRefused, match="older than one"):
                self.mesh.sign(TILL, serial=old, holds=False)

    def step(self) -> None:
        self.mesh.clock.now = START + self.random.uniform(-0.4, 400) * DAY

    def kill(self) -> None:
        """The authority, in the middle of a line, or between the lines of one answer: what was in it counts as never asked."""
        before = self.file.stat().st_size
        self.mesh.sign(TILL, serial=self.held)
        data = self.file.read_bytes()
        self.file.write_bytes(data[: max(before, len(data) - self.random.randrange(400))])
        self.mesh.authority = self.mesh.open()

    def back_up(self) -> None:
        self.backup = self.file.read_bytes()

    def restore(self) -> None:
        """What was proved since is lost."""
        self.file.write_bytes(self.backup)
        self.left_behind = []
        self.given_up = []


@pytest.mark.parametrize("seed", range(40))
def test_no_order_of_events_locks_a_node_out_or_lets_a_copy_in(mesh: Mesh, seed: int) -> None:
    random = Random(seed)
    box = Box(mesh, random)
    for _ in range(60):
        random.choice(
            [
                box.renew,
                box.renew,
                box.give_up,
                box.decide,
                box.prove,
                box.steal,
                box.step,
                box.kill,
                box.back_up,
                box.restore,
            ]
        )()
    mesh.sign(TILL, serial=box.held, holds=False)
    box.steal()


# inside one process


async def test_near_signer(mesh: Mesh) -> None:
    signer = LocalSigner(mesh.authority, "till-3", clock.Clock(300.0, mesh.clock, mesh.monotonic, leads=True))
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
    door = ServerCredentials(mesh.authority, mesh.clock)
    first = door()
    csr.check(first.chain, first.key, f"spiffe://{TD}/authority", mesh.authority.trust().roots, START)
    assert csr.facts(first.chain).node == ""  # it is no node: it may ask for nothing
    assert door() is first
    mesh.clock.now += DAY / 2
    second = door()
    assert second.serial != first.serial
    mesh.clock.now = START  # set back to before it was made
    assert door() is not second
