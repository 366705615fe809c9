"""A whole daemon in a temporary directory, on a ground that captures nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agent.admin import client
from agent.admin.listener import AdminSocket
from agent.config.schema import NodeConfig
from agent.config.settings import Settings
from agent.daemon import node as app
from agent.daemon.node import Node
from agent.kernel.condition import Condition
from agent.kernel.pod_netns import PodNamespaces
from agent.kernel.remembered import Remembered
from agent.sources.directory import ManifestDirectory
from agent.sources.source import Source
from policy.model import Problem, Workload
from tests.agent.conftest import MANIFESTS

BROKEN = "apiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\nmetadata: {name: broken, namespace: shop}\nspec: {sourcs: []}\n"


class FakeCapture:
    """agent.kernel.capture.CaptureManager without a kernel. `events` is what it was told, in order."""

    def __init__(
        self,
        config: NodeConfig,
        kept: Any = None,
        predecessor: int = 0,
        places: Any = None,
        met: Any = None,
        kubernetes: bool = False,
    ) -> None:
        self.remembered, self.finder = Remembered(places), PodNamespaces(met)
        self.settled = False
        self.events: list[str] = []
        self.wanted: tuple[Workload, ...] = ()
        self.fault = ""  # of shop/store-v1
        self.lost: frozenset[str] = frozenset()
        self.pods = None

    def serve(self, attach: Any, detach: Any) -> None:
        self.attach, self.detach = attach, detach

    def want(self, workloads: Iterable[Workload]) -> None:
        self.wanted = tuple(workloads)
        self.events.append("want")
        self.settled = True

    async def run(self) -> None:
        await trio.sleep_forever()

    def lend(self) -> None:
        self.events.append("lend")

    def closed(self) -> Mapping[str, str]:
        return {}

    def node_addresses(self) -> frozenset[str]:
        return frozenset()

    def node_problems(self) -> Iterable[Problem]:
        return ()

    def unclosed(self) -> Mapping[str, str]:
        return {}

    def let_go(self, key: str) -> bool:
        self.events.append(f"let go of {key}")
        return False

    def release(self, open_node: bool) -> None:
        self.events.append("open" if open_node else "closed")

    def conditions(self) -> Mapping[str, Condition]:
        return {
            "shop/buyer": Condition(True, gaps=2),
            "shop/thief": Condition(True, gaps=1),
            "shop/store-v1": Condition(not self.fault, error=self.fault),
        }

    def report(self) -> Mapping[str, Condition]:
        return self.conditions()


class Daemon:
    """A Node that runs in a nursery; `done` when it has stopped."""

    def __init__(self, nursery: trio.Nursery, path: Path, fields: dict[str, Any]) -> None:
        self.nursery = nursery
        self.manifests = path / "manifests"
        self.manifests.mkdir()
        self.file = self.manifests / "shop.yaml"
        self.file.write_text(MANIFESTS)
        self.socket = str(path / "edgemesh.sock")
        defaults = {
            "node": "edge-1",
            "state_dir": str(path / "state"),
            "admin_socket": self.socket,
            "metrics_address": "",
        }
        self.settings = Settings(defaults | fields)
        self.node: Node
        self.done = trio.Event()

    def make(self, *sources: Source) -> Node:
        self.node = Node(sources or [ManifestDirectory(self.manifests)], self.settings)
        return self.node

    async def start(self, *sources: Source) -> FakeCapture:
        node = self.make(*sources)
        self.nursery.start_soon(self._run)
        await self.until(lambda: node.settled)
        ground: Any = node.ground
        return ground

    async def _run(self) -> None:
        admin = AdminSocket(Path(self.socket))
        try:
            await self.node.run(admin)
        finally:
            admin.close()
            self.done.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        with trio.fail_after(30):
            while not condition():
                await trio.sleep(0.005)

    async def ask(self, path: str) -> Any:
        return await trio.to_thread.run_sync(client.get, self.socket, path)

    async def stopped(self) -> None:
        with trio.fail_after(30):
            await self.done.wait()

    def gauges(self) -> dict[str, float]:
        return {f"{s.name}{s.labels or ''}": s.value for m in self.node._gauges() for s in m.samples}


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> Any:
    monkeypatch.setattr(app, "CaptureManager", FakeCapture)
    made: list[Daemon] = []

    def start(**fields: Any) -> Daemon:
        made.append(Daemon(nursery, tmp_path, fields))
        return made[-1]

    yield start
    nursery.cancel_scope.cancel()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def busy(daemon: Daemon) -> None:
    """A call is running, which a stop waits for."""
    daemon.node.proxy.context.conns[0] = SimpleNamespace(
        active=True, proved=None, workload=Workload("shop", "buyer", "buyer")
    )  # type: ignore[assignment]
