"""manager.py: every wanted identity has a good certificate at every moment, whatever the authority, the link and the clock do."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from agent.identity import csr, lineage
from agent.identity.authority import ca
from agent.identity.node import certificate
from agent.identity.node.clock import MADE, Clock
from agent.identity.node.lifecycle import State
from agent.identity.node.manager import AT_ONCE, CertificateManager
from agent.identity.node.store import IdentityStore, Joined
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle, Issued
from nodeproxy.tls.credentials import Credentials, Trust
from policy.model import Identity

HOUR = 3600.0
DAY = 86400.0
TOLERANCE = 300.0
EPOCH = MADE + 200 * DAY
BUYER, STORE = Identity("shop", "buyer"), Identity("shop", "store")


async def here(what: Callable[..., Any], *args: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return what(*args)


def real() -> float:
    """What time it is in the world of a test."""
    return EPOCH + trio.current_time()


class FakeAuthority:
    """A Signer of its own clock. `down`, `refusing` and `slow` are what a test sets."""

    def __init__(self) -> None:
        self.numbers = iter(range(1, 1_000_000))
        self.roots = [self.root()]
        self.issuer = 0
        self.down = False
        self.refusing: set[str] = set()
        self.slow = 0.0
        self.life = 14 * DAY
        self.asked: Counter[str] = Counter()
        self.when: list[tuple[float, str]] = []
        self.bundles = 0
        self.inside = self.most_inside = 0
        self.drift = 0.0

    def root(self) -> ca.Issuer:
        return ca.make_root("cluster.local", EPOCH, next(self.numbers))

    def _bundle(self) -> Bundle:
        return Bundle(
            "cluster.local", tuple(r.root for r in self.roots), self.roots[self.issuer].fingerprint, real() + self.drift
        )

    async def bundle(self) -> Bundle:
        self.bundles += 1
        await trio.sleep(self.slow)
        if self.down:
            raise AuthorityUnreachable("no route to host")
        return self._bundle()

    async def sign(self, spiffe: str, csr: str) -> Issued:
        self.asked[spiffe] += 1
        self.when.append((trio.current_time(), spiffe))
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await trio.sleep(self.slow)
        finally:
            self.inside -= 1
        if self.down:
            raise AuthorityUnreachable("no route to host")
        if spiffe in self.refusing:
            raise AuthorityRefused("the manifests do not place it here", "place it")
        issuer = self.roots[self.issuer]
        chain = ca.sign(issuer, ca.read_csr(csr), spiffe, "edge-1", self.life, real() + self.drift, next(self.numbers))
        return Issued(chain, self._bundle())

    def times(self, identity: Identity) -> list[float]:
        return [at for at, spiffe in self.when if spiffe == identity.spiffe("cluster.local")]


class Site:
    """A node with a keeper, and a clock that can be set."""

    def __init__(self, nursery: trio.Nursery, path: Path) -> None:
        self.nursery = nursery
        self.path = path
        self.authority = FakeAuthority()
        self.off = 0.0  # by which our clock is wrong
        self.changes = 0
        self.seed = 1
        self.look = 60.0
        self.proved: set[tuple[str, bytes]] = set()
        self.keeper: CertificateManager
        self._running: trio.CancelScope | None = None

    def make(self, node: str = "edge-1") -> CertificateManager:
        vault = IdentityStore(self.path)
        vault.open()
        clock = Clock(TOLERANCE, lambda: real() + self.off, trio.current_time)
        self.keeper = CertificateManager(vault, node, clock, self._changed, Random(self.seed), here)
        self.keeper.load()
        self.keeper.look = self.look
        return self.keeper

    async def start(self, *identities: Identity) -> CertificateManager:
        if self._running:
            self._running.cancel()
            await trio.sleep(0)
        self.make().want(identities)
        self._running = await self.nursery.start(self._run)
        return self.keeper

    async def _run(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await self.keeper.run(self.authority)

    def _changed(self) -> None:
        self.changes += 1

    def standing(self, identity: Identity | None = BUYER) -> State:
        return self.keeper.holdings[identity].standing.state

    def good(self, identity: Identity | None = BUYER) -> Credentials:
        """What is presented, when a peer with the right time and our roots believes it."""
        found = self.keeper.of(identity) if identity else self.keeper.node()
        trust = self.keeper.trust()
        assert found is not None
        assert trust is not None
        assert self.believes(trust, found)
        return found

    def believes(self, trust: Trust, presented: Credentials) -> bool:
        """As a peer with this trust and the right time."""
        if (presented.serial, trust.roots) not in self.proved:
            try:
                csr.check(presented.chain, presented.key, presented.spiffe, trust.roots, real(), tolerance=0)
            except csr.Unusable:
                return False
            self.proved.add((presented.serial, trust.roots))
        return presented.not_before <= real() <= presented.not_after

    async def until(self, day: float, *always: Identity | None, step: float = 0.25) -> None:
        """Let time pass to the beginning of this day, and see that these are good all the time."""
        while trio.current_time() < day * DAY:
            await trio.sleep(min(step * DAY, day * DAY - trio.current_time()))
            for identity in always:
                self.good(identity)


@pytest.fixture
def site(nursery: trio.Nursery, tmp_path: Path) -> Site:
    return Site(nursery, tmp_path)


async def test_everything_wanted_has_a_certificate_and_the_look_ups_answer_the_same_object(
    site: Site, autojump_clock: MockClock
) -> None:
    keeper = await site.start(BUYER, STORE)
    assert (keeper.trust(), keeper.of(BUYER), keeper.node()) == (None, None, None)
    await trio.sleep(1)
    for identity, spiffe in ((BUYER, "ns/shop/sa/buyer"), (STORE, "ns/shop/sa/store"), (None, "node/edge-1")):
        assert site.good(identity).spiffe == f"spiffe://cluster.local/{spiffe}"
        assert site.standing(identity) is State.FRESH
    assert keeper.of(Identity("shop", "thief")) is None
    assert len({site.good(identity).key for identity in (BUYER, STORE, None)}) == 3
    before = keeper.trust(), keeper.of(BUYER), keeper.node()
    changes = site.changes
    await trio.sleep(DAY)
    assert all(a is b for a, b in zip(before, (keeper.trust(), keeper.of(BUYER), keeper.node()), strict=True))
    assert changes == site.changes == 4
    assert keeper.renewals == {(site.good(identity).spiffe, "issued"): 1 for identity in (BUYER, STORE, None)}


@pytest.mark.slow
async def test_a_certificate_is_renewed_with_a_new_key_after_three_of_fourteen_days(
    site: Site, autojump_clock: MockClock
) -> None:
    site.look = HOUR
    await site.start(BUYER)
    await site.until(0.1)
    first = site.good()
    await site.until(2.69, BUYER, None)
    assert site.good() is first
    await site.until(3, BUYER, None)
    second = site.good()
    assert second.key != first.key
    assert second.serial != first.serial
    await site.until(30, BUYER, None)
    times = site.authority.times(BUYER)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(gaps) >= 9
    assert 2.69 * DAY < min(gaps) < max(gaps) < 3 * DAY
    assert max(gaps) - min(gaps) > 0.02 * DAY


@pytest.mark.slow
async def test_a_short_life_is_renewed_at_its_half(site: Site, autojump_clock: MockClock) -> None:
    site.authority.life = HOUR
    await site.start(BUYER)
    await site.until(1, BUYER, None, step=0.01)
    times = site.authority.times(BUYER)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    # It begins 300 s before it is issued: half of 3,900 s, up to a tenth of that earlier.
    assert 1455 <= min(gaps) <= max(gaps) <= 1652


@pytest.mark.slow
async def test_nodes_that_joined_together_do_not_renew_together(site: Site, autojump_clock: MockClock) -> None:
    site.look = HOUR
    many = [Identity("shop", f"w{n}") for n in range(50)]
    await site.start(*many)
    await site.until(3.1, *many, step=1)
    second = sorted(site.authority.times(identity)[1] for identity in many)
    assert second[-1] - second[0] > 0.2 * DAY
    assert max(sum(at <= other < at + HOUR for other in second) for at in second) < 20


@pytest.mark.slow
async def test_a_site_that_is_cut_off_right_before_a_renewal_for_ten_days(
    site: Site, autojump_clock: MockClock
) -> None:
    site.look = HOUR
    many = [BUYER, STORE, *(Identity("shop", f"w{n}") for n in range(10))]
    keeper = await site.start(*many)
    await site.until(2.69, *many, None)
    site.authority.down = True
    await site.until(12.69, *many, None)
    assert {site.standing(identity) for identity in (*many, None)} == {State.STALE}
    assert keeper.silence is not None
    assert keeper.silence[1] == "no route to host"
    assert keeper.holdings[BUYER].standing.error == "no route to host"
    site.authority.down = False
    with trio.fail_after(301):
        while keeper.silence:
            await trio.sleep(1)
    await trio.sleep(32)  # nobody waits for the rest of a back-off
    assert {site.standing(identity) for identity in (*many, None)} == {State.FRESH}
    assert keeper.silence is None
    assert all(site.good(identity).not_before > EPOCH + 12.6 * DAY for identity in (*many, None))


@pytest.mark.slow
async def test_a_dead_link_costs_one_attempt_in_minutes_however_many_identities_there_are(
    site: Site, autojump_clock: MockClock
) -> None:
    site.look = HOUR
    many = [Identity("shop", f"w{n}") for n in range(50)]
    await site.start(*many)
    await site.until(2.6)
    site.authority.down = True
    await site.until(3.5)
    asked, bundles = site.authority.asked.total(), site.authority.bundles
    await site.until(4.5)
    assert site.authority.asked.total() == asked
    assert DAY / 300 <= site.authority.bundles - bundles <= DAY / 150 + 1


@pytest.mark.slow
async def test_back_off_grows_to_five_minutes_and_ends_with_the_outage(site: Site, autojump_clock: MockClock) -> None:
    site.authority.down = True
    await site.start(BUYER)
    times: list[float] = []
    while trio.current_time() < HOUR:
        before = site.authority.bundles
        await trio.sleep(0.25)
        if site.authority.bundles > before:
            times.append(trio.current_time())
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps[0] <= 1.25
    assert all(b >= a / 2.5 for a, b in itertools.pairwise(gaps))
    assert 150 <= max(gaps) <= 300.25
    assert site.standing() is State.WAITING
    site.authority.down = False
    await trio.sleep(301)
    site.good()


@pytest.mark.slow
async def test_expired_is_not_handed_out_and_comes_back_with_the_authority(
    site: Site, autojump_clock: MockClock
) -> None:
    site.look = HOUR
    keeper = await site.start(BUYER)
    await site.until(1)
    site.authority.down = True
    end = site.good().not_after - EPOCH
    await trio.sleep(end - 1 - trio.current_time())
    site.good()
    assert site.standing() is State.STALE
    await trio.sleep(2)
    assert site.standing() is State.EXPIRED
    assert keeper.of(BUYER) is not None  # peers whose clocks are behind still believe it
    await trio.sleep(TOLERANCE - 2)
    assert keeper.of(BUYER) is not None
    changes = site.changes
    await trio.sleep(2)
    assert keeper.of(BUYER) is None
    assert site.changes > changes
    site.authority.down = False
    await trio.sleep(310)
    site.good()


@pytest.mark.slow
async def test_a_refusal_keeps_what_is_held_and_backs_off_longer(site: Site, autojump_clock: MockClock) -> None:
    site.look = HOUR
    thief = Identity("shop", "thief")
    site.authority.refusing.add(thief.spiffe("cluster.local"))
    keeper = await site.start(BUYER, thief)
    await trio.sleep(HOUR)
    assert (site.standing(thief), keeper.of(thief)) == (State.REFUSED, None)
    standing = keeper.holdings[thief].standing
    assert (standing.error, standing.hint) == ("the manifests do not place it here", "place it")
    times = site.authority.times(thief)
    assert times[1] - times[0] >= 5
    assert len(times) <= 14
    assert keeper.silence is None
    assert site.standing() is State.FRESH
    site.authority.refusing = {BUYER.spiffe("cluster.local")}
    await trio.sleep(15 * 60)
    assert site.standing(thief) is State.FRESH
    await site.until(3, BUYER)
    assert site.standing() is State.REFUSED
    await site.until(13.9, BUYER)
    await site.until(14.1)
    assert (site.standing(), keeper.of(BUYER)) == (State.EXPIRED, None)


@pytest.mark.slow
async def test_an_answer_that_is_not_what_was_asked_for_is_not_used(site: Site, autojump_clock: MockClock) -> None:
    site.look = HOUR
    other = ca.make_root("cluster.local", EPOCH, 99)
    keeper = await site.start(BUYER)
    await trio.sleep(1)
    first = site.good()

    async def sign(spiffe: str, csr: str) -> Issued:
        chain = ca.sign(other, ca.read_csr(csr), spiffe, "edge-1", DAY, real(), 1)
        return Issued(chain, site.authority._bundle())

    site.authority.sign = sign  # type: ignore[method-assign]
    await site.until(4, BUYER)
    assert site.good() is first
    assert site.standing() is State.REFUSED
    assert (
        "cannot be used: the certificate of spiffe://cluster.local/ns/shop/sa/buyer does not lead to"
        in keeper.holdings[BUYER].standing.error
    )


@pytest.mark.slow
async def test_many_identities_are_asked_for_four_at_a_time(site: Site, autojump_clock: MockClock) -> None:
    many = [Identity("shop", f"w{n}") for n in range(200)]
    site.authority.slow = 0.1
    await site.start(*many)
    await trio.sleep(8)
    assert site.authority.most_inside == AT_ONCE == 4
    assert all(site.standing(identity) is State.FRESH for identity in many)
    assert site.authority.asked.total() == 201
    assert "spiffe://cluster.local/node/edge-1" in [spiffe for _, spiffe in site.authority.when[:4]]


# what is wanted


async def test_what_is_wanted_no_more_is_forgotten_after_an_hour_with_its_file(
    site: Site, autojump_clock: MockClock
) -> None:
    keeper = await site.start(BUYER, STORE)
    await trio.sleep(1)
    buyer = site.good()
    keeper.want([STORE])
    await trio.sleep(HOUR - 120)
    keeper.want([STORE])
    assert site.good() is buyer
    keeper.want([BUYER, STORE])  # the pod came back
    await trio.sleep(600)
    keeper.want([STORE])
    await trio.sleep(HOUR - 1)
    assert site.good() is buyer
    await trio.sleep(2)
    assert keeper.of(BUYER) is None
    assert BUYER not in keeper.holdings
    assert not any("buyer" in str(path) for path in (site.path / "identity").iterdir())
    assert not any("buyer" in spiffe for spiffe, _ in keeper.renewals)
    assert site.authority.asked[buyer.spiffe] == 1
    keeper.want([BUYER, STORE])
    await trio.sleep(1)
    assert site.good().serial != buyer.serial


async def test_what_is_wanted_no_more_is_not_renewed(site: Site, autojump_clock: MockClock) -> None:
    site.authority.life = 1000.0
    keeper = await site.start(BUYER)
    await trio.sleep(1)
    keeper.want([])
    await trio.sleep(1500)
    assert site.authority.asked[BUYER.spiffe("cluster.local")] == 1
    assert site.standing(None) is State.FRESH


# the bundle and its roots


async def test_the_bundle_is_fetched_each_hour_and_seldom_over_a_metered_link(
    site: Site, autojump_clock: MockClock
) -> None:
    site.look = HOUR
    keeper = await site.start()
    await trio.sleep(DAY)
    assert 24 / 1.1 <= site.authority.bundles - 1 <= 24 / 0.9
    keeper.refresh = 6 * HOUR
    await trio.sleep(1.2 * HOUR)
    before = site.authority.bundles
    await trio.sleep(10 * DAY)
    assert 40 / 1.1 - 1 <= site.authority.bundles - before <= 40 / 0.9 + 1


@pytest.mark.slow
async def test_a_root_is_rotated_without_a_moment_in_which_a_peer_refuses(
    site: Site, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Two nodes that hear of each step at different times believe each other at every moment."""
    peer = Site(site.nursery, tmp_path / "peer")
    peer.authority, peer.seed = site.authority, 7
    many = [Identity("shop", f"w{n}") for n in range(20)]
    await site.start(*many)
    await peer.start(*many)
    await trio.sleep(1)

    async def watch(seconds: float) -> None:
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            await trio.sleep(20)
            for one, other in ((site, peer), (peer, site)):
                trust = one.keeper.trust()
                assert trust is not None
                for identity in many:
                    presented = other.keeper.of(identity)
                    assert presented is not None
                    assert one.believes(trust, presented)

    authority = site.authority
    before = site.keeper.trust()
    authority.roots.append(authority.root())  # add
    await watch(1.2 * HOUR)
    assert site.keeper.trust() is not before
    asked = authority.asked.copy()
    authority.issuer = 1  # issue
    await watch(1.2 * HOUR + 300)
    again = [
        authority.asked[identity.spiffe("cluster.local")] - asked[identity.spiffe("cluster.local")] for identity in many
    ]
    assert again == [2] * 20  # once for each of the two nodes
    renewed = sorted(at for at, _ in authority.when[-42:])
    assert renewed[-1] - renewed[0] > 120
    del authority.roots[0]  # retire
    authority.issuer = 0
    await watch(1.2 * HOUR)
    assert authority.asked.total() == asked.total() + 42
    trust = site.keeper.trust()
    assert trust is not None
    assert trust.roots.decode() == authority.roots[0].root


