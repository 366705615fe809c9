"""The admin socket in the file system: for its owner alone, and never taken from a daemon that runs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import trio

_LONGEST = 107  # bytes of a path: sockaddr_un's 108 with the NUL (unix(7))


class AdminSocketError(Exception):
    """The admin socket cannot be made; the message says why and what to do."""


class AlreadyRunningError(AdminSocketError):
    """Another daemon holds the lock."""


class AdminSocket:
    """A listening Unix socket (0600), and the lock beside it that says which daemon is alive.

    Theory of operation. The lock (flock(2)) lives exactly as long as our process, so a socket file without a lock is a
    leftover, whatever killed its daemon. The socket is bound under another name, gets its mode, and is renamed over the
    old one: at no moment can another user connect, and at no moment is the path missing.
    """

    def __init__(self, path: Path, lent: Mapping[str, list[int]] | None = None) -> None:
        """`lent`: the `descriptors` of the daemon that hands over to us, where its path is ours.

        Raise AdminSocketError: another daemon is alive, or the path is not usable.
        """
        for other, descriptors in (lent or {}).items():
            if other.startswith("admin ") and other not in (f"admin {path}", f"admin {path} lock"):
                for descriptor in descriptors:  # the old daemon's path, which this version reads otherwise
                    os.close(descriptor)
        self.kept = False  # another daemon has the socket now, so `close` must not remove the path
        name = f"admin {path}"
        if lent and len(lent.get(f"{name} lock", ())) == 1 and len(lent.get(name, ())) == 1:
            self.path = path
            self._lock = lent[f"{name} lock"][0]
            self._sock = socket.socket(fileno=lent[name][0])
            return
        if len(os.fsencode(path)) > _LONGEST - 4:
            raise AdminSocketError(
                f"{path}: a socket path may have {_LONGEST - 4} bytes; set adminSocket to a shorter one"
            )
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise AdminSocketError(
                f"{path}: {error.strerror}; run as root, or set --socket to a path that may be written"
            ) from error
        try:
            self._take()
            self._sock = self._listen()
        except BaseException:
            os.close(self._lock)
            raise

    def __repr__(self) -> str:
        return f"<AdminSocket {self.path}>"

    def listener(self) -> trio.SocketListener:
        """Return the listener, which its server closes. Called again when another daemon served in between."""
        self._sock.setblocking(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(self._sock.dup()))

    def descriptors(self) -> dict[str, list[int]]:
        """Return what a successor needs: the listening socket, and the lock, which lasts while either daemon has it."""
        name = f"admin {self.path}"
        return {name: [self._sock.fileno()], f"{name} lock": [self._lock]}

    def own(self) -> None:
        """Write our process ID into a lent lock file. That is only for people: a full disk is no fault."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Remove the socket and release the lock. Works also outside trio, after the listener has been served."""
        self._sock.close()
        if not self.kept:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        os.close(self._lock)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise AlreadyRunningError(
                f"edgemesh is already running as pid {pid} (it holds {self.path}.lock); stop it first, or give this one its own --socket"
            ) from error
        self.own()

    def _listen(self) -> socket.socket:
        new = f"{self.path}.new"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(self.path.lstat().st_mode):
                    raise FileExistsError(errno.EEXIST, "is there, and is no socket")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            sock.bind(new)
            os.chmod(new, 0o600)
            sock.listen(16)
            os.rename(new, self.path)
        except OSError as error:
            sock.close()
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise AdminSocketError(
                f"{self.path}: {error.strerror}; set --socket to a path that may be written"
            ) from error
        return sock
