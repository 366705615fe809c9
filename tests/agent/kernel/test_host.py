"""Units come, restart and go: what their table is told. A folder stands for the cgroups; the real ones are in the netns ring."""

import pytest
from msgspec import structs

from agent.config.schema import NodeConfig
from agent.kernel import host as units
from agent.kernel.context import CaptureContext
from agent.system.cgroup import Cgroup
from agent.system.fd_store import FdStore
from nodeproxy.capture import Doors, Marks
from policy.model import Probe, Workload


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

    def __init__(self, marks, ranges, dns):
        pass

    def due(self):
        return False

    def close(self):
        pass


@pytest.fixture
def host(monkeypatch, tmp_path):
    monkeypatch.setattr(units, "Table", FakeTable)
    monkeypatch.setattr(units.cgroup, "mount", lambda: tmp_path)
    monkeypatch.setattr(units.routing, "Routes", FakeRoutes)
    monkeypatch.setattr(units.routing, "remove", lambda: 0)
    host = units.Host(CaptureContext(NodeConfig(node="here"), Marks(), Cgroup(1, 1), FdStore()))
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
    return sorted(
        str(rule) for rule in host.table.rulesets[-1].rules if rule.verdict == "redirect" and rule.chain == "in"
    )


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
    assert {rule.rpartition(":")[2] for rule in redirects(host)} == {"15104", "15107"}, (
        "one that was given back is used last"
    )


def test_a_unit_that_does_not_run_is_waited_for_and_one_that_systemd_does_not_know_is_a_fault(host, monkeypatch):
    known = lambda unit: unit == "a.service"  # noqa: E731
    monkeypatch.setattr(units, "is_known", known)
    (host.slice / "c.service").mkdir()
    settle(host, "a", "b", "c")
    conditions = host.conditions()
    assert {key: (condition.captured, condition.waiting) for key, condition in conditions.items()} == {
        "n/a": (False, True),
        "n/b": (False, False),
        "n/c": (True, False),
    }
    assert "systemd has no unit of that name" in conditions["n/b"].error
    assert "systemd has no unit" not in conditions["n/a"].error


def closed(host, *names, wanted=()):
    host.settle({f"n/{name}": unit(name) for name in wanted}, {f"{name}.service": f"n/{name}" for name in names})


def test_a_unit_that_nothing_names_any_more_stays_in_the_rules_and_nobody_serves_its_doors(host, caplog):
    (host.slice / "a.service").mkdir()
    settle(host, "a")
    assert host.running() == ["n/a"]
    closed(host, "a")
    assert host.heard == ["+a", "-n/a"]
    assert len(host.opened) == 1, "no door is opened for it"
    assert len(redirects(host)) == 1, "its calls lead to a door that nobody serves"
    assert (host.running(), host.conditions(), host.closed_in("a.service")) == ([], {}, ["n/a@a.service"])
    assert host.holds("n/a@a.service", (host.slice / "a.service").stat().st_ino)
    assert any(record.levelname == "WARNING" and "edgemesh release n/a" in record.message for record in caplog.records)
    settle(host, "a")
    assert (host.heard[-1], host.closed_in("a.service")) == ("+a", [])
    settle(host)
    assert host.table is None


def test_a_closed_unit_that_starts_again_is_closed_again(host):
    closed(host, "a")
    assert (host.closed_in("a.service"), host.conditions()) == ([], {})
    (host.slice / "a.service").mkdir()
    closed(host, "a")
    assert host.closed_in("a.service") == ["n/a@a.service"]
    assert len(redirects(host)) == 1


def test_what_was_wrong_with_a_unit_is_forgotten_with_it(host, monkeypatch):
    monkeypatch.setattr(host, "_prepare", lambda: (_ for _ in ()).throw(OSError(1, "no")))
    assert settle(host, "a") == {"n/a": "no"}
    assert settle(host) == {}


def test_rules_of_an_earlier_daemon_go_before_a_door_opens_and_later_doors_open_before_their_rules(host):
    """An earlier daemon may have sent another unit's calls to that port."""
    for name in ("a", "b"):
        (host.slice / f"{name}.service").mkdir()
    settle(host, "a")
    settle(host, "a", "b")
    assert host.opened == [(15100, 1), (15103, 1)], "(port, rulesets put before it opened)"


