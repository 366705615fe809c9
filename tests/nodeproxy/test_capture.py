"""What a captured connection was aimed at, as the kernel says it; doors that close."""

import errno
import socket
import struct

import pytest

from nodeproxy.capture import Doors, Ports, original_destination


class Captured:
    """A socket of which only conntrack's answer is asked."""

    def __init__(self, family, answer):
        self.family, self.answer, self.asked = family, answer, None

    def getsockopt(self, level, option, size):
        self.asked = (level, option)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer[:size]


def test_ipv4():
    sock = Captured(
        socket.AF_INET,
        struct.pack("=H", socket.AF_INET) + struct.pack("!H", 8080) + socket.inet_aton("10.1.2.3") + bytes(8),
    )
    assert original_destination(sock) == ("10.1.2.3", 8080)
    assert sock.asked == (0, 80)


def test_ipv6():
    address = socket.inet_pton(socket.AF_INET6, "fd00::1:2")
    sock = Captured(
        socket.AF_INET6,
        struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", 443, 0xABCDE) + address + struct.pack("=I", 7),
    )
    assert original_destination(sock) == ("fd00::1:2", 443)
    assert sock.asked == (41, 80)


def test_what_conntrack_does_not_know_is_an_error():
    with pytest.raises(OSError, match="No such file"):
        original_destination(Captured(socket.AF_INET, OSError(errno.ENOENT, "No such file or directory")))


def test_our_ports():
    assert all(port in Ports() for port in (15001, 15006, 15008, 15053))
    assert 15002 not in Ports()
    assert "15001" not in Ports()


def test_doors_close_in_two_steps():
    doors = Doors(*([socket.socket()] for _ in range(5)))
    doors.close_tcp()
    assert doors.tunnel[0].fileno() < 0
    assert [
        sock.fileno() < 0 for group in (doors.outbound, doors.inbound, doors.dns_udp, doors.dns_tcp) for sock in group
    ] == [
        True,
        True,
        False,
        False,
    ]
    doors.close()
    assert doors.dns_udp[0].fileno() < 0
    assert doors.dns_tcp[0].fileno() < 0
