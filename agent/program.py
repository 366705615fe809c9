"""Which program this is: the one file that boxes have, or Python with these packages."""

from __future__ import annotations

import sys
from pathlib import Path

file: Path | None = None  # the one file; set by its first module, build/edgemesh.py, and None elsewhere


def command() -> list[str]:
    """The words that run this same edgemesh again."""
    return [str(file)] if file is not None else [sys.executable, "-m", "agent"]
