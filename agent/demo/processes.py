"""The processes of one demo: each started in its namespace with a log file, all ended in reverse order."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.demo.surroundings import environment

# Seconds from SIGTERM to SIGKILL. The daemon lets open connections end; the others have nothing to lose, and a MariaDB
# that is still starting ignores SIGTERM.
PATIENCE = {"edgemesh": 15.0, "edgemesh-node-1": 15.0, "edgemesh-node-2": 15.0}


class StartFailed(Exception):  # noqa: N818 - reads as what happened
    """A part of the demo did not start; the message holds the end of its log."""


class Processes:
    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(self, name: str, command: Sequence[str], namespace: str = "") -> None:
        """Start `command`, in `namespace` if given. It ends when we do, even by SIGKILL (PR_SET_PDEATHSIG)."""
        inside = ("ip", "netns", "exec", namespace) if namespace else ()
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *inside, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,  # only we get Ctrl-C; we end them in order
            )

    def has(self, name: str) -> bool:
        return name in self._running

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def stop(self, name: str, patience: float | None = None) -> None:
        """Send SIGTERM, and SIGKILL when it has not ended after `patience` seconds (None: its own value)."""
        process = self._running.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(PATIENCE.get(name, 3.0) if patience is None else patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def ended(self) -> str:
        """Return which process ended unasked, with the end of its log; "" for none."""
        for name, process in self._running.items():
            if process.poll() is not None:
                return f"{name} ended with status {process.returncode}:\n{self.tail(name)}"
        return ""

    def tail(self, name: str, lines: int = 15) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
