"""`edgemesh cleanup`: everywhere, only what is ours, and its exit code."""

import errno

import pytest

from agent.kernel import removal
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
    world = type("World", (), {"places": {}, "refuse": 0, "installed": []})()
    now = []
    monkeypatch.setattr(removal, "namespaces", lambda: list(world.places))
    monkeypatch.setattr(removal.netns, "Namespace", lambda path: now.append(path) or Entered(path))
    monkeypatch.setattr(removal, "Netlink", lambda _: Entered(""))
    monkeypatch.setattr(removal.nft, "exists", lambda _: world.places[now[-1]][0])
    monkeypatch.setattr(removal.route, "remove", lambda: world.places[now[-1]][1])
    monkeypatch.setattr(removal.cgroup, "mount", lambda: tmp_path)

    def install(_, ruleset, owned):
        assert (ruleset, owned) == (None, False)
        if world.refuse:
            raise NetlinkError(world.refuse, "table")
        world.installed.append(now[-1])

    monkeypatch.setattr(removal.nft, "install", install)
    world.cgroups = tmp_path
    return world


def test_everything_of_ours(world, capsys):
    world.places = {"a": (True, 4), "b": (False, 0), "c": (False, 2)}
    (world.cgroups / "edgemesh-box").mkdir()
    (world.cgroups / "other").mkdir()
    assert removal.cleanup() == 0
    assert world.installed == ["a"]
    assert [path.name for path in world.cgroups.iterdir()] == ["other"]
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["a: removed table inet edgemesh, 4 rules and routes", "c: removed 2 rules and routes"]


def test_nothing(world, capsys):
    world.places = {"a": (False, 0)}
    assert removal.cleanup() == 0
    assert capsys.readouterr().out == "nothing of edgemesh was left\n"


def test_while_a_daemon_runs_it_fails_and_does_the_rest(world, capsys):
    world.places = {"gone": (False, 0), "a": (True, 0), "b": (False, 1)}
    world.refuse = errno.EPERM
    (world.cgroups / "edgemesh-box" / "in-use").mkdir(parents=True)
    assert removal.cleanup() == 1
    printed = capsys.readouterr()
    assert "b: removed 1 rules and routes" in printed.out
    assert "a: table: Operation not permitted; stop the daemon first, or run as root" in printed.err
    assert "is in use: a daemon runs" in printed.err


def test_each_namespace_once(monkeypatch, tmp_path):
    monkeypatch.setattr(removal.netns, "FOLDER", str(tmp_path))
    found = removal.namespaces()
    assert found[0] == "/proc/self/ns/net"
    assert len({removal.netns.identity(path) for path in found}) == len(found)


def test_namespaces_that_only_a_container_runtime_has_mounted_are_found(monkeypatch):
    monkeypatch.setattr(removal.netns, "mounted", lambda: ["/run/docker/netns/1-abc", "/proc/self/ns/net"])
    monkeypatch.setattr(removal.netns, "is_namespace", lambda path: True)
    known = removal.netns.identity
    monkeypatch.setattr(removal.netns, "identity", lambda path: (0, 1) if "docker" in path else known(path))
    assert "/run/docker/netns/1-abc" in removal.namespaces()
