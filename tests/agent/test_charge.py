"""Who is in charge: a handover that works, and each one that does not, after which all is as it was."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import trio

from agent import app, charge, health, thrift
from agent.config import UpdateConfig
from agent.handover import HandoverError
from tests.agent.test_app import Daemon, FakeGround


class Ground(FakeGround):
    """`events` also says when the keeper runs, and when it does not."""

    async def run(self) -> None:
        self.events.append("keeps")
        try:
            await trio.sleep_forever()
        finally:
            self.events.append("rests")


class FakeSuccessor:
    """agent.handover.Successor; `fails` names the step at which it fails, `hangs` the one that it does not come back from."""

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
        assert captured == ["shop/buyer", "shop/thief"]
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
    monkeypatch.setattr(charge, "Successor", fake)
    return fake


@pytest.fixture
def deadline() -> float:
    """Of a handover; short only where it is to pass."""
    return 60.0


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, deadline: float) -> Any:
    monkeypatch.setattr(app, "Ground", Ground)
    monkeypatch.setattr(charge, "_SETTLED", 1e6)
    daemon = Daemon(nursery, tmp_path, {"update": UpdateConfig(deadline=deadline, drain_timeout=0.3)})
    await daemon.start()
    await daemon.until(lambda: "keeps" in daemon.node.ground.events and Path(daemon.socket).exists())
    yield daemon
    nursery.cancel_scope.cancel()


async def test_it_is_handed_over_and_the_old_one_ends(daemon: Any, successor: type[FakeSuccessor]) -> None:
    def commit(version: str) -> None:
        successor.events.append(f"commit {version}")

    assert await daemon.node.hand_over(["edgemesh"], commit) == "2.0"
    assert successor.events == ["start", "lend", "well", "commit 2.0", "go", "part"], "it is the installed one before it serves"
    assert daemon.node.ground.events[-2:] == ["rests", "lend"], "nobody keeps the rules while they are another's"
    await daemon.stopped()
    assert Path(daemon.socket).exists(), "it is its successor's"
    assert "closed" not in daemon.node.ground.events, "and so are the rules"


FAILURES = [(step, "", 60.0) for step in ("start", "lend", "well", "commit", "go")]
FAILURES += [("", step, 0.05) for step in ("lend", "well", "go")]


@pytest.mark.parametrize(("fails", "hangs", "deadline"), FAILURES)
async def test_whatever_fails_all_is_as_it_was(daemon: Any, successor: type[FakeSuccessor], fails: str, hangs: str) -> None:
    successor.fails, successor.hangs = fails, hangs

    def commit(version: str) -> None:
        if fails == "commit":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(HandoverError):
        await daemon.node.hand_over(["edgemesh"], commit)
    assert successor.events[-1] == ("start" if fails == "start" else "kill")
    assert daemon.node.charge.held
    ground = daemon.node.ground
    await daemon.until(lambda: ground.events[-1] == "keeps")
    assert ground.events.count("keeps") == 2
    assert await daemon.ask("/ready") == {"ready": True}
    assert Path(f"{daemon.socket}.lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(HandoverError):  # and the next may come
        await daemon.node.hand_over(["edgemesh"], commit)
    assert successor.events.count("start") == 2


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
    assert not daemon.node.charge.held
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
    """agent.handover.Predecessor: what it was told, in order with what else happens."""

    pid = 77

    def __init__(self, wants: bool) -> None:
        self.captured, self.identities = ["shop/buyer"], ["spiffe://a"]
        self.wants, self.told = wants, []
        self.node: Any = None

    async def report(self, fault: str, version: str) -> None:
        assert not self.node.charge.held
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
        async def fault_of(node: Any, captured: list[str], held: list[str]) -> str:
            assert (captured, held) == (["shop/buyer"], ["spiffe://a"])
            return fault

        monkeypatch.setattr(app, "Ground", Ground)
        monkeypatch.setattr(health, "fault", fault_of)
        monkeypatch.setattr(charge, "_SETTLED", 0.0)
        monkeypatch.setattr(thrift, "give_back", lambda: None)
        daemon = Daemon(nursery, tmp_path, {})
        node = daemon.make()
        node._before = before
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
    said = daemon.node.kept.supervisor.said
    assert said[0] == f"MAINPID={os.getpid()}"
    assert said[1:3] == ["READY=1", f"STATUS=edgemesh {daemon.node.version} enforces policy on edge-1"]
    assert daemon.node.charge.held
    assert await daemon.ask("/ready") == {"ready": True}


@pytest.mark.parametrize(("wants", "fault"), [(False, ""), (True, "shop/buyer is not captured: no")])
async def test_one_that_is_not_wanted_or_not_well_ends_and_says_so(taking: Callable[..., Any], wants: bool, fault: str) -> None:
    before = FakePredecessor(wants)
    daemon = await taking(before, fault)
    await daemon.stopped()
    assert daemon.node.unwanted
    assert before.told == [f"fault {fault!r}"]
    assert daemon.node.kept.supervisor.said == []
    assert not daemon.node.proxy._opened.is_set()


async def test_a_first_start_serves_at_once_and_is_ready_when_it_enforces(taking: Callable[..., Any]) -> None:
    daemon = await taking(None)
    await daemon.until(lambda: "watched" in daemon.node.kept.supervisor.said)
    assert daemon.node.kept.supervisor.said[0] == "READY=1"
    assert await daemon.ask("/ready") == {"ready": True}
