"""pods.py: who may speak. Files stand for namespaces, numbers for interfaces."""

import pytest

from agent.kernel import pods as module
from agent.kernel.pods import Pods
from agent.kernel.sandbox import Sandbox
from agent.kernel.sandboxes import Placed


class Gate:
    def __init__(self):
        self.known, self.ranges, self.put_, self.in_force = set(), set(), [], True

    def begin(self):
        pass

    def pass_(self, indexes):
        self.known.update(indexes)

    def forget(self, indexes):
        self.known.difference_update(indexes)

    def put(self):
        self.put_.append(sorted(self.known))

    def problems(self):
        return iter(())


class World:
    def __init__(self, monkeypatch):
        self.sandboxes, self.ends, self.now, self.verdicts, self.captured = {}, {}, 100.0, {}, set()
        self.gate = Gate()
        monkeypatch.setattr(module, "_ends", lambda sandbox, which: self.ends.get(which, ()))
        self.pods = Pods(self, self.gate)
        self.pods.enrols = lambda sandbox: self.verdicts.get(sandbox.pod)

    def believed(self, now=None):
        return {key: Placed(sandbox, which) for key, (sandbox, which) in self.sandboxes.items()}

    def pod(self, name, number, namespace="shop"):
        sandbox = Sandbox(name, namespace, name, netns=f"/{name}", networks=frozenset(["10.42.0.0/24"]))
        self.sandboxes[name] = (sandbox, (4, number))
        self.ends[4, number] = (number,)

    def settle(self, seconds=0.25):
        self.now += seconds
        self.pods.settle(self.captured, self.now)
        return sorted(self.pods.waiting())


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_a_pod_of_the_mesh_speaks_when_it_is_captured(world):
    world.pod("till", 5)
    world.verdicts["shop/till"] = True
    assert world.settle() == ["till"]
    assert not world.pods.speaks("till")
    world.captured.add((4, 5))
    assert world.settle() == []
    assert world.pods.speaks("till")
    assert world.gate.put_ == [[], [5]]
    assert world.gate.ranges == {"10.42.0.0/24"}


def test_a_pod_of_which_nothing_is_known_is_mute_and_told(world):
    world.pod("till", 5)
    assert world.settle() == ["till"]
    assert not list(world.pods.problems(world.now + 9))
    (problem,) = world.pods.problems(world.now + 11)
    assert problem.object == "Pod shop/till"
    assert "is mute for 11 s: its Namespace is not known yet" in problem.message
    world.verdicts["shop/till"] = False
    assert world.settle() == []
    assert not list(world.pods.problems(world.now + 100))


def test_what_spoke_once_speaks_on_until_it_is_gone(world):
    world.pod("till", 5)
    world.verdicts["shop/till"] = False
    world.settle()
    world.verdicts["shop/till"] = True  # its Namespace became of the mesh: it is captured as it runs
    assert world.settle() == []
    del world.sandboxes["till"]
    world.settle()
    assert world.gate.known == set()


def test_what_ran_before_the_gate_speaks(world):
    world.gate.known = {5}
    world.pod("till", 5)
    assert world.settle() == []


def test_many_at_one_moment_are_one_transaction(world):
    for number in range(50):
        world.pod(f"p{number}", number)
        world.verdicts[f"shop/p{number}"] = False
    assert world.settle() == []
    assert len(world.gate.put_) == 1


def test_an_interface_that_is_not_made_yet_is_looked_for_again(world):
    world.pod("till", 5)
    world.verdicts["shop/till"] = False
    ends, world.ends = world.ends, {}
    assert world.settle() == ["till"]
    world.ends = ends
    assert world.settle() == []


def test_another_namespace_of_the_same_sandbox_is_judged_anew(world):
    world.pod("till", 5)
    world.verdicts["shop/till"] = False
    world.settle()
    world.pod("till", 6)
    world.verdicts["shop/till"] = None
    assert world.settle() == ["till"]
    assert world.gate.known == set()


def test_a_namespace_that_got_the_number_of_one_that_is_gone_is_another(world):
    """The kernel gives the number of a namespace that is gone to the next one at once."""
    world.pod("old", 5)
    world.verdicts["shop/old"] = False
    world.settle()
    del world.sandboxes["old"]
    world.pod("till", 5)
    world.ends[4, 5] = (6,)
    world.verdicts["shop/till"] = True
    assert world.settle() == ["till"]
    assert not world.pods.speaks("till")
    assert world.gate.known == set()
    world.captured.add((4, 5))
    assert world.settle() == []
    assert world.gate.known == {6}


def test_an_older_record_of_the_same_namespace_that_goes_takes_nothing_along(world):
    world.pod("old", 5)
    world.pod("till", 5)
    world.verdicts = {"shop/old": False, "shop/till": False}
    assert world.settle() == []
    del world.sandboxes["old"]
    assert world.settle() == []
    assert world.gate.known == {5}


def test_containers_that_are_no_pods_and_nodes_without_pods_concern_nobody(world):
    world.sandboxes["x"] = (Sandbox("x", netns="/x", networks=frozenset(["10.9.0.0/16"])), (4, 9))
    assert world.settle() == []
    assert (world.gate.put_, world.gate.ranges) == ([[]], set())


def test_ranges_of_the_configuration_take_the_place_of_recorded_ones(world):
    world.pods = Pods(world, world.gate, ("10.0.0.0/8",))
    world.pod("till", 5)
    world.settle()
    assert world.gate.ranges == {"10.0.0.0/8"}
