"""Network namespaces: which one a name means, entering it for one synchronous stretch, what addresses it has."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from agent.kernel.netlink import NETLINK_ROUTE, NLM_F_DUMP, Netlink, attributes

FOLDER = "/run/netns"
_CLONE_NEWNET = 0x40000000
_RTM_GETADDR = 22
_NS_GET_USERNS = 0xB701  # linux/nsfs.h
_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> str:
    """NAME as `ip netns` has it, or a PATH."""
    return name if name.startswith("/") else f"{FOLDER}/{name}"


class Namespace:
    """A network namespace, held open. Sockets made inside stay there."""

    def __init__(self, path: str) -> None:
        """Raises OSError when there is none at `path`."""
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.id = _identity(os.fstat(self.fd))

    def __repr__(self) -> str:
        return f"<Namespace {self.path} {self.id[1]}>"

    @property
    def owner(self) -> int:
        """Inode of the user namespace that it belongs to: capabilities there are power over it. 0: one that we may not know."""
        try:
            found = fcntl.ioctl(self.fd, _NS_GET_USERNS)
        except OSError:
            return 0
        try:
            return os.fstat(found).st_ino
        finally:
            os.close(found)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside. The calling thread moves: nothing in this stretch may wait."""
        home = _home()
        _setns(self.fd)
        try:
            yield
        finally:
            try:
                _setns(home)
            except OSError:
                os.abort()  # every later socket would be made in the wrong place; a node without its daemon is closed


@functools.cache
def _home() -> int:
    """The namespace that all our threads live in; first asked for while nobody is inside another."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def identity(path: str) -> tuple[int, int] | None:
    """Device and inode: two names of one namespace agree; a namespace replaced under its name differs. None: there is none."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def own() -> tuple[int, int]:
    """The namespace that the daemon lives in: the node's own."""
    return _identity(os.fstat(_home()))


def is_namespace(path: str) -> bool:
    """A file under /run/netns is a namespace only once nsfs is mounted over it: `ip netns add` makes the file first."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def named() -> list[str]:
    """Paths of the namespaces that have names."""
    try:
        names = sorted(os.listdir(FOLDER))
    except OSError:
        return []
    return [path for name in names if is_namespace(path := f"{FOLDER}/{name}")]


def mounted() -> list[str]:
    """Every path that a network namespace is mounted at, wherever a container runtime keeps its own (proc(5), mountinfo)."""
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


def addresses() -> frozenset[str]:
    """The addresses of the namespace that the calling thread is in, loopback left out."""
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


def sysctl(name: str, value: str = "") -> str:
    """net.NAME of the namespace that the calling thread is in, set first when a value is given. Raises OSError.

    /proc/sys/net shows the namespace of who opens it, unlike /proc/self/net, which shows that of the whole process.
    """
    path = Path("/proc/sys/net", name)
    if value:
        path.write_text(value)
    return path.read_text().strip()


def addresses_in(path: str) -> frozenset[str]:
    """The addresses of another namespace; none when it is gone."""
    try:
        namespace = Namespace(path)
    except OSError:
        return frozenset()
    try:
        with namespace.entered():
            return addresses()
    except OSError:
        return frozenset()
    finally:
        namespace.close()
