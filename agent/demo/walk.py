"""`edgemesh demo`: the command. Checks that the demo can work here, builds its town, and gives the tour."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from agent.demo import apps
from agent.demo.surroundings import Unsuited

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = Path("/run/edgemesh-demo")
UNSUITED = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(step: int | None, hold: bool, app: list[str] | None, nodes: int = 1) -> int:
    """Run the demo. `step` ends it there (None: after the last), `hold` then waits for Ctrl-C; `app` runs one application instead.

    0: every expectation held. 1: one failed, and was named. 2: the demo cannot run here. 130: interrupted.
    """
    if app:
        return apps.run(app)
    # Not at the top: every application of the demo starts by importing this file.
    from pyroute2.netlink.exceptions import NetlinkError

    from agent.demo import surroundings
    from agent.demo.plan import MOST_NODES
    from agent.demo.processes import StartFailed
    from agent.demo.steps import STEPS
    from agent.demo.tour import Tour
    from agent.demo.town import Town

    if step is not None and not 1 <= step <= len(STEPS):
        print(f"edgemesh demo: there are steps 1 to {len(STEPS)}, no step {step}", file=sys.stderr)
        return UNSUITED
    if not 1 <= nodes <= MOST_NODES:
        print(f"edgemesh demo: there are 1 or {MOST_NODES} nodes, not {nodes}", file=sys.stderr)
        return UNSUITED
    arguments = [*(["--step", str(step)] if step else []), *(["--hold"] if hold else []), *(["--nodes", str(nodes)] if nodes > 1 else [])]
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        private = surroundings.prepare(arguments)
        with _only_one(FOLDER.with_suffix(".lock")), Town(FOLDER, private, nodes=nodes) as town:
            return Tour(town, private, _console()).run(step or len(STEPS), hold)
    except (Unsuited, StartFailed) as error:
        print(f"edgemesh demo: {error}", file=sys.stderr)
        return UNSUITED
    except (PermissionError, NetlinkError) as error:
        print(f"edgemesh demo: the kernel refused: {error}. Network namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN", file=sys.stderr)
        return UNSUITED
    except KeyboardInterrupt:
        print("edgemesh demo: interrupted; everything was removed", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Two demos would pull each other's namespaces away. The lock goes with the process, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unsuited("another demo is running on this box: end it first") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _console() -> Console:
    """Colour and the terminal's width on a terminal; elsewhere lines wide enough for the summary."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=150)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Begin to end. Once: an impatient second Ctrl-C must not interrupt the cleaning up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
