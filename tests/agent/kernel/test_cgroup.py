"""Which cgroup is whose."""

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
    found = [str(path.relative_to(tmp_path)) for path in cgroup.find_unit(tmp_path, "till.service")]
    assert found == ["system.slice/till.service", "system.slice/till.socket", "user.slice/user-1000.slice/till.service"]
    assert [p.name for p in cgroup.find_unit(tmp_path, "pos@1.service")] == ["pos@1.service"]
    assert cgroup.find_unit(tmp_path, "gone.service") == []
    assert cgroup.find_unit(tmp_path / "nowhere", "till.service") == []


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
