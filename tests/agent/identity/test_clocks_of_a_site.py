"""All clocks of a site are set, forward or back, or everything sleeps: calls go on, or heal within a minute, and no person is needed.

A hub with the authority and two nodes, as they are: keepers, clocks, the authority's decisions, what its door makes of a certificate, and
what a node makes of the authority's. Only TLS is left out: who holds a key is told by the certificate that is handed over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.authority import Authority
from agent.identity.authority.local import BEGINS, ServerCredentials
from agent.identity.authority.server import caller
from agent.identity.authority.state import AuthorityState
from agent.identity.folder import FolderError
from agent.identity.node.client import Address, _check_dates
from agent.identity.node.clock import MADE, Clock
from agent.identity.node.manager import LOOK, REFRESH, CertificateManager
from agent.identity.node.store import IdentityStore
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle, Issued, JoinRequest, SignRequest
from nodeproxy.errors import Refused
from nodeproxy.tls.credentials import Credentials, Peer
from nodeproxy.tls.spiffe import Shown, prove
from policy.model import Identity, canonical_serial

DAY = 86400.0
TOLERANCE = 300.0
EPOCH = MADE + 500 * DAY
TD = "cluster.local"
BUYER, STORE, TILL = Identity("shop", "buyer"), Identity("shop", "store"), Identity("shop", "till")


async def here(what: Callable[..., Any], *args: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return what(*args)


class World:
    """`slept` is what passed while nothing ran; `off` by how much all clocks of the site are wrong."""

    def __init__(self) -> None:
        self.slept = 0.0
        self.off = 0.0

    def steady(self) -> float:
        return trio.current_time() + self.slept

    def wall(self) -> float:
        return EPOCH + self.steady() + self.off


class Box:
    """One node: what outlives its daemon is on the disk."""

    def __init__(self, site: Site, name: str, identity: Identity) -> None:
        self.site, self.name, self.identity = site, name, identity
        self.vault = IdentityStore(site.path / name)
        self.vault.open()
        self.off = 0.0  # of this one alone
        self.booted = 0.0  # the steady clock begins anew with each boot
        self.keeper: CertificateManager
        self.running: trio.CancelScope | None = None

    def wall(self) -> float:
        return self.site.world.wall() + self.off

    def load(self, leads: bool = False) -> None:
        clock = Clock(TOLERANCE, self.wall, lambda: self.site.world.steady() - self.booted, leads)
        self.keeper = CertificateManager(self.vault, self.name, clock, random=Random(1), aside=here)
        self.keeper.load()
        self.keeper.want([self.identity])

    def stop(self) -> None:
        if self.running is not None:
            self.running.cancel()
            self.running = None

    async def start(self, nursery: trio.Nursery, signer: Any) -> None:
        async def run(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                await self.keeper.run(signer)

        self.running = await nursery.start(run)


class Link:
    """A Signer: from a box to the hub's door."""

    def __init__(self, site: Site, box: Box) -> None:
        self.site, self.box = site, box

    def _met(self) -> Peer:
        if self.site.dead or self.site.hub.running is None:
            raise AuthorityUnreachable("no route to host")
        return peer(self.site.door())

    async def sign(self, spiffe: str, asked: str) -> Issued:
        await trio.lowlevel.checkpoint()
        met, proof, hub = self._met(), self.box.keeper.proof(), self.site.hub.keeper
        assert proof is not None
        who = caller("a", peer(proof), self.site.authority.trust(), hub.now())
        decide = partial(
            self.site.authority.sign, who.node, SignRequest(spiffe, asked), who.serial, who.address, who.holds
        )
        match self.site.fate.choice(("lost", "late", "fine")) if self.site.fate else "fine":
            case "lost":
                decide()
                raise AuthorityUnreachable("the connection broke")
            case "late":
                self.site.nursery.start_soon(self._decide_late, decide)
                raise AuthorityUnreachable("no answer within 15 s")
        issued = decide()
        _check_dates(Address("hub", 1), met, self.box.keeper.clock, issued.bundle.now)
        return issued

    async def _decide_late(self, decide: Callable[[], Issued]) -> None:
        """A thread of the authority gets to it when the node has asked again. Nobody hears what comes of it."""
        await trio.sleep(30 * self.site.late.random())
        with contextlib.suppress(AuthorityRefused, FolderError):
            decide()

    async def bundle(self) -> Bundle:
        await trio.lowlevel.checkpoint()
        met = self._met()
        bundle = self.site.authority.bundle()
        _check_dates(Address("hub", 1), met, self.box.keeper.clock, bundle.now)
        return bundle


