"""Which cgroup is whose."""

import errno
import os

import pytest

from agent.system import cgroup
from agent.system.cgroup import Cgroup


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
        "till.service": [
            "system.slice/till.service",
            "system.slice/till.socket",
            "user.slice/user-1000.slice/till.service",
        ],
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
    [
        (0xEFFFFFFB, "5.15.0-91-generic", True),
        (1, "6.11.9", False),
        (1, "6.12-rc1", True),
        (1, "6.18.44-fc", True),
        (1, "7.0", True),
    ],
)
def test_depths_inside_a_cgroup_namespace(monkeypatch, inode, release, true):
    monkeypatch.setattr(cgroup.os, "stat", lambda _: os.stat_result((0, inode, *[0] * 8)))
    monkeypatch.setattr(cgroup.os, "uname", lambda: os.uname_result(("Linux", "box", release, "", "")))
    assert cgroup._depth_is_true() is true


def none(_):
    raise OSError(errno.EPERM, "fsopen")


def test_where_cgroup2_is_mounted(monkeypatch, tmp_path):
    info = tmp_path / "mountinfo"
    monkeypatch.setattr(cgroup, "Path", lambda name: info if name == "/proc/self/mountinfo" else type(info)(name))
    monkeypatch.setattr(cgroup.mounts, "detached", none)
    v1 = "22 1 0:21 / /proc rw - proc proc rw\n30 1 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n"
    info.write_text(v1)
    assert cgroup.mount() is None
    info.write_text(f"{v1}31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    assert str(cgroup.mount()) == "/sys/fs/cgroup/unified"


def test_a_mount_that_begins_at_a_containers_cgroup_is_not_taken_where_another_can_be_made(monkeypatch, tmp_path):
    info = tmp_path / "mountinfo"
    monkeypatch.setattr(cgroup, "Path", lambda name: info if name == "/proc/self/mountinfo" else type(info)(name))
    part = "31 1 0:27 /kubepods.slice/c.scope /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    info.write_text(part)
    monkeypatch.setattr(cgroup.mounts, "detached", {"cgroup2": tmp_path}.__getitem__)
    assert cgroup.mount() == tmp_path
    monkeypatch.setattr(cgroup.mounts, "detached", none)
    assert str(cgroup.mount()) == "/sys/fs/cgroup"
    info.write_text(f"{part}32 1 0:27 / /host/cgroup rw - cgroup2 cgroup rw\n")
    assert str(cgroup.mount()) == "/host/cgroup"


@pytest.mark.parametrize(
    "path", ["kubepods/burstable/pod7/c", "kubepods.slice/kubepods-pod7.slice/cri-containerd-c.scope"]
)
def test_in_a_pod_our_containers_cgroup_is_ours(monkeypatch, tmp_path, path):
    """Whoever moves out of its pod's cgroup has none of its limits. `kubectl exec` puts others in."""
    monkeypatch.setattr(cgroup, "mount", lambda: tmp_path)
    monkeypatch.setattr(cgroup, "current", lambda: f"/{path}")
    monkeypatch.setattr(cgroup, "_depth_is_true", lambda: True)
    assert cgroup.own("box") is None, "it is not to be seen"
    (tmp_path / path).mkdir(parents=True)
    (tmp_path / path / "cgroup.procs").write_text("1\n2\n")
    found = cgroup.own("box")
    assert found == (Cgroup(path.count("/") + 1, (tmp_path / path).stat().st_ino), tmp_path / path)
    assert (tmp_path / path / "cgroup.procs").read_text() == "1\n2\n"
    assert os.listdir(tmp_path) == [path.partition("/")[0]]


def test_which_cgroups_our_rules_reach(monkeypatch, tmp_path):
    (tmp_path / "system.slice" / "k3s.service").mkdir(parents=True)
    number = (tmp_path / "system.slice" / "k3s.service").stat().st_ino
    inode = [1]
    of = os.stat

    def stat(path, *words, **more):
        named = path == cgroup._NAMESPACE
        return os.stat_result((0, inode[0], *[0] * 8)) if named else of(path, *words, **more)

    monkeypatch.setattr(cgroup.os, "stat", stat)
    monkeypatch.setattr(cgroup, "mount", lambda: tmp_path)
    assert cgroup.reaches(number)
    assert not cgroup.reaches(2)
    monkeypatch.setattr(cgroup, "mount", lambda: None)
    assert not cgroup.reaches(number)
    inode[0] = 0xEFFFFFFB
    assert cgroup.reaches(2), "the first namespace sees all"


@pytest.mark.parametrize(
    ("own", "first", "said"),
    [
        (cgroup._FIRST_NAMESPACE, PermissionError(errno.EACCES, "Permission denied"), ""),
        (7, 7, ""),
        (7, PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (FileNotFoundError(), 7, ""),  # a kernel without cgroup namespaces
    ],
)
def test_when_there_is_no_other_cgroup_namespace_to_enter(monkeypatch, own, first, said):
    def stat(path):
        found = own if path == cgroup._NAMESPACE else first
        if isinstance(found, OSError):
            raise found
        return os.stat_result((0, found, *[0] * 8))

    def enter(*_):
        raise AssertionError("it was entered")

    with monkeypatch.context() as patch:
        patch.setattr(cgroup.os, "stat", stat)
        patch.setattr(cgroup.os, "open", enter)
        answer = cgroup.enter_nodes()
    assert answer == said


@pytest.mark.parametrize(("text", "found"), [("12:cpu:/x\n0::/a/b.service\n", "/a/b.service"), ("12:cpu:/x\n", "/")])
def test_which_cgroup_we_are_in(monkeypatch, tmp_path, text, found):
    (tmp_path / "cgroup").write_text(text)
    monkeypatch.setattr(cgroup, "Path", lambda name: tmp_path / "cgroup")
    assert cgroup.current() == found


def test_where_none_can_be_made_there_is_none(service, monkeypatch, tmp_path):
    (service / "cgroup.procs").write_text(f"{os.getpid()}\n{os.getpid() + 1}\n")
    (tmp_path / "edgemesh-box").write_text("in the way")
    assert cgroup.own("box") is None, "then a mark must do"


def test_one_that_is_in_use_is_not_left(tmp_path):
    made = tmp_path / "edgemesh-box"
    made.mkdir()
    (made / "cgroup.procs").touch()
    assert not cgroup.leave(made)
    (made / "cgroup.procs").unlink()
    assert cgroup.leave(made)