def test_a_port_that_was_taken_is_tried_again_and_told_once_as_a_warning(host, caplog):
    (host.slice / "a.service").mkdir()
    host.shut = "port 15100 is taken"
    assert settle(host, "a") == {"n/a": "port 15100 is taken"}
    settle(host, "a")
    assert host.heard == ["+a"], "as long as nothing changes, connections go on"
    assert [(r.levelname, r.getMessage()) for r in caplog.records if "15100" in r.getMessage()] == [
        ("WARNING", "unit a.service of n/a: port 15100 is taken")
    ]
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
    assert {key: condition.udp_packets for key, condition in host.conditions(looked_up=True).items()} == {
        "n/a": 3,
        "n/b": 4,
    }
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
    host.capture = CaptureContext(NodeConfig(node="here"), Marks(), None, FdStore())
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


# pods in the node's own network


def host_pod(uid, ports=()):
    return Workload(
        "n", f"pod-{uid}", "a", unit=f"pod/{uid}", host_network=True, probes=tuple(Probe("tcp", p) for p in ports)
    )


@pytest.mark.parametrize(
    "folder", ["kubepods/podab-1", "kubepods/burstable/podab-1", "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podab_1.slice"]
)  # fmt: skip
def test_a_pod_of_the_nodes_network_is_captured_with_all_below_its_cgroup(host, tmp_path, folder):
    (tmp_path / folder / "container").mkdir(parents=True)
    host.settle({"n/pod-ab-1": host_pod("ab-1")})
    condition = host.conditions()["n/pod-ab-1"]
    assert (condition.captured, condition.error, condition.late) == (True, "", False)
    assert "cgroup" in condition.where
    level = len(folder.split("/"))
    assert any(f"level {level} {(tmp_path / folder).stat().st_ino}" in line for line in redirects(host))
    assert host.captures("n/pod-ab-1", "ab-1")
    assert not host.captures("n/pod-ab-1", "ab-2"), "another pod of that name"


def test_a_pod_that_has_no_cgroup_yet_is_waited_for_where_it_will_appear(host, tmp_path):
    host.settle({"n/pod-a": host_pod("a")})
    condition = host.conditions()["n/pod-a"]
    assert (condition.captured, condition.waiting, host.captures("n/pod-a", "a")) == (False, True, False)
    assert str(tmp_path) in host.folders
    (tmp_path / "kubepods" / "podb").mkdir(parents=True)
    host.settle({"n/pod-a": host_pod("a")})
    assert str(tmp_path / "kubepods") in host.folders
    assert not host.captures("n/pod-a", "a"), "another pod's is none of it"


def test_a_deleted_pod_is_closed_until_its_cgroup_is_gone(host, tmp_path):
    folder = tmp_path / "kubepods" / "poda"
    folder.mkdir(parents=True)
    host.settle({"n/pod-a": host_pod("a")})
    host.settle({}, {"pod/a": "n/pod-a"})
    assert len(redirects(host)) == 1
    assert not host.is_gone("pod/a")
    folder.rmdir()
    host.settle({}, {"pod/a": "n/pod-a"})
    assert host.is_gone("pod/a")


class FakeProber:
    cgroup = None

    def group(self):
        return self.cgroup


def test_probes_of_a_pod_are_let_in_from_the_cgroup_that_is_known_alone(host, tmp_path):
    (tmp_path / "kubepods" / "poda").mkdir(parents=True)
    host.capture = structs.replace(host.capture, prober=FakeProber())
    host.settle({"n/pod-a": host_pod("a", [80, 81])})
    assert "probes are refused" in host.conditions()["n/pod-a"].error
    assert not any(rule.verdict == "set-bit" for rule in host.table.rulesets[-1].rules)
    host.capture.prober.cgroup = 77
    host.settle({"n/pod-a": host_pod("a", [80, 81])})
    assert host.conditions()["n/pod-a"].error == ""
    rules = host.table.rulesets[-1].rules
    assert "socket cgroupv2 level 2 77 goto at2" in map(str, rules)
    (probed,) = [s for s in host.table.rulesets[-1].sets if s.name == "probes_0"]
    assert probed.elements == ("80", "81")


def test_the_daemons_own_pod_is_not_captured(host, tmp_path, monkeypatch):
    for uid in ("a", "b"):
        (tmp_path / "kubepods" / f"pod{uid}" / "container").mkdir(parents=True)
    monkeypatch.setattr(units.cgroup, "current", lambda: "/kubepods/poda/container")
    host.settle({f"n/pod-{uid}": host_pod(uid) for uid in ("a", "b")})
    assert {key: condition.captured for key, condition in host.conditions().items()} == {
        "n/pod-a": False,
        "n/pod-b": True,
    }
    assert "edgemesh's own pod" in host.conditions()["n/pod-a"].error
    assert len(redirects(host)) == 1