async def test_what_leads_to_a_root_that_was_retired_early_is_renewed_at_once(
    site: Site, autojump_clock: MockClock
) -> None:
    await site.start(BUYER)
    await trio.sleep(1)
    site.authority.roots = [site.authority.root()]
    site.keeper._asked.set()
    await trio.sleep(3)
    site.good()


async def test_a_restart_in_the_middle_of_a_rotation_goes_on_with_it(site: Site, autojump_clock: MockClock) -> None:
    await site.start(BUYER)
    await trio.sleep(1)
    site.authority.roots.append(site.authority.root())
    site.authority.issuer = 1
    site.keeper._asked.set()
    await trio.sleep(2)
    serial = site.good().serial
    await site.start(BUYER)
    await trio.sleep(310)
    assert site.good().serial != serial
    serial = site.good().serial
    await trio.sleep(HOUR)
    assert site.good().serial == serial


async def test_an_answer_that_was_overtaken_does_not_bring_an_old_root_back(
    site: Site, autojump_clock: MockClock
) -> None:
    keeper = await site.start(BUYER)
    await trio.sleep(1)
    old = site.authority._bundle()
    await trio.sleep(1)
    site.authority.roots.append(site.authority.root())
    site.authority.issuer = 1
    assert await keeper._heard(site.authority._bundle(), 0.0)
    trust = keeper.trust()
    assert await keeper._heard(old, 0.0)
    assert keeper.trust() is trust


