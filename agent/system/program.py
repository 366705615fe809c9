"""Which program this is: the single file that boxes have, or Python with these packages."""

from __future__ import annotations

import sys
from pathlib import Path

file: Path | None = None  # the single file; set by its first module, build/edgemesh.py, otherwise None


def command() -> list[str]:
    """Return the command line that runs this same edgemesh again."""
    return [str(file)] if file is not None else [sys.executable, "-m", "agent"]
