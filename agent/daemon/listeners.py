"""LISTENERS: where a daemon serves HTTP. Only the daemon that leads its node serves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import trio

from agent.admin.api import ACTIONS, handler, health, scraped
from agent.admin.bearer import BearerToken
from agent.admin.daemon import Daemon
from agent.admin.listener import AdminSocket
from agent.config.schema import NodeConfig
from agent.daemon.cluster_door import ClusterDoor
from agent.daemon.tcp_port import TcpPort
from agent.http import server
from agent.system.fd_store import FdStore
from policy.model import Problem, Where


class Listener(Protocol):
    """One HTTP listener of the daemon."""

    @property
    def name(self) -> str: ...  # in the log, and in the Problem when it fails

    def problems(self) -> Iterator[Problem]:
        """Yield what keeps it from serving."""
        ...

    async def serve(self, daemon: Daemon, conversations: trio.Nursery) -> None:
        """Accept until cancelled. Accepted connections run in `conversations`, and may end later."""
        ...


class AdminListener:
    """The admin socket: every page, and every action."""

    name = "the admin socket"

    def __init__(self, config: NodeConfig, kept: FdStore, admin: AdminSocket) -> None:
        self._admin = admin

    def problems(self) -> Iterator[Problem]:
        yield from ()

    async def serve(self, daemon: Daemon, conversations: trio.Nursery) -> None:
        await server.serve(self._admin.listener(), handler(daemon, actions=tuple(ACTIONS)), conversations, posts=True)


class MetricsListener:
    """NodeConfig metricsAddress, for clients that show the token of metricsTokenFile.

    It is not served when either is missing.
    """

    name = "the metrics"

    def __init__(self, config: NodeConfig, kept: FdStore, admin: AdminSocket) -> None:
        self._where = config.metrics_address
        self._port = TcpPort("metrics", "metricsAddress", config.metrics_address, kept)
        given = self._port.address and config.metrics_token_file
        self._token = BearerToken(config.metrics_token_file) if given else None

    def problems(self) -> Iterator[Problem]:
        yield from self._port.problems()
        if self._token is not None and (fault := self._token.fault):
            message = f"nobody gets metrics at {self._where}: {fault}"
            yield Problem(
                "error",
                Where(),
                "NodeConfig metricsTokenFile",
                message,
                "the admin socket has /metrics without a token",
            )

    async def serve(self, daemon: Daemon, conversations: trio.Nursery) -> None:
        if self._port.address is None or self._token is None:
            return
        listener = await self._port.listener(self._port.address)
        await server.serve(listener, scraped(daemon, self._token), conversations)


class HealthListener:
    """NodeConfig healthAddress, for a kubelet's probes: whether the daemon runs and has begun, and nothing else."""

    name = "health"

    def __init__(self, config: NodeConfig, kept: FdStore, admin: AdminSocket) -> None:
        self._port = TcpPort("health", "healthAddress", config.health_address, kept)

    def problems(self) -> Iterator[Problem]:
        yield from self._port.problems()

    async def serve(self, daemon: Daemon, conversations: trio.Nursery) -> None:
        if self._port.address is not None:
            listener = await self._port.listener(self._port.address)
            await server.serve(listener, health(daemon), conversations)


LISTENERS: tuple[Callable[[NodeConfig, FdStore, AdminSocket], Listener], ...] = (
    AdminListener,
    MetricsListener,
    HealthListener,
    ClusterDoor,
)
