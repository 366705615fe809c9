"""One captured namespace: its parts are asked for in order, and nothing stays open when one is refused."""

import errno
import socket

import pytest

from agent.config.schema import NodeConfig
from agent.kernel import namespace as module
from agent.kernel.condition import Condition
from agent.kernel.context import CaptureContext
from agent.kernel.namespace import CapturedNamespace
from agent.system.cgroup import Cgroup
from agent.system.fd_store import FdStore
from nodeproxy.capture import Doors, Marks
from policy.model import Exclusions, Workload


class Closing:
    family, open = socket.AF_INET, True

    def __init__(self, log, name):
        self.log, self.name = log, name

    def fileno(self):
        return id(self) if self.open else -1

    def close(self):
        self.open = False
        self.log.append(f"{self.name} closed")


class Namespace(Closing):
    path, id = "/run/netns/a", (4, 26)

    def entered(self):
        return self

    def __enter__(self):
        self.log.append("in")

    def __exit__(self, *_):
        self.log.append("out")


class Table(Closing):
    owned, gaps, refuse, lent = True, 0, None, False

    def put(self, ruleset):
        if self.refuse:
            raise self.refuse
        self.log.append("rules")
        self.rulesets = [*getattr(self, "rulesets", []), ruleset]
        self.lent = False

    @property
    def socket(self):
        return self

    def repair(self):
        self.log.append("repair")
        return False

    def remove(self):
        self.log.append("rules removed")

    def counted(self):
        return 5


class Routes(Closing):
    fault, changed = "", False

    def due(self):
        return self.changed or bool(self.fault)

    def lay(self):
        self.log.append("routes")


class Log(list):
    shut = ""


@pytest.fixture
def log(monkeypatch):
    log = Log()
    monkeypatch.setattr(module.netns, "Namespace", lambda path: Namespace(log, "namespace"))
    monkeypatch.setattr(module, "Table", lambda path, kept=None: Table(log, "table"))
    monkeypatch.setattr(Table, "refuse", None)
    monkeypatch.setattr(module.capabilities, "established", lambda ports: log.append("older") or 3)
    monkeypatch.setattr(module.routing, "Routes", lambda *_: Routes(log, "routes"))
    monkeypatch.setattr(Routes, "fault", "")
    monkeypatch.setattr(module.routing, "remove", lambda: log.append("routes removed"))
    log.shut = "a port is taken"

    def open_doors(ports, mark, dns, kept=None):
        log.append(f"doors {mark:#x}{' again' if kept else ''}")
        door = Closing(log, "door")
        return Doors([door], [], [], []), log.shut

    monkeypatch.setattr(module.sockets, "open_doors", open_doors)
    return log


def made(ours=Cgroup(1, 42)):  # noqa: B008 - frozen
    return CapturedNamespace(
        CaptureContext(NodeConfig(node="here"), Marks(), ours, FdStore()), Workload("n", "a", "a"), "/run/netns/a"
    )


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


def test_a_tunnel_door_that_moves_is_opened_at_its_new_port(log):
    log.shut = ""
    found = made()
    first = found.doors
    assert found.keep(Workload("n", "a", "a", tunnel_port=16000)) is found.doors is not first
    assert "th dport 16000 accept" in str(found.table.rulesets[-1])
    assert found.keep(found.workload) is None


def test_rules_stay_when_it_is_closed_and_go_when_it_is_removed(log):
    found = made()
    del log[:]
    found.close()
    assert sorted(log) == ["namespace closed", "routes closed", "table closed"]
    del log[:]
    found.remove()
    assert log == ["rules removed", "in", "routes removed", "out"]


def test_what_it_tells(log):
    found = made()
    expected = Condition(
        True, "network namespace /run/netns/a", "a port is taken", older_connections=3, since=found.since
    )
    assert found.condition() == expected
    assert made(ours=None).condition().mode == "mark"
    told = found.condition(("NET_RAW",), counted=True)
    assert (told.powers, told.udp_packets) == (("NET_RAW",), 5)


