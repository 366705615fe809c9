"""Pods that begin: what is closed, captured or let speak while the runtime waits. Without namespaces: files stand for them."""

import errno

import pytest
import trio

from agent.kernel import capture as ground
from agent.kernel.sandbox import Sandbox
from tests.agent.kernel.fake_places import FakePlace, settle, workload


class Announced:
    """Stands for kernel/pods.py: pods that are mute, and of which the test says whether they are of the mesh."""

    def __init__(self, world):
        self.mute, self.verdicts, self.captured, self.world = {}, {}, [], world

    def pod(self, name, verdict=None):
        (self.world.folder / f"cni-{name}").touch()
        path = f"{self.world.folder}/cni-{name}"
        self.mute[name] = Sandbox(name, "n", name, netns=path)
        self.verdicts[name] = verdict
        return ground.netns.identity(path)

    def enrols(self, sandbox):
        return self.verdicts[sandbox.name]

    def settle(self, captured):
        self.captured = captured
        self.mute = {
            name: sandbox
            for name, sandbox in self.mute.items()
            if ground.netns.identity(sandbox.netns) not in captured and self.verdicts[name] is not False
        }

    def waiting(self):
        return self.mute

    def speaks(self, name):
        return name not in self.mute

    def problems(self):
        return ()


@pytest.fixture
def pods(world, monkeypatch):
    world.pods = world.beginnings._pods = Announced(world)
    monkeypatch.setattr(
        world.finder,
        "recorded",
        lambda one: f"{world.folder}/cni-{one.name}" if one.name in world.pods.verdicts else "",
    )
    return world.pods


def test_a_pod_of_the_mesh_is_closed_until_the_policy_names_it(world, pods):
    which = pods.pod("p", verdict=True)
    settle(world)
    (place,) = FakePlace.made
    assert (place.workload.key, place.log) == ("n/p", ["made", "shut"])
    assert which not in pods.captured, "closed and mute"
    assert world.closed() == {}, "nothing is wrong with it"
    world.settle()
    assert len(FakePlace.made) == 1
    settle(world, workload("p", netns="", addresses=("10.0.0.9",), node="here"))
    assert world.conditions()["n/p"].captured
    assert which in pods.captured
    assert place.log[-1] == "closed", "and its rules were never removed"
    assert "removed" not in place.log
    assert not world.places.early


def test_a_pod_that_turns_out_not_to_be_of_the_mesh_is_opened(world, pods):
    pods.pod("p", verdict=True)
    settle(world)
    pods.verdicts["p"] = False
    world.settle()
    assert FakePlace.made[0].log == ["made", "shut", "removed", "closed"]
    assert pods.speaks("p")


def test_a_pod_of_which_nothing_is_known_is_left_to_the_gate(world, pods):
    pods.pod("p", verdict=None)
    settle(world)
    assert FakePlace.made == []
    assert not pods.speaks("p")


def test_a_pod_that_cannot_be_closed_is_told(world, pods, caplog):
    pods.pod("p", verdict=True)
    FakePlace.refuse = {f"{world.folder}/cni-p": (errno.EPERM, "Operation not permitted")}
    settle(world)
    assert "of pod n/p cannot be closed: [Errno 1] Operation not permitted" in caplog.text


def test_a_pod_that_is_announced_is_captured_at_once(world, pods):
    """Whatever else a round has to do."""
    settle(world)
    world.want([workload("p", netns="", node="here"), workload("q")])
    which = pods.pod("p", verdict=True)
    world.beginnings.announce(pods.mute["p"])
    assert [place.workload.key for place in FakePlace.made] == ["n/p"]
    assert which in pods.captured
    assert pods.speaks("p")
    world.settle()
    assert [place.log for place in FakePlace.made] == [["made"]], "and the round finds it done"
    FakePlace.refuse = {f"{world.folder}/cni-r": (errno.EPERM, "Operation not permitted")}
    world.want([workload("p", netns="", node="here"), workload("r", netns="", node="here")])
    pods.pod("r", verdict=True)
    world.beginnings.announce(pods.mute["r"])
    assert not pods.speaks("r")
    world.settle()
    assert "Operation not permitted" in world.conditions()["n/r"].error


def test_a_pod_that_a_round_captured_before_it_was_announced_gets_what_the_runtime_tells(world, pods, monkeypatch):
    """Its namespace is recorded before it has addresses, and its first probe may come before the next round."""
    which = pods.pod("p", verdict=True)
    sandbox = pods.mute["p"]
    settle(world, workload("p", netns="", node="here"))
    (place,) = FakePlace.made
    monkeypatch.setattr(world.finder, "given", {which: {"10.42.0.7"}}.get)
    world.beginnings.announce(sandbox)
    assert place.log == ["made", "given 10.42.0.7"]