class Near:
    """The hub's own, as LocalSigner without its threads."""

    def __init__(self, site: Site) -> None:
        self.site = site

    async def sign(self, spiffe: str, asked: str) -> Issued:
        return self.site.authority.sign("hub", SignRequest(spiffe, asked))

    async def bundle(self) -> Bundle:
        await trio.lowlevel.checkpoint()
        self.site.hub.keeper.clock.at_least(self.site.authority.begins(), BEGINS, surely=True)
        return self.site.authority.bundle("hub")


def shown(held: Credentials) -> Shown:
    facts = csr.facts(held.chain)
    return Shown((facts.spiffe,), (facts.node,) if facts.node else (), "", facts.not_before, facts.not_after)


def peer(held: Credentials) -> Peer:
    """As nodeproxy.tls.handshake reads it: the serial number has no zeros in front."""
    facts = csr.facts(held.chain)
    return Peer(
        facts.spiffe, None, facts.node, canonical_serial(facts.serial), facts.not_after, "", "", "", facts.not_before
    )


class Site:
    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self.path, self.nursery = path, nursery
        self.world = World()
        self.dead = False  # the authority is, for others
        self.late = Random(2)
        self.fate: Random | None = None  # decides which requests are decided late, and which answers are lost
        self.revoked: set[str] = set()
        self.hub, self.n1, self.n2 = (
            Box(self, name, identity) for name, identity in (("hub", TILL), ("n1", BUYER), ("n2", STORE))
        )
        holdings = AuthorityState(path / "authority", self.world.wall)
        holdings.create(ca.make_root(TD, EPOCH, 1 << 120), TD)
        self.door: ServerCredentials
        self.authority: Authority

    def open(self) -> None:
        """The hub's daemon, as agent.identity.membership makes it."""
        self.hub.load(leads=True)
        now = self.hub.keeper.now
        self.authority = Authority(
            self.path / "authority",
            now,
            14 * DAY,
            lambda node, spiffe: "",
            lambda node, *_: node if node in self.revoked else "",
            box=self.hub.wall,
        )
        self.hub.keeper.clock.at_least(self.authority.begins(), BEGINS, surely=True)
        self.door = ServerCredentials(self.authority, now)

    async def begin(self) -> None:
        """Everything of a day, at ease: renewed a few times."""
        self.open()
        await self.hub.start(self.nursery, Near(self))
        self.hub.keeper.roots.take(self.authority.bundle())
        for box in (self.n1, self.n2):
            self.enrol(box)
            box.load()
            await box.start(self.nursery, Link(self, box))
        self.pace(6 * 3600.0)
        await trio.sleep(4 * DAY + 1000)
        assert self.all_talk()
        self.pace(LOOK)

    def pace(self, look: float) -> None:
        """How often all look at their clocks: seldom while nothing happens, so that days pass quickly."""
        for box in (self.hub, self.n1, self.n2):
            box.keeper.look, box.keeper.refresh = look, max(look, REFRESH)
            box.keeper._woken.set()

    def enrol(self, box: Box) -> None:
        from agent.identity.node import certificate

        with (holdings := AuthorityState(self.path / "authority", self.world.wall)).held():
            token = holdings.tokens.make(box.name, 60.0, self.hub.wall())
        spiffe = f"spiffe://{TD}/node/{box.name}"
        key, asked = certificate.ask(spiffe)
        issued = self.authority.join(JoinRequest(box.name, token, asked))
        box.vault.keep_bundle(issued.bundle)
        box.vault.keep(certificate.accept(issued, key, spiffe, TOLERANCE))

    async def reboot(self, *boxes: Box, off: float = 0.0) -> None:
        """Their daemons end and start again, on a kernel that begins anew; `off`: with clocks that are so far off."""
        for box in boxes:
            box.stop()
            box.booted, box.off = self.world.steady(), off
            if box is self.hub:
                self.open()
                await box.start(self.nursery, Near(self))
            else:
                box.load()
                await box.start(self.nursery, Link(self, box))

    def talks(self, one: Box, other: Box) -> bool:
        """A call from one to the other: each looks at what the other shows, by its own idea of the time."""
        for by, of in ((one, other), (other, one)):
            held, trust = of.keeper.of(of.identity), by.keeper.trust()
            if held is None or trust is None:
                return False
            try:
                prove([shown(held)], trust, by.keeper.now())
            except Refused:
                by.keeper.doubt()
                of.keeper.doubt()  # its connection ended before anything was said on it
                return False
        return True

    def all_talk(self) -> bool:
        pairs = ((self.n1, self.n2), (self.n1, self.hub), (self.n2, self.hub))
        return all([self.talks(one, other) for one, other in pairs])  # noqa: C419 - each of them doubts

    async def heals(self, seconds: float) -> None:
        until = trio.current_time() + seconds
        while not self.all_talk():
            assert trio.current_time() < until, [
                f"{box.keeper.clock!r} {box.keeper.holdings}" for box in (self.hub, self.n1, self.n2)
            ]
            await trio.sleep(1)

    async def lasts(self, days: float) -> None:
        """It goes on as if nothing had been: renewals come in time."""
        self.pace(6 * 3600.0)
        for _ in range(int(days)):
            await trio.sleep(DAY)
            await self.heals(60)
        self.pace(LOOK)

    def problems(self) -> list[str]:
        return [problem.message for box in (self.hub, self.n1, self.n2) for problem in box.keeper.clock.problems()]


