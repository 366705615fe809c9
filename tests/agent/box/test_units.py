"""Drop-ins: one for each unit that is a workload, none for others, and nothing of anybody else's touched."""

import os

from agent.box import units


def names(written):
    return [(one.path.parent.name, one.changed) for one in written]


def test_they_follow_what_is_wanted(tmp_path):
    assert names(units.lay(["till.service", "stock.service"], tmp_path)) == [("stock.service.d", True), ("till.service.d", True)]
    assert names(units.lay(["till.service", "stock.service"], tmp_path)) == [("stock.service.d", False), ("till.service.d", False)]
    assert names(units.lay(["till.service"], tmp_path)) == [("till.service.d", False), ("stock.service.d", True)]
    assert os.listdir(tmp_path) == ["till.service.d"]


def test_what_others_put_there_stays(tmp_path):
    list(units.lay(["till.service"], tmp_path))
    other = tmp_path / "till.service.d" / "10-limits.conf"
    other.write_text("[Service]\n")
    namesake = tmp_path / "door.service.d" / units.NAME
    namesake.parent.mkdir()
    namesake.write_text("[Service]\n")
    list(units.lay([], tmp_path))
    assert other.exists()
    assert namesake.exists()
    assert units.laid(tmp_path) == []


def test_a_unit_of_an_instance_waits_for_itself(tmp_path):
    list(units.lay(["pump@3.service"], tmp_path))
    text = units.drop_in("pump@3.service", tmp_path).read_text()
    assert "ExecStartPre=+/var/lib/edgemesh/releases/current/edgemesh wait --unit %n\n" in text


def test_what_began_before_its_drop_in_did_not_wait(tmp_path):
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    assert not units.began_captured("till.service", cgroup, tmp_path)
    list(units.lay(["till.service"], tmp_path))
    made = cgroup.stat().st_ctime
    os.utime(units.drop_in("till.service", tmp_path), (made - 1, made - 1))
    assert units.began_captured("till.service", cgroup, tmp_path)
    os.utime(units.drop_in("till.service", tmp_path), (made + 1, made + 1))
    assert not units.began_captured("till.service", cgroup, tmp_path)
    cgroup.rmdir()
    assert not units.began_captured("till.service", cgroup, tmp_path)