def test_rules_are_in_force_whatever_becomes_of_the_routes(log, monkeypatch):
    monkeypatch.setattr(Routes, "fault", "calls to it fail: no")
    found = made()
    assert log.index("rules") < log.index("routes")
    assert found.condition().error == "a port is taken; calls to it fail: no"
    del log[:]
    found.keep(found.workload)
    assert "routes" in log, "tried again"


def test_routes_that_changed_are_laid_again(log, monkeypatch):
    found = made()
    del log[:]
    found.keep(found.workload)
    assert "routes" not in log
    monkeypatch.setattr(Routes, "changed", True)
    found.keep(found.workload)
    assert "routes" in log


def test_a_door_that_could_not_be_opened_is_tried_until_it_is(log):
    found = made()
    first = found.doors
    assert found.keep(found.workload) is None
    assert log[-1] == "door closed", "of the try that came to nothing"
    assert found.doors is first
    log.shut = ""
    assert found.keep(found.workload) is found.doors is not first
    assert found.fault == ""
    del log[:]
    assert found.keep(found.workload) is None
    assert not any("doors" in line for line in log), "all are open"


def test_a_ruleset_that_was_refused_is_tried_again(log):
    found = made()
    found.table.refuse = OSError(errno.ENOMEM, "no")
    changed = Workload("n", "a", "a", exclusions=Exclusions((22,)))
    with pytest.raises(OSError, match="no"):
        found.keep(changed)
    found.table.refuse = None
    found.keep(changed)
    assert len(found.table.rulesets) == 2


def test_what_was_kept_waits_for_the_next_try_when_rules_are_refused(log, monkeypatch):
    """The service manager has copies of these doors: nobody could open others at their addresses."""
    kept = FdStore()
    door = Closing(log, "kept door")
    kept.give_back("namespace 26", [door])
    monkeypatch.setattr(Table, "refuse", OSError(errno.EPERM, "no"))
    capture = CaptureContext(NodeConfig(node="here"), Marks(), Cgroup(1, 42), kept)
    with pytest.raises(OSError, match="no"):
        CapturedNamespace(capture, Workload("n", "a", "a"), "/run/netns/a")
    assert kept.take("namespace 26") == [door]
    assert door.open
    kept.give_back("namespace 26", [door])
    monkeypatch.setattr(Table, "refuse", None)
    CapturedNamespace(capture, Workload("n", "a", "a"), "/run/netns/a")
    assert "doors 0x0 again" in log
    assert "older" not in log, "what was established before was captured before"
    assert not door.open, "copies of it are in use"


def test_rules_that_were_lent_are_put_in_force_again(log):
    found = made()
    found.keep(found.workload)
    assert len(found.table.rulesets) == 1
    found.table.lent = True
    found.keep(found.workload)
    assert len(found.table.rulesets) == 2


def test_it_is_probed_at_the_addresses_that_the_runtime_gave_it(log):
    """The API tells them seconds later, and the kubelet does not wait for that."""

    class Prober:
        def __init__(self):
            self.admitted = []

        def admit(self, namespace, workload, anew):
            self.admitted.append(workload.addresses)

        def forget(self, namespace):
            pass

    prober = Prober()
    capture = CaptureContext(NodeConfig(node="here"), Marks(), Cgroup(1, 42), FdStore(), prober)
    gave = ("10.42.0.7", "fd42::7")
    place = CapturedNamespace(capture, Workload("n", "a", "a"), "/run/netns/a")
    place.keep(Workload("n", "a", "a"), gave)
    CapturedNamespace(capture, Workload("n", "a", "a"), "/run/netns/a", gave)
    place.keep(Workload("n", "a", "a", gave), gave)
    place.keep(Workload("n", "a", "a", ("10.42.0.6",)), gave)
    assert prober.admitted == [(), gave, gave, gave, ("10.42.0.6", *gave)]
