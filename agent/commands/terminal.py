"""Output for people: a terminal with its width and colours, or a pipe or file with neither."""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Any

from rich.console import Console

_PIPE_WIDTH = 1000  # one line for `grep` is one line, however long


class _Console(Console):
    """Raises BrokenPipeError when the reader is gone, as in `edgemesh status | head`.

    rich's own console ends the program with 1 instead; cli.py knows better.
    """

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(width: int | None = None) -> Console:
    """Return a console on standard output. rich itself honours NO_COLOR, TERM=dumb and whether this is a terminal."""
    made = _Console(width=width, highlight=False, emoji=False, markup=False)
    return (
        made if made.is_terminal or width else _Console(width=_PIPE_WIDTH, highlight=False, emoji=False, markup=False)
    )


def print_json(document: Any) -> None:
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def complain(message: str, hint: str = "") -> None:
    """Print on standard error what went wrong and what to do about it."""
    sys.stderr.write(f"edgemesh: {message}\n")
    if hint:
        sys.stderr.write(f"  {hint}\n")
