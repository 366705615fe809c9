"""A whole daemon in a temporary directory, on a ground that captures nothing: what starts it, changes it, and stops it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agent import app
from agent.admin import client
from agent.admin.listener import AdminSocket
from agent.app import Node
from agent.config import NodeConfig, Settings
from agent.kernel.condition import Condition
from policy.model import Endpoint, Identity, Request, Workload
from tests.agent.conftest import MANIFESTS

THIEF = "  sources: [{kind: ServiceAccount, name: buyer, namespace: shop}]"
BROKEN = "apiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\nmetadata: {name: broken, namespace: shop}\nspec: {sourcs: []}\n"

LIVE_SETTINGS = """
apiVersion: edgemesh.io/v1alpha1
kind: NodeConfig
metadata: {name: default}
spec: {limits: {connections: 7, drainTimeout: 0.01}, accessLog: all, onStop: open}
"""


class FakeGround:
    """agent.kernel.ground.Ground without a kernel. `events` is what it was told, in order."""

    def __init__(self, config: NodeConfig, kept: Any = None, predecessor: int = 0) -> None:
        self.settled = False
        self.events: list[str] = []
        self.wanted: tuple[Workload, ...] = ()

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

    def release(self, open_node: bool) -> None:
        self.events.append("open" if open_node else "closed")

    def conditions(self) -> Mapping[str, Condition]:
        return {"shop/buyer": Condition(True, gaps=2), "shop/thief": Condition(True, gaps=1), "shop/store-v1": Condition(False)}

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
        defaults = {"node": "edge-1", "state_dir": str(path / "state"), "admin_socket": self.socket, "metrics_address": ""}
        self.settings = Settings(defaults | fields)
        self.node: Node
        self.done = trio.Event()

    def make(self) -> Node:
        self.node = Node(self.manifests, self.settings)
        return self.node

    async def start(self) -> FakeGround:
        node = self.make()
        self.nursery.start_soon(self._run)
        await self.until(lambda: node.enforcing)
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
        with trio.fail_after(5):
            while not condition():
                await trio.sleep(0.005)

    async def ask(self, path: str) -> Any:
        return await trio.to_thread.run_sync(client.get, self.socket, path)

    async def stopped(self) -> None:
        with trio.fail_after(5):
            await self.done.wait()

    def gauges(self) -> dict[str, float]:
        return {f"{m.name}{s.labels or ''}": s.value for m in self.node._gauges() for s in m.samples}


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> Any:
    monkeypatch.setattr(app, "Ground", FakeGround)
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
    daemon.node.proxy.context.conns[0] = SimpleNamespace(active=True, proved=None, workload=Workload("shop", "buyer", "buyer"))  # type: ignore[assignment]


# what runs


async def test_nothing_is_admitted_before_policy_is_known(start: Any) -> None:
    node = start().make()
    snapshot = node.proxy.context.snapshot
    assert not snapshot.mesh.egress and not snapshot.mesh.permissive and not snapshot.workloads
    assert not node.enforcing
    assert node.published is None


async def test_ready_over_the_admin_socket(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    assert await daemon.ask("/ready") == {"ready": True}
    assert (await daemon.ask("/status"))["node"] == "edge-1"
    ground.settled = False
    with pytest.raises(client.Unreachable, match="not ready"):
        await daemon.ask("/ready")


async def test_a_changed_file_takes_effect(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    node, file = daemon.node, daemon.file
    store, thief = node.proxy.context.snapshot.workload("shop/store-v1"), Identity("shop", "thief")
    assert node.proxy.context.snapshot.workload("shop/buyer") in ground.wanted
    buy = Request("GET", "/buy")
    assert not node.proxy.context.snapshot.authorize(thief, store, 8080, buy).allowed
    asked = []
    conn = SimpleNamespace(active=True, proved=None, pick=Endpoint("10.1.0.3", 8080), request=buy, verdict="", scope=trio.CancelScope())
    conn.route = SimpleNamespace(still_allows=lambda *what: asked.append(what))
    node.proxy.context.conns[0] = conn  # type: ignore[assignment]
    file.write_text(MANIFESTS.replace(THIEF, THIEF.replace("buyer", "thief")) + "---\n" + LIVE_SETTINGS)
    await daemon.until(lambda: node.published.number == 2 and len(ground.events) == 2)
    assert node.proxy.context.snapshot.authorize(thief, store, 8080, buy).allowed
    assert asked == [(conn.pick, conn.request)] and conn.verdict == "cut", "what runs is judged anew"
    assert node.proxy.context.limits.connections == node.proxy.context.pool.limits.connections == 7
    assert node.access_log.mode == "all"
    assert node.config.limits.connections == 7


async def test_what_counts_of_workloads_that_are_gone_is_forgotten(start: Any) -> None:
    daemon = start()
    await daemon.start()
    retained: list[list[str]] = []
    daemon.node.metrics.retain = retained.append
    first, _, rest = MANIFESTS.partition("---\n")
    assert "name: buyer" in first
    daemon.file.write_text(rest)
    await daemon.until(lambda: retained)
    assert retained == [["shop/far", "shop/store-v1", "shop/thief"]]


async def test_a_problem_is_told_once(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    daemon = start()
    await daemon.start()
    (daemon.manifests / "broken.yaml").write_text(BROKEN)
    await daemon.until(lambda: daemon.node.published.number == 2)
    (daemon.manifests / "other.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n")
    await daemon.until(lambda: daemon.node.published.number == 3)
    await daemon.until(lambda: "snapshot 3 in" in caplog.text)
    told = [record for record in caplog.records if "sourcs" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]
    assert str(daemon.manifests / "broken.yaml") in told[0].getMessage()
    documents = await daemon.ask("/problems")
    assert "sourcs" in str(documents)
    (daemon.manifests / "broken.yaml").unlink()
    await daemon.until(lambda: "problems gone" in caplog.text)
    assert not [problem for problem in daemon.node.problems if problem.severity == "error"]


async def test_gauges(start: Any) -> None:
    daemon = start()
    daemon.make()
    assert daemon.gauges()["edgemesh_snapshot_number"] == 0
    await daemon.start()
    node = daemon.node
    (daemon.manifests / "broken.yaml").write_text(BROKEN)
    await daemon.until(lambda: node.published.number == 2)
    busy(daemon)
    gauges = daemon.gauges()
    assert gauges.pop("edgemesh_snapshot_build_seconds") > 0
    severities = Counter(problem.severity for problem in node.problems)
    assert severities["error"] >= 1
    assert gauges == {
        "edgemesh_snapshot_number": 2,
        "edgemesh_connections_open": 1,
        "edgemesh_workloads_captured": 2,
        "edgemesh_workloads_uncaptured": 1,
        "edgemesh_capture_gaps": 3,
        "edgemesh_problems{'severity': 'error'}": severities["error"],
        "edgemesh_problems{'severity': 'warning'}": severities["warning"],
        "edgemesh_problems{'severity': 'notice'}": severities["notice"],
        f"edgemesh_info{{'version': '{node.version}', 'node': 'edge-1'}}": 1,
    }
    node.proxy.context.conns.clear()


# metrics


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def fetch(port: int, path: str) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return b"".join([bytes(part) async for part in stream])


async def test_metrics_over_tcp_and_nothing_else(start: Any) -> None:
    port = free_port()
    daemon = start(metrics_address=f"127.0.0.1:{port}")
    await daemon.start()
    text = (await fetch(port, "/metrics")).decode()
    assert "edgemesh_workloads_captured 2.0" in text
    assert b"200" in (await fetch(port, "/ready")).partition(b"\r\n")[0]
    for path in ("/status", "/snapshot"):
        assert b"404" in (await fetch(port, path)).partition(b"\r\n")[0]


async def test_a_metrics_address_that_is_taken_is_a_warning(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = start(metrics_address=address)
        await daemon.start()
    said = f"no metrics on {address}: Address already in use"
    (problem,) = [problem for problem in daemon.node.problems if problem.object == "NodeConfig metricsAddress"]
    assert (problem.severity, problem.message) == ("warning", said)
    assert [(r.levelno, r.getMessage()) for r in caplog.records if said in r.getMessage()] == [(logging.WARNING, str(problem))]
    assert await daemon.ask("/ready") == {"ready": True}


# stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("on_stop", ["closed", "open"])
async def test_a_signal_drains_and_then_lets_go(start: Any, caplog: pytest.LogCaptureFixture, number: int, on_stop: str) -> None:
    caplog.set_level(logging.INFO)
    daemon = start(on_stop=on_stop)
    ground = await daemon.start()
    busy(daemon)
    os.kill(os.getpid(), number)
    await daemon.until(lambda: daemon.node.proxy.context.draining)
    await daemon.ask("/status")  # people can still see what keeps it
    assert ground.events == ["want"]
    assert not daemon.done.is_set()
    daemon.node.proxy.context.conns.clear()
    await daemon.stopped()
    assert ground.events == ["want", on_stop]
    assert f"{signal.Signals(number).name}: draining for at most 10 s" in caplog.text
    assert ("rules removed" if on_stop == "open" else "rules stay") in caplog.text
    with pytest.raises(client.Unreachable, match="not running"):
        await daemon.ask("/ready")


async def test_a_second_signal_stops_at_once(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    busy(daemon)
    terminate()
    await daemon.until(lambda: daemon.node.proxy.context.draining)
    terminate()
    await daemon.stopped()
    assert ground.events == ["want"], "the rules stay as they are"


async def test_the_drain_deadline_and_on_stop_are_the_newest(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    daemon.file.write_text(MANIFESTS + "---\n" + LIVE_SETTINGS)
    await daemon.until(lambda: daemon.node.published.number == 2 and len(ground.events) == 2)
    busy(daemon)
    terminate()
    await daemon.stopped()  # limits.drainTimeout is 0.01 now
    assert ground.events[-1] == "open"


async def test_a_node_starts_with_what_it_last_knew(start: Any) -> None:
    daemon = start()
    await daemon.start()
    state = Path(daemon.settings.config.state_dir)
    await daemon.until(lambda: state.is_dir() and any(state.iterdir()))
    terminate()
    await daemon.stopped()
    daemon.file.write_text("kind: [")
    daemon.done = trio.Event()
    await daemon.start()
    assert daemon.node.proxy.context.snapshot.workload("shop/buyer") is not None


# agent.app.run, which makes its own loop


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Overrides for run(), whose ground asks for the end as soon as it is told what to want."""

    class Brief(FakeGround):
        def want(self, workloads: Iterable[Workload]) -> None:
            super().want(workloads)
            terminate()

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(app, "Ground", Brief)
    yield {"node": "edge-1", "state_dir": str(tmp_path / "state"), "admin_socket": str(tmp_path / "s"), "metrics_address": ""}
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_run_until_a_signal(tmp_path: Path, running: dict[str, Any]) -> None:
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    assert app.run(tmp_path, running) == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    assert not (tmp_path / "s").exists()


def test_settings_of_the_manifests_hold_from_the_start(tmp_path: Path, running: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    del running["admin_socket"]
    path = tmp_path / "of-config.sock"
    settings = f"apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {{name: edge-1}}\nspec: {{adminSocket: {path}}}\n"
    (tmp_path / "node.yaml").write_text(settings)
    made = []
    monkeypatch.setattr(app, "AdminSocket", lambda path, lent=None: made.append(path) or AdminSocket(path, lent))
    assert app.run(tmp_path, running) == 0
    assert made == [path]


def test_a_socket_that_cannot_be_made_is_told_and_nothing_runs(
    tmp_path: Path, running: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    running["admin_socket"] = str(tmp_path / ("s" * 120))
    assert app.run(tmp_path, running) == 1
    assert capsys.readouterr().err.startswith("edgemesh: ")
    assert not (tmp_path / "state").exists()
