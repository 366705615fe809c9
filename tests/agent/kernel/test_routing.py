"""What is asked of the kernel's routing, and what is found again to be taken away. The real thing is in tests/netns/test_table.py."""

import errno
import socket
import struct

import pytest

from agent.kernel import routing
from agent.kernel.netlink import NetlinkError, attribute, attributes
from nodeproxy.capture import Marks

RANGES = ("240.240.0.0/16", "fdce:ed6e:5e55::/64")


class Kernel:
    """Keeps what it is asked; `rules` and `routes` are what it lists; `refuses` maps kinds of messages to error numbers."""

    def __init__(self):
        self.asked, self.rules, self.routes, self.refuses = [], [], [], {}

    def __call__(self, protocol):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, what, kind, flags, body):
        self.asked.append((what, kind, flags, body))
        if kind in self.refuses:
            raise NetlinkError(self.refuses[kind], what)
        return {34: self.rules, 26: self.routes}.get(kind, [])


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    monkeypatch.setattr(routing, "Netlink", kernel)
    return kernel


def rule(family, protocol, mark=1):
    return (
        struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 1, 0)
        + attribute(10, struct.pack("=I", mark))
        + attribute(21, bytes([protocol]))
    )


def routed(family, protocol, table=254):
    return struct.pack("=BBBBBBBBI", family, 0, 0, 0, table, protocol, 0, 1, 0)


def test_a_rule_and_a_default_for_each_family_and_each_range(kernel):
    routing.install(Marks(), RANGES)
    assert [what for what, *_ in kernel.asked] == [
        "ip -4 rule fwmark 0x6d6e0002",
        "ip -4 route local default",
        "ip -4 rule udp port 53",
        "ip -4 rule tcp port 53",
        "ip -4 route default dev lo",
        "ip -6 rule fwmark 0x6d6e0002",
        "ip -6 route local default",
        "ip -6 rule udp port 53",
        "ip -6 rule tcp port 53",
        "ip -6 route default dev lo",
        "ip route 240.240.0.0/16 dev lo",
        "ip route fdce:ed6e:5e55::/64 dev lo",
    ]
    body = kernel.asked[0][3]
    assert {kind: struct.unpack("=I", value)[0] for kind, value in attributes(body[12:]) if len(value) == 4} == {
        6: 15006,
        10: 0x6D6E0002,
        15: 15006,
    }
    assert body[0] == socket.AF_INET
    assert kernel.asked[-2][3][1] == 16, "the range's prefix"
    question = dict(attributes(kernel.asked[2][3][12:]))
    assert question[24] == struct.pack("=HH", 53, 53), "port 53 and no other has a way over lo"
    assert question[3] == b"lo\0", "what is sent from here, and not what is forwarded"
    assert struct.unpack("=I", question[6])[0] > 32767, (
        "after the tables that everybody has: where there is a way, it is taken"
    )


def test_without_answers_for_names_there_is_no_way_for_questions(kernel):
    routing.install(Marks(), RANGES, dns=False)
    assert not any("port 53" in what or ("dev lo" in what and "default" in what) for what, *_ in kernel.asked)


def test_what_is_there_already_or_cannot_be_there_is_no_fault(kernel):
    for number in (errno.EEXIST, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES):
        kernel.refuses = {24: number, 32: number}
        routing.install(Marks(), RANGES)
    kernel.refuses = {24: errno.EPERM}
    with pytest.raises(NetlinkError, match="route local default: Operation not permitted"):
        routing.install(Marks(), RANGES)


def test_only_what_is_ours_is_removed_whatever_its_mark(kernel):
    kernel.rules = [rule(2, 0xED), rule(2, 0xED, 77), rule(2, 4), rule(2, 0)]
    kernel.routes = [routed(2, 0xED), routed(2, 0xED, 100), routed(2, 4), routed(10, 0xED)]
    assert routing.remove() == 2 + 2 + 1
    deleted = [body for _, kind, _, body in kernel.asked if kind in (25, 33)]
    assert deleted == [rule(2, 0xED), rule(2, 0xED, 77), routed(2, 0xED), routed(2, 0xED, 100), routed(10, 0xED)]


def test_a_kernel_without_a_family_has_nothing_to_remove(kernel):
    kernel.refuses = {34: errno.EAFNOSUPPORT, 26: errno.EOPNOTSUPP}
    assert routing.remove() == 0
    kernel.refuses = {26: errno.EPERM}
    with pytest.raises(NetlinkError):
        routing.remove()


@pytest.fixture
def routes(kernel, monkeypatch):
    monkeypatch.setattr(type(kernel), "__call__", lambda self, protocol, groups=0: self)
    monkeypatch.setattr(
        type(kernel), "heard", lambda self: bool(self.announced.pop()) if self.announced else False, raising=False
    )
    kernel.announced = []
    written = {}
    monkeypatch.setattr(
        routing.netns, "sysctl", lambda name, value="": written.setdefault(name, value) if value else "0"
    )
    found = routing.Routes(Marks(), RANGES, True)
    found.written = written
    return found


def test_routes_are_laid_once_and_again_when_links_or_routes_change(kernel, routes):
    assert routes.due()
    routes.lay()
    assert set(routes.written) == set(routing.SYSCTLS)
    assert not routes.due()
    kernel.announced = [True]
    assert routes.due()


def test_what_cannot_be_laid_is_told_and_tried_again_and_the_rest_is_laid(kernel, routes):
    kernel.refuses = {32: errno.EPERM}
    routes.lay()
    assert "calls to it fail: ip -4 rule" in routes.fault
    assert any(what == "ip route fdce:ed6e:5e55::/64 dev lo" for what, *_ in kernel.asked)
    assert routes.due()
    kernel.refuses = {}
    routes.lay()
    assert routes.fault == ""
    assert not routes.due()


def test_settings_that_hold_already_are_not_written(monkeypatch):
    def sysctl(name, value=""):
        if value:
            raise PermissionError(errno.EROFS, "Read-only file system")
        if "ipv6" in name:
            raise FileNotFoundError
        return "1"

    monkeypatch.setattr(routing.netns, "sysctl", sysctl)
    routing.prepare_sysctls()