async def test_the_bundle_of_another_mesh_is_not_believed(site: Site, autojump_clock: MockClock) -> None:
    keeper = await site.start(BUYER)
    await trio.sleep(1)
    trust, bundle = keeper.trust(), site.authority._bundle()
    other = Bundle("elsewhere", bundle.roots, bundle.issuer, bundle.now)
    assert not await keeper._heard(other, 0.0)
    assert "trust domain elsewhere" in keeper.roots.foreign
    assert not await keeper._heard(Bundle("cluster.local", (), bundle.issuer, bundle.now), 0.0)
    assert keeper.trust() is trust
    await trio.sleep(1.2 * HOUR)
    assert keeper.roots.foreign == ""


# restarts


@pytest.mark.slow
async def test_a_restart_without_the_authority_serves_from_the_disk(site: Site, autojump_clock: MockClock) -> None:
    site.look = HOUR
    await site.start(BUYER, STORE)
    await trio.sleep(HOUR)
    before = {identity: site.good(identity) for identity in (BUYER, STORE, None)}
    site.authority.down = True
    keeper = site.make()
    assert {identity: site.good(identity) for identity in before} == before
    assert keeper.trust() is not None
    await site.start(BUYER)
    await site.until(10, BUYER, None)
    assert site.good() == before[BUYER]
    assert keeper.vault.problems == []


