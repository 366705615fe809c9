"""The question to conntrack and its answer, without a kernel."""

import contextlib
import errno
import socket
import struct

import pytest

from agent.kernel import conntrack
from agent.kernel.netlink import NetlinkError, attribute, attributes, nested


class Kernel:
    def __init__(self, answers):
        self.answers, self.body = answers, b""

    def __call__(self, protocol):
        assert protocol == 12
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, what, kind, flags, body):
        assert kind == 0x101
        self.body = body
        if isinstance(self.answers, OSError):
            raise self.answers
        return self.answers


def answer(destination, address, port):
    original = nested(
        1,
        nested(1, attribute(destination, address)),
        nested(2, attribute(1, b"\x11"), attribute(3, struct.pack(">H", port))),
    )
    return bytes(4) + original


@pytest.mark.parametrize(
    ("client", "listener", "asked", "numbers"),
    [("10.0.0.1", "127.0.0.1", "192.0.2.53", (1, 2)), ("fd00::1", "::1", "2001:db8::53", (3, 4))],
)
def test_who_was_asked(monkeypatch, client, listener, asked, numbers):
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    kernel = Kernel([answer(numbers[1], socket.inet_pton(family, asked), 53)])
    monkeypatch.setattr(conntrack, "Netlink", kernel)
    assert conntrack.first_destination((client, 4000), (listener, 15053)) == (asked, 53)
    assert kernel.body[0] == family
    reply = dict(attributes(dict(attributes(kernel.body[4:]))[2]))
    addresses, ports = dict(attributes(reply[1])), dict(attributes(reply[2]))
    # The reply goes from the listener to the client: that is how the kernel finds the connection.
    assert addresses == {numbers[0]: socket.inet_pton(family, listener), numbers[1]: socket.inet_pton(family, client)}
    assert ports == {1: b"\x11", 2: struct.pack(">H", 15053), 3: struct.pack(">H", 4000)}


@pytest.mark.parametrize(
    ("peer", "server", "came", "numbers"),
    [("10.42.0.1", "10.42.0.3", "192.0.2.7", (1, 2)), ("fd42::1", "fd42::3", "2001:db8::7", (3, 4))],
)
def test_from_where_a_caller_came_before_nat(monkeypatch, peer, server, came, numbers):
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    original = nested(
        1,
        nested(1, attribute(numbers[0], socket.inet_pton(family, came)), attribute(numbers[1], b"node"[: len(came)])),
        nested(
            2, attribute(1, b"\x06"), attribute(2, struct.pack(">H", 50_000)), attribute(3, struct.pack(">H", 30080))
        ),
    )
    kernel = Kernel([bytes(4) + original])
    monkeypatch.setattr(conntrack, "Netlink", kernel)
    assert conntrack.first_source((peer, 4000), (server, 8080)) == (came, 50_000)
    reply = dict(attributes(dict(attributes(kernel.body[4:]))[2]))
    addresses, ports = dict(attributes(reply[1])), dict(attributes(reply[2]))
    assert addresses == {numbers[0]: socket.inet_pton(family, server), numbers[1]: socket.inet_pton(family, peer)}
    assert ports == {1: b"\x06", 2: struct.pack(">H", 8080), 3: struct.pack(">H", 4000)}


@pytest.mark.parametrize(
    "answers", [[], [bytes(4)], NetlinkError(errno.ENOENT, "look up"), NetlinkError(errno.EOPNOTSUPP, "look up")]
)
def test_what_is_not_known_is_none(monkeypatch, answers):
    monkeypatch.setattr(conntrack, "Netlink", Kernel(answers))
    assert conntrack.first_destination(("10.0.0.1", 4000), ("127.0.0.1", 15053)) is None
    assert conntrack.first_source(("10.0.0.1", 4000), ("10.0.0.2", 80)) is None


class KernelSocket:
    """An open netlink socket: it answers the question that was sent, as the kernel lays it out."""

    def __init__(self, asked, how="answer"):
        self.asked, self.how, self.questions, self.closed = asked, how, [], False

    def __call__(self, family, kind, protocol):
        assert (family, protocol) == (socket.AF_NETLINK, 12)
        return self

    def setblocking(self, blocking):
        assert not blocking

    def send(self, question):
        self.questions.append(bytes(question))

    def recv(self, size):
        _, _, _, sequence, _ = struct.unpack_from("=IHHII", self.questions[-1])
        if self.how == "late":
            sequence -= 1
        if self.how in ("unknown", "refused"):
            number = errno.ENOENT if self.how == "unknown" else errno.EPERM
            return struct.pack("=IHHIIi", 36, 2, 0, sequence, 7, -number) + self.questions[-1][:16]
        family = socket.AF_INET6 if ":" in self.asked else socket.AF_INET
        ends = (3, 4) if ":" in self.asked else (1, 2)
        client = dict(attributes(dict(attributes(dict(attributes(self.questions[-1][20:]))[2]))[1]))[ends[1]]
        addresses = (attribute(ends[0], client), attribute(ends[1], socket.inet_pton(family, self.asked)))
        ports = (attribute(1, b"\x11"), attribute(2, b"\x0f\xa0"), attribute(3, struct.pack(">H", 53)))
        original = nested(1, nested(1, *addresses), nested(2, *ports))
        if self.how == "otherwise":
            original = attribute(8, bytes(4)) + original
        body = bytes(4) + original + attribute(3, bytes(4))
        return struct.pack("=IHHII", 16 + len(body), 0x100, 0, sequence, 7) + body

    def close(self):
        self.closed = True


@pytest.fixture
def entered():
    seen = []

    @contextlib.contextmanager
    def enter():
        seen.append(1)
        yield

    enter.seen = seen
    return enter


@pytest.mark.parametrize(
    ("client", "listener", "asked"), [("10.0.0.1", "127.0.0.1", "192.0.2.53"), ("fd00::1", "::1", "2001:db8::53")]
)
def test_many_are_looked_up_over_one_socket(monkeypatch, entered, client, listener, asked):
    kernel, general = KernelSocket(asked), Kernel([])
    monkeypatch.setattr(conntrack.socket, "socket", kernel)
    redirected = conntrack.Redirected(entered)
    for port in (4000, 4001):
        assert redirected.destination((client, port), (listener, 15053)) == (asked, 53)
    assert len(entered.seen) == 1, "the namespace is entered once"
    monkeypatch.setattr(conntrack, "Netlink", general)
    conntrack.first_destination((client, 4001), (listener, 15053))
    assert kernel.questions[-1][16:] == general.body, "it asks the same as the general way"
    redirected.close()
    assert kernel.closed and repr(redirected) == "<Redirected closed>"


@pytest.mark.parametrize("how", ["late", "refused", "otherwise"])
def test_a_reply_that_is_not_as_expected_is_asked_for_in_the_general_way(monkeypatch, entered, how):
    kernel = KernelSocket("192.0.2.53", how)
    monkeypatch.setattr(conntrack.socket, "socket", kernel)
    monkeypatch.setattr(conntrack, "Netlink", Kernel([answer(2, b"\xc0\0\2\x36", 53)]))
    assert conntrack.Redirected(entered).destination(("10.0.0.1", 4000), ("127.0.0.1", 15053)) == ("192.0.2.54", 53)
    assert kernel.closed


def test_a_flow_that_the_kernel_does_not_know(monkeypatch, entered):
    kernel = KernelSocket("192.0.2.53", "unknown")
    monkeypatch.setattr(conntrack.socket, "socket", kernel)
    assert conntrack.Redirected(entered).destination(("10.0.0.1", 4000), ("127.0.0.1", 15053)) is None
    assert not kernel.closed
