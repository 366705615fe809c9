"""Where objects come from. Every source says the same thing: Change. Nothing else knows which source it was.

directory.py       watches a directory of manifest files
manifest.py        one file's bytes -> objects and Problems
yaml_documents.py  YAML -> nodes        json_documents.py  JSON -> nodes
nodes.py           nodes -> plain data, with the line of everything
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from policy.model import Problem
from policy.resources import RawObject


class Change(Struct, frozen=True):
    """What one origin (a file, later a cluster's kind) says from now on.

    `objects` None: it cannot be read at all, and what it said before still holds. (): it says nothing any more.
    """

    origin: str
    objects: tuple[RawObject, ...] | None
    problems: tuple[Problem, ...] = ()


# Takes changes that belong together: they take effect at once. `whole`: origins that are not named say nothing any more.
Send = Callable[[Sequence[Change], bool], None]
