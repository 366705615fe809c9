"""The question to conntrack and its answer, without a kernel."""

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
        1, nested(1, attribute(destination, address)), nested(2, attribute(1, b"\x11"), attribute(3, struct.pack(">H", port)))
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


@pytest.mark.parametrize("answers", [[], [bytes(4)], NetlinkError(errno.ENOENT, "look up"), NetlinkError(errno.EOPNOTSUPP, "look up")])
def test_what_is_not_known_is_none(monkeypatch, answers):
    monkeypatch.setattr(conntrack, "Netlink", Kernel(answers))
    assert conntrack.first_destination(("10.0.0.1", 4000), ("127.0.0.1", 15053)) is None
