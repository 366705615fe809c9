"""What is wanted becomes places, one by one; a fault of one stops no other. Without namespaces: files stand for them."""

import errno

import pytest
import trio

from agent.config import NodeConfig
from agent.kernel import ground
from agent.kernel.condition import Condition
from policy.model import Workload


class Table:
    owned, lent = True, False

    def lend(self):
        self.lent = True


class FakePlace:
    made, refuse = [], {}

    def __init__(self, capture, workload, path):
        if path in self.refuse:
            raise OSError(*self.refuse[path])
        self.workload, self.doors, self.fault, self.table = workload, object(), "", Table()
        self.namespace = type("Namespace", (), {"path": path, "id": ground.netns.identity(path)})
        self.name = f"namespace {self.namespace.id[1]}"
        self.log = ["made"]
        self.made.append(self)

    def keep(self, workload):
        if workload is not self.workload:
            self.workload = workload
            self.log.append("kept")

    def remove(self):
        self.log.append("removed")

    def close(self):
        self.log.append("closed")

    def condition(self, held=(), counted=False):
        return Condition(True, self.namespace.path, powers=held)

    def towards(self, caller, family):
        return ("towards", self.workload.key, caller, family)


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A Ground over a folder of files; `world.heard` is what the proxy was told."""
    monkeypatch.setattr(ground.cgroup, "own", lambda name, predecessor=0: None)
    monkeypatch.setattr(ground, "Place", FakePlace)
    monkeypatch.setattr(ground.netns, "FOLDER", str(tmp_path))
    monkeypatch.setattr(ground.netns, "is_namespace", lambda path: bool(ground.netns.identity(path)))
    monkeypatch.setattr(FakePlace, "made", [])
    monkeypatch.setattr(FakePlace, "refuse", {})
    found = ground.Ground(NodeConfig(node="here"))
    found.heard = []
    found.serve(lambda w, _: found.heard.append(f"+{w.name}"), lambda key: found.heard.append(f"-{key}"))
    found.folder = tmp_path
    return found


def workload(name, **more):
    return Workload("n", name, name, **{"netns": name, **more})


def settle(world, *workloads):
    world.want(workloads)
    world.settle()
    return {key: condition.error for key, condition in world.conditions().items()}


def test_what_is_there_is_captured_and_the_rest_told(world):
    (world.folder / "a").touch()
    faults = settle(world, workload("a"), workload("gone"))
    assert world.heard == ["+a"]
    assert faults["n/a"] == ""
    assert "there is no such network namespace" in faults["n/gone"]
    (world.folder / "gone").touch()
    world.settle()
    assert world.heard == ["+a", "+gone"]
    assert not any(c.error for c in world.conditions().values())


def test_only_workloads_of_this_node_that_are_enrolled(world):
    for name in ("mine", "named", "far", "out"):
        (world.folder / name).touch()
    named, far = workload("named", node="here"), workload("far", node="there")
    settle(world, workload("mine"), named, far, workload("out", enrolled=False))
    assert world.heard == ["+mine", "+named"]


def test_a_fault_of_one_stops_no_other(world):
    for name in ("a", "b"):
        (world.folder / name).touch()
    FakePlace.refuse = {str(world.folder / "a"): (errno.ENOSPC, "no room")}
    faults = settle(world, workload("a"), workload("b"))
    assert world.heard == ["+b"]
    assert "no room" in faults["n/a"]
    FakePlace.refuse = {}
    world.settle()
    assert world.heard == ["+b"], "it is tried again, but not in every round"
    world._retry["n/a"] = 0
    world.settle()
    assert world.heard == ["+b", "+a"]


def test_a_namespace_replaced_under_its_name_is_let_go_and_taken_again(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    (world.folder / "new").touch()
    (world.folder / "new").rename(world.folder / "a")
    world.settle()
    assert world.heard == ["+a", "-n/a", "+a"]
    assert FakePlace.made[0].log == ["made", "closed"], "there may be processes left in it, and its rules keep them in"
    (world.folder / "a").unlink()
    world.settle()
    assert world.heard[-1] == "-n/a"
    assert not world.conditions()["n/a"].captured


def test_a_namespace_that_goes_to_another_workload_is_open_at_no_moment(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world, workload("renamed", netns="a"))
    assert world.heard == ["+a", "-n/a", "+renamed"]
    assert FakePlace.made[0].log == ["made", "closed"], "its rules are replaced, not taken away"


def test_a_workload_that_moves_leaves_no_rules_behind(world):
    for name in ("a", "b"):
        (world.folder / name).touch()
    settle(world, workload("x", netns="a"))
    settle(world, workload("x", netns="b"))
    assert FakePlace.made[0].log == ["made", "removed", "closed"]
    assert world.conditions()["n/x"].where == str(world.folder / "b")


def test_another_name_of_the_same_namespace_changes_nothing(world):
    (world.folder / "a").touch()
    (world.folder / "same").hardlink_to(world.folder / "a")
    settle(world, workload("x", netns="a"))
    settle(world, workload("x", netns="same"))
    (world.folder / "a").unlink()
    world.settle()
    assert world.heard == ["+x"]


def test_doors_that_could_be_opened_late_are_served(world, monkeypatch):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    monkeypatch.setattr(FakePlace, "keep", lambda self, _: object())
    world.settle()
    assert world.heard == ["+a", "+a"]


def test_a_newer_wish_ends_the_round(world):
    for name in ("a", "b"):
        (world.folder / name).touch()
    world.want([workload("a"), workload("b")])
    steps = world._steps()
    next(steps)
    world.want([workload("b")])
    assert list(steps) == []
    assert world.heard == ["+a"]
    assert not world.settled
    world.settle()
    assert world.heard == ["+a", "-n/a", "+b"]
    assert world.settled


def test_who_is_no_longer_wanted_loses_its_rules(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world)
    assert FakePlace.made[0].log == ["made", "removed", "closed"]
    assert world.conditions() == {}


def test_rules_stay_at_a_stop_unless_the_node_is_to_be_open(world):
    (world.folder / "a").touch()
    for open_node, log in ((False, ["made", "closed"]), (True, ["made", "removed", "closed"])):
        settle(world, workload("a"))
        world.release(open_node)
        assert FakePlace.made[-1].log == log


def test_a_namespace_holds_one_workload(world):
    (world.folder / "a").touch()
    (world.folder / "same").hardlink_to(world.folder / "a")
    faults = settle(world, workload("a"), workload("same"))
    assert "n/a's already" in faults["n/same"]


def test_the_hosts_own_namespace_is_no_workloads(world):
    faults = settle(world, workload("host", netns="/proc/self/ns/net"))
    assert "host's own network namespace" in faults["n/host"]
    assert not FakePlace.made


def test_a_pod_is_found_by_its_address(world, monkeypatch):
    (world.folder / "cni-1").touch()
    monkeypatch.setattr(ground.netns, "addresses_in", lambda path: frozenset(["10.0.0.7"]))
    pod, other = (
        workload(name, netns="", node="here", addresses=(address,)) for name, address in (("pod", "10.0.0.7"), ("other", "10.0.0.8"))
    )
    faults = settle(world, pod, other)
    assert world.heard == ["+pod"]
    assert "no network namespace has its addresses" in faults["n/other"]


def test_an_address_that_two_namespaces_claim_finds_neither(world, monkeypatch):
    (world.folder / "cni-1").touch()
    (world.folder / "cni-2").touch()
    monkeypatch.setattr(ground.netns, "addresses_in", lambda path: frozenset(["10.0.0.7"]))
    faults = settle(world, workload("pod", netns="", node="here", addresses=("10.0.0.7",)))
    assert "several network namespaces" in faults["n/pod"]
    assert not world.heard


def test_sockets_are_made_where_the_workload_is(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    assert world.towards(workload("a"), "10.0.0.1", 2) == ("towards", "n/a", "10.0.0.1", 2)
    with pytest.raises(OSError, match="not captured here"):
        world.towards(workload("gone"), "10.0.0.1", 2)


def test_the_nodes_addresses_are_looked_up_now_and_then(world, monkeypatch):
    looks = []
    monkeypatch.setattr(ground.netns, "addresses", lambda: looks.append(1) or frozenset(["10.0.0.254"]))
    assert world.node_addresses() == world.node_addresses() == {"10.0.0.254"}
    assert len(looks) == 1


async def test_a_new_namespace_is_heard_of(world, monkeypatch):
    monkeypatch.setattr(ground, "POLL", 60)
    attached = trio.Event()
    world.serve(lambda *_: attached.set(), lambda _: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        world.want([workload("a")])
        while not world.settled:
            await trio.lowlevel.checkpoint()
        (world.folder / "a").touch()
        with trio.fail_after(5):
            await attached.wait()
        nursery.cancel_scope.cancel()


def test_attaching_before_serving_is_a_mistake(world, monkeypatch):
    fresh = ground.Ground(NodeConfig(node="here"))
    (world.folder / "a").touch()
    fresh.want([workload("a")])
    with pytest.raises(RuntimeError, match=r"Ground\.serve comes first"):
        fresh.settle()
