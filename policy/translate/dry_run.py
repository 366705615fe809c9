"""Annotation edgemesh.io/dry-run of a TrafficTarget: what would change, were it in force, or gone.

| value | the target | what is counted |
|---|---|---|
| `"true"` | admits nothing | calls that are refused, and that it would admit |
| `"removal"` | admits as before | calls that it alone admits: they would be refused without it |

Without the annotation a target is in force. So a misspelt value, and a misspelt name, make the object faulty: a person
who wanted a trial must not get a grant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from policy.faults import Fault
from policy.near import nearest
from policy.resources import Resource

ANNOTATION = "edgemesh.io/dry-run"
_SPACE = "edgemesh.io/"
_VALUES = '"true": it admits nothing, and what it would admit is counted; "removal": it admits, and what it alone admits is counted; leave it out to have it in force'
_WORD = re.compile(r"[^a-z]")


def check(target: Resource[Any]) -> Iterable[Fault]:
    """Yield a fault for a value that says neither, and for each name that may be meant for this one."""
    for place, names in (("annotations", target.annotations), ("labels", target.labels)):
        for name, value in names.items():
            at = f"$.metadata.{place}.{name}"
            if name == ANNOTATION and place == "annotations":
                if value not in ("true", "removal"):
                    yield at, f"{ANNOTATION} is {value!r}", f"write {_VALUES}"
            elif _may_mean_it(name):
                hint = f"did you mean the annotation {ANNOTATION}? Without that the target is in force"
                yield at, f"nobody reads the {place[:-1]} {name} of a TrafficTarget", hint


def mode(target: Resource[Any]) -> Literal["", "true", "removal"]:
    """Return what a target that has passed its check says; "": it is in force."""
    value = target.annotations.get(ANNOTATION)
    return "true" if value == "true" else "removal" if value == "removal" else ""


def _may_mean_it(name: str) -> bool:
    space, _, own = name.rpartition("/")
    word = _WORD.sub("", own[:100].lower())
    return (
        name.startswith(_SPACE)
        or "dryrun" in word
        or (4 <= len(word) <= 9 and bool(nearest(word, ("dryrun",), 0.75)))
        or ("kubernetes" not in space and 8 <= len(space) <= 14 and bool(nearest(space, (_SPACE[:-1],), 0.8)))
    )
