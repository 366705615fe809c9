"""Durations as Go writes them in the objects of OSM and fsm: "90s", "1m30s", "0.5s", "250ms"."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:h|ms|us|µs|μs|ns|m|s)){1,8}")
_PART = re.compile(r"([0-9.]+)(h|ms|us|µs|μs|ns|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}


def go_seconds(words: str) -> float | None:
    """Return a duration in seconds; None if it is none."""
    if words == "0":
        return 0.0
    if not _WHOLE.fullmatch(words):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(words))
