"""Which cgroup is whose."""

import os

import pytest

from agent.kernel import cgroup
from nodeproxy.ruleset import Cgroup


def test_units_are_found_in_slices_with_their_sockets(tmp_path):
    for path in (
        "system.slice/till.service",
        "system.slice/till.socket",
        "system.slice/system-pos.slice/pos@1.service",
        "user.slice/user-1000.slice/till.service/till.service",
        "system.slice/other.service/till.service",
    ):
        (tmp_path / path).mkdir(parents=True)
    found, slices = cgroup.find_units(tmp_path, ["till.service", "pos@1.service", "gone.service"])
    names = {name: [str(path.relative_to(tmp_path)) for path in paths] for name, paths in found.items()}
    assert names == {
        "till.service": ["system.slice/till.service", "system.slice/till.socket", "user.slice/user-1000.slice/till.service"],
        "pos@1.service": ["system.slice/system-pos.slice/pos@1.service"],
    }
    folders = [str(path.relative_to(tmp_path)) for path in slices]
    assert folders == [".", "system.slice", "user.slice", "system.slice/system-pos.slice", "user.slice/user-1000.slice"]
    assert cgroup.find_units(tmp_path / "nowhere", ["till.service"])[0] == {}


def test_a_cgroup_is_its_depth_and_inode(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    assert cgroup.identify(folder, tmp_path) == Cgroup(2, folder.stat().st_ino)


def test_names_of_nodes_make_no_paths(tmp_path):
    assert cgroup.folder(tmp_path, "../../etc").parent == tmp_path
    assert cgroup.folder(tmp_path, "box-1").name == "edgemesh-box-1"


def test_leaving_what_is_not_there_is_no_fault(tmp_path):
    assert not cgroup.leave(tmp_path / "gone")
    (tmp_path / "made").mkdir()
    assert cgroup.leave(tmp_path / "made")


def test_processes_of_a_cgroup_and_below(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "cgroup.procs").write_text("7\n")
    (tmp_path / "below" / "cgroup.procs").write_text("8\n9\n")
    assert sorted(cgroup.processes(tmp_path)) == [7, 8, 9]
    assert list(cgroup.processes(tmp_path / "gone")) == []


@pytest.fixture
def service(monkeypatch, tmp_path):
    """We are in edgemesh.service; files stand for cgroup2."""
    folder = tmp_path / "system.slice" / "edgemesh.service"
    folder.mkdir(parents=True)
    monkeypatch.setattr(cgroup, "mount", lambda: tmp_path)
    monkeypatch.setattr(cgroup, "current", lambda: "/system.slice/edgemesh.service")
    monkeypatch.setattr(cgroup, "_depth_is_true", lambda: True)
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
    return folder


def test_our_services_cgroup_is_ours(service, tmp_path):
    assert cgroup.own("box") == (Cgroup(2, service.stat().st_ino), service)
    assert not (tmp_path / "edgemesh-box").exists()


def test_one_that_others_are_in_too_is_not(service, tmp_path):
    (service / "cgroup.procs").write_text(f"{os.getpid()}\n{os.getpid() + 1}\n")
    found = cgroup.own("box")
    assert found == (Cgroup(1, (tmp_path / "edgemesh-box").stat().st_ino), tmp_path / "edgemesh-box")
    assert (tmp_path / "edgemesh-box" / "cgroup.procs").read_text() == str(os.getpid())


def test_those_that_hand_over_are_in_it_too(service):
    """The one before, and those before it whose last connections have not ended."""
    (service / "cgroup.procs").write_text(f"{os.getpid()}\n11\n12\n")
    assert cgroup.own("box", predecessor=12) == (Cgroup(2, service.stat().st_ino), service)


@pytest.mark.parametrize("members", ["13", "0"])
def test_strangers_are_not_excused_by_one_that_is_not_in_it(service, tmp_path, members):
    """0 stands for a process of another PID namespace, and for no predecessor."""
    for predecessor in (0, 12):
        (service / "cgroup.procs").write_text(f"{os.getpid()}\n{members}\n")
        assert cgroup.own("box", predecessor)[1] == tmp_path / "edgemesh-box"


def test_where_depths_cannot_be_told_there_is_none(service, monkeypatch):
    monkeypatch.setattr(cgroup, "_depth_is_true", lambda: False)
    assert cgroup.own("box") is None


@pytest.mark.parametrize(
    ("inode", "release", "true"),
    [(0xEFFFFFFB, "5.15.0-91-generic", True), (1, "6.11.9", False), (1, "6.12-rc1", True), (1, "6.18.44-fc", True), (1, "7.0", True)],
)
def test_depths_inside_a_cgroup_namespace(monkeypatch, inode, release, true):
    monkeypatch.setattr(cgroup.os, "stat", lambda _: os.stat_result((0, inode, *[0] * 8)))
    monkeypatch.setattr(cgroup.os, "uname", lambda: os.uname_result(("Linux", "box", release, "", "")))
    assert cgroup._depth_is_true() is true
