"""docs/reference/annotations.md: the annotations and labels that edgemesh acts on."""

from __future__ import annotations

from collections.abc import Mapping

from pages import HEAD
from pages.fields import cell
from policy.unheeded import ANNOTATIONS

INTRODUCTION = """# Annotations

Settings that a kind has no field for are annotations in its `metadata`. One of OSM's or of edgemesh's that nobody reads is a warning of
`edgemesh check`.

| annotation | on | meaning |
|---|---|---|
"""


def pages() -> Mapping[str, str]:
    rows = "".join(f"| `{name}` | {one.on} | {cell(one.meaning)} |\n" for name, one in ANNOTATIONS.items())
    return {"reference/annotations.md": f"{HEAD}{INTRODUCTION}{rows}"}