async def test_a_restart_asks_for_nothing_that_is_fresh(site: Site, autojump_clock: MockClock) -> None:
    await site.start(BUYER)
    await trio.sleep(HOUR)
    asked = site.authority.asked.total()
    await site.start(BUYER)
    await trio.sleep(HOUR)
    assert site.authority.asked.total() == asked


async def test_a_newer_certificate_that_another_process_put_on_the_disk_is_taken_up(
    site: Site, autojump_clock: MockClock
) -> None:
    """The daemon that handed over to us renewed while we were starting, or a person typed `edgemesh join --again`."""
    own = "spiffe://cluster.local/node/edge-1"
    keeper = await site.start(BUYER)
    await trio.sleep(1)
    held = keeper.proof()
    site.authority.refusing = {own, BUYER.spiffe("cluster.local")}
    for number, taken in ((7, False), (lineage.serial(site.authority.roots[0].own_fingerprint, 1, bytes(9)), True)):
        key = csr.new_key()
        asked = ca.read_csr(csr.request(key, own))
        chain = ca.sign(site.authority.roots[0], asked, own, "edge-1", 14 * DAY, real(), number)
        pair = certificate.accept(Issued(chain, site.authority._bundle()), key, own, TOLERANCE)
        (other := IdentityStore(site.path)).open()
        other.keep(pair)
        await trio.sleep(3 * DAY)
        assert (keeper.proof() == pair.credentials) is taken
        assert (keeper.proof() == held) is not taken
    site.authority.refusing = set()
    await trio.sleep(HOUR)
    assert site.standing(None) is site.standing() is State.FRESH


