"""Units come, restart and go: what their table is told. A folder stands for the cgroups; the real ones are in the netns ring."""

import pytest
from msgspec import structs

from agent.config import NodeConfig
from agent.kept import Kept
from agent.kernel import units
from agent.kernel.ground import Capture
from nodeproxy.capture import Doors
from nodeproxy.ruleset import Cgroup, Marks
from policy.model import Workload


class FakeTable:
    owned, gaps, lent = True, 0, False

    def __init__(self, name, kept=None):
        self.rulesets, self.log = [], []
        self.socket = self

    def fileno(self):
        return -1 if "closed" in self.log else 7

    def put(self, ruleset):
        self.rulesets.append(ruleset)
        self.log.append("put")

    def counts(self):
        return [3, 4]

    def repair(self):
        return False

    def remove(self):
        self.log.append("removed")

    def close(self):
        self.log.append("closed")


class FakeRoutes:
    fault = ""

    def __init__(self, marks, ranges):
        pass

    def due(self):
        return False

    def close(self):
        pass


@pytest.fixture
def host(monkeypatch, tmp_path):
    monkeypatch.setattr(units, "Table", FakeTable)
    monkeypatch.setattr(units.cgroup, "mount", lambda: tmp_path)
    monkeypatch.setattr(units.route, "Routes", FakeRoutes)
    monkeypatch.setattr(units.route, "remove", lambda: 0)
    host = units.Host(Capture(NodeConfig(node="here"), Marks(), Cgroup(1, 1), Kept()))
    host.shut, host.opened = "", []

    def open_doors(ports, mark, dns, kept=None):
        host.opened.append((ports.outbound, len(host.table.rulesets)))
        host.tunnel = ports.tunnel
        return Doors([], [], [], []), host.shut

    monkeypatch.setattr(units.sockets, "open_doors", open_doors)
    host.heard = []
    host.attach = lambda w, _: host.heard.append(f"+{w.name}")
    host.detach = lambda key: host.heard.append(f"-{key}")
    host.slice = tmp_path / "system.slice"
    host.slice.mkdir()
    return host


def unit(name):
    return Workload("n", name, name, unit=f"{name}.service")


def settle(host, *names):
    host.settle({f"n/{name}": unit(name) for name in names})
    return {key: condition.error for key, condition in host.conditions().items()}


def redirects(host):
    return sorted(str(rule) for rule in host.table.rulesets[-1].rules if rule.verdict == "redirect" and rule.chain == "in")


def test_nothing_is_touched_until_a_unit_is_wanted(host):
    assert settle(host) == {}
    assert host.table is None


def test_each_unit_has_doors_of_its_own(host):
    for name in ("a", "b"):
        (host.slice / f"{name}.service").mkdir()
    assert settle(host, "a", "b") == {"n/a": "", "n/b": ""}
    assert host.heard == ["+a", "+b"]
    assert [rule.rpartition(":")[2] for rule in redirects(host)] in (["15101", "15104"], ["15104", "15101"])
    settle(host, "b")
    assert host.heard[-1] == "-n/a"
    assert [rule.rpartition(":")[2] for rule in redirects(host)] == ["15104"], "the other keeps its door"
    (host.slice / "c.service").mkdir()
    settle(host, "b", "c")
    assert {rule.rpartition(":")[2] for rule in redirects(host)} == {"15104", "15107"}, "one that was given back is used last"


def test_rules_of_an_earlier_daemon_go_before_a_door_opens_and_later_doors_open_before_their_rules(host):
    """An earlier daemon may have sent another unit's calls to that port."""
    for name in ("a", "b"):
        (host.slice / f"{name}.service").mkdir()
    settle(host, "a")
    settle(host, "a", "b")
    assert host.opened == [(15100, 1), (15103, 1)], "(port, rulesets put before it opened)"


def test_a_port_that_was_taken_is_tried_again(host):
    (host.slice / "a.service").mkdir()
    host.shut = "port 15100 is taken"
    assert settle(host, "a") == {"n/a": "port 15100 is taken"}
    settle(host, "a")
    assert host.heard == ["+a"], "as long as nothing changes, connections go on"
    host.shut = ""
    assert settle(host, "a") == {"n/a": ""}
    assert host.heard == ["+a", "+a"]


