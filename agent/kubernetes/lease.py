"""Leader election by a Lease (coordination.k8s.io/v1), with the rules and times of Kubernetes' own components.

Whoever is named in the Lease leads, as long as it renews. Clocks of different machines are never compared: a candidate
that saw the Lease change waits, by its own clock, for as long as the Lease says, and only then takes it. Each write
carries the version that was read, so of two candidates one gets an answer of 409. A leader that cannot renew stops
before others may begin. Still, a machine that slept may act for a moment while another leads: what the leader does must
be safe then, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import trio
from msgspec import Struct, field

from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable

log = logging.getLogger("edgemesh.lease")

DURATION = 15  # seconds after the last change that others wait
DEADLINE = 10.0  # seconds without a renewal after which the leader stops
RETRY = 2.0  # seconds between two tries
_JITTER = 1.2  # part of RETRY that is added by chance while we wait for the lease


class Spec(Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Metadata(Struct, rename="camel", omit_defaults=True):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    uid: str = ""


class LeaseObject(Struct, rename="camel"):
    metadata: Metadata = field(default_factory=Metadata)
    spec: Spec = field(default_factory=Spec)
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"


class Election:
    """What one candidate knows of a Lease, and whether it may take it. Pure: now is an argument, in steady seconds."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.seen: LeaseObject | None = None
        self._since = 0.0  # when `seen` last changed, by our clock

    def __repr__(self) -> str:
        return f"<Election of {self.identity}, held by {self.holder or 'nobody'}>"

    @property
    def holder(self) -> str:
        return (self.seen.spec.holder_identity or "") if self.seen else ""

    def observe(self, lease: LeaseObject, now: float) -> None:
        """Note what was read. Only a change begins the wait anew."""
        if self.seen is None or lease.metadata.resource_version != self.seen.metadata.resource_version:
            self.seen, self._since = lease, now

    def may_take(self, now: float) -> bool:
        """Return whether the lease is ours, free, or has not changed for as long as it says."""
        if self.seen is None or self.holder in ("", self.identity):
            return True
        return now >= self._since + max(1, self.seen.spec.lease_duration_seconds or DURATION)

    def taken(self, wall: str) -> Spec:
        """Return what we write to take or renew the lease. `wall`: our clock's time, which is for people only."""
        before = self.seen.spec if self.seen else Spec()
        ours = self.holder == self.identity
        return Spec(
            self.identity,
            DURATION,
            before.acquire_time if ours else wall,
            wall,
            (before.lease_transitions or 0) + (0 if ours or self.seen is None else 1),
        )


class Lease:
    """One Lease. `identity`: unique for this process. `steady`: a clock that goes on while the machine sleeps."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        name: str,
        identity: str,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        random: Random | None = None,
    ) -> None:
        self._api = api
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name, self._namespace = name, namespace
        self._steady = steady
        self._random = random or Random()  # noqa: S311 - jitter
        self._election = Election(identity)
        self.leads = False
        self.trouble = ""  # why the last try failed

    def __repr__(self) -> str:
        return f"<Lease {self._namespace}/{self._name}, {'ours' if self.leads else self._election.holder or 'free'}>"

    @property
    def holder(self) -> str:
        """Return who held it when we last looked; "" for nobody."""
        return self._election.holder

    async def run(self, lead: Callable[[], Awaitable[Any]]) -> None:
        """Run `lead` whenever the lease is ours; cancel it when it is not, or cannot be renewed in time. No return."""
        while True:
            until = await self._acquire()
            log.info("%s/%s is ours: this node leads", self._namespace, self._name)
            self.leads = True
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lead)
                    await self._renew(until)
                    nursery.cancel_scope.cancel()
            finally:
                self.leads = False
                with trio.move_on_after(RETRY, shield=True):
                    await self._release()
            log.warning("%s/%s is ours no more: %s", self._namespace, self._name, self.trouble or self.holder)

    async def _acquire(self) -> float:
        """Wait until the lease is ours. Return until when, by `steady`, we may act on that."""
        while True:
            if (until := await self._try()) is not None:
                return until
            await trio.sleep(RETRY * (1 + _JITTER * self._random.random()))

    async def _renew(self, until: float) -> None:
        """Renew until the lease is lost."""
        while (left := until - self._steady()) > 0:
            await trio.sleep(min(RETRY, left))
            with trio.move_on_after(max(0.0, until - self._steady())):
                renewed = await self._try()
                if renewed is not None:
                    until = renewed
                elif self._election.holder != self._election.identity:
                    return

    async def _try(self) -> float | None:
        """Take or renew the lease if we may. Return until when we lead; None when we do not."""
        began = self._steady()
        try:
            with trio.fail_after(DEADLINE / 2):
                found = await self._read()
                if found is not None:
                    self._election.observe(found, began)
                if not self._election.may_take(began):
                    self.trouble = ""
                    return None
                wall = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                written = await self._write(found, self._election.taken(wall))
                self._election.observe(written, began)
        except (ApiUnreachable, trio.TooSlowError) as error:
            self.trouble = str(error) or "the API server does not answer"
        except ApiError as error:
            self.trouble = "" if error.status == 409 else str(error)  # 409: somebody was faster
        except msgspec.MsgspecError as error:
            self.trouble = f"the Lease cannot be read: {error}"
        else:
            self.trouble = ""
            return began + DEADLINE
        return None

    async def _read(self) -> LeaseObject | None:
        try:
            response = await self._api.request("GET", f"{self._folder}/{self._name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return msgspec.json.decode(response.body, type=LeaseObject)

    async def _write(self, found: LeaseObject | None, spec: Spec) -> LeaseObject:
        if found is None:
            body = msgspec.json.encode(LeaseObject(Metadata(self._name, self._namespace), spec))
            response = await self._api.request("POST", self._folder, body=body)
        else:
            body = msgspec.json.encode(LeaseObject(found.metadata, spec))
            response = await self._api.request("PUT", f"{self._folder}/{self._name}", body=body)
        return msgspec.json.decode(response.body, type=LeaseObject)

    async def _release(self) -> None:
        """Let the next one take it at once, if it is ours. No failure matters: then it waits."""
        seen = self._election.seen
        if seen is None or self._election.holder != self._election.identity:
            return
        spec = msgspec.structs.replace(seen.spec, holder_identity="", lease_duration_seconds=1)
        try:
            self._election.observe(await self._write(seen, spec), self._steady())
        except (ApiError, ApiUnreachable, msgspec.MsgspecError) as error:
            log.info("the lease could not be given back: %s", error)
