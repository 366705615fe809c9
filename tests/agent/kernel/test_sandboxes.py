"""sandboxes.py: two records of one sandbox are joined; a record is believed when the kernel bears it out."""

import json

import msgspec
import pytest

from agent.kernel import sandboxes
from agent.kernel.sandbox import Sandbox
from agent.kernel.sandbox_files import LAYOUTS
from agent.kernel.sandboxes import Sandboxes


class World:
    def __init__(self, folder, monkeypatch):
        self.folder, self.now, self.addresses, self.inspected = folder, 100.0, {}, []
        for name in ("results", "tasks", "netns"):
            (folder / name).mkdir()
        monkeypatch.setattr(sandboxes.netns, "is_namespace", lambda path: True)
        monkeypatch.setattr(sandboxes.netns, "inspect", self.inspect)
        layout = msgspec.structs.replace(LAYOUTS[0], folder=folder / "tasks")
        self.sandboxes = Sandboxes(folder / "results", [layout])

    def inspect(self, path):
        self.inspected.append(path)
        return 1, frozenset(self.addresses.get(path, ()))

    def path(self, name):
        return str(self.folder / "netns" / name)

    def namespace(self, name, *addresses):
        (self.folder / "netns" / name).touch()
        self.addresses[self.path(name)] = addresses

    def cni(self, sandbox, pod, netns, *addresses):
        namespace, _, name = pod.partition("/")
        document = {
            "containerId": sandbox,
            "netns": self.path(netns),
            "cniArgs": [["K8S_POD_NAMESPACE", namespace], ["K8S_POD_NAME", name]] if pod else None,
            "result": {"ips": [{"address": f"{one}/24"} for one in addresses]},
        }
        (self.folder / "results" / f"net-{sandbox}-eth0").write_text(json.dumps(document))

    def runtime(self, sandbox, pod, netns):
        namespace, _, name = pod.partition("/")
        prefix = "io.kubernetes.cri"
        said = {f"{prefix}.container-type": "sandbox", f"{prefix}.sandbox-namespace": namespace}
        document = {
            "annotations": {**said, f"{prefix}.sandbox-name": name},
            "linux": {"namespaces": [{"type": "network", "path": self.path(netns)}]},
        }
        (self.folder / "tasks" / sandbox).mkdir(exist_ok=True)
        (self.folder / "tasks" / sandbox / "config.json").write_text(json.dumps(document))

    def read(self, seconds=0.25):
        self.now += seconds
        return self.sandboxes.read(self.now)

    def believed(self):
        self.now += 0.25
        return sorted(self.sandboxes.believed(self.now))


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_both_records_of_one_sandbox_are_one(world):
    world.cni("s1", "shop/till", "a", "10.42.0.5")
    world.runtime("s1", "shop/till", "a")
    world.runtime("s2", "shop/stock", "b")
    found = world.read()
    assert {key: one.pod for key, one in found.items()} == {"s1": "shop/till", "s2": "shop/stock"}
    assert found["s1"].addresses == {"10.42.0.5"}


def test_cni_that_was_told_no_names_gets_those_of_the_runtime(world):
    world.cni("s1", "", "a", "10.42.0.5")
    world.runtime("s1", "shop/till", "a")
    assert world.read()["s1"].pod == "shop/till"
    assert world.read()["s1"].addresses == {"10.42.0.5"}


def test_where_they_name_two_pods_neither_is_believed(world, caplog):
    world.cni("s1", "shop/till", "a", "10.42.0.5")
    world.runtime("s1", "shop/thief", "a")
    assert world.read() == {}
    assert "pod shop/till and for pod shop/thief" in caplog.text


def test_a_record_is_believed_when_its_namespace_has_its_address(world):
    world.cni("s1", "shop/till", "a", "10.42.0.5")
    assert world.believed() == [], "left over from before a reboot"
    world.namespace("a", "10.42.0.6")
    assert world.believed() == [], "another's"
    world.addresses[world.path("a")] = ("10.42.0.5", "10.42.0.6")
    assert world.believed() == ["s1"]
    world.addresses[world.path("a")] = ()
    assert world.believed() == ["s1"], "what its processes remove changes nothing"
    (world.folder / "netns" / "a").unlink()
    assert world.believed() == []


def test_a_record_without_addresses_is_believed_when_its_namespace_is_there(world):
    world.runtime("s1", "shop/till", "a")
    world.namespace("a")
    assert world.believed() == ["s1"]


def test_the_nodes_own_namespace_is_nobodys(world, monkeypatch):
    world.runtime("s1", "shop/till", "a")
    world.namespace("a")
    monkeypatch.setattr(sandboxes.netns, "own", lambda: sandboxes.netns.identity(world.path("a")))
    assert world.believed() == []


def test_nothing_is_read_again_where_nothing_changed(world, monkeypatch):
    world.cni("s1", "shop/till", "a", "10.42.0.5")
    world.read()
    world.read(2.0)
    reads, join = [], world.sandboxes._join
    monkeypatch.setattr(world.sandboxes, "_join", lambda: reads.append(1) or join())
    for _ in range(8):
        world.read()
    assert not reads
    world.runtime("s2", "shop/stock", "b")
    assert set(world.read()) == {"s1", "s2"}
    world.read(10.0)
    assert len(reads) == 2


def test_what_the_runtime_tells_is_joined_with_what_is_written(world):
    world.cni("s1", "shop/till", "a", "10.42.0.5")
    world.namespace("a", "10.42.0.5")
    world.read(10.0)
    world.sandboxes.announce(Sandbox("s1", "shop", "till", netns=world.path("a"), labels={"app": "till"}))
    world.sandboxes.announce(Sandbox("s2", "shop", "stock", netns=world.path("b"), labels={}))
    found = world.read()
    assert (found["s1"].labels, found["s1"].addresses) == ({"app": "till"}, {"10.42.0.5"})
    assert found["s2"].pod == "shop/stock"
    world.sandboxes.forget("s2")
    world.sandboxes.forget("nobody")
    assert set(world.read()) == {"s1"}


def test_what_is_announced_is_bounded(world, monkeypatch):
    monkeypatch.setattr(sandboxes, "_MOST", 3)
    for number in range(5):
        world.sandboxes.announce(Sandbox(f"s{number}", "shop", "till"))
    assert set(world.read()) == {"s2", "s3", "s4"}


def test_what_is_believed_is_from_one_read(world):
    """A record that comes and goes between two looks takes its sandbox along."""
    world.cni("s1", "shop/till", "a", "10.42.0.5")
    world.namespace("a", "10.42.0.5")
    found = world.sandboxes.believed(200.0)
    world.cni("s2", "shop/stock", "a", "10.42.0.5")
    assert {key: placed.sandbox.pod for key, placed in found.items()} == {"s1": "shop/till"}
    assert found["s1"].which == sandboxes.netns.identity(world.path("a"))
