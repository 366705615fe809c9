"""Network namespaces: resolve a name, enter one for a synchronous section, list its addresses."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import ipaddress
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.kernel.netlink import NETLINK_ROUTE, NLM_F_DUMP, Netlink, attributes
from agent.system import mounts

FOLDER = "/run/netns"
_CLONE_NEWNET = 0x40000000
_RTM_GETADDR = 22
_RTM_GETROUTE, _RT_TABLE_MAIN, _RTN_UNICAST = 26, 254, 1
_RTA_DST, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_NH_SIZE = 1, 5, 9, 8
_NS_GET_USERNS = 0xB701  # linux/nsfs.h
_SO_NETNS_COOKIE = 71
_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> str:
    """Return the path of a namespace: `name` as in `ip netns`, or a path already."""
    return name if name.startswith("/") else f"{FOLDER}/{name}"


class Namespace:
    """A network namespace, held open. Sockets made inside it stay in it."""

    def __init__(self, path: str) -> None:
        """Open the namespace at `path`. Raise OSError when there is none."""
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.id = _identity(os.fstat(self.fd))
        except OSError:
            os.close(self.fd)
            raise

    def __repr__(self) -> str:
        return f"<Namespace {self.path} {self.id[1]}>"

    @property
    def owner(self) -> int:
        """The inode of the user namespace that owns this one, or 0 where we have no permission to know.

        Capabilities in that user namespace apply to this network namespace.
        """
        try:
            found = fcntl.ioctl(self.fd, _NS_GET_USERNS)
        except OSError:
            return 0
        try:
            return os.fstat(found).st_ino
        except OSError:
            return 0
        finally:
            os.close(found)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Enter the namespace. The calling thread moves, so nothing inside the `with` block may wait."""
        back = home()
        _setns(self.fd)
        try:
            yield
        finally:
            try:
                _setns(back)
            except OSError:
                # every later socket would be made in the wrong namespace; a node without its daemon is closed
                os.abort()


@functools.cache
def home() -> int:
    """Return the namespace of all our threads. First called while no thread is inside another namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def may_enter() -> bool:
    """Return whether we may enter namespaces at all: with CAP_SYS_ADMIN."""
    try:
        _setns(home())
    except OSError:
        return False
    return True


def identity(path: str) -> tuple[int, int] | None:
    """Return device and inode, or None when there is no such file.

    Two names of one namespace give the same; a namespace that was replaced under its name gives another.
    """
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@functools.cache
def own() -> tuple[int, int]:
    """Return the identity of the daemon's own namespace: the node's."""
    return _identity(os.fstat(home()))


def is_namespace(path: str) -> bool:
    """Return whether a namespace is mounted at this path.

    `ip netns add` makes a plain file under /run/netns first and mounts nsfs over it afterwards.
    """
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def named() -> list[str]:
    """Return the paths of the namespaces that have names."""
    try:
        names = sorted(os.listdir(FOLDER))
    except OSError:
        return []
    return [path for name in names if is_namespace(path := f"{FOLDER}/{name}")]


def mounted() -> list[str]:
    """Return every path at which a network namespace is mounted (proc(5), mountinfo).

    They include those of container runtimes, wherever these keep them.
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, after = line.partition(" - ")
        root, path = fields.split()[3:5]
        if after.startswith("nsfs ") and root.startswith("net:["):
            found.append(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), path))
    return found


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


def _cookie() -> int:
    """Return a number of the calling thread's namespace, unique in this boot (Linux 5.14); 0 on older kernels."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0


def boot() -> str:
    """Return the id of this boot, or "" when it cannot be read.

    Cookies and inode numbers have no meaning in another boot.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def addresses() -> frozenset[str]:
    """Return the addresses of the calling thread's namespace, without loopback and link-local IPv6 ones."""
    found: set[str] = set()
    with Netlink(NETLINK_ROUTE) as netlink:
        for body in netlink.ask("list addresses", _RTM_GETADDR, NLM_F_DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
            family = body[0]
            values = dict(attributes(body[8:]))
            packed = values.get(2) or values.get(1)  # IFA_LOCAL, else IFA_ADDRESS
            if packed and family in (socket.AF_INET, socket.AF_INET6):
                address = ipaddress.ip_address(packed)
                if not address.is_loopback and not (address.version == 6 and address.is_link_local):
                    found.add(str(address))
    return frozenset(found)


def routers() -> frozenset[str]:
    """Return the addresses from which neighbours that route for others send what they masquerade.

    They are the gateways of the routes of the calling thread's namespace, and the first address of each route's
    network, which is no host's: a pod network (flannel) gives it to the node that has that network. The gateway of a
    default route is left out: it routes for everybody, and the address is one of the site.
    """
    found: set[str] = set()
    with Netlink(NETLINK_ROUTE) as netlink:
        for body in netlink.ask("list routes", _RTM_GETROUTE, NLM_F_DUMP, struct.pack("=12x")):
            family, length, _, _, table, _, _, kind = struct.unpack_from("=8B", body)
            if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST or not length:
                continue
            values = dict(attributes(body[12:]))
            packed = [values.get(_RTA_GATEWAY, b"")]
            if length < (32 if family == socket.AF_INET else 128):
                packed.append(values.get(_RTA_DST, b""))
            hops = values.get(_RTA_MULTIPATH, b"")
            while len(hops) > _RTA_NH_SIZE:
                (size,) = struct.unpack_from("=H", hops)
                packed.append(dict(attributes(hops[_RTA_NH_SIZE:size])).get(_RTA_GATEWAY, b""))
                hops = hops[max(size, _RTA_NH_SIZE) :]
            found.update(str(ipaddress.ip_address(one)) for one in packed if len(one) in (4, 16))
    return frozenset(found)


def sysctl(name: str, value: str = "") -> str:
    """Return net.NAME of the calling thread's namespace; set it first when a value is given. Raise OSError.

    /proc/sys/net shows the namespace of the thread that opens it. /proc/self/net shows that of the whole process.
    """
    path = Path("/proc/sys/net", name)
    if value:
        try:
            path.write_text(value)
        except OSError as error:
            if error.errno != errno.EROFS:  # as /proc/sys is in a container
                raise
            (mounts.detached("proc") / "sys/net" / name).write_text(value)
    return path.read_text().strip()


def inspect(path: str) -> tuple[int, frozenset[str]]:
    """Return the cookie of another namespace and its addresses; 0 and an empty set when it cannot be entered."""
    try:
        namespace = Namespace(path)
    except OSError:
        return 0, frozenset()
    try:
        with namespace.entered():
            return _cookie() or namespace.id[1], addresses()
    except OSError:
        return 0, frozenset()
    finally:
        namespace.close()