@pytest.fixture
def site(tmp_path: Path, nursery: trio.Nursery) -> Site:
    return Site(tmp_path, nursery)


STEPS = [days * sign * DAY for days in (1, 7, 8, 13, 20, 400) for sign in (1, -1)]
FEWER = [days * sign * DAY for days in (8, 20, 400) for sign in (1, -1)]


@pytest.mark.slow
@pytest.mark.parametrize("by", STEPS)
async def test_all_clocks_are_set_and_set_right_again(site: Site, autojump_clock: MockClock, by: float) -> None:
    await site.begin()
    for off in (by, 0.0):
        site.world.off = off
        await trio.sleep(60)
        assert site.all_talk()
        await site.lasts(16)
    assert site.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("by", FEWER)
async def test_clocks_are_set_one_after_the_other(site: Site, autojump_clock: MockClock, by: float) -> None:
    """Each box hears of the time in its own minute. Whoever is not believed for a date asks, and so does who does not believe."""
    await site.begin()
    for box in (site.n1, site.hub, site.n2):
        box.off = by
        for _ in range(20):
            site.all_talk()
            await trio.sleep(5)
        if by > 0:
            assert site.all_talk(), f"{box.name} was set; that it is later is proved by the authority"
    await site.heals(60)
    await site.lasts(16)


@pytest.mark.slow
@pytest.mark.parametrize("by", FEWER)
async def test_clocks_are_set_while_the_authority_is_dead(site: Site, autojump_clock: MockClock, by: float) -> None:
    """Nodes that heard it go on by its time, as long as their certificates would have lived anyway."""
    await site.begin()
    site.dead = True
    site.hub.stop()
    site.world.off = by
    await trio.sleep(60)
    site.pace(6 * 3600.0)
    for _ in range(8):
        assert site.talks(site.n1, site.n2)
        await trio.sleep(DAY)
    site.pace(LOOK)
    await site.reboot(site.hub)
    site.dead = False
    await trio.sleep(310)  # the longest rest between two attempts
    await site.heals(60)
    await site.lasts(16)


