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
    """Namespaces by name: (our rules, our routes); what `install` refuses while the table is owned or not."""
    world = type("World", (), {"places": {}, "refuse": {}, "installed": []})()
    now = []
    monkeypatch.setattr(removal, "namespaces", lambda: list(world.places))
    monkeypatch.setattr(removal.netns, "Namespace", lambda path: now.append(path) or Entered(path))
    monkeypatch.setattr(removal, "Netlink", lambda _: Entered(""))
    monkeypatch.setattr(removal.nft, "rules", lambda _: world.places[now[-1]][0])
    monkeypatch.setattr(removal.route, "remove", lambda: world.places[now[-1]][1])
    monkeypatch.setattr(removal.cgroup, "mount", lambda: tmp_path)

    def install(_, ruleset, owned):
        assert ruleset is None
        if owned in world.refuse:
            raise NetlinkError(world.refuse[owned], "table")
        world.installed.append((now[-1], owned))

    monkeypatch.setattr(removal.nft, "install", install)
    world.cgroups = tmp_path
    return world


def test_everything_of_ours(world, capsys):
    world.places = {"a": ([b"rule"], 4), "b": ([], 0), "c": ([], 2)}
    (world.cgroups / "edgemesh-box").mkdir()
    (world.cgroups / "other").mkdir()
    assert removal.cleanup() == 0
    assert world.installed == [("a", True)]
    assert [path.name for path in world.cgroups.iterdir()] == ["other"]
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["a: removed table inet edgemesh, 4 rules and routes", "c: removed 2 rules and routes"]


def test_nothing(world, capsys):
    world.places = {"a": ([], 0)}
    assert removal.cleanup() == 0
    assert capsys.readouterr().out == "nothing of edgemesh was left\n"


def test_a_kernel_without_owned_tables(world):
    world.places = {"a": ([b"rule"], 0)}
    world.refuse = {True: errno.EOPNOTSUPP}
    assert removal.cleanup() == 0
    assert world.installed == [("a", False)]


def test_while_a_daemon_runs_it_fails_and_does_the_rest(world, capsys):
    world.places = {"gone": ([], 0), "a": ([b"rule"], 0), "b": ([], 1)}
    world.refuse = {True: errno.EPERM, False: errno.EPERM}
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
