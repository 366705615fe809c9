"""Clocks of a lab's nodes that a test sets, though all share one kernel, whose time namespaces do not cover CLOCK_REALTIME.

A daemon from the source tree is given another time.time (set_clock/sitecustomize.py); the built file takes no such thing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.netns.conftest import FILE

SEAM = Path(__file__).parent / "set_clock"


@pytest.fixture(scope="session")
def needs_source():
    if FILE:
        pytest.skip("only a daemon from the source tree can be given a clock")


def environment(folder):
    """What a daemon is started with so that `set_off` moves its clock."""
    (folder / "clock").write_text(f"{0:+20d}")
    return {"PYTHONPATH": f"{SEAM}:{Path(__file__).parents[2]}", "CLOCK_OFF": str(folder / "clock")}


def set_off(folder, seconds):
    with open(folder / "clock", "r+b") as file:
        os.pwrite(file.fileno(), f"{seconds:+20.0f}".encode(), 0)