async def test_a_node_that_runs_under_another_name_does_not_use_the_first_one_s_certificate(
    site: Site, autojump_clock: MockClock
) -> None:
    await site.start(BUYER)
    await trio.sleep(1)
    site.keeper.vault.keep_joined(Joined("boss:1", "edge-1"))
    keeper = site.make("edge-2")
    assert (keeper.node(), keeper.misnamed) == (None, "edge-1")


@pytest.mark.slow
def test_a_node_with_fresh_certificates_does_without_cryptography() -> None:
    code = "import sys; import agent.identity.node.manager, agent.identity.node.client, agent.identity.node.report; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# clocks


@pytest.mark.slow
@pytest.mark.parametrize("by", [-3601.0, 3601.0, -30 * DAY, 400 * DAY])
async def test_a_clock_that_steps_takes_no_certificate_away(site: Site, autojump_clock: MockClock, by: float) -> None:
    keeper = await site.start(BUYER)
    await site.until(1, BUYER)
    site.authority.down = True
    site.off = by
    await trio.sleep(61)
    assert any("stepped by" in problem.message for problem in keeper.clock.problems())
    site.keeper.look = HOUR
    await site.until(12, BUYER, None)
    site.keeper.look = 60.0
    assert site.authority.bundles > 30
    site.authority.down = False
    await trio.sleep(310)
    assert site.good().not_before > EPOCH + 11 * DAY
    assert any("ahead of" in p.message or "behind" in p.message for p in keeper.clock.problems())
    site.off = 0.0
    await trio.sleep(70)
    assert keeper.clock.problems() == []
    site.keeper.look = HOUR
    await site.until(20, BUYER, None)