async def test_who_announces_a_pod_waits_until_it_may_speak(world, pods, autojump_clock):
    pods.pod("p", verdict=None)
    sandbox = pods.mute["p"]
    world.want([])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        world.beginnings.announce(sandbox)
        with trio.move_on_after(3) as scope:
            await world.beginnings.admitted(sandbox)
        assert scope.cancelled_caught
        pods.verdicts["p"] = False
        world.beginnings.announce(sandbox)
        with trio.fail_after(1):
            await world.beginnings.admitted(sandbox)
            pods.verdicts["host"] = False
            await world.beginnings.admitted(Sandbox("host", "n", "host"))
        nursery.cancel_scope.cancel()


def test_a_pod_without_a_sandbox_is_not_a_fault(world, pods, caplog):
    settle(world, workload("p", netns="", addresses=("10.0.0.9",), node="here"))
    condition = world.conditions()["n/p"]
    assert (condition.captured, condition.waiting) == (False, True)
    assert condition.error == "the container runtime has no sandbox of it"
    assert not [record for record in caplog.records if record.levelname == "WARNING" and "n/p" in record.message]
    pods.pod("p")
    world.settle()
    assert world.conditions()["n/p"].captured


def test_a_pod_that_was_deleted_is_closed_until_its_sandbox_ends_and_that_is_no_fault(world, pods, caplog):
    which = pods.pod("p", verdict=True)
    settle(world, workload("p", netns="", node="here"))
    (place,) = FakePlace.made
    caplog.clear()
    settle(world)
    assert which in world.places.shut
    assert "removed" not in place.log
    assert world.closed() == {}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    (world.folder / "cni-p").unlink()
    world.settle()
    assert place.log[-1] == "closed"
    assert not world.places.shut
    assert not world.places.early


def test_a_pod_that_took_the_name_of_another_waits_for_its_own_manifest(world, pods, monkeypatch):
    """A StatefulSet's pod was made anew with another service account, and that is not known here yet."""
    pods.pod("p", verdict=True)
    former = workload("p", netns="", addresses=("10.0.0.9",), node="here", uid="1")
    settle(world, former)
    (place,) = FakePlace.made
    path = f"{world.folder}/cni-p"
    (world.folder / "cni-p").rename(world.folder / "gone")
    which = pods.pod("p", verdict=True)
    pods.mute["p"] = Sandbox("p2", "n", "p", uid="2", netns=path)
    monkeypatch.setattr(world.finder, "recorded", lambda one: path if one.uid in ("", "2") else "")
    monkeypatch.setattr(world.finder, "path_of", lambda one: "")
    world.beginnings.announce(pods.mute["p"])
    assert [made.workload.key for made in FakePlace.made] == ["n/p"], "it is not captured as the former"
    world.settle()
    assert place.log[-1] == "closed"
    (closed,) = FakePlace.made[1:]
    assert (closed.namespace.id, closed.workload.service_account, closed.log) == (which, "", ["made", "shut"])
    assert which not in pods.captured
    settle(world, workload("p", netns="", addresses=("10.0.0.9",), node="here", uid="2"))
    assert FakePlace.made[-1].workload.uid == "2"
    assert which in pods.captured


def test_a_sandbox_is_not_kept_for_another_pod_of_its_name(world, pods, monkeypatch):
    """A pod was deleted by force: its sandbox is still there when the next one is known."""
    which = pods.pod("p", verdict=True)
    settle(world, workload("p", netns="", node="here", uid="1"))
    monkeypatch.setattr(world.finder, "recorded", lambda one: f"{world.folder}/cni-p" if one.uid == "1" else "")
    monkeypatch.setattr(world.finder, "path_of", lambda one: "")
    settle(world, workload("p", netns="", node="here", uid="2"))
    assert not world.conditions()["n/p"].captured
    assert which in world.places.shut


async def test_pods_that_run_already_are_looked_at_together_in_a_round(world, pods, autojump_clock):
    world.want([workload("p", netns="", node="here"), workload("q", netns="", node="here")])
    for name in ("p", "q"):
        pods.pod(name, verdict=True)
    world.beginnings.running(list(pods.mute.values()))
    assert FakePlace.made == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        for sandbox in pods.mute.values():
            with trio.fail_after(1):
                await world.beginnings.admitted(sandbox)
        nursery.cancel_scope.cancel()
    assert {place.workload.key for place in FakePlace.made} == {"n/p", "n/q"}
