"""Where people read: a terminal with its width and colours, or a pipe or file with neither."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

_PIPE_WIDTH = 1000  # a line for `grep` is one line, however long


def console(width: int | None = None) -> Console:
    """Standard output. rich itself heeds NO_COLOR, TERM=dumb and whether this is a terminal."""
    made = Console(width=width, highlight=False, emoji=False, markup=False)
    return made if made.is_terminal or width else Console(width=_PIPE_WIDTH, highlight=False, emoji=False, markup=False)


def print_json(document: Any) -> None:
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def complain(message: str, hint: str = "") -> None:
    """Say on standard error what went wrong and what to do about it."""
    sys.stderr.write(f"edgemesh: {message}\n")
    if hint:
        sys.stderr.write(f"  {hint}\n")