async def test_a_step_makes_the_authority_s_clock_asked_at_once(site: Site, autojump_clock: MockClock) -> None:
    keeper = await site.start(BUYER)
    await trio.sleep(120)
    before = site.authority.bundles
    site.off = -3601.0
    await trio.sleep(62)
    assert site.authority.bundles == before + 1
    assert keeper.clock.ahead == pytest.approx(-3601)


@pytest.mark.slow
@pytest.mark.parametrize("off", [-EPOCH + 20, -5 * DAY])
async def test_a_node_that_starts_with_a_clock_of_the_past_uses_what_it_has(
    site: Site, autojump_clock: MockClock, off: float
) -> None:
    await site.start(BUYER)
    await site.until(1)
    held = site.good()
    site.authority.down = True
    site.off = off
    keeper = await site.start(BUYER)
    await trio.sleep(300)
    assert site.good() == held
    assert keeper.clock.wrong
    assert any("the clock says" in problem.message for problem in keeper.clock.problems())
    site.off = 0.0
    await trio.sleep(61)
    assert not keeper.clock.wrong
    keeper.look = HOUR
    await site.until(13, BUYER)


async def test_the_authority_s_last_word_outlives_a_restart(site: Site, autojump_clock: MockClock) -> None:
    site.look = HOUR
    await site.start(BUYER)
    await site.until(2.2)
    site.authority.down = True
    site.off = -1.5 * DAY
    keeper = await site.start(BUYER)
    assert keeper.clock.wrong  # though later than the beginning of every certificate
    assert "the authority said so" in keeper.clock.problems()[0].message


@pytest.mark.slow
async def test_a_clock_that_is_wrong_does_not_keep_a_node_from_getting_certificates(
    site: Site, autojump_clock: MockClock
) -> None:
    site.look = HOUR
    for off in (-40 * DAY, 40 * DAY):
        site.off = off
        await site.start(BUYER)
        await site.until(trio.current_time() / DAY + 8, step=8)
        assert site.standing() is State.FRESH
        site.good()
