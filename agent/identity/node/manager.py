"""Keeps a fresh certificate for the node and for every identity that runs on it, and the roots to trust.

Theory of operation. `want` says which identities there are. Whenever something may be due, one task checks the state of
each certificate (lifecycle.py) and has at most four requested at once, each in a task of its own. A second task follows
the authority's bundle. While the authority cannot be reached, only that task retries, so that a site behind a dead link
pays for one attempt and not for one for each identity.

The data plane's questions are look-ups in a dictionary that changes only when a certificate does. A certificate is
handed out until it has expired by our clock and by the authority's. Its beginning is never checked here, since a clock
that is behind must not become an outage: peers check that.

Time may jump by years, forward and back (clock.py), and months may pass in which nothing runs: then every certificate
that is not valid now is requested, the node's own first.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

import trio

from agent.identity.lineage import order_of
from agent.identity.node import certificate
from agent.identity.node.certificate import ManagedCertificate
from agent.identity.node.clock import Clock
from agent.identity.node.lifecycle import Event, Failed, Got, Moved, Passed, Sooner, State, backoff, step
from agent.identity.node.roots import Roots, fingerprint
from agent.identity.node.store import IdentityStore, KeyPair
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle, Signer
from nodeproxy.tls.credentials import Credentials, Trust
from policy.model import Identity

log = logging.getLogger("edgemesh.keeper")

REFRESH = 3600.0  # seconds between two requests for the bundle
LOOK = 10.0  # seconds between two looks at the clock: a step or a wake-up is noticed within a minute
AT_ONCE = 4  # requests: a small authority signs some twenty a second, and many nodes ask
_SPREAD = 300.0  # seconds over which certificates are renewed when the issuer changed
_RECOVERY = 30.0  # seconds over which failed requests are repeated when the authority is back
_KEPT = 3600.0  # seconds that an unwanted identity's certificate is kept: pods come back
_DOUBTS = 30.0  # seconds between two requests because of peers' dates: old certificates must not cause endless ones
_CORRECTED = 5.0  # seconds by which our time may change before everything is computed again

Aside = Callable[..., Awaitable[Any]]  # runs a blocking function elsewhere


class CertificateManager:
    """Implements nodeproxy.tls.credentials.Identities for one node.

    `load` once, `want` often, `run` once; then look up. `random` decides all jitter. `aside` runs what blocks (the
    disk, making keys). `changed` is called in the loop after every change of what the look-ups return.
    """

    def __init__(
        self,
        vault: IdentityStore,
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
        self.holdings: dict[Identity | None, ManagedCertificate] = {None: ManagedCertificate(None)}
        self.renewals: Counter[tuple[str, str]] = Counter()  # by SPIFFE ID and result
        self.silence: tuple[float, str] | None = None  # since when (steady) and why the authority is unreachable
        self.awaited: Callable[[str], str] = lambda _: ""  # what an open request for a SPIFFE ID waits for, in words
        self.misnamed = ""  # the name that this node joined with, if it is another one
        self._handed: dict[Identity | None, Credentials] = {}
        self.changed = changed
        self._random = random or Random()  # noqa: S311 - jitter
        self._aside = aside
        self._reckoning = clock.now() - clock.steady()
        self._disk = trio.Lock()
        self._woken = trio.Event()
        self._asked = trio.Event()  # the bundle is wanted now
        self._doubted = float("-inf")  # when a peer's date last made us ask

    def __repr__(self) -> str:
        return f"<CertificateManager of {self.name}, {len(self._handed)}/{len(self.holdings)} certificates>"

    # what the data plane looks up

    def trust(self) -> Trust | None:
        return self.roots.trust

    def of(self, identity: Identity) -> Credentials | None:
        return self._handed.get(identity)

    def node(self) -> Credentials | None:
        return self._handed.get(None)

    def now(self) -> float:
        return self.clock.now()

    def doubt(self) -> None:
        if self.clock.steady() - self._doubted >= _DOUBTS:
            self._doubted = self.clock.steady()
            self._asked.set()

    # what the rest of the agent calls

    def credentials(self) -> list[Credentials]:
        """Return all credentials that are handed out now."""
        return list(self._handed.values())

    def proof(self) -> Credentials | None:
        """Return the certificate that the node shows the authority, even an expired one.

        A node that was off for long requests its next certificate with it.
        """
        return self.holdings[None].credentials

    def load(self) -> None:
        """Load what is on the disk. Blocks."""
        joined, bundle, pairs = self.vault.load()
        if joined and joined.node != self.name:
            self.misnamed = joined.node
        if bundle is None or not self.roots.take(bundle):
            return
        self.clock.at_least(bundle.now, "the authority said so")
        for pair in pairs:
            spiffe = pair.credentials.spiffe
            identity = certificate.workload_of(spiffe, bundle.trust_domain)
            if identity or spiffe == self.spiffe(None):
                self.clock.at_least(pair.credentials.not_before, f"the certificate of {spiffe} begins then")
                self._hold(self.holdings.setdefault(identity, ManagedCertificate(identity)), pair)
        self.want(())
        self._hurry()
        self._publish()

    def want(self, identities: Iterable[Identity]) -> None:
        """Keep certificates for these identities, which run on this node now."""
        wanted = set(identities)
        for identity in wanted:
            self.holdings.setdefault(identity, ManagedCertificate(identity))
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
        """Keep all certificates and the bundle fresh until cancelled. Nobody else writes the same folder meanwhile."""
        async with self._disk:
            await self._aside(self.vault.sweep)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, signer)
            while True:
                self._woken = trio.Event()
                if self.clock.look():
                    self._asked.set()  # the authority knows the time
                self._pass()
                await self._forget()
                for holding in self._next():
                    holding.asking = True
                    nursery.start_soon(self._renew, holding, signer)
                with trio.move_on_after(self._pause()):
                    await self._woken.wait()

    # the authority's bundle

    async def _follow(self, signer: Signer) -> None:
        """Fetch the bundle every `refresh` seconds, or with back-off while the authority does not respond."""
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
                await trio.sleep(backoff(1, False, 0.0))  # the task that asked may have found the authority unreachable

    async def _heard(self, bundle: Bundle, took: float) -> bool:
        """Take a bundle. Return False when it cannot be that of our mesh."""
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
        """Renew certificates under a root that no longer issues: soon, or at once if that root is no longer trusted."""
        if (bundle := self.roots.bundle) is None:
            return
        roots = set(map(fingerprint, bundle.roots))
        for holding in self.holdings.values():
            if holding.credentials and bundle.issuer not in (holding.root, holding.heeded):
                holding.heeded = bundle.issuer
                self._step(holding, Sooner(_SPREAD * self._random.random() if holding.root in roots else 0.0))
        self._woken.set()

    # whether the authority can be reached

    def _fell_silent(self, why: str) -> None:
        """Note that the authority is unreachable: every request that is due has failed with it."""
        if self.silence is None:
            log.warning("the authority cannot be reached: %s", why)
        self.silence = (self.silence[0] if self.silence else self.clock.steady(), why)
        for holding in self._due():
            self._fail(holding, "unreachable", why)

    def _answered(self, recovered: bool = False) -> None:
        """Note that the authority responded.

        `recovered`: it did not before, so failed requests are repeated now.
        """
        if self.silence:
            log.info("the authority answers again")
        self.silence = None
        for holding in self.holdings.values():
            if recovered and holding.standing.failures and holding.standing.state is not State.REFUSED:
                self._step(
                    holding, Sooner(_RECOVERY * self._random.random() if holding.identity in self._handed else 0.0)
                )
        self._woken.set()

    # one certificate

    async def _renew(self, holding: ManagedCertificate, signer: Signer) -> None:
        spiffe = self.spiffe(holding.identity)
        try:
            key, request = await self._aside(certificate.ask, spiffe, self.name)
            began = self.clock.steady()
            issued = await signer.sign(spiffe, request)
            took = self.clock.steady() - began
            pair = await self._aside(certificate.accept, issued, key, spiffe, self.clock.tolerance)
            if not await self._heard(issued.bundle, took):
                raise AuthorityRefused(self.roots.foreign)
            await self._store(self.vault.keep, pair)
        except AuthorityRefused as refusal:
            self._answered()
            log.warning("no new certificate for %s: %s", spiffe, refusal.error)
            self._fail(holding, "refused", refusal.error, refusal.hint)
            if holding.identity is None:
                await self._take_up(holding)
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

    async def _take_up(self, own: ManagedCertificate) -> None:
        """Take a newer certificate of the node that another process put on the disk.

        That process is `edgemesh join`, or the daemon that handed over to us.
        """
        async with self._disk:
            pair = await self._aside(self.vault.find, self.spiffe(None))
        held, bundle = own.credentials, self.roots.bundle
        if pair is None or bundle is None or pair.root not in map(fingerprint, bundle.roots):
            return
        if held is None or order_of(pair.credentials.serial) > order_of(held.serial):
            log.info("the node has a newer certificate on the disk, and asks with that one")
            self._hold(own, pair)
            self._publish()

    def _hold(self, holding: ManagedCertificate, pair: KeyPair) -> None:
        holding.credentials, holding.root = pair.credentials, pair.root
        self._step(holding, Got(pair.credentials.not_before, pair.credentials.not_after, self._random.random()))

    def _fail(self, holding: ManagedCertificate, result: str, error: str, hint: str = "") -> None:
        self.renewals[self.spiffe(holding.identity), result] += 1
        self._step(holding, Failed(error, result == "refused", self._random.random(), hint))

    async def _store(self, what: Callable[..., None], value: object) -> None:
        async with self._disk:
            await self._aside(what, value)

    def _step(self, holding: ManagedCertificate, event: Event) -> None:
        holding.standing = step(holding.standing, event, self.clock.now())

    # all of them

    def _due(self) -> list[ManagedCertificate]:
        """Return what is to be requested now: the node's own first, since it proves the right to request the others."""
        now = self.clock.now()
        due = [h for h in self.holdings.values() if not h.asking and h.unwanted is None and h.standing.due <= now]
        own = self.holdings[None].credentials
        if own is not None and not own.not_before - self.clock.tolerance <= now <= own.not_after + self.clock.tolerance:
            due = [
                h for h in due if h.identity is None
            ]  # a node whose own certificate is not valid now may request its next one, and no other
        return sorted(due, key=lambda h: (h.identity is not None, h.standing.not_after)) if self.roots.bundle else []

    def _next(self) -> list[ManagedCertificate]:
        return (
            [] if self.silence else self._due()[: AT_ONCE - sum(holding.asking for holding in self.holdings.values())]
        )

    def _pass(self) -> None:
        """Note that time passed, or was corrected by a step of our clock or by the authority."""
        reckoning = self.clock.now() - self.clock.steady()
        event = Moved() if abs(reckoning - self._reckoning) > _CORRECTED else Passed()
        self._reckoning = reckoning
        for holding in self.holdings.values():
            self._step(holding, event)
        self._publish()

    def _publish(self) -> None:
        """Hand out every certificate that has not expired."""
        now = self.clock.earliest() - self.clock.tolerance
        handed = {
            identity: h.credentials
            for identity, h in self.holdings.items()
            if h.credentials and now < h.credentials.not_after
        }
        if handed != self._handed:
            self._handed = handed
            self.changed()

    async def _forget(self) -> None:
        """Drop what has not been wanted for a while, its file first."""
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
        """Return the seconds until something may be due."""
        now, earliest, forgotten = (
            self.clock.now(),
            self.clock.earliest() - self.clock.tolerance,
            self.clock.steady() - _KEPT,
        )
        moments = [self.look]
        for holding in self.holdings.values():
            ends = holding.standing.not_after
            moments += [holding.standing.due - now, ends - now, ends - earliest, (holding.unwanted or 0.0) - forgotten]
        return max(0.001, min(moment for moment in moments if moment > 0))