@pytest.mark.slow
@pytest.mark.parametrize("days", [15.0, 30.0, 300.0])
async def test_everything_sleeps(site: Site, autojump_clock: MockClock, days: float) -> None:
    """No timer runs while it does. On waking, nothing that is held is valid, and nobody types a token."""
    await site.begin()
    site.world.slept += days * DAY
    await trio.sleep(60)
    await site.heals(10)  # threads of a busy machine take time that the clock of a test jumps over
    await site.lasts(16)


@pytest.mark.slow
@pytest.mark.parametrize("days", [15.0, 30.0, 300.0])
async def test_everything_is_off_for_longer_than_a_certificate_lives(
    site: Site, autojump_clock: MockClock, days: float
) -> None:
    await site.begin()
    for box in (site.hub, site.n1, site.n2):
        box.stop()
    site.world.slept += days * DAY
    await site.reboot(site.hub, site.n1, site.n2)
    await site.heals(60)
    await site.lasts(16)


@pytest.mark.slow
@pytest.mark.parametrize("years", [-0.1, -3.0, -56.0])
async def test_boxes_without_a_clock_battery_boot_in_the_past_and_the_time_comes_later(
    site: Site, autojump_clock: MockClock, years: float
) -> None:
    await site.begin()
    for box in (site.hub, site.n1, site.n2):
        box.stop()
    site.world.slept += 3 * DAY
    await site.reboot(site.hub, site.n1, site.n2, off=years * 365 * DAY)
    await site.lasts(2)
    for box in (site.n2, site.hub, site.n1):
        box.off = 0.0
        await trio.sleep(20)
    await site.heals(60)
    await site.lasts(16)
    assert site.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("by", [-400 * DAY, -20 * DAY, 20 * DAY, 400 * DAY])
async def test_a_reboot_after_clocks_were_set_and_before_they_are_set_right(
    site: Site, autojump_clock: MockClock, by: float
) -> None:
    await site.begin()
    site.world.off = by
    await trio.sleep(60)
    await site.reboot(site.hub, site.n1, site.n2)
    await site.heals(60)
    site.world.off = 0.0
    await trio.sleep(60)
    await site.heals(10)  # threads of a busy machine take time that the clock of a test jumps over
    await site.reboot(site.n1, site.n2, site.hub)
    await site.heals(60)
    await site.lasts(16)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_clocks_are_set_while_answers_are_lost_and_requests_overtake_one_another(
    site: Site, autojump_clock: MockClock, seed: int
) -> None:
    await site.begin()
    random = Random(seed)
    for off in (20 * DAY, 0.0, -2 * DAY, 400 * DAY, 0.0):
        site.fate = random
        site.world.off = off
        await trio.sleep(random.uniform(0, 60))
        if random.random() < 0.5:
            await site.reboot(*random.sample([site.hub, site.n1, site.n2], 2))
        await trio.sleep(random.uniform(0, 60))
        site.fate = None
        await site.heals(330)  # the longest rest between two attempts, and an attempt
    await site.lasts(16)


async def test_a_revoked_node_does_not_come_back_with_what_has_ended(site: Site, autojump_clock: MockClock) -> None:
    await site.begin()
    site.revoked.add("n1")
    site.world.slept += 30 * DAY
    await trio.sleep(120)
    assert site.talks(site.n2, site.hub)
    assert not site.talks(site.n1, site.n2)
    assert (
        "revoked" in site.n1.keeper.holdings[None].standing.error
        or "n1" in site.n1.keeper.holdings[None].standing.error
    )


async def test_a_copy_of_a_node_s_disk_is_good_for_nothing_once_the_node_went_on(
    site: Site, autojump_clock: MockClock
) -> None:
    await site.begin()
    old = site.n1.keeper.proof()
    assert old is not None
    await site.lasts(8)
    site.world.slept += 30 * DAY
    await trio.sleep(60)
    assert site.n1.keeper.proof() != old
    holdings = site.authority._holdings
    assert not holdings.ledger.may_renew("n1", old.serial, holdings.issuers())
