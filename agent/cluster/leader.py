"""The lease of a cluster's servers, and what its holder runs: the authority, AccessCerts, the MeshNodes, what is said on policy.

The lease has a client of its own: whatever the rest asks of the API server, a renewal does not wait for it. What is
asked for the whole cluster is bounded apart from what this node asks for itself.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from functools import partial

import trio

from agent.cluster.gateway_status import Lacking
from agent.cluster.verdicts import Policy, VerdictWriter
from agent.cluster.writer import MeshNodeWriter
from agent.identity.authority.authority import Revocation
from agent.identity.kubernetes.access_certs import AccessCerts
from agent.identity.kubernetes.authority import ClusterAuthority
from agent.identity.kubernetes.objects import LEASE, NAMESPACE
from agent.kubernetes.api import ApiServer
from agent.kubernetes.events import Events
from agent.kubernetes.lease import Lease
from agent.kubernetes.pace import Pace
from nodeproxy.housekeeping import Housekeeping
from policy.model import Problem, Where

log = logging.getLogger("edgemesh.cluster")

RATE, BURST = 50.0, 200  # requests a second of the holder, for the whole cluster

_LOOK = 0.5  # seconds between looks at whether policy is known
_SETTLED = 1.0  # seconds more, for what was listed to become the policy in force

Make = Callable[..., ApiServer]


class ClusterLeader:
    """This server's part: it waits for the lease, and works for the cluster while it has it.

    `own`: this node's own client. `node`: its name. `now`: the mesh's time. `lifetime`: of a certificate. `refused`: revocations. `ready`:
    whether those are known; before, this server does not lead. `policy`: what this server has built. `lacking`: what this
    node lacks for Gateways.
    """

    def __init__(
        self,
        own: ApiServer,
        node: str,
        now: Callable[[], float],
        lifetime: float,
        refused: Revocation,
        tunnel_port: int,
        ready: Callable[[], bool] = lambda: True,
        policy: Policy = lambda: (0, (), (), None),
        namespace: str = NAMESPACE,
        make: Make = ApiServer,
        lacking: Callable[[], Lacking] = dict,
    ) -> None:
        self._node = node
        self._now = now
        self._api = make(own.access, Pace(RATE, BURST))
        self.lease = Lease(make(own.access, own.pace, urgent=True), namespace, LEASE, f"{node}_{secrets.token_hex(8)}")
        self._authority = partial(ClusterAuthority, self._api, namespace, now, lifetime, refused)
        self._tunnel_port = tunnel_port
        self._ready = ready
        self._policy = policy
        self._namespace = namespace
        self._lacking = lacking
        self.authority: ClusterAuthority | None = None  # while the lease is ours
        self.writer: MeshNodeWriter | None = None
        self.verdicts: VerdictWriter | None = None
        self.access_certs: AccessCerts | None = None

    @property
    def requests(self) -> int:
        """How many requests were made for the whole cluster since the start."""
        return self._api.pace.requests

    def __repr__(self) -> str:
        return f"<ClusterLeader on {self._node}, {self.lease!r}>"

    async def run(self) -> None:
        """Wait for the lease, lead, and begin again, until cancelled."""
        while not self._ready():  # noqa: ASYNC110 - once in a life
            await trio.sleep(_LOOK)
        await trio.sleep(_SETTLED)
        await self.lease.run(self._lead)

    async def _lead(self) -> None:
        # New ones each time: what an earlier term knew may be out of date.
        events = Events(self._api, self._node)
        authority = self.authority = self._authority(events)
        self.writer = MeshNodeWriter(self._api, self._tunnel_port)
        # Its Events are bounded apart: many objects that are wrong do not hide why a certificate is refused.
        told = Events(self._api, self._node)
        self.verdicts = VerdictWriter(self._api, told, self._policy, authority.problems, self._namespace, self._lacking)
        certs = AccessCerts(
            self._api, authority, Events(self._api, self._node), self._now, self._has_workloads, self._namespace
        )
        self.access_certs, authority.behind = certs, certs.behind
        keep = Housekeeping()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep.keep, "authority", self.authority.run)
                nursery.start_soon(keep.keep, "MeshNodes", self.writer.run)
                nursery.start_soon(keep.keep, "conditions of policy", self.verdicts.run)
                nursery.start_soon(keep.keep, "certificates of clients outside the mesh", certs.run)
        finally:
            self.authority = self.writer = self.verdicts = self.access_certs = None

    def _has_workloads(self, namespace: str) -> bool:
        """Return whether manifests have Workloads in a namespace, which are in the mesh without a word of that."""
        found = (raw.data.get("metadata") or {} for raw in self._policy()[1] if raw.data.get("kind") == "Workload")
        return any((metadata.get("namespace") or "default") == namespace for metadata in found)

    def problems(self) -> Sequence[Problem]:
        """Return what keeps this server from its part."""
        found = []
        if self.lease.trouble:
            message = f"the lease {LEASE} cannot be taken or renewed: {self.lease.trouble}"
            found.append(
                Problem(
                    "warning",
                    Where(),
                    "cluster",
                    message,
                    "is the API server up, and are the rights of edgemesh-server there?",
                )
            )
        if self.authority is not None:
            found += self.authority.problems()
        if self.writer is not None and self.writer.trouble:
            found.append(Problem("warning", Where(), "cluster", self.writer.trouble, ""))
        if self.access_certs is not None and self.access_certs.trouble:
            found.append(Problem("warning", Where(), "cluster", self.access_certs.trouble, ""))
        if self.verdicts is not None and self.verdicts.trouble:
            found.append(Problem("notice", Where(), "cluster", self.verdicts.trouble, "policy holds all the same"))
        return found
