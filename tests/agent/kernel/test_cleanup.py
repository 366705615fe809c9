"""`edgemesh cleanup`: everywhere, only what is ours, and its exit code."""

import errno

import pytest

from agent.kernel import cleanup
from agent.kernel.netlink import NetlinkError


class Entered:
    def __init__(self, path):
        if path == "gone":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def entered(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Namespaces by name: (is our table there, our routes); what `install` is refused with."""
    world = type("World", (), {"places": {}, "refuse": 0, "installed": [], "tables": ["table inet edgemesh"]})()
    now = []
    monkeypatch.setattr(cleanup, "namespaces", lambda: list(world.places))
    monkeypatch.setattr(cleanup.netns, "Namespace", lambda path: now.append(path) or Entered(path))
    monkeypatch.setattr(cleanup, "Netlink", lambda _: Entered(""))
    monkeypatch.setattr(cleanup.nft, "exists", lambda _, name: world.places[now[-1]][0] and str(name) in world.tables)
    monkeypatch.setattr(cleanup.routing, "remove", lambda: world.places[now[-1]][1])
    monkeypatch.setattr(cleanup.cgroup, "mount", lambda: tmp_path)

    def install(_, ruleset, owned, name):
        assert (ruleset, owned) == (None, False)
        if world.refuse:
            raise NetlinkError(world.refuse, "table")
        world.installed.append(now[-1])

    monkeypatch.setattr(cleanup.nft, "install", install)
    world.cgroups = tmp_path
    return world


def test_the_tables_of_the_node_go_too(world, capsys):
    world.places = {"a": (True, 0)}
    world.tables = ["table inet edgemesh_node", "table bridge edgemesh_node", "table bridge edgemesh_gate"]
    assert cleanup.cleanup() == 0
    removed = ", ".join(world.tables)
    assert capsys.readouterr().out == f"a: removed {removed}\n"


def test_everything_of_ours(world, capsys):
    world.places = {"a": (True, 4), "b": (False, 0), "c": (False, 2)}
    (world.cgroups / "edgemesh-box").mkdir()
    (world.cgroups / "other").mkdir()
    assert cleanup.cleanup() == 0
    assert world.installed == ["a"]
    assert [path.name for path in world.cgroups.iterdir()] == ["other"]
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["a: removed table inet edgemesh, 4 rules and routes", "c: removed 2 rules and routes"]


def test_nothing(world, capsys):
    world.places = {"a": (False, 0)}
    assert cleanup.cleanup() == 0
    assert capsys.readouterr().out == "nothing of edgemesh was left\n"


def test_while_a_daemon_runs_it_fails_and_does_the_rest(world, capsys):
    world.places = {"gone": (False, 0), "a": (True, 0), "b": (False, 1)}
    world.refuse = errno.EPERM
    (world.cgroups / "edgemesh-box" / "in-use").mkdir(parents=True)
    assert cleanup.cleanup() == 1
    printed = capsys.readouterr()
    assert "b: removed 1 rules and routes" in printed.out
    assert "a: table: Operation not permitted; stop the daemon first, or run as root" in printed.err
    assert "is in use: a daemon runs" in printed.err


def test_each_namespace_once(monkeypatch, tmp_path):
    monkeypatch.setattr(cleanup.netns, "FOLDER", str(tmp_path))
    found = cleanup.namespaces()
    assert found[0] == "/proc/self/ns/net"
    assert len({cleanup.netns.identity(path) for path in found}) == len(found)


def test_namespaces_that_only_a_container_runtime_has_mounted_are_found(monkeypatch):
    monkeypatch.setattr(cleanup.netns, "mounted", lambda: ["/run/docker/netns/1-abc", "/proc/self/ns/net"])
    monkeypatch.setattr(cleanup.netns, "is_namespace", lambda path: True)
    known = cleanup.netns.identity
    monkeypatch.setattr(cleanup.netns, "identity", lambda path: (0, 1) if "docker" in path else known(path))
    assert "/run/docker/netns/1-abc" in cleanup.namespaces()
