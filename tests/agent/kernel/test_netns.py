"""Names and identities of namespaces, without making one. Entering is in tests/netns/test_table.py."""

import errno
import ipaddress
import os
import struct

import pytest

from agent.kernel import netns
from agent.kernel.netlink import attribute


def test_names_and_paths():
    assert netns.path_of("store") == "/run/netns/store"
    assert netns.path_of("/proc/7/ns/net") == "/proc/7/ns/net"


def test_identity(tmp_path):
    (tmp_path / "a").touch()
    assert netns.identity(str(tmp_path / "a")) == netns.identity(str(tmp_path / "." / "a"))
    assert netns.identity("/proc/self/ns/net") != netns.identity(str(tmp_path / "a"))
    assert netns.identity(str(tmp_path / "gone")) is None


def test_a_file_that_is_no_namespace_yet(tmp_path):
    """`ip netns add` makes the file, and mounts the namespace over it afterwards."""
    (tmp_path / "a").touch()
    assert not netns.is_namespace(str(tmp_path / "a"))
    assert not netns.is_namespace(str(tmp_path / "gone"))
    assert netns.is_namespace("/proc/self/ns/net")


def test_only_namespaces_have_names(monkeypatch, tmp_path):
    monkeypatch.setattr(netns, "FOLDER", str(tmp_path))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/proc/self/ns/net")
    assert netns.named() == [f"{tmp_path}/link"]
    monkeypatch.setattr(netns, "FOLDER", str(tmp_path / "gone"))
    assert netns.named() == []


def test_a_namespace_is_held_until_it_is_closed():
    namespace = netns.Namespace("/proc/self/ns/net")
    assert namespace.id == netns.identity("/proc/self/ns/net")
    assert not os.get_inheritable(namespace.fd)
    namespace.close()
    namespace.close()
    with pytest.raises(OSError, match="No such file"):
        netns.Namespace("/gone")


def test_entering_what_is_closed_leaves_the_thread_where_it_was():
    netns.home()  # kept open from the first time on
    before = len(os.listdir("/proc/self/fd"))
    namespace = netns.Namespace("/proc/self/ns/net")
    namespace.close()
    refused = None
    try:
        with namespace.entered():
            raise AssertionError("never inside")
    except OSError as error:
        refused = error.errno
    assert refused in (errno.EBADF, errno.EPERM)
    assert len(os.listdir("/proc/self/fd")) == before


def route(destination, length, *more, family=2, table=254, kind=1):
    packed = ipaddress.ip_address(destination).packed if destination else b""
    found = attribute(1, packed) if packed else b""
    return struct.pack("=8BI", family, length, 0, 0, table, 0, 0, kind, 0) + found + b"".join(more)


def via(address):
    return attribute(5, ipaddress.ip_address(address).packed)


def hop(address):
    inside = via(address)
    return struct.pack("=HBBi", 8 + len(inside), 0, 0, 3) + inside


def test_neighbours_that_route_for_others(monkeypatch):
    """A pod network's other nodes, by vxlan, wireguard and host-gw; not the default gateway, nor what is no unicast route."""

    class Kernel:
        def __init__(self, protocol):
            assert protocol == 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, *_):
            return [
                route("", 0, via("192.168.1.1")),
                route("10.42.2.0", 24, via("10.42.2.0")),  # vxlan
                route("10.42.3.0", 24),  # wireguard: no gateway
                route("10.42.4.0", 24, via("192.168.1.4")),  # host-gw
                route("10.42.5.0", 24, attribute(9, hop("192.168.1.5") + hop("192.168.1.6"))),
                route("192.168.9.9", 32),
                route("10.42.1.255", 32, table=255, kind=3),
                route("10.99.0.0", 16, via("192.168.1.99"), table=100),
                route("fd42:2::", 64, via("fd00::2"), family=10),
                route("fd42:3::1", 128, family=10),
            ]

    monkeypatch.setattr(netns, "Netlink", Kernel)
    assert netns.routers() == {
        "10.42.2.0",
        "10.42.3.0",
        "10.42.4.0",
        "192.168.1.4",
        "10.42.5.0",
        "192.168.1.5",
        "192.168.1.6",
        "fd42:2::",
        "fd00::2",
    }


def test_addresses_leave_loopback_out():
    assert not any(address.startswith(("127.", "fe80:")) or address == "::1" for address in netns.addresses())
    assert netns.inspect("/gone") == (0, frozenset())


def test_what_is_mounted(monkeypatch, tmp_path):
    (tmp_path / "mountinfo").write_text(
        "22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n"
        "98 25 0:4 net:[4026532008] /run/netns/a rw shared:3 - nsfs nsfs rw\n"
        "99 25 0:4 net:[4026532009] /run/docker/netns/a\\040b rw - nsfs nsfs rw\n"
        "97 25 0:4 mnt:[4026532010] /run/snapd/ns/lxd.mnt rw - nsfs nsfs rw\n"
    )
    monkeypatch.setattr(netns, "Path", lambda *_: tmp_path / "mountinfo")
    assert netns.mounted() == ["/run/netns/a", "/run/docker/netns/a b"]


def test_the_nodes_own_and_its_owner():
    assert netns.own() == netns.identity("/proc/self/ns/net")
    namespace = netns.Namespace("/proc/self/ns/net")
    assert namespace.owner in (0, os.stat("/proc/self/ns/user").st_ino)
    namespace.close()


def test_a_setting_is_read_back():
    assert netns.sysctl("ipv4/tcp_fwmark_accept") in ("0", "1")
    with pytest.raises(FileNotFoundError):
        netns.sysctl("ipv4/no_such_setting")
