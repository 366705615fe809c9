"""Leadership of a node: a handover that works, and each one that does not, after which all is as it was."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import trio

from agent.config.schema import UpdateConfig
from agent.daemon import leader, takeover_checks
from agent.daemon import node as app
from agent.daemon.handover import Applicant, HandoverError
from agent.sources.directory import ManifestDirectory
from agent.store.disk import ADDRESSES, LAST_GOOD
from agent.system import memory
from agent.system.fd_store import FdStore
from policy.model import Workload
from tests.agent.daemon.conftest import Daemon, FakeCapture

ACCOUNT = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: a{}, namespace: shop}}\n"


class Capture(FakeCapture):
    """`events` also says when the keeper runs, and when it does not."""

    async def run(self) -> None:
        self.events.append("keeps")
        try:
            await trio.sleep_forever()
        finally:
            self.events.append("rests")


class FakeSuccessor:
    """agent.daemon.handover.Successor; `fails` names the step at which it fails, `hangs` the one that it does not come back from."""

    events: ClassVar[list[str]] = []
    fails, hangs = "", ""
    during: Callable[[], Any] | None = None
    pid = 4242

    def __init__(self, command: Any) -> None:
        self.command = list(command)
        self._step("start")

    def _step(self, step: str) -> None:
        self.events.append(step)
        if step == self.fails:
            raise HandoverError(f"it failed at {step}")

    async def _waits(self, step: str) -> None:
        self._step(step)
        if step == self.hangs:
            await trio.sleep_forever()
        if self.during is not None and step == "well":
            await type(self).during()  # type: ignore[misc]
        await trio.lowlevel.checkpoint()

    async def lend(self, descriptors: Any, captured: list[str], identities: list[str]) -> None:
        assert any(name.startswith("admin ") for name in descriptors)
        assert captured == ["shop/buyer", "shop/store-v1", "shop/thief"]
        await self._waits("lend")

    async def well(self) -> str:
        await self._waits("well")
        return "2.0"

    async def go(self) -> None:
        await self._waits("go")

    def part(self) -> None:
        self.events.append("part")

    async def kill(self) -> None:
        self.events.append("kill")


@pytest.fixture
def successor(monkeypatch: pytest.MonkeyPatch) -> type[FakeSuccessor]:
    fake = type("Fake", (FakeSuccessor,), {"events": []})
    monkeypatch.setattr(leader, "Successor", fake)
    return fake


@pytest.fixture
def deadline() -> float:
    """Of a handover; short only where it is to pass."""
    return 60.0


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, deadline: float) -> Any:
    monkeypatch.setattr(app, "CaptureManager", Capture)
    monkeypatch.setattr(leader, "_SETTLED", 1e6)
    daemon = Daemon(nursery, tmp_path, {"update": UpdateConfig(deadline=deadline, drain_timeout=0.3)})
    await daemon.start()
    await daemon.until(lambda: "keeps" in daemon.node.ground.events and Path(daemon.socket).exists())
    yield daemon
    nursery.cancel_scope.cancel()


async def test_it_is_handed_over_and_the_old_one_ends(daemon: Any, successor: type[FakeSuccessor]) -> None:
    def commit(version: str) -> None:
        successor.events.append(f"commit {version}")

    assert await daemon.node.hand_over(["edgemesh"], commit) == "2.0"
    assert successor.events == ["start", "lend", "well", "commit 2.0", "go", "part"], (
        "it is the installed one before it serves"
    )
    assert daemon.node.ground.events[-2:] == ["rests", "lend"], "nobody keeps the rules while they are another's"
    await daemon.stopped()
    assert Path(daemon.socket).exists(), "it is its successor's"
    assert "closed" not in daemon.node.ground.events, "and so are the rules"


FAILURES = [(step, "", 60.0) for step in ("start", "lend", "well", "commit", "thread", "go")]
FAILURES += [("", step, 0.05) for step in ("lend", "well", "go")]


@pytest.mark.parametrize(("fails", "hangs", "deadline"), FAILURES)
async def test_whatever_fails_all_is_as_it_was(
    daemon: Any, successor: type[FakeSuccessor], fails: str, hangs: str
) -> None:
    successor.fails, successor.hangs = fails, hangs

    def commit(version: str) -> None:
        if fails == "commit":
            raise OSError(errno.ENOSPC, "No space left on device")
        if fails == "thread":
            raise RuntimeError("can't start new thread")

    with pytest.raises(HandoverError):
        await daemon.node.hand_over(["edgemesh"], commit)
    assert successor.events[-1] == ("start" if fails == "start" else "kill")
    assert daemon.node.leadership.held
    ground = daemon.node.ground
    await daemon.until(lambda: ground.events[-1] == "keeps")
    assert ground.events.count("keeps") == 2
    assert await daemon.ask("/ready") == {"ready": True}
    assert Path(f"{daemon.socket}.lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(HandoverError):  # and the next may come
        await daemon.node.hand_over(["edgemesh"], commit)
    assert successor.events.count("start") == 2


async def test_only_the_one_that_leads_writes_what_a_restart_needs(daemon: Any, successor: type[FakeSuccessor]) -> None:
    """Two that wrote one file ended in "cannot be written"; and one that failed to take over is not to be remembered."""
    kept = daemon.node.state_directory.path / LAST_GOOD

    async def edited() -> None:
        number = daemon.node.published.number
        daemon.file.write_text(f"{daemon.file.read_text()}\n# {number}\n---\n{ACCOUNT.format(number)}")
        await daemon.until(lambda: daemon.node.published.number > number and daemon.node.store._saved > number)

    async def successor_wrote() -> None:
        await daemon.until(kept.exists)
        await edited()
        assert daemon.node.state_directory.mine, "until then it leads"
        assert "a1" in kept.read_text()
        kept.write_text("of a successor that wrote too early")

    successor.during, successor.fails = staticmethod(successor_wrote), "go"
    with pytest.raises(HandoverError):
        await daemon.node.hand_over(["edgemesh"], lambda _: None)
    await daemon.until(lambda: "a1" in kept.read_text())
    assert (daemon.node.state_directory.path / ADDRESSES).exists()

    successor.during, successor.fails = None, ""
    busy(daemon)
    await daemon.node.hand_over(["edgemesh"], lambda _: None)
    kept.write_text("of the one that leads now")
    await edited()
    daemon.node.ground.remembered.captured(Workload("shop", "buyer", "b", netns="em-buyer"))
    await daemon.node.retention.remember()
    assert kept.read_text() == "of the one that leads now"
    assert daemon.node.state_directory.places() == {}
    daemon.node.proxy.context.conns.clear()
    await daemon.stopped()


@pytest.mark.parametrize("deadline", [0.3])
async def test_a_disk_that_hangs_keeps_the_daemon_that_leads(
    daemon: Any, successor: type[FakeSuccessor], deadline: float
) -> None:
    with daemon.node.state_directory._writing, pytest.raises(HandoverError, match=r"the disk took more than 0\.3 s"):
        await daemon.node.hand_over(["edgemesh"], lambda _: None)
    assert "go" not in successor.events
    await daemon.until(lambda: daemon.node.state_directory.mine)
    assert await daemon.ask("/ready") == {"ready": True}


async def test_one_at_a_time(daemon: Any, successor: type[FakeSuccessor]) -> None:
    async def again() -> None:
        with pytest.raises(HandoverError, match="another update is under way"):
            await daemon.node.hand_over(["edgemesh"], lambda _: None)

    successor.during = staticmethod(again)
    assert await daemon.node.hand_over(["edgemesh"], lambda _: None) == "2.0"
    assert successor.events.count("start") == 1


@pytest.mark.parametrize("deadline", [0.05])
async def test_one_that_does_not_enforce_yet_hands_nothing_over(daemon: Any, successor: type[FakeSuccessor]) -> None:
    daemon.node.ground.settled = False
    with pytest.raises(HandoverError, match="does not enforce policy itself yet"):
        await daemon.node.hand_over(["edgemesh"], lambda _: None)
    assert successor.events == []
    assert "lend" not in daemon.node.ground.events


async def test_one_that_handed_over_does_not_take_it_back(daemon: Any, successor: type[FakeSuccessor]) -> None:
    """A question on a connection that is open still must not make it keeper of the rules again, beside its successor."""
    conn = SimpleNamespace(active=True, proved=None, workload=None)
    daemon.node.proxy.context.conns[0] = conn
    await daemon.node.hand_over(["edgemesh"], lambda _: None)
    Path(f"{daemon.socket}.lock").write_text("4242\n")
    with pytest.raises(HandoverError, match="another daemon is in charge"):
        await daemon.node.hand_over(["edgemesh"], lambda _: None)
    assert not daemon.node.leadership.held
    assert daemon.node.ground.events[-1] == "lend"
    assert Path(f"{daemon.socket}.lock").read_text() == "4242\n"
    daemon.node.proxy.context.conns.clear()
    await daemon.stopped()
    assert Path(daemon.socket).exists()


async def test_a_stop_in_the_middle_ends_the_successor(daemon: Any, successor: type[FakeSuccessor]) -> None:
    successor.hangs = "well"

    async def ask() -> None:
        await daemon.node.hand_over(["edgemesh"], lambda _: None)

    async with trio.open_nursery() as asking:
        asking.start_soon(ask)
        await daemon.until(lambda: "well" in successor.events)
        os.kill(os.getpid(), signal.SIGTERM)
        await daemon.stopped()
        asking.cancel_scope.cancel()
    assert successor.events[-1] == "kill"


async def test_the_manager_is_told_who_is_the_main_process(
    daemon: Any, successor: type[FakeSuccessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def tell(*lines: str, descriptors: Any = ()) -> None:
        told.extend(line for line in lines if line.startswith("MAINPID"))

    monkeypatch.setattr(daemon.node.kept.supervisor, "tell", tell)
    successor.fails = "go"
    with pytest.raises(HandoverError):
        await daemon.node.hand_over(["edgemesh"], lambda _: None)
    assert told == [f"MAINPID={os.getpid()}"], "it may have said that it is the one"
    told.clear()
    successor.fails = ""
    await daemon.node.hand_over(["edgemesh"], lambda _: None)
    assert told == ["MAINPID=4242"]


# the other side: taking over


class FakePredecessor:
    """agent.daemon.handover.Predecessor: what it was told, in order with what else happens."""

    pid = 77

    def __init__(self, wants: bool) -> None:
        self.captured, self.identities = ["shop/buyer"], ["spiffe://a"]
        self.wants, self.told = wants, []
        self.node: Any = None

    async def report(self, fault: str, version: str) -> None:
        assert not self.node.leadership.held
        assert not self.node.proxy._opened.is_set()
        assert not self.node.kept.supervisor.said, "the one that runs is in charge still"
        self.told.append(f"fault {fault!r}")
        await trio.lowlevel.checkpoint()
        if fault or not self.wants:
            raise HandoverError(fault or "it did not want us")

    async def opened(self) -> None:
        assert self.node.proxy._opened.is_set()
        self.told.append("opened")
        await trio.lowlevel.checkpoint()


class FakeSupervisor:
    given: ClassVar[dict[str, list[int]]] = {}
    address = ""

    def __init__(self) -> None:
        self.said: list[str] = []

    def tell(self, *lines: str, descriptors: Any = ()) -> None:
        self.said += lines

    async def watch(self, healthy: Callable[[], bool]) -> None:
        assert healthy()
        self.said.append("watched")


@pytest.fixture
def taking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> Callable[..., Any]:
    async def take(before: FakePredecessor | None, fault: str = "") -> Any:
        async def fault_of(node: Any, conditions: Any, captured: list[str], held: list[str]) -> str:
            assert (captured, held) == (["shop/buyer"], ["spiffe://a"])
            return fault

        monkeypatch.setattr(app, "CaptureManager", Capture)
        monkeypatch.setattr(takeover_checks, "fault", fault_of)
        monkeypatch.setattr(leader, "_SETTLED", 0.0)
        monkeypatch.setattr(memory, "give_back", lambda: None)
        daemon = Daemon(nursery, tmp_path, {})
        node = daemon.make()
        node._before = before
        node.state_directory.mine = before is None
        node.kept.supervisor = FakeSupervisor()
        if before is not None:
            before.node = node
            node.proxy._opened = trio.Event()
        nursery.start_soon(daemon._run)
        return daemon

    return take


async def test_it_takes_over_in_order(taking: Callable[..., Any]) -> None:
    before = FakePredecessor(wants=True)
    daemon = await taking(before)
    await daemon.until(lambda: "watched" in daemon.node.kept.supervisor.said)
    assert before.told == ["fault ''", "opened"]
    await daemon.until((daemon.node.state_directory.path / LAST_GOOD).exists)
    said = daemon.node.kept.supervisor.said
    assert said[0] == f"MAINPID={os.getpid()}"
    assert said[1:3] == ["READY=1", f"STATUS=edgemesh {daemon.node.version}, enforces policy on edge-1"]
    assert daemon.node.leadership.held
    assert await daemon.ask("/ready") == {"ready": True}


@pytest.mark.parametrize(("wants", "fault"), [(False, ""), (True, "shop/buyer is not captured: no")])
async def test_one_that_is_not_wanted_or_not_well_ends_and_says_so(
    taking: Callable[..., Any], wants: bool, fault: str
) -> None:
    before = FakePredecessor(wants)
    daemon = await taking(before, fault)
    await daemon.stopped()
    assert daemon.node.unwanted
    assert not daemon.node.state_directory.path.exists(), "it has written nothing"
    assert before.told == [f"fault {fault!r}"]
    assert daemon.node.kept.supervisor.said == []
    assert not daemon.node.proxy._opened.is_set()


async def test_what_is_not_captured_is_told_to_the_manager_and_the_log_when_it_changes(
    taking: Callable[..., Any], caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "_LOOK", 0.01)
    daemon = await taking(None)
    said = daemon.node.kept.supervisor.said
    await daemon.until(lambda: any(line.startswith("STATUS=") and "enforces" in line for line in said))
    daemon.node.ground.fault = "Operation not permitted"
    degraded = "degraded: not captured on edge-1: shop/store-v1; edgemesh status says why"
    await daemon.until(lambda: f"STATUS=edgemesh {daemon.node.version}, {degraded}" in said)
    assert ("edgemesh", 30, degraded) in caplog.record_tuples
    assert said.count("READY=1") == 1


async def test_a_first_start_serves_at_once_and_is_ready_when_it_enforces(taking: Callable[..., Any]) -> None:
    daemon = await taking(None)
    await daemon.until(lambda: "watched" in daemon.node.kept.supervisor.said)
    assert daemon.node.kept.supervisor.said[0] == "READY=1"
    assert await daemon.ask("/ready") == {"ready": True}


async def test_a_port_that_was_lent_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: Any) -> None:
    """Its listener begins only after the others' sockets were looked through; the old daemon still holds the port."""

    class Before:
        pid, captured, identities = 4242, (), ()

        async def report(self, fault: str, version: str) -> None:
            await trio.lowlevel.checkpoint()

        async def opened(self) -> None:
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(app, "CaptureManager", Capture)
    with socket.create_server(("127.0.0.1", 0)) as old:
        number = old.getsockname()[1]
        daemon = Daemon(nursery, tmp_path, {"health_address": f"127.0.0.1:{number}"})
        kept = FdStore({"health": [os.dup(old.fileno())]}, silent=True)
        daemon.node = app.Node([ManifestDirectory(daemon.manifests)], daemon.settings, kept=kept, before=Before())  # type: ignore[arg-type]
        nursery.start_soon(daemon._run)
        await daemon.until(lambda: daemon.node.settled)
        with trio.fail_after(5):
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                await stream.send_all(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n")
                assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200")
        assert not daemon.node.problems or all("health" not in one.message for one in daemon.node.problems)
        nursery.cancel_scope.cancel()


# to the daemon of the next pod


class FakeApplicant(FakeSuccessor, Applicant):
    """agent.daemon.handover.Applicant; it ends when `over` is set."""

    pid = 4343

    def __init__(self) -> None:
        self.events = []  # type: ignore[misc]
        self.over = trio.Event()

    async def ended(self) -> None:
        await self.over.wait()


def busy(daemon: Any) -> None:
    conn = SimpleNamespace(active=True, proved=None, workload=None, route=None, pick=None)
    daemon.node.proxy.context.conns[0] = conn


async def test_it_is_handed_over_to_the_next_pod_and_a_stop_lets_calls_end(daemon: Any) -> None:
    applicant = FakeApplicant()
    busy(daemon)
    await daemon.node.leadership._hand_over_to(applicant)
    assert applicant.events == ["lend", "well", "go", "part"]
    os.kill(os.getpid(), signal.SIGTERM)
    await trio.sleep(0.1)
    assert not daemon.done.is_set(), "its calls have update.drainTimeout"
    daemon.node.proxy.context.conns.clear()
    await daemon.stopped()
    assert Path(daemon.socket).exists(), "it is its successor's"
    assert "closed" not in daemon.node.ground.events, "and so are the rules"


@pytest.mark.parametrize("fails", ["lend", "well", "go"])
async def test_a_next_pod_that_fails_changes_nothing(daemon: Any, fails: str) -> None:
    applicant = FakeApplicant()
    applicant.fails = fails
    with pytest.raises(HandoverError, match=f"it failed at {fails}"):
        await daemon.node.leadership._hand_over_to(applicant)
    assert applicant.events[-1] == "kill"
    assert daemon.node.leadership.held
    await daemon.until(lambda: daemon.node.ground.events[-1] == "keeps")
    assert await daemon.ask("/ready") == {"ready": True}


async def test_a_stop_in_the_middle_waits_for_the_next_pod(daemon: Any) -> None:
    """The kubelet may find the new pod ready a moment early."""
    applicant = FakeApplicant()

    async def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep(0.1)
        assert not daemon.node.proxy.context.draining

    type(applicant).during = staticmethod(stop)
    try:
        await daemon.node.leadership._hand_over_to(applicant)
    finally:
        type(applicant).during = None
    await daemon.stopped()
    assert applicant.events == ["lend", "well", "go", "part"]
    assert "closed" not in daemon.node.ground.events


async def test_one_that_stops_hands_nothing_over(daemon: Any) -> None:
    busy(daemon)
    os.kill(os.getpid(), signal.SIGTERM)
    await daemon.until(lambda: daemon.node.proxy.context.draining)
    applicant = FakeApplicant()
    with pytest.raises(HandoverError, match="this daemon stops"):
        await daemon.node.leadership._hand_over_to(applicant)
    assert applicant.events == []
    daemon.node.proxy.context.conns.clear()
    await daemon.stopped()


@pytest.mark.parametrize("deadline", [60.0])
async def test_it_ends_with_its_successor_in_the_next_pod(daemon: Any) -> None:
    """What it holds still is what the next start needs."""
    applicant = FakeApplicant()
    busy(daemon)
    await daemon.node.leadership._hand_over_to(applicant)
    applicant.over.set()
    with trio.fail_after(0.25):  # update.drainTimeout is 0.3 s here
        await daemon.done.wait()


async def test_without_a_call_it_stays_until_it_is_stopped(daemon: Any) -> None:
    """A container that ends by itself is started again, and would take over from the daemon of the next pod."""
    await daemon.node.leadership._hand_over_to(FakeApplicant())
    await trio.sleep(0.5)
    assert not daemon.done.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    await daemon.stopped()
    assert "closed" not in daemon.node.ground.events


async def test_the_next_pod_asks_again_where_a_snapshot_has_just_come(daemon: Any) -> None:
    """It waits for 30 s only, and one that gave up must not be killed for it."""
    daemon.node.ground.settled = False
    applicant = FakeApplicant()
    with trio.fail_after(5), pytest.raises(HandoverError, match="does not enforce policy itself yet"):
        await daemon.node.leadership._hand_over_to(applicant)
    assert applicant.events == []
