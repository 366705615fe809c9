"""One captured namespace: its parts are asked for in order, and nothing stays open when one is refused."""

import errno

import pytest

from agent.config import NodeConfig
from agent.kernel import place as module
from agent.kernel.condition import Condition
from agent.kernel.ground import Capture
from agent.kernel.place import Place
from nodeproxy.capture import Doors
from nodeproxy.ruleset import Cgroup, Marks
from policy.model import Exclusions, Workload


class Closing:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def close(self):
        self.log.append(f"{self.name} closed")


class Namespace(Closing):
    path = "/run/netns/a"

    def entered(self):
        return self

    def __enter__(self):
        self.log.append("in")

    def __exit__(self, *_):
        self.log.append("out")


class Table(Closing):
    owned, gaps, refuse = True, 0, None

    def put(self, ruleset):
        if self.refuse:
            raise self.refuse
        self.log.append("rules")
        self.rulesets = [*getattr(self, "rulesets", []), ruleset]

    def repair(self):
        self.log.append("repair")
        return False

    def remove(self):
        self.log.append("rules removed")

    def counted(self):
        return 5


@pytest.fixture
def log(monkeypatch):
    log = []
    monkeypatch.setattr(module.netns, "Namespace", lambda path: Namespace(log, "namespace"))
    monkeypatch.setattr(module, "Table", lambda path: Table(log, "table"))
    monkeypatch.setattr(Table, "refuse", None)
    monkeypatch.setattr(module.powers, "established", lambda ports: log.append("older") or 3)
    monkeypatch.setattr(module.route, "install", lambda *_: log.append("routes"))
    monkeypatch.setattr(module.route, "remove", lambda: log.append("routes removed"))
    monkeypatch.setattr(module, "prepare_sysctls", lambda: log.append("sysctls"))

    def open_doors(ports, mark, dns):
        log.append(f"doors {mark:#x}")
        door = Closing(log, "door")
        return Doors([door], [], [], []), "a port is taken"

    monkeypatch.setattr(module.sockets, "open_doors", open_doors)
    return log


def made(ours=Cgroup(1, 42)):  # noqa: B008 - frozen
    return Place(Capture(NodeConfig(node="here"), Marks(), ours), Workload("n", "a", "a"), "/run/netns/a")


def test_doors_are_open_before_rules_lead_to_them(log):
    made()
    assert log.index("doors 0x0") < log.index("rules")
    assert log.index("older") < log.index("doors 0x0")
    assert log.index("in") < log.index("older"), "what is counted is counted inside"
    assert log.index("rules") < log.index("out")


def test_without_a_cgroup_our_sockets_bear_a_mark(log):
    found = made(ours=None)
    assert "doors 0x6d6e0001" in log
    assert str(found.table.rulesets[0].rules[0]).startswith("meta mark 0x6d6e0001")


def test_a_refusal_leaves_nothing_open(log, monkeypatch):
    monkeypatch.setattr(Table, "refuse", OSError(errno.EPERM, "no"))
    with pytest.raises(OSError, match="no"):
        made()
    assert log[-1] == "namespace closed"
    assert {"table closed", "door closed", "out"} <= set(log)


def test_it_follows_its_workload(log):
    found = made()
    found.keep(found.workload)
    assert len(found.table.rulesets) == 1
    found.keep(Workload("n", "a", "a", exclusions=Exclusions((22,))))
    assert len(found.table.rulesets) == 2
    assert found.table.rulesets[0] != found.table.rulesets[1]


def test_rules_stay_when_it_is_closed_and_go_when_it_is_removed(log):
    found = made()
    del log[:]
    found.close()
    assert sorted(log) == ["namespace closed", "table closed"]
    del log[:]
    found.remove()
    assert log == ["rules removed", "in", "routes removed", "out"]


def test_what_it_tells(log):
    found = made()
    assert found.condition() == Condition(True, "network namespace /run/netns/a", "a port is taken", older_connections=3)
    told = found.condition(("NET_RAW",), counted=True)
    assert (told.powers, told.udp_packets) == (("NET_RAW",), 5)
