"""A service manager for tests: sd_notify(3), the watchdog, and the descriptor store of systemd, as far as edgemesh speaks to it.

It accepts messages of all processes of its service (NotifyAccess=all), starts the service anew when its main process ends
(Restart=always), ends what is left of it before (KillMode=control-group; here: the processes that it started or heard of), and gives
what is kept to the next start. A copy of a socket that is kept already is not kept twice, as in systemd (service_add_fd_store).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_FIRST = 3  # SD_LISTEN_FDS_START
# LISTEN_PID and the descriptors' places are only known in the new process: this puts them there, and becomes the service.
_BEGIN = (
    sys.executable,
    "-ISc",
    "import os, sys\n"
    "for at, number in enumerate(map(int, filter(None, sys.argv[1].split(',')))): os.dup2(number, 3 + at); os.close(number)\n"
    "os.environ['LISTEN_PID'] = os.environ['WATCHDOG_PID'] = str(os.getpid())\n"
    "os.execvp(sys.argv[2], sys.argv[2:])",
)


class Mailbox:
    """NOTIFY_SOCKET, and what is kept. `messages` is all that was said, as (pid, {name: value})."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind(str(path))
        self.messages: list[tuple[int, dict[str, str]]] = []
        self.store: dict[str, list[int]] = {}

    def close(self) -> None:
        self._sock.close()
        self.drop_all()

    def drop_all(self) -> None:
        for name in list(self.store):
            self._remove(name)

    def read(self, timeout: float = 0.0) -> list[tuple[int, dict[str, str]]]:
        """What was said since the last look; waits so long for the first word."""
        began = len(self.messages)
        self._sock.settimeout(timeout)
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    1 << 16, socket.CMSG_SPACE(253 * 4) + socket.CMSG_SPACE(12)
                )
            except (BlockingIOError, TimeoutError):
                return self.messages[began:]
            self._sock.settimeout(0)
            assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            descriptors, pid = array.array("i"), 0
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(payload[: len(payload) - len(payload) % 4])
                elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    pid = int.from_bytes(payload[:4], "little")
            said = dict(line.split("=", 1) for line in data.decode().splitlines())
            self._take(said, descriptors)
            self.messages.append((pid, said))

    def _take(self, said: Mapping[str, str], descriptors: Sequence[int]) -> None:
        name = said.get("FDNAME", "stored")
        assert name.isascii()
        assert name.isprintable()
        assert ":" not in name
        assert len(name) <= 255
        if "FDSTOREREMOVE" in said:
            self._remove(name)
        for descriptor in descriptors:
            same = any(os.path.sameopenfile(descriptor, kept) for kept in self.store.get(name, ()))
            if "FDSTORE" in said and not same:
                assert said.get("FDPOLL") == "0", (
                    "systemd lets go of sockets that hung up, and a listening one may look like that"
                )
                self.store.setdefault(name, []).append(descriptor)
            else:
                os.close(descriptor)

    def _remove(self, name: str) -> None:
        for descriptor in self.store.pop(name, ()):
            os.close(descriptor)

    def said(self, name: str) -> list[str]:
        """All values of one name, in order."""
        return [said[name] for _, said in self.messages if name in said]

    def environment(self) -> tuple[dict[str, str], list[int]]:
        """For a start: NOTIFY_SOCKET and LISTEN_*, and the descriptors in their order. LISTEN_PID is the starter's to add."""
        names = [name for name, descriptors in self.store.items() for _ in descriptors]
        numbers = [descriptor for descriptors in self.store.values() for descriptor in descriptors]
        found = {"NOTIFY_SOCKET": str(self.path)}
        if numbers:
            found |= {"LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": ":".join(names)}
        return found, numbers


class Manager:
    """Runs one service in a thread of its own until it is closed. `watchdog`: seconds, 0 = none."""

    def __init__(self, command: Sequence[str], path: Path, watchdog: float = 0.0, **options: Any) -> None:
        self.mailbox = Mailbox(path)
        self._command, self._watchdog, self._options = list(command), watchdog, dict(options)
        self._environment: dict[str, str] = self._options.pop("env", dict(os.environ))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.pid = 0  # of the main process
        self.starts = 0
        self.hung = 0  # times that the watchdog had to end it
        self.ready = False
        self.faults: list[BaseException] = []
        self._over, self._restart = threading.Event(), threading.Event()
        self._restart.set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Manager:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._restart.set()
        self._thread.join(60)
        self._kill_all()
        self.mailbox.close()
        assert not self.faults, self.faults

    def hold(self) -> None:
        """Do not start it again, until `resume`: so that a test can look at what is without it."""
        self._restart.clear()

    def resume(self) -> None:
        self._restart.set()

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        """`seconds` bound a test that hangs; how long it takes decides nothing."""
        until = time.monotonic() + seconds
        while not condition():
            assert not self.faults, self.faults
            assert time.monotonic() < until, f"gave up waiting: {what}"
            time.sleep(0.01)

    def _start(self) -> None:
        given, numbers = self.mailbox.environment()
        environment = {**self._environment, **given}
        if self._watchdog:
            environment["WATCHDOG_USEC"] = str(int(self._watchdog * 1e6))
        # Past the places that they are to have, wherever it is free: other threads open files too.
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, _FIRST + len(numbers) + 300) for number in numbers]
        try:
            process = subprocess.Popen(
                [*_BEGIN, ",".join(map(str, high)), *self._command], env=environment, pass_fds=high, **self._options
            )
        finally:
            for copy in high:
                os.close(copy)
        self._processes.append(process)
        self.pid, self.ready, self.starts = process.pid, False, self.starts + 1

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._restart.wait()
                if self._over.is_set():
                    return
                self._start()
                self._serve()
                self.mailbox.read()
                self._kill_all()
        except BaseException as error:
            self.faults.append(error)

    def _serve(self) -> None:
        """Until the main process has ended."""
        heard = time.monotonic()
        while not self._over.is_set():
            for _, said in self.mailbox.read(0.02):
                if "MAINPID" in said:
                    self.pid = int(said["MAINPID"])
                if "READY" in said:
                    self.ready = True
                if "READY" in said or "WATCHDOG" in said:
                    heard = time.monotonic()
            if self._watchdog and self.ready and time.monotonic() - heard > self._watchdog:
                self.hung += 1
                self.ready = False
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            if not lives(self.pid):
                self.ready = False
                return

    def _kill_all(self) -> None:
        """What is left of the service."""
        for pid in {
            self.pid,
            *(process.pid for process in self._processes),
            *(pid for pid, _ in self.mailbox.messages),
        }:
            if pid > 1 and pid != os.getpid() and self._is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def _is_ours(self, pid: int) -> bool:
        """A number may be another's by now."""
        try:
            return f"NOTIFY_SOCKET={self.mailbox.path}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(
                b"\0"
            )
        except OSError:
            return False


def lives(pid: int) -> bool:
    """Also of one that is not our child; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
