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
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


def made(*answers):
    netlink = Netlink.__new__(Netlink)
    netlink.sock = FakeSocket(*answers)
    netlink._sequence = 0
    return netlink


def error(sequence, number):
    return message(NLMSG_ERROR, 0, sequence, struct.pack("=i", -number) + bytes(16))


BATCH = [("table", 0, 0, b""), ("chain out", 3, 0, b""), ("rule", 6, 0, b"")]  # after the beginning, 1: numbers 2 to 4


def test_a_refused_batch_names_the_first_that_was_refused():
    netlink = made(error(3, errno.EEXIST), error(4, errno.ENOENT))
    with pytest.raises(NetlinkError, match="chain out: File exists") as refused:
        netlink.batch(10, BATCH)
    assert refused.value.errno == errno.EEXIST


def test_a_batch_is_accepted_once_its_last_message_is():
    netlink = made(error(4, 0))
    netlink.batch(10, BATCH)
    kinds, at = [], 0
    while at < len(netlink.sock.sent):
        length, kind, flags, _ = struct.unpack_from("=IHHI", netlink.sock.sent, at)
        kinds.append((kind, flags & 4))
        at += length
    assert kinds == [(0x10, 0), (0, 0), (3, 0), (6, 4), (0x11, 0)], (
        "only the last is acknowledged: a thousand answers would not fit"
    )


@pytest.mark.parametrize("number", [1, 5])
def test_a_batch_that_is_refused_as_a_whole(number):
    with pytest.raises(NetlinkError, match="the batch: Operation not permitted"):
        made(error(number, errno.EPERM)).batch(10, BATCH)


def test_late_answers_to_an_earlier_batch_mean_nothing():
    netlink = made(error(1, errno.EPERM), error(4, 0), error(9, 0))
    with pytest.raises(NetlinkError):
        netlink.batch(10, BATCH)
    netlink.batch(10, BATCH)  # 6 to 10; the answer to 4 is the first one's, and 9 is its last
    assert not netlink.sock.answers


def test_ask_collects_what_is_dumped():
    netlink = made(
        message(20, 2, 1, b"once") + message(20, 2, 7, b"anothers") + message(20, 2, 1, b"more"), message(3, 2, 1, b"")
    )
    assert netlink.ask("list", 22, 0x300, b"") == [b"once", b"more"]
    with pytest.raises(NetlinkError, match="list: No such file"):
        made(error(1, errno.ENOENT)).ask("list", 22, 0, b"")


def test_numbers_begin_anew_before_they_run_out():
    netlink = made(error(1, 0))
    netlink._sequence = (1 << 32) - 1
    assert netlink.ask("list", 22, 0, b"") == []


def announced(port):
    return struct.pack("=IHHII", 16, 16, 0, 0, port)


@pytest.mark.parametrize(
    ("announcements", "heard"),
    [
        ([], False),
        ([announced(7)], False),
        ([announced(7) + announced(8)], True),
        ([announced(0)], True),  # the kernel itself
        ([OSError(errno.ENOBUFS, "lost")], True),
    ],
)
def test_what_others_announce_is_heard(announcements, heard):
    netlink = made(*announcements, BlockingIOError(), BlockingIOError())
    assert netlink.heard(own=7) is heard
    assert not netlink.heard(own=7), "once"


def test_a_list_that_changed_while_it_was_told_is_asked_for_again():
    netlink = made(
        message(20, 0x12, 1, b"half"), message(3, 2, 1, b""), message(20, 2, 2, b"whole"), message(3, 2, 2, b"")
    )
    assert netlink.ask("list", 22, 0x300, b"") == [b"whole"]


def test_a_list_that_never_holds_still():
    netlink = made(*[part for n in range(1, 6) for part in (message(20, 0x12, n, b"half"), message(3, 2, n, b""))])
    with pytest.raises(NetlinkError, match="list: Interrupted"):
        netlink.ask("list", 22, 0x300, b"")


def test_more_was_refused_than_could_be_told():
    netlink = made(error(2, errno.EPERM), OSError(errno.ENOBUFS, "lost"))
    with pytest.raises(NetlinkError, match="table: Operation not permitted"):
        netlink.batch(10, BATCH)
