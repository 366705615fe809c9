"""Drop-ins: one for each unit that is a workload, none for others, and nothing of anybody else's touched."""

import os

from agent.install import drop_ins


def names(written):
    return [(one.path.parent.name, one.changed) for one in written]


def test_they_follow_what_is_wanted(tmp_path):
    assert names(drop_ins.lay(["till.service", "stock.service"], tmp_path)) == [
        ("stock.service.d", True),
        ("till.service.d", True),
    ]
    assert names(drop_ins.lay(["till.service", "stock.service"], tmp_path)) == [
        ("stock.service.d", False),
        ("till.service.d", False),
    ]
    assert names(drop_ins.lay(["till.service"], tmp_path)) == [("till.service.d", False), ("stock.service.d", True)]
    assert os.listdir(tmp_path) == ["till.service.d"]


def test_what_others_put_there_stays(tmp_path):
    list(drop_ins.lay(["till.service"], tmp_path))
    other = tmp_path / "till.service.d" / "10-limits.conf"
    other.write_text("[Service]\n")
    namesake = tmp_path / "door.service.d" / drop_ins.NAME
    namesake.parent.mkdir()
    namesake.write_text("[Service]\n")
    list(drop_ins.lay([], tmp_path))
    assert other.exists()
    assert namesake.exists()
    assert drop_ins.laid(tmp_path) == []


def test_a_unit_of_an_instance_waits_for_itself(tmp_path):
    list(drop_ins.lay(["pump@3.service"], tmp_path))
    text = drop_ins.drop_in("pump@3.service", tmp_path).read_text()
    assert "ExecStartPre=+/var/lib/edgemesh/releases/current/edgemesh wait --unit %n\n" in text


def test_what_began_before_its_drop_in_did_not_wait(tmp_path):
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    assert not drop_ins.began_captured("till.service", cgroup, tmp_path)
    list(drop_ins.lay(["till.service"], tmp_path))
    made = cgroup.stat().st_ctime
    os.utime(drop_ins.drop_in("till.service", tmp_path), (made - 1, made - 1))
    assert drop_ins.began_captured("till.service", cgroup, tmp_path)
    os.utime(drop_ins.drop_in("till.service", tmp_path), (made + 1, made + 1))
    assert not drop_ins.began_captured("till.service", cgroup, tmp_path)
    cgroup.rmdir()
    assert not drop_ins.began_captured("till.service", cgroup, tmp_path)


def test_a_unit_is_known_by_its_file_or_its_template_wherever_systemd_looks(tmp_path):
    for folder, name in (("etc", "till.service"), ("lib", "worker@.service")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    (tmp_path / "etc" / "masked.service").symlink_to("/dev/null/gone")
    folders = [str(tmp_path / "etc"), str(tmp_path / "lib"), str(tmp_path / "none")]
    assert drop_ins.is_known("till.service", folders)
    assert drop_ins.is_known("worker@3.service", folders)
    assert drop_ins.is_known("masked.service", folders)
    assert not drop_ins.is_known("tlil.service", folders)
    assert not drop_ins.is_known("worker.service", folders)
    assert not drop_ins.is_known("till@1.service", folders)
