"""Parts of objects that were not decoded: broken objects, and those of kinds that are not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def namespace_of(data: Mapping[str, Any]) -> str:
    """Return the namespace that an object names, or default."""
    return str(mapping(data.get("metadata")).get("namespace") or "default")


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is a mapping, otherwise an empty one."""
    return value if isinstance(value, dict) else {}
