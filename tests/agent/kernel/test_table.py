"""A table is owned where the kernel lets us, and repaired where it does not: the choice, without a kernel."""

import errno

import pytest

from agent.kernel import table as module
from agent.kernel.netlink import NetlinkError
from agent.kernel.table import Table
from nodeproxy.ruleset import Ruleset, Set

FIRST, SECOND = Ruleset((), (), ()), Ruleset((), (Set("s", "port", ()),), ())


OURS, THEIRS = 1, 2  # netlink ports


class Listener:
    """A netlink socket of the module; `kernel.events` are the ports of those who changed something."""

    port = OURS

    def __init__(self, kernel):
        self.kernel = kernel

    def heard(self, own=-1):
        heard, self.kernel.events = self.kernel.events, []
        return any(port != own for port in heard)

    def close(self):
        pass


class Kernel:
    """Installs and lists rules. `persist`: what a request for an owned table is answered."""

    def __init__(self, monkeypatch, persist=0):
        self.persist, self.events, self.rules, self.installed, self.sockets = persist, [], [], [], 0
        self.meanwhile = []  # what somebody else makes of the rules right after we wrote them
        monkeypatch.setattr(module, "Netlink", self.netlink)
        monkeypatch.setattr(module.nft, "install", self.install)
        monkeypatch.setattr(module.nft, "fingerprint", lambda _: list(self.rules))

    def netlink(self, protocol, groups=0, kept=None):
        self.sockets += 1
        return Listener(self)

    def install(self, netlink, ruleset, owned):
        if owned and self.persist:
            raise NetlinkError(self.persist, "table")
        self.installed.append((ruleset, owned))
        self.rules = [b"ours"]
        self.events.append(OURS)
        if self.meanwhile:
            self.rules = self.meanwhile.pop()
            self.events.append(THEIRS)


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
    kernel.events = [THEIRS]
    assert table.repair()
    assert (table.gaps, kernel.installed) == (1, [(FIRST, False)] * 2)
    assert not table.repair()


def test_what_somebody_changed_while_we_wrote_is_not_taken_for_ours(monkeypatch):
    kernel = Kernel(monkeypatch, errno.EOPNOTSUPP)
    kernel.meanwhile = [[b"theirs"]]
    table = Table("here")
    table.put(FIRST)
    assert kernel.installed == [(FIRST, False)] * 2
    kernel.rules, kernel.events = [b"theirs"], [THEIRS]
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
