"""Keeps a fresh certificate for the node and for every identity that runs on it, and the roots to believe.

Theory of operation. `want` says which identities there are. One task looks, whenever something may be due, at where each
certificate stands (standing.py) and has at most four asked for at once, each in a task of its own. A second task follows the
authority's bundle; while the authority cannot be reached it alone goes on trying, so that a site behind a dead link pays for one
attempt and not for one by each identity. What the data plane asks are look-ups in a dictionary that changes only when a
certificate does: what is held is handed out until it has ended by our clock and by the authority's, and never judged by its
beginning, since a clock that is behind must not become an outage: peers judge that.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

import trio

from agent.identity import renewal
from agent.identity.clock import Clock
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle, Signer
from agent.identity.renewal import Holding
from agent.identity.roots import Roots, fingerprint
from agent.identity.standing import Event, Failed, Got, Moved, Passed, Sooner, State, backoff, step
from agent.identity.vault import Pair, Vault
from nodeproxy.credentials import Credentials, Trust
from policy.model import Identity

log = logging.getLogger("edgemesh.keeper")

REFRESH = 3600.0  # seconds between two looks at the bundle
REFRESH_METERED = 6 * 3600.0  # where the link costs by the byte
LOOK = 60.0  # seconds between two looks at the clock
AT_ONCE = 4  # signings: a small authority signs some twenty a second, and many nodes ask
_SPREAD = 300.0  # seconds over which certificates are renewed when the issuer changed
_RECOVERY = 30.0  # seconds over which what failed meanwhile is asked for when the authority is back
_KEPT = 3600.0  # seconds that an identity's certificate is kept when nothing wants it: pods come back
_CORRECTED = 5.0  # seconds by which our idea of the time may change before everything is reckoned anew

Aside = Callable[..., Awaitable[Any]]  # runs what blocks, elsewhere


class Keeper:
    """nodeproxy.credentials.Identities of one node. `load` once, `want` often, `run` once; then look up.

    `random` decides all jitter; `aside` runs what blocks (the disk, making keys). `changed` is called after every change of what
    the look-ups answer, in the loop.
    """

    def __init__(
        self,
        vault: Vault,
        node: str,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
        random: Random | None = None,
        aside: Aside = trio.to_thread.run_sync,
    ) -> None:
        self.name = node
        self.clock = clock
        self.vault = vault
        self.refresh, self.look = REFRESH, LOOK
        self.roots = Roots(clock.tolerance)
        self.holdings: dict[Identity | None, Holding] = {None: Holding(None)}
        self.renewals: Counter[tuple[str, str]] = Counter()  # by SPIFFE ID and result
        self.silence: tuple[float, str] | None = None  # since when (steady) and why the authority cannot be reached
        self.misnamed = ""  # the name that this node joined with, when it is another one
        self._handed: dict[Identity | None, Credentials] = {}
        self.changed = changed
        self._random = random or Random()  # noqa: S311 - jitter
        self._aside = aside
        self._reckoning = clock.now() - clock.steady()
        self._disk = trio.Lock()
        self._woken = trio.Event()
        self._asked = trio.Event()  # the bundle is wanted now

    def __repr__(self) -> str:
        return f"<Keeper of {self.name}, {len(self._handed)}/{len(self.holdings)} certificates>"

    # what the data plane asks

    def trust(self) -> Trust | None:
        return self.roots.trust

    def of(self, identity: Identity) -> Credentials | None:
        return self._handed.get(identity)

    def node(self) -> Credentials | None:
        return self._handed.get(None)

    # what the rest of the agent asks

    def credentials(self) -> list[Credentials]:
        """All that is handed out now."""
        return list(self._handed.values())

    def load(self) -> None:
        """Begin with what is on the disk. Blocks."""
        joined, bundle, pairs = self.vault.load()
        if joined and joined.node != self.name:
            self.misnamed = joined.node
        if bundle is None or not self.roots.take(bundle):
            return
        self.clock.at_least(bundle.now, "the authority said so")
        for pair in pairs:
            spiffe = pair.credentials.spiffe
            identity = renewal.workload_of(spiffe, bundle.trust_domain)
            if identity or spiffe == self.spiffe(None):
                self.clock.at_least(pair.credentials.not_before, f"the certificate of {spiffe} begins then")
                self._hold(self.holdings.setdefault(identity, Holding(identity)), pair)
        self.want(())
        self._hurry()
        self._publish()

    def want(self, identities: Iterable[Identity]) -> None:
        """These run on this node now."""
        wanted = set(identities)
        for identity in wanted:
            self.holdings.setdefault(identity, Holding(identity))
        for holding in self.holdings.values():
            if holding.identity is None or holding.identity in wanted:
                holding.unwanted = None
            elif holding.unwanted is None:
                holding.unwanted = self.clock.steady()
        self._woken.set()

    def spiffe(self, identity: Identity | None) -> str:
        domain = self.roots.bundle.trust_domain if self.roots.bundle else ""
        return identity.spiffe(domain) if identity else f"spiffe://{domain}/node/{self.name}"

    async def run(self, signer: Signer) -> None:
        """Keep everything fresh until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, signer)
            while True:
                self._woken = trio.Event()
                if self.clock.look():
                    self._asked.set()  # the authority knows what is right
                self._pass()
                await self._forget()
                for holding in self._next():
                    holding.asking = True
                    nursery.start_soon(self._renew, holding, signer)
                with trio.move_on_after(self._pause()):
                    await self._woken.wait()

    # the authority's bundle

    async def _follow(self, signer: Signer) -> None:
        """Fetch it now and then; while the authority is silent, with the patience of a back-off."""
        failures = 0
        while True:
            self._asked = trio.Event()
            began = self.clock.steady()
            try:
                bundle = await signer.bundle()
            except AuthorityUnreachable as error:
                failures += 1
                self._fell_silent(str(error))
                pause = backoff(failures, False, self._random.random())
            else:
                await self._heard(bundle, self.clock.steady() - began)
                self._answered(recovered=failures > 0)
                failures = 0
                pause = self.refresh * (0.9 + 0.2 * self._random.random())
            with trio.move_on_after(pause):
                await self._asked.wait()
                await trio.sleep(backoff(1, False, 0.0))  # whoever asked may have found it silent

    async def _heard(self, bundle: Bundle, took: float) -> bool:
        """False when it cannot be the bundle of our mesh."""
        self.clock.heard(bundle.now, took)
        before = self.roots.trust
        if not self.roots.take(bundle):
            return False
        if self.roots.trust is not before:
            self.changed()
        self._hurry()
        await self._store(self.vault.keep_bundle, self.roots.bundle)
        return True

    def _hurry(self) -> None:
        """Renew what leads to a root that does not issue any more: soon, or now when nobody believes it any more."""
        if (bundle := self.roots.bundle) is None:
            return
        roots = set(map(fingerprint, bundle.roots))
        for holding in self.holdings.values():
            if holding.credentials and bundle.issuer not in (holding.root, holding.heeded):
                holding.heeded = bundle.issuer
                self._step(holding, Sooner(_SPREAD * self._random.random() if holding.root in roots else 0.0))
        self._woken.set()

    # whether the authority is there

    def _fell_silent(self, why: str) -> None:
        """Everything that is due has failed with it."""
        if self.silence is None:
            log.warning("the authority cannot be reached: %s", why)
        self.silence = (self.silence[0] if self.silence else self.clock.steady(), why)
        for holding in self._due():
            self._fail(holding, "unreachable", why)

    def _answered(self, recovered: bool = False) -> None:
        """`recovered`: it did not before, so what failed meanwhile waits no longer."""
        if self.silence:
            log.info("the authority answers again")
        self.silence = None
        for holding in self.holdings.values():
            if recovered and holding.standing.failures and holding.standing.state is not State.REFUSED:
                self._step(holding, Sooner(_RECOVERY * self._random.random() if holding.identity in self._handed else 0.0))
        self._woken.set()

    # one certificate

    async def _renew(self, holding: Holding, signer: Signer) -> None:
        spiffe = self.spiffe(holding.identity)
        try:
            key, request = await self._aside(renewal.ask, spiffe)
            began = self.clock.steady()
            issued = await signer.sign(spiffe, request)
            took = self.clock.steady() - began
            pair = await self._aside(renewal.accept, issued, key, spiffe, self.clock.tolerance)
            if not await self._heard(issued.bundle, took):
                raise AuthorityRefused(self.roots.foreign)
            await self._store(self.vault.keep, pair)
        except AuthorityRefused as refusal:
            self._answered()
            log.warning("no new certificate for %s: %s", spiffe, refusal.error)
            self._fail(holding, "refused", refusal.error, refusal.hint)
        except AuthorityUnreachable as error:
            self._fail(holding, "unreachable", str(error))
            self._fell_silent(str(error))
            self._asked.set()
        else:
            self._answered()
            self.renewals[spiffe, "issued"] += 1
            self._hold(holding, pair)
            holding.heeded = "" if pair.root == issued.bundle.issuer else issued.bundle.issuer
            self._hurry()  # another root may have begun to sign meanwhile
            self._publish()
        finally:
            holding.asking = False
            self._woken.set()

    def _hold(self, holding: Holding, pair: Pair) -> None:
        holding.credentials, holding.root = pair.credentials, pair.root
        self._step(holding, Got(pair.credentials.not_before, pair.credentials.not_after, self._random.random()))

    def _fail(self, holding: Holding, result: str, error: str, hint: str = "") -> None:
        self.renewals[self.spiffe(holding.identity), result] += 1
        self._step(holding, Failed(error, result == "refused", self._random.random(), hint))

    async def _store(self, what: Callable[..., None], value: object) -> None:
        async with self._disk:
            await self._aside(what, value)

    def _step(self, holding: Holding, event: Event) -> None:
        holding.standing = step(holding.standing, event, self.clock.now())

    # all of them

    def _due(self) -> list[Holding]:
        """What is to be asked for now, and is not: the node's own first, since it proves the right to ask for the others."""
        now = self.clock.now()
        due = [h for h in self.holdings.values() if not h.asking and h.unwanted is None and h.standing.due <= now]
        return sorted(due, key=lambda h: (h.identity is not None, h.standing.not_after)) if self.roots.bundle else []

    def _next(self) -> list[Holding]:
        return [] if self.silence else self._due()[: AT_ONCE - sum(holding.asking for holding in self.holdings.values())]

    def _pass(self) -> None:
        """Time went on; or its reckoning was corrected, by a step of our clock or a word of the authority."""
        reckoning = self.clock.now() - self.clock.steady()
        event = Moved() if abs(reckoning - self._reckoning) > _CORRECTED else Passed()
        self._reckoning = reckoning
        for holding in self.holdings.values():
            self._step(holding, event)
        self._publish()

    def _publish(self) -> None:
        """Hand out what has not ended."""
        now = self.clock.earliest() - self.clock.tolerance
        handed = {identity: h.credentials for identity, h in self.holdings.items() if h.credentials and now < h.credentials.not_after}
        if handed != self._handed:
            self._handed = handed
            self.changed()

    async def _forget(self) -> None:
        """Let go of what has not been wanted for a while, its file first."""
        before = self.clock.steady() - _KEPT
        for holding in list(self.holdings.values()):
            if holding.unwanted is not None and holding.unwanted <= before and not holding.asking:
                spiffe = self.spiffe(holding.identity)
                await self._store(self.vault.drop, spiffe)
                if holding.unwanted is not None:
                    del self.holdings[holding.identity]
                    self.renewals = Counter({key: count for key, count in self.renewals.items() if key[0] != spiffe})
        self._publish()

    def _pause(self) -> float:
        """Seconds until something may be due."""
        now, earliest, forgotten = self.clock.now(), self.clock.earliest() - self.clock.tolerance, self.clock.steady() - _KEPT
        moments = [self.look]
        for holding in self.holdings.values():
            ends = holding.standing.not_after
            moments += [holding.standing.due - now, ends - now, ends - earliest, (holding.unwanted or 0.0) - forgotten]
        return max(0.001, min(moment for moment in moments if moment > 0))
