"""Messages, byte for byte, and answers that name what was refused."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.netlink import NLMSG_ERROR, Netlink, NetlinkError, attribute, attributes, be32, message, nested, text


@given(st.lists(st.tuples(st.integers(1, 100), st.binary(max_size=40))))
def test_attributes_read_back(pairs):
    assert list(attributes(b"".join(attribute(kind, data) for kind, data in pairs))) == pairs


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_a_fault(data):
    list(attributes(data))


def test_padding_and_nesting():
    assert text(1, "ab") == struct.pack("=HH", 7, 1) + b"ab\0" + b"\0"
    assert be32(2, -100) == struct.pack("=HH", 8, 2) + struct.pack(">i", -100)
    outer = nested(4, be32(1, 3))
    assert struct.unpack_from("=HH", outer) == (12, 4 | 0x8000)
    assert list(attributes(outer)) == [(4, be32(1, 3))]


class FakeSocket:
    def __init__(self, *answers):
        self.answers, self.sent = list(answers), b""

    def sendto(self, data, _):
        self.sent += data

    def recv(self, _):
        return self.answers.pop(0)


def made(*answers):
    netlink = Netlink.__new__(Netlink)
    netlink.sock = FakeSocket(*answers)
    return netlink


def error(sequence, number):
    return message(NLMSG_ERROR, 0, sequence, struct.pack("=i", -number) + bytes(16))


def test_a_refused_batch_names_its_message():
    netlink = made(error(1, 0) + error(2, errno.EEXIST), error(3, 0))
    with pytest.raises(NetlinkError, match="chain out: File exists") as refused:
        netlink.batch(b"", b"", [("table", 0, 0, b""), ("chain out", 3, 0, b""), ("rule", 6, 0, b"")])
    assert refused.value.errno == errno.EEXIST


def test_a_batch_that_is_refused_as_a_whole():
    with pytest.raises(NetlinkError, match="the batch: Operation not permitted"):
        made(error(0, errno.EPERM)).batch(b"", b"", [("table", 0, 0, b"")])


def test_ask_collects_what_is_dumped():
    netlink = made(message(20, 2, 1, b"once") + message(20, 2, 1, b"more"), message(3, 2, 1, b""))
    assert netlink.ask("list", 22, 0x300, b"") == [b"once", b"more"]
    with pytest.raises(NetlinkError, match="list: No such file"):
        made(error(1, errno.ENOENT)).ask("list", 22, 0, b"")
