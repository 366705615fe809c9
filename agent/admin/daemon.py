"""The daemon as the admin API knows it: an interface, so that views and documents import no daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # `edgemesh check` should not load the whole daemon
    from agent.config.schema import NodeConfig
    from agent.identity.node.manager import CertificateManager
    from agent.kernel.condition import Condition
    from agent.kubernetes.api import ApiServer
    from agent.store.store import Published
    from agent.telemetry.access_log import AccessLog
    from agent.telemetry.metrics import Metrics
    from agent.telemetry.recent_denials import RecentDenials
    from nodeproxy.context import Conn
    from nodeproxy.interfaces import FastPath
    from policy.model import Problem

Readiness = Literal["starting", "degraded", "enforcing"]
Document = dict[str, Any]  # plain data: dictionaries, lists, text and numbers


class UpdateError(Exception):
    """The release did not take over; the message says why, `hint` what the state is now."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Daemon(Protocol):
    """The running daemon, as far as the admin API shows it and calls it (agent/daemon/node.py implements it)."""

    @property
    def version(self) -> str: ...
    @property
    def directory(self) -> str: ...  # of the manifests
    @property
    def started(self) -> float: ...  # seconds since the epoch
    @property
    def config(self) -> NodeConfig: ...  # the settings in force
    @property
    def published(self) -> Published | None: ...  # the newest build
    @property
    def problems(self) -> Sequence[Problem]: ...
    @property
    def conns(self) -> Mapping[int, Conn]: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def access_log(self) -> AccessLog: ...
    @property
    def refusals(self) -> RecentDenials: ...
    @property
    def keeper(self) -> CertificateManager | None: ...  # None: the node stands alone
    @property
    def fast(self) -> FastPath[Conn]: ...

    @property
    def api(self) -> ApiServer | None: ...  # of the cluster that this node is of; None: of none

    def nodes(self) -> list[Document]:
        """Return the other nodes, and whether they can be reached; see nodeproxy/mesh/pool.py."""
        ...

    def clusters(self) -> list[Document]:
        """Return the API servers that objects come from: whether they are there, and what was exchanged."""
        ...

    @property
    def copies_dropped(self) -> int:
        """The number of requests that a RequestMirror would have copied, had there been room."""
        ...

    def gateway_listeners(self) -> list[Document]:
        """Return the listeners of Gateways, and whether they are open at this node; see agent/gateway/shown.py."""
        ...

    def circuits(self) -> list[Document]:
        """Return the circuits that are not closed: caller, Service, port of its servers, the object, and the state."""
        ...

    def names(self) -> Document:
        """Return the outcomes of DNS questions, what is kept, and the resolvers that do not answer."""
        ...

    @property
    def settled(self) -> bool:
        """Return whether policy is known, and every local workload that can be captured is."""
        ...

    @property
    def state(self) -> Readiness:
        """Return whether the node does what its manifests ask. See agent/daemon/readiness.py."""
        ...

    def conditions(self) -> Mapping[str, Condition]:
        """Return the condition of every workload of this node, by key."""
        ...

    def unit(self, name: str, cgroup: int) -> tuple[bool, bool, str]:
        """Return whether a systemd unit is a workload of this node, whether its cgroup is captured, and what is wrong.

        See agent/kernel.
        """
        ...

    async def release(self, name: str) -> tuple[str, ...]:
        """Release what no manifest says any more, by its name. Return what that was; () when nothing has that name."""
        ...

    async def update(self, name: str) -> str:
        """Hand over to the staged release of that name. Return its version. Raise UpdateError; then nothing changed."""
        ...
