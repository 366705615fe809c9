"""systemd's notification protocol: sd_notify(3), sd_listen_fds(3), the watchdog and the descriptor store.

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
_LONGEST = 255  # characters of a name


class ServiceManager:
    """The service manager, as this process sees it.

    `environment` is read once; variables that concern only this process are removed from it. A successor sends messages
    before it is the main process, so the manager must accept them from all of the service: NotifyAccess=all.
    """

    def __init__(self, environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self.address = f"\0{address[1:]}" if address.startswith("@") else address
        self.given = _given(environment)
        mine = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # stays in the environment: the watchdog applies to a successor as well
        period = environment.get("WATCHDOG_USEC", "")
        self.watchdog = int(period) / 1e6 if period.isdigit() and mine else 0.0  # seconds; 0: there is no watchdog
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if self.address else None

    def __repr__(self) -> str:
        return f"<ServiceManager {self.address!r}, {sum(map(len, self.given.values()))} descriptors given>"

    def tell(self, *lines: str, descriptors: Iterable[int] = ()) -> None:
        """Send one message. A failure is logged and has no other effect."""
        if self._sock is None:
            return
        fds = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        try:
            self._sock.sendmsg(["\n".join(lines).encode()], ancillary, socket.MSG_NOSIGNAL, self.address)
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", lines[0], error.strerror)

    def store(self, name: str, descriptors: Iterable[int]) -> None:
        """Make the manager keep copies beyond our end, in addition to what it keeps under that name."""
        wanted = list(descriptors)
        for start in range(0, len(wanted), _AT_ONCE):
            # FDPOLL=0: the manager must not drop a listening socket because it is not served just now.
            self.tell("FDSTORE=1", f"FDNAME={_name(name)}", "FDPOLL=0", descriptors=wanted[start : start + _AT_ONCE])

    def forget(self, name: str) -> None:
        """Make the manager drop what it keeps under that name."""
        self.tell("FDSTOREREMOVE=1", f"FDNAME={_name(name)}")

    async def watch(self, healthy: Callable[[], bool]) -> None:
        """Report that we live as long as `healthy` returns true. Return at once where there is no watchdog."""
        while self.watchdog:
            if healthy():
                self.tell("WATCHDOG=1")
            await trio.sleep(self.watchdog / 3)


def _given(environment: dict[str, str] | os._Environ[str]) -> Mapping[str, list[int]]:
    """Return the descriptors that the manager kept for us, by name.

    We own them; child processes do not inherit them.
    """
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
    """Return a name as the manager accepts it: printable ASCII without the separator of a list of names."""
    return "".join(char if " " <= char <= "~" and char != ":" else "_" for char in name)[:_LONGEST]
