"""Descriptors that outlive this process: listening sockets, and the netlink sockets that own our tables.

The service manager keeps copies of them, each under a name, and gives them to the next start; at an update the daemon that runs
hands them to its successor (agent/handover.py). Whoever dials meanwhile is not refused: he waits in the socket's queue. A socket
stays in the namespace where it was made, and whose it is, is in its name: what waits in it comes to no other workload.

It stays in the cgroup where it was made, too, and a service that is started again has a new one. Since the rules know our doors by
their cgroup, the one where each socket was made (its birth) is kept with it, behind the name.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Mapping

import trio

from agent.supervisor import Supervisor
from nodeproxy.ruleset import Cgroup

log = logging.getLogger("edgemesh.kept")


class Kept:
    """By name: what was given to us and nobody has asked for yet, and what we hold."""

    def __init__(self, given: Mapping[str, list[int]] | None = None, supervisor: Supervisor | None = None, silent: bool = False) -> None:
        """`given`: descriptors, ours from now on. What is no socket is closed.

        `silent`: what the manager keeps is another daemon's affair until `speak`, which may go on without us.
        """
        self.supervisor = supervisor or Supervisor({})
        self._silent = silent
        self._waiting: dict[str, list[socket.socket]] = {}
        self._held: dict[str, list[socket.socket]] = {}
        self._stored: dict[str, dict[str, set[int]]] = {}  # by name: what the manager keeps, by name with birth: inodes
        self._births: dict[int, Cgroup | None] = {}  # by inode: all copies of a socket have the same
        self._own: Cgroup | None = None
        self._listening: list[socket.socket] = []  # those that listener() made or found, and nobody else closes
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
        return f"<Kept {len(self._held)} held, {len(self._waiting)} waiting>"

    def live_in(self, cgroup: Cgroup | None) -> tuple[Cgroup, ...]:
        """Sockets are made in this cgroup from now on. Answers the others in which some of what was kept was made."""
        self._own = cgroup
        return tuple(sorted({birth for birth in self._births.values() if birth not in (None, cgroup)}))

    def names(self) -> list[str]:
        """Of what waits for somebody to take it."""
        return list(self._waiting)

    def take(self, name: str) -> list[socket.socket]:
        """What was kept under that name; the caller's from now on."""
        return self._waiting.pop(name, [])

    def give_back(self, name: str, sockets: Iterable[socket.socket]) -> None:
        """What was taken, and could not be used yet: for who asks next, since nobody else could listen at these addresses meanwhile."""
        if given := list(sockets):
            self._waiting[name] = given

    def hold(self, name: str, sockets: Iterable[socket.socket]) -> None:
        """Keep these, and nothing else, under that name. They stay the caller's."""
        wanted = [sock for sock in sockets if sock.fileno() >= 0]
        before = self._held.get(name)
        if before is not None and {s.fileno() for s in before} == {s.fileno() for s in wanted}:
            return
        self._held[name] = wanted
        self._settle(name)

    def _settle(self, name: str) -> None:
        """Have the manager keep what is held under that name."""
        if self._silent or not self.supervisor.address:
            return
        wanted, stored = self._by_birth(name), self._stored.pop(name, {})
        for full in sorted({*wanted, *stored}):
            which, kept = wanted.get(full, {}), stored.get(full, set())
            # One of several cannot be let go of alone. Where none has to be, nothing is: should we be killed in between, callers that
            # wait in them would be refused.
            if not kept <= which.keys():
                self.supervisor.forget(full)
                kept = set()
            if new := [number for inode, number in which.items() if inode not in kept]:
                self.supervisor.store(full, new)
        if wanted:
            self._stored[name] = {full: set(which) for full, which in wanted.items()}

    def speak(self) -> None:
        """The manager keeps what is ours from now on."""
        self._silent = False
        for name in {*self._stored, *self._held} - {*self._waiting}:
            self._settle(name)

    def say_again(self) -> None:
        """The manager keeps what we hold, whatever a successor that did not go on may have told it."""
        for name in {*self._stored, *self._held} - {*self._waiting}:
            for full in sorted({_full(name, self._own), *self._stored.pop(name, {}), *self._by_birth(name)}):
                self.supervisor.forget(full)
            self._settle(name)

    def listener(self, name: str, address: tuple[str, int], backlog: int) -> trio.SocketListener:
        """One that listens at `address`, for who serves it to close: of the socket that was kept, or of a new one. Raises OSError."""
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
        """Keep nothing under that name any more. Sockets that keep a namespace alive are to go with it."""
        if self._held.pop(name, None) is not None:
            self._settle(name)

    def forget_rest(self) -> None:
        """Close what nobody asked for: its workload is gone, or another's now."""
        for name, sockets in self._waiting.items():
            log.info("%s: nobody wants it any more", name)
            for sock in sockets:
                sock.close()
        names = list(self._waiting)
        self._waiting.clear()
        for name in names:
            self._settle(name)

    def close(self) -> None:
        """At the end of this process, or before: close what is nobody else's. What the service manager keeps it keeps."""
        for sock in (*self._listening, *(sock for sockets in self._waiting.values() for sock in sockets)):
            sock.close()
        self._listening.clear()
        self._waiting.clear()

    def everything(self) -> dict[str, list[int]]:
        """What we hold, for a successor."""
        return {full: list(which.values()) for name in self._held for full, which in self._by_birth(name).items()}

    def _by_birth(self, name: str) -> dict[str, dict[int, int]]:
        """What is held under a name, by the name with the birth: descriptors by inode."""
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
    """The same for all copies of one socket."""
    return os.fstat(sock.fileno()).st_ino


def _socket(descriptor: int) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    # Whether calls wait is a property that all copies share (O_NONBLOCK, open(2)): a copy of one that Python takes for a waiting one
    # would make the daemon that still serves it wait in accept().
    sock.setblocking(False)
    return sock
