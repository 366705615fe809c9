"""kernel/pod_netns.py: an address that somebody gave himself makes nobody a workload."""

import os

import pytest
from msgspec import structs

from agent.kernel import pod_netns
from agent.kernel.pod_netns import PodNamespaces
from agent.kernel.sandbox import Sandbox
from agent.kernel.sandboxes import Placed
from policy.model import Workload

POD = Workload("shop", "pod", "pod", ("10.0.0.7",), node="here")


class Recorded:
    """What the container runtime wrote: `by_path` the addresses that it gave, `pods` whose a namespace is."""

    def __init__(self):
        self.by_path, self.pods = {}, {}

    def read(self, now=None):
        return {
            path: Sandbox(
                path,
                *self.pods.get(path, ("", "", "")),
                netns=path,
                addresses=frozenset(self.by_path.get(path, ())),
                made=number,
            )
            for number, path in enumerate({**self.by_path, **self.pods})
        }

    def believed(self, now=None):
        return {
            path: Placed(sandbox, which)
            for path, sandbox in self.read().items()
            if (which := pod_netns.netns.identity(path)) is not None
        }


class World:
    """Files stand for namespaces; what is in `addresses` is what each has."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.now, self.addresses, self.cookies, self.records = folder, 100.0, {}, {}, Recorded()
        monkeypatch.setattr(pod_netns.netns, "FOLDER", str(folder))
        monkeypatch.setattr(pod_netns.netns, "is_namespace", lambda path: bool(pod_netns.netns.identity(path)))
        monkeypatch.setattr(
            pod_netns.netns, "inspect", lambda path: (self.cookies[path], frozenset(self.addresses[path]))
        )
        self.finder = PodNamespaces(sandboxes=self.records)

    def path(self, name):
        return str(self.folder / name)

    def make(self, name, *addresses):
        path = self.path(name)
        (self.folder / name).touch()
        self.addresses[path], self.cookies[path] = set(addresses), 1 + len(self.cookies)
        self.folder_changed()

    def delete(self, name):
        (self.folder / name).unlink()
        self.folder_changed()

    def folder_changed(self):
        self.stamp = getattr(self, "stamp", 10**18) + 10**9
        os.utime(self.folder, ns=(self.stamp, self.stamp))

    def round(self, seconds=0.25, needed=True):
        self.now += seconds
        self.finder.begin(self.now, needed)

    def seek(self, workload=POD):
        self.round()
        try:
            return self.finder.path_of(workload).removeprefix(f"{self.folder}/")
        except OSError as error:
            return error.strerror

    def restart(self):
        """Another daemon, which knows what this one wrote."""
        self.finder = PodNamespaces(
            {cookie: tuple(first) for cookie, first in self.finder.met.items()}, sandboxes=self.records
        )


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_what_was_there_before_us_has_what_it_has(world):
    world.make("a", "10.0.0.7")
    world.make("b", "10.0.0.8")
    assert world.seek() == "a"
    assert world.seek(Workload("n", "x", "x", ("10.0.0.9",))) == ""


def test_a_new_one_gets_its_address_after_its_name(world):
    world.round()
    world.make("a")
    world.round()
    assert world.seek() == ""
    world.addresses[world.path("a")] = {"10.0.0.7"}
    assert world.seek() == "a"
    assert world.seek() == "a"


def take_over(world, pod="pod"):
    """The pod goes away for a moment, and a neighbour gives itself its address."""
    world.delete(pod)
    world.addresses[world.path("thief")].add("10.0.0.7")


def test_a_neighbour_that_gives_itself_the_address_of_one_that_is_gone_is_nobody(world):
    world.make("pod", "10.0.0.7")
    world.make("thief", "10.0.0.66")
    assert world.seek() == "pod"
    for _ in range(40):  # found, it is not sought any more
        world.round()
    take_over(world)
    assert "that did not come with it" in world.seek()
    world.round(60)
    assert "that did not come with it" in world.seek(), "nor later"
    world.make("pod-again", "10.0.0.7")
    assert world.seek() == "pod-again", "the right one is known by what it came with"


def test_nor_after_a_restart_of_the_daemon(world):
    world.make("pod", "10.0.0.7")
    world.make("thief", "10.0.0.66")
    world.seek()
    world.round(10)
    world.restart()
    take_over(world)
    assert "that did not come with it" in world.seek()


def test_nor_when_it_is_done_while_no_daemon_looks(world):
    world.make("pod", "10.0.0.7")
    world.seek()
    world.restart()
    world.delete("pod")
    world.make("thief", "10.0.0.66", "10.0.0.7")
    assert "that did not come with it" in world.seek(), "another had that address before"
    world.make("new", "10.0.0.9")
    assert world.seek(Workload("n", "x", "x", ("10.0.0.9",))) == "new"


def test_a_pod_that_was_made_while_no_daemon_looked_is_found(world):
    world.make("other", "10.0.0.8")
    world.seek()
    world.restart()
    world.make("pod", "10.0.0.7")
    assert world.seek() == "pod"


def test_a_namespace_is_met_though_everybody_is_found(world):
    """Else the first look at a neighbour would be the one in which it has the address already."""
    world.make("pod", "10.0.0.7")
    assert world.seek() == "pod"
    world.make("thief", "10.0.0.66")
    for _ in range(40):
        world.round()
    take_over(world)
    assert "that did not come with it" in world.seek()


def test_nothing_is_looked_at_where_nobody_is_found_by_address(world):
    world.make("a", "10.0.0.7")
    world.round(needed=False)
    assert world.finder.met == {}


def test_what_two_got_as_their_own_is_neithers(world):
    world.make("a", "10.0.0.7")
    world.make("b", "10.0.0.7")
    assert "several network namespaces have its addresses" in world.seek()


def test_the_runtimes_word_comes_first(world):
    world.records.by_path = {world.path("pod"): {"10.0.0.7"}, world.path("thief"): {"10.0.0.66"}}
    world.make("thief", "10.0.0.66", "10.0.0.7")
    assert "the container runtime gave it 10.0.0.66" in world.seek()
    world.make("pod", "10.0.0.7")
    assert world.seek() == "pod", "who claims it beside it takes nothing from it"
    world.make("third", "10.0.0.7")
    assert world.seek() == "pod"
    world.delete("pod")
    world.delete("thief")
    world.records.by_path = {world.path("other"): {"10.0.0.7"}}
    world.make("other")
    assert "gave that to another one" in world.seek()


def test_a_new_pod_whose_address_was_used_again_by_the_runtime_is_found(world):
    world.make("pod", "10.0.0.7")
    world.seek()
    world.restart()
    world.delete("pod")
    world.make("pod-2", "10.0.0.7")
    world.records.by_path = {world.path("pod-2"): {"10.0.0.7"}}
    assert world.seek() == "pod-2"


def test_a_number_that_is_used_again_is_another_namespace(world):
    world.make("a", "10.0.0.66")
    world.seek()
    world.cookies[world.path("a")] = 77  # replaced between two looks, with the same inode
    world.addresses[world.path("a")] = {"10.0.0.7"}
    world.round(3)
    assert world.seek() == "a"


def test_one_that_cannot_be_looked_at_is_looked_at_again(world):
    world.make("a", "10.0.0.7")
    world.cookies[world.path("a")] = 0
    assert world.seek() == ""
    world.cookies[world.path("a")] = 5
    assert world.seek() == "a"
    world.cookies[world.path("a")] = 0
    world.round(3)
    assert world.seek() == "a", "a look that failed takes nothing back"


def test_what_is_remembered_is_bounded(world, monkeypatch):
    monkeypatch.setattr(pod_netns, "_MOST", 3)
    for number in range(5):
        world.make(f"n{number}", f"10.0.1.{number}")
    world.seek()
    assert len(world.finder.met) == 3


def test_a_pod_is_found_by_what_the_runtime_wrote_whatever_its_addresses_are(world):
    world.records.pods = {world.path("cni-1"): ("shop", "pod")}
    world.make("cni-1", "10.0.0.99")
    world.make("thief", "10.0.0.7")
    assert world.seek() == "cni-1"
    assert world.finder.recorded(POD) == world.path("cni-1")
    assert world.finder.recorded(Workload("shop", "other", "other")) == ""


def test_which_addresses_the_runtime_gave(world):
    world.records.pods = {world.path("cni-1"): ("shop", "pod")}
    world.records.by_path = {world.path("cni-1"): {"10.0.0.7"}}
    world.make("cni-1", "10.0.0.99")
    world.make("other", "10.0.0.8")
    world.round()
    identity = pod_netns.netns.identity
    assert world.finder.given(identity(world.path("cni-1"))) == {"10.0.0.7"}
    assert world.finder.given(identity(world.path("other"))) == world.finder.given(None) == frozenset()


def test_an_address_that_passes_from_pod_to_pod_takes_no_identity_along(world):
    """The API still says that 10.0.0.7 is pod's; its namespace is gone, and another pod got that address."""
    world.records.pods = {world.path("cni-1"): ("shop", "pod")}
    world.records.by_path = {world.path("cni-1"): {"10.0.0.7"}}
    world.make("cni-1", "10.0.0.7")
    assert world.seek() == "cni-1"
    world.delete("cni-1")
    world.records.pods = {world.path("cni-2"): ("other", "pod")}
    world.records.by_path = {world.path("cni-2"): {"10.0.0.7"}}
    world.make("cni-2", "10.0.0.7")
    assert "made it for pod other/pod" in world.seek()
    assert world.seek(Workload("other", "pod", "x", ("10.0.0.7",))) == "cni-2"


