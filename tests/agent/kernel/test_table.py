"""A table is owned where the kernel lets us, and repaired where it does not: the choice, without a kernel."""

import errno

import pytest

from agent.kernel import table as module
from agent.kernel.netlink import NetlinkError
from agent.kernel.table import Table
from nodeproxy.ruleset import Ruleset, Set

FIRST, SECOND = Ruleset((), (), ()), Ruleset((), (Set("s", "port", ()),), ())


class Socket:
    def __init__(self, kernel):
        self.kernel = kernel

    def setblocking(self, _):
        pass

    def recv(self, _):
        if not self.kernel.events:
            raise BlockingIOError
        event = self.kernel.events.pop(0)
        if isinstance(event, OSError):
            raise event
        return event


class Kernel:
    """Installs and lists rules. `persist`: what a request for an owned table is answered."""

    def __init__(self, monkeypatch, persist=0):
        self.persist, self.events, self.rules, self.installed, self.sockets = persist, [], [], [], 0
        monkeypatch.setattr(module, "Netlink", self.netlink)
        monkeypatch.setattr(module.nft, "install", self.install)
        monkeypatch.setattr(module.nft, "fingerprint", lambda _: list(self.rules))

    def netlink(self, protocol, groups=0):
        self.sockets += 1
        return type("Netlink", (), {"sock": Socket(self), "close": lambda _: None})()

    def install(self, netlink, ruleset, owned):
        if owned and self.persist:
            raise NetlinkError(self.persist, "table")
        self.installed.append((ruleset, owned))
        self.rules = [b"ours"]
        self.events.append(b"our own change")


def test_owned(monkeypatch):
    kernel = Kernel(monkeypatch)
    table = Table("here")
    table.put(FIRST)
    table.put(FIRST)
    table.put(SECOND)
    assert kernel.installed == [(FIRST, True), (SECOND, True)], "what is in force is not put again"
    assert kernel.sockets == 1
    kernel.rules = []
    assert not table.repair(), "nobody else can change it, so nobody looks"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_where_it_cannot_be_owned_changes_are_heard_repaired_and_counted(monkeypatch, number):
    kernel = Kernel(monkeypatch, number)
    table = Table("here")
    table.put(FIRST)
    assert not table.owned
    assert kernel.installed == [(FIRST, False)]
    assert not table.repair(), "our own change is none"
    kernel.rules, kernel.events = [], []
    assert not table.repair(), "nothing was heard, so nobody looks"
    kernel.events = [b"something"]
    assert table.repair()
    assert (table.gaps, kernel.installed) == (1, [(FIRST, False)] * 2)
    assert not table.repair()


def test_more_happened_than_could_be_heard(monkeypatch):
    kernel = Kernel(monkeypatch, errno.EOPNOTSUPP)
    table = Table("here")
    table.put(FIRST)
    table.repair()
    kernel.rules, kernel.events = [b"theirs"], [OSError(errno.ENOBUFS, "No buffer space available")]
    assert table.repair()


def test_another_daemons_table(monkeypatch):
    Kernel(monkeypatch, errno.EPERM)
    table = Table("here")
    with pytest.raises(NetlinkError, match="another edgemesh runs here, or we are not root"):
        table.put(FIRST)
    assert table.owned, "not given up for a table that anybody can flush"


def test_another_fault_is_told_as_it_is(monkeypatch):
    Kernel(monkeypatch, errno.ENOMEM)
    with pytest.raises(NetlinkError, match="table: Cannot allocate memory"):
        Table("here").put(FIRST)


def test_what_was_refused_is_tried_again(monkeypatch):
    kernel = Kernel(monkeypatch, errno.ENOMEM)
    table = Table("here")
    with pytest.raises(NetlinkError):
        table.put(FIRST)
    kernel.persist = 0
    table.put(FIRST)
    assert kernel.installed == [(FIRST, True)]


def test_removed(monkeypatch):
    kernel = Kernel(monkeypatch)
    table = Table("here")
    table.put(FIRST)
    table.remove()
    assert kernel.installed[-1] == (None, True)
    table.put(FIRST)
    assert kernel.installed[-1] == (FIRST, True)
