"""gate.py: what is known is put in force at once, what runs already is known. The kernel's part is in tests/netns/test_gate.py."""

import errno

import pytest

from agent.kernel import gate as module
from agent.kernel.gate import Gate
from agent.kernel.netlink import NetlinkError
from agent.system.fd_store import FdStore


class Kernel:
    def __init__(self, monkeypatch):
        self.there, self.elements, self.veths, self.gone = False, [], [5, 7], set()
        self.put, self.refuse, self.removed = [], None, 0
        monkeypatch.setattr(module, "Netlink", self.netlink)
        monkeypatch.setattr(module.nft, "exists", lambda sock, name: self.there)
        monkeypatch.setattr(module.nft, "interfaces", lambda sock, name, of: self.elements)
        monkeypatch.setattr(module.nft, "install", self.install)
        monkeypatch.setattr(module.links, "to_other_namespaces", lambda prefix: self.veths)
        monkeypatch.setattr(module.links, "existing", lambda indexes: set(indexes) - self.gone)
        monkeypatch.setattr(module, "Table", self.table)

    def netlink(self, protocol, kept=None):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def install(self, sock, ruleset, owned, name):
        assert ruleset is None
        self.removed += 1

    def table(self, name, kept=None, table=None):
        kernel = self

        class Table:
            socket = type("Socket", (), {"fileno": lambda self: -1})()
            lent = False

            def put(self, ruleset):
                if kernel.refuse:
                    raise kernel.refuse
                kernel.put.append(sorted(map(int, ruleset.sets[0].elements)))

            def repair(self):
                return False

            def remove(self):
                kernel.removed += 1

            def close(self):
                kernel.put.append("closed")

        return Table()


@pytest.fixture
def kernel(monkeypatch):
    return Kernel(monkeypatch)


@pytest.fixture
def gate(kernel):
    found = Gate(FdStore())
    found.ranges = {"10.42.0.0/24"}
    return found


def test_what_runs_when_there_was_no_table_is_known(kernel, gate):
    gate.begin()
    gate.pass_([9])
    gate.put()
    assert kernel.put == [[5, 7, 9]], "one transaction"
    assert gate.in_force
    gate.forget([7])
    gate.put()
    assert kernel.put[-1] == [5, 9]


def test_a_table_that_is_there_says_who_is_known(kernel, gate):
    """Pods that began while no daemon ran are mute, and stay so."""
    kernel.there, kernel.elements, kernel.gone = True, [5, 6], {6}
    gate.put()
    assert kernel.put == [[5]], "without interfaces that are gone"


def test_a_kernel_that_refuses_it_is_a_problem_and_asked_again(kernel, gate, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    kernel.refuse = NetlinkError(errno.EOPNOTSUPP, "chain from_pod")
    gate.put()
    assert not gate.in_force
    (problem,) = gate.problems()
    assert "new pods cannot be kept mute" in problem.message
    kernel.refuse = None
    gate.put()
    assert kernel.put == []
    now[0] += 3
    gate.put()
    assert kernel.put == [[5, 7]]
    assert gate.in_force
    assert not list(gate.problems())


def test_where_it_is_off_the_table_of_an_earlier_daemon_goes(kernel):
    kernel.there = True
    gate = Gate(FdStore(), enabled=False)
    gate.ranges = {"10.42.0.0/24"}
    gate.clear()
    gate.begin()
    gate.put()
    assert (kernel.removed, kernel.put, gate.in_force) == (1, [], False)
    Gate(FdStore()).clear()
    assert kernel.removed == 1, "and stays where it is on"


def test_it_outlives_the_daemon_unless_the_node_is_to_be_open(kernel, gate):
    gate.put()
    gate.release(open_node=False)
    assert (kernel.put[-1], kernel.removed) == ("closed", 0)
    gate.put()
    gate.release(open_node=True)
    assert kernel.removed == 1
    assert list(gate.tables) == []