def test_a_unit_has_a_tunnel_door_only_where_its_manifest_gives_it_a_port(host):
    (host.slice / "a.service").mkdir()
    settle(host, "a")
    assert host.tunnel == 0
    for port in (16000, 16001):
        host.settle({"n/a": structs.replace(unit("a"), tunnel_port=port)})
        assert host.tunnel == port
        assert str(port) not in str(host.table.rulesets[-1]), "who dials it is left alone"
    assert host.heard == ["+a"] * 3
    host.settle({"n/a": structs.replace(unit("a"), tunnel_port=port)})
    assert host.heard == ["+a"] * 3


def test_no_port_is_left_for_one_unit_and_the_others_stay(host, monkeypatch):
    monkeypatch.setattr(units, "_MOST", 1)
    for name in ("a", "b"):
        (host.slice / f"{name}.service").mkdir()
    faults = settle(host, "a", "b")
    assert faults["n/a"] == ""
    assert "1 units already" in faults["n/b"]


def test_the_last_unit_takes_the_table_along(host):
    (host.slice / "a.service").mkdir()
    settle(host, "a")
    table = host.table
    assert settle(host) == {}
    assert table.log[-2:] == ["removed", "closed"]
    assert host.table is None


def test_packets_are_counted_for_each_unit(host):
    for name in ("a", "b"):
        (host.slice / f"{name}.service").mkdir()
    settle(host, "a", "b")
    assert {key: condition.udp_packets for key, condition in host.conditions(looked_up=True).items()} == {"n/a": 3, "n/b": 4}
    assert {condition.udp_packets for condition in host.conditions().values()} == {0}


def test_a_unit_that_does_not_run_is_told_and_captured_once_it_does(host):
    assert "a.service does not run" in settle(host, "a")["n/a"]
    assert str(host.slice) in host.folders, "where it will appear"
    (host.slice / "a.service").mkdir()
    assert settle(host, "a") == {"n/a": ""}


def test_a_restarted_unit_keeps_its_doors_and_has_its_new_cgroup(host):
    folder = host.slice / "a.service"
    folder.mkdir()
    settle(host, "a")
    before = redirects(host)
    folder.rmdir()
    (host.slice / "other.service").mkdir()  # so that the inode is not given out again
    assert "does not run" in settle(host, "a")["n/a"]
    assert redirects(host) == []
    folder.mkdir()
    settle(host, "a")
    assert host.heard == ["+a"]
    assert f"level 2 {folder.stat().st_ino} " in redirects(host)[0]
    assert redirects(host)[0].rpartition(":")[2] == before[0].rpartition(":")[2]


def test_a_socket_unit_belongs_to_its_service(host):
    for name in ("a.service", "a.socket"):
        (host.slice / name).mkdir()
    settle(host, "a")
    assert len(redirects(host)) == 2


def test_without_a_cgroup_of_our_own_units_cannot_be_told_apart(host):
    host.capture = Capture(NodeConfig(node="here"), Marks(), None, Kept())
    (host.slice / "a.service").mkdir()
    assert "needs cgroup2, and root" in settle(host, "a")["n/a"]
    assert not host.heard


@pytest.mark.parametrize(("open_node", "log"), [(False, ["closed"]), (True, ["removed", "closed"])])
def test_at_a_stop(host, open_node, log):
    (host.slice / "a.service").mkdir()
    settle(host, "a")
    table = host.table
    host.release(open_node)
    assert table.log == ["put", *log]
    assert host.heard == ["+a", "-n/a"]


def test_sockets_of_a_unit_that_is_not_captured(host):
    with pytest.raises(OSError, match="not captured here"):
        host.towards(unit("a"), "10.0.0.1", 2)


def test_a_table_that_was_lent_is_put_in_force_again(host):
    """A successor that did not take over may have put its own there."""
    (host.slice / "a.service").mkdir()
    settle(host, "a")
    settle(host, "a")
    assert host.table.log == ["put"]
    host.table.lent = True
    settle(host, "a")
    assert host.table.log == ["put", "put"]