def test_of_two_sandboxes_of_one_pod_the_later_one_counts(world):
    world.records.pods = {world.path("cni-1"): ("shop", "pod"), world.path("cni-2"): ("shop", "pod")}
    world.make("cni-1", "10.0.0.7")
    assert world.seek() == "cni-1", "the second is not there yet"
    world.make("cni-2", "10.0.0.8")
    assert world.seek() == "cni-2"
    world.delete("cni-2")
    assert world.seek() == "cni-1"


def test_a_namespace_that_is_recorded_for_two_pods_is_the_later_ones(world):
    """A record of before a reboot names a path (/proc/PID/ns/net) that is another's by now."""
    world.records.pods = {world.path("cni-1"): ("shop", "pod"), world.path("again"): ("shop", "late")}
    world.make("cni-1", "10.0.0.7")
    os.link(world.path("cni-1"), world.path("again"))
    world.addresses[world.path("again")], world.cookies[world.path("again")] = {"10.0.0.7"}, 1
    assert world.seek(Workload("shop", "late", "x")) == "again"
    assert "made it for pod shop/late" in world.seek()


def test_a_pod_with_the_name_of_one_that_is_gone_is_not_that_one(world):
    """Its manifest is not known here yet, and may name another service account."""
    world.make("cni-1", "10.0.0.7")
    world.records.pods = {world.path("cni-1"): ("shop", "pod", "new")}
    assert world.seek(structs.replace(POD, uid="new")) == "cni-1"
    assert world.seek(structs.replace(POD, uid="")) == "cni-1", "a cache of an older edgemesh has no UID"
    former = structs.replace(POD, uid="former")
    assert "the container runtime made it for pod shop/pod" in world.seek(former)
    world.make("cni-0", "10.0.0.6")
    world.records.pods = {
        world.path("cni-0"): ("shop", "pod", "former"),
        world.path("cni-1"): ("shop", "pod", "new"),
    }
    assert world.seek(former) == "cni-0", "while both are there, each is its own"
    assert world.seek(structs.replace(POD, uid="new")) == "cni-1"
