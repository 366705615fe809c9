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
_REFUSED = "the kernel refused: {}. Network namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(step: int | None, hold: bool, app: list[str] | None, nodes: int = 1, chapter: str | None = None) -> int:
    """Run the demo. Return the exit code.

    `step` ends it there (None: after the last). `chapter`: this one instead of the bookstore; "list" prints their names.
    `hold` then waits for Ctrl-C. `app` runs one application instead. 0:
    every expectation held. 1: one failed, and was named. 2: the demo cannot run here. 130: interrupted.
    """
    if app:
        return apps.run(app)
    # Not at the top: every application of the demo starts by importing this file.
    from pyroute2.netlink.exceptions import NetlinkError

    from agent.demo import surroundings
    from agent.demo.chapters import CHAPTERS
    from agent.demo.plan import MOST_NODES
    from agent.demo.processes import StartFailed
    from agent.demo.steps import STEPS
    from agent.demo.story import Story
    from agent.demo.tour import Tour
    from agent.demo.town import Town
    from agent.demo.village import Village

    if chapter == "list":
        for name, one in CHAPTERS.items():
            print(f"{name:10} {one.about}")
        return 0
    if chapter is not None and chapter not in CHAPTERS:
        print(f"edgemesh demo: there is no chapter {chapter!r}; there are {', '.join(CHAPTERS)}", file=sys.stderr)
        return UNSUITED
    if chapter is not None and nodes != 1:
        print("edgemesh demo: a chapter plays on one node", file=sys.stderr)
        return UNSUITED
    steps = len(CHAPTERS[chapter].scenes) if chapter else len(STEPS)
    if step is not None and not 1 <= step <= steps:
        print(f"edgemesh demo: there are steps 1 to {steps}, no step {step}", file=sys.stderr)
        return UNSUITED
    if not 1 <= nodes <= MOST_NODES:
        print(f"edgemesh demo: there are 1 or {MOST_NODES} nodes, not {nodes}", file=sys.stderr)
        return UNSUITED
    arguments = [
        *(["--step", str(step)] if step else []),
        *(["--hold"] if hold else []),
        *(["--nodes", str(nodes)] if nodes > 1 else []),
        *(["--chapter", chapter] if chapter else []),
    ]
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        private = surroundings.prepare(arguments)
        console = _console()

        def say(words: str) -> None:
            console.print(f"edgemesh demo: {words}", highlight=False, markup=False, soft_wrap=True)

        with _only_one(FOLDER.with_suffix(".lock")):
            if chapter:
                with Village(FOLDER, private, say=say) as village:
                    return Story(village, private, console).run(CHAPTERS[chapter], step or steps, hold)
            with Town(FOLDER, private, nodes=nodes, say=say) as town:
                return Tour(town, private, console).run(step or steps, hold)
    except (Unsuited, StartFailed) as error:
        print(f"edgemesh demo: {error}", file=sys.stderr)
        return UNSUITED
    except PermissionError as error:
        if error.filename is None or str(error.filename).startswith(("/proc", "/run/netns", "/sys")):
            print(f"edgemesh demo: {_REFUSED.format(error)}", file=sys.stderr)
        else:
            print(
                f"edgemesh demo: {error.filename} is not ours to write: did a demo of another user leave it? {error}",
                file=sys.stderr,
            )
        return UNSUITED
    except NetlinkError as error:
        print(f"edgemesh demo: {_REFUSED.format(error)}", file=sys.stderr)
        return UNSUITED
    except KeyboardInterrupt:
        print("edgemesh demo: interrupted; everything was removed", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Lock out a second demo, which would remove our namespaces. The lock ends with the process, however it ends."""
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
    """Return a console: colour and width of a terminal; elsewhere lines wide enough for the summary."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=150)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Begin to end. Only once: an impatient second Ctrl-C must not interrupt the cleanup."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
