"""Descriptors that outlive this process: listening sockets, and the netlink sockets that own our tables.

The service manager keeps copies of them, each under a name, and passes them to the next start. At an update the running
daemon passes them to its successor (agent/daemon/handover.py). Connections made meanwhile are not refused; they wait in
the socket's queue. A socket stays in the namespace where it was made, and its name says which workload it belongs to:
queued connections can only go to that workload.

A socket also stays in the cgroup where it was made, and a service that is restarted has a new one. Rules recognise our
listeners by their cgroup, so the cgroup in which each socket was made (its birth) is kept with it, appended to the
name.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Container, Iterable, Mapping

import trio

from agent.system.cgroup import Cgroup
from agent.system.service_manager import ServiceManager

log = logging.getLogger("edgemesh.kept")


class FdStore:
    """Descriptors by name: those that were passed to us and not taken yet, and those that we hold."""

    def __init__(
        self,
        given: Mapping[str, list[int]] | None = None,
        supervisor: ServiceManager | None = None,
        silent: bool = False,
    ) -> None:
        """`given`: descriptors, ours from now on. Those that are no sockets are closed.

        `silent`: until `speak` is called, the manager's copies belong to another daemon, which may go on without us.
        """
        self.supervisor = supervisor or ServiceManager({})
        self._silent = silent
        self._waiting: dict[str, list[socket.socket]] = {}
        self._held: dict[str, list[socket.socket]] = {}
        self._stored: dict[str, dict[str, set[int]]] = {}  # what the manager keeps, by name, by name with birth: inodes
        self._births: dict[int, Cgroup | None] = {}  # by inode, which all copies of a socket share
        self._own: Cgroup | None = None
        self._listening: list[socket.socket] = []  # those that listener() made or found; nothing else closes them
        for full, descriptors in (given or {}).items():
            name, birth = _split(full)
            found = [sock for sock in map(_socket, descriptors) if sock is not None]
            self._births.update((_which(sock), birth) for sock in found)
            if found:
                self._waiting.setdefault(name, []).extend(found)
                self._stored.setdefault(name, {})[full] = set(map(_which, found))
            elif not silent:
                self.supervisor.forget(full)

    def __repr__(self) -> str:
        return f"<FdStore {len(self._held)} held, {len(self._waiting)} waiting>"

    def live_in(self, cgroup: Cgroup | None) -> tuple[Cgroup, ...]:
        """Set the cgroup in which sockets are made from now on. Return the others in which kept sockets were made."""
        self._own = cgroup
        return tuple(sorted({birth for birth in self._births.values() if birth not in (None, cgroup)}))

    def names(self) -> list[str]:
        """Return the names of what was not taken yet."""
        return list(self._waiting)

    def take(self, name: str) -> list[socket.socket]:
        """Return what was kept under that name; the caller owns it from now on."""
        return self._waiting.pop(name, [])

    def give_back(self, name: str, sockets: Iterable[socket.socket]) -> None:
        """Return sockets that were taken and could not be used yet, for the next caller of `take`.

        They are not closed, since nothing else could listen at their addresses meanwhile.
        """
        if given := list(sockets):
            self._waiting[name] = given

    def hold(self, name: str, sockets: Iterable[socket.socket]) -> None:
        """Keep these sockets, and no others, under that name. The caller still owns them."""
        wanted = [sock for sock in sockets if sock.fileno() >= 0]
        before = self._held.get(name)
        if before is not None and {s.fileno() for s in before} == {s.fileno() for s in wanted}:
            return
        self._held[name] = wanted
        self._settle(name)

    def _settle(self, name: str) -> None:
        """Make the manager keep what is held under that name."""
        if self._silent or not self.supervisor.address:
            return
        wanted, stored = self._by_birth(name), self._stored.pop(name, {})
        for full in sorted({*wanted, *stored}):
            which, kept = wanted.get(full, {}), stored.get(full, set())
            # The manager cannot drop one of several alone. Where none has to be dropped, none is: if we were killed in
            # between, connections that wait in them would be refused.
            if not kept <= which.keys():
                self.supervisor.forget(full)
                kept = set()
            if new := [number for inode, number in which.items() if inode not in kept]:
                self.supervisor.store(full, new)
        if wanted:
            self._stored[name] = {full: set(which) for full, which in wanted.items()}

    def speak(self) -> None:
        """Make the manager keep what is ours from now on."""
        self._silent = False
        for name in {*self._stored, *self._held} - {*self._waiting}:
            self._settle(name)

    def say_again(self) -> None:
        """Make the manager keep what we hold, whatever a successor that did not go on may have told it."""
        for name in {*self._stored, *self._held} - {*self._waiting}:
            for full in sorted({_full(name, self._own), *self._stored.pop(name, {}), *self._by_birth(name)}):
                self.supervisor.forget(full)
            self._settle(name)

    def listener(self, name: str, address: tuple[str, int], backlog: int) -> trio.SocketListener:
        """Return a listener at `address`: from the kept socket, or a new one. The caller closes it. Raise OSError."""
        sock = None
        for old in (*self._held.get(name, ()), *self.take(name)):
            if sock is None and old.getsockname()[:2] == address:
                sock = old
            else:
                old.close()
        if sock is None:
            sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(address)
                sock.listen(backlog)
            except OSError:
                sock.close()
                raise
        self._listening = [*(other for other in self._listening if other is not sock and other.fileno() >= 0), sock]
        self.hold(name, [sock])
        sock.setblocking(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup()))

    def drop(self, name: str) -> None:
        """Keep nothing under that name any more: kept sockets would keep their namespace alive."""
        if self._held.pop(name, None) is not None:
            self._settle(name)

    def forget_rest(self, spared: Container[str] = ()) -> None:
        """Close what was not taken: its workload is gone, or has another place now. `spared`: names to be kept."""
        names = [name for name in self._waiting if name not in spared]
        for name in names:
            log.info("%s: nobody wants it any more", name)
            for sock in self._waiting.pop(name):
                sock.close()
        for name in names:
            self._settle(name)

    def close(self) -> None:
        """Close what no other object owns, at the end of this process or before. The service manager's copies stay."""
        for sock in (*self._listening, *(sock for sockets in self._waiting.values() for sock in sockets)):
            sock.close()
        self._listening.clear()
        self._waiting.clear()

    def everything(self) -> dict[str, list[int]]:
        """Return all that we hold, for a successor."""
        return {full: list(which.values()) for name in self._held for full, which in self._by_birth(name).items()}

    def _by_birth(self, name: str) -> dict[str, dict[int, int]]:
        """Return what is held under a name, by the name with the birth: descriptors by inode."""
        found: dict[str, dict[int, int]] = {}
        for sock in self._held.get(name, ()):
            if sock.fileno() >= 0:
                birth = self._births.setdefault(_which(sock), self._own)
                found.setdefault(_full(name, birth), {})[_which(sock)] = sock.fileno()
        return found


def _full(name: str, birth: Cgroup | None) -> str:
    return f"{name} @{birth.level}.{birth.id}" if birth else name


def _split(full: str) -> tuple[str, Cgroup | None]:
    name, at, birth = full.rpartition(" @")
    level, dot, number = birth.partition(".")
    if at and dot and level.isdigit() and number.isdigit():
        return name, Cgroup(int(level), int(number))
    return full, None


def _which(sock: socket.socket) -> int:
    """Return the inode, which is the same for all copies of one socket."""
    return os.fstat(sock.fileno()).st_ino


def _socket(descriptor: int) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    # All copies share the flag O_NONBLOCK (open(2)): if Python took one for a blocking socket, the daemon that still
    # serves another copy would block in accept().
    sock.setblocking(False)
    return sock
