"""A table is owned where the kernel lets us, and repaired where it does not: the choice, without a kernel."""

import errno
import socket

import pytest
import trio
import trio.testing

from agent.kernel import table as module
from agent.kernel.netlink import NetlinkError
from agent.kernel.ruleset import OURS as OURS_TABLE
from agent.kernel.ruleset import Ruleset, Set
from agent.kernel.table import Table

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
        monkeypatch.setattr(module.nft, "fingerprint", lambda _, name: list(self.rules))

    def netlink(self, protocol, groups=0, kept=None):
        self.sockets += 1
        return Listener(self)

    def install(self, netlink, ruleset, owned, name=OURS_TABLE):
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


def test_where_only_elements_differ_only_they_are_changed(monkeypatch):
    kernel, altered = Kernel(monkeypatch), []
    third = Ruleset((), (Set("s", "port", ("80",)),), ())
    monkeypatch.setattr(module.nft, "alter", lambda _, name, before, after: altered.append((before, after)))
    table = Table("here")
    table.put(SECOND)
    table.put(third)
    table.put(third)
    assert (altered, kernel.installed) == ([(SECOND.sets, third.sets)], [(SECOND, True)])

    def fails(*_):
        raise NetlinkError(errno.ENOENT, "elements of s")

    monkeypatch.setattr(module.nft, "alter", fails)
    table.put(SECOND)
    assert kernel.installed == [(SECOND, True)] * 2, "another program changed it: it is written whole"
    table.lend()
    table.put(third)
    assert kernel.installed[-1] == (third, True)


def test_elements_of_a_table_that_another_program_changed_are_not_changed_alone(monkeypatch):
    kernel = Kernel(monkeypatch, errno.EOPNOTSUPP)
    third = Ruleset((), (Set("s", "port", ("80",)),), ())
    altered = []
    monkeypatch.setattr(module.nft, "alter", lambda *_: altered.append(1) or kernel.events.append(OURS))
    table = Table("here")
    table.put(SECOND)
    table.put(third)
    assert (len(altered), len(kernel.installed)) == (1, 1)
    assert not table.repair(), "our own change is none"
    kernel.rules, kernel.events = [], [THEIRS]
    table.put(SECOND)
    assert (len(altered), kernel.installed[-1]) == (1, (SECOND, False))


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


async def test_where_it_cannot_be_owned_somebody_waits_for_changes_until_we_let_go(monkeypatch):
    kernel = Kernel(monkeypatch, errno.EOPNOTSUPP)
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(Listener, "sock", ours, raising=False)
    with ours, theirs:
        table = Table("here")
        table.put(FIRST)
        assert "0 gaps" in repr(table)
        heard = []

        async def listen():
            try:
                while True:
                    await table.changed()
                    heard.append(ours.recv(1))
            except trio.ClosedResourceError:
                heard.append("let go")

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await trio.testing.wait_all_tasks_blocked()
                theirs.send(b"x")
                await trio.testing.wait_all_tasks_blocked()
                table.close()
        assert heard == [b"x", "let go"]
    assert kernel.sockets == 2


def test_a_table_that_was_lent_is_asked_nothing_and_is_put_in_force_anew(monkeypatch):
    kernel = Kernel(monkeypatch)
    monkeypatch.setattr(module.nft, "counted", lambda netlink, chain: [3, 4])
    table = Table("here")
    table.put(FIRST)
    assert (table.counts(), table.counted()) == ([3, 4], 7)
    table.lend()
    assert table.lent and table.counts() == []
    table.put(FIRST)
    assert kernel.installed == [(FIRST, True)] * 2 and not table.lent

    def fails(*_):
        raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(module.nft, "counted", fails)
    assert table.counted() == 0, "status is not worth a fault"
