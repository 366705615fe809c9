"""What we tell the service manager, and what it keeps for us: sd_notify(3), sd_listen_fds(3), systemd's watchdog and descriptor store.

Where no manager runs us there is no NOTIFY_SOCKET, and everything here does nothing.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping

import trio

log = logging.getLogger("edgemesh.supervisor")

_FIRST = 3  # SD_LISTEN_FDS_START
_AT_ONCE = 200  # descriptors in one message; the kernel allows 253 (SCM_MAX_FD)
_LONGEST = 255  # of a name


class Supervisor:
    """The service manager's side of this process. `environment` is read once; what concerns only this process is taken out of it.

    A successor speaks before it is the main process, so the manager has to listen to all of the service: NotifyAccess=all.
    """

    def __init__(self, environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self.address = f"\0{address[1:]}" if address.startswith("@") else address
        self.given = _given(environment)
        mine = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        period = environment.get("WATCHDOG_USEC", "")  # stays: a successor is watched over as well
        self.watchdog = int(period) / 1e6 if period.isdigit() and mine else 0.0  # seconds; 0: nobody watches
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if self.address else None

    def __repr__(self) -> str:
        return f"<Supervisor {self.address!r}, {sum(map(len, self.given.values()))} descriptors given>"

    def tell(self, *lines: str, descriptors: Iterable[int] = ()) -> None:
        """One message. What cannot be said is logged, and changes nothing for us."""
        if self._sock is None:
            return
        fds = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        try:
            self._sock.sendmsg(["\n".join(lines).encode()], ancillary, socket.MSG_NOSIGNAL, self.address)
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", lines[0], error.strerror)

    def store(self, name: str, descriptors: Iterable[int]) -> None:
        """Have copies kept beyond our end, in addition to what is kept under that name."""
        wanted = list(descriptors)
        for start in range(0, len(wanted), _AT_ONCE):
            # FDPOLL=0: a listening socket that nobody serves just now is no reason to let go of it.
            self.tell("FDSTORE=1", f"FDNAME={_name(name)}", "FDPOLL=0", descriptors=wanted[start : start + _AT_ONCE])

    def forget(self, name: str) -> None:
        """Let go of what is kept under that name."""
        self.tell("FDSTOREREMOVE=1", f"FDNAME={_name(name)}")

    async def watch(self, healthy: Callable[[], bool]) -> None:
        """Say that we live while `healthy` says so; without a watchdog, end at once."""
        while self.watchdog:
            if healthy():
                self.tell("WATCHDOG=1")
            await trio.sleep(self.watchdog / 3)


def _given(environment: dict[str, str] | os._Environ[str]) -> Mapping[str, list[int]]:
    """Descriptors that the manager kept for us, by their names. They are ours from now on, and not our children's."""
    pid, count, names = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    given: dict[str, list[int]] = {}
    for number, name in zip(range(_FIRST, _FIRST + int(count)), [*names.split(":"), *[""] * int(count)], strict=False):
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
            given.setdefault(name, []).append(number)
    return given


def _name(name: str) -> str:
    """As the manager takes it: ASCII that can be printed, without the separator of a list of them."""
    return "".join(char if " " <= char <= "~" and char != ":" else "_" for char in name)[:_LONGEST]
