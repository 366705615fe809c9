"""Where objects come from. Every source reports in the same form, Change; nothing else depends on which source it was.

sources.py         the table of sources
source.py          the interface of a source
kubernetes/        asks a Kubernetes API server
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
    """What one origin (a file, an object of a cluster) says from now on.

    `objects` None: it cannot be read, or is no manifest, and what it said before stays in force. (): it has no objects.
    If it had some before, that withdraws nothing either. `gone`: the origin does not exist any more, and what it said
    is withdrawn. `under`: that holds for every origin that begins with this one, and for what would stay in force.
    """

    origin: str
    objects: tuple[RawObject, ...] | None
    problems: tuple[Problem, ...] = ()
    gone: bool = False
    under: bool = False


class Mark(Struct, frozen=True):
    """Of which state of which cluster a source's objects are, to be saved with them.

    `cluster`: the UID of the cluster; "": it is of none, or not known. `versions`: how new what is known is, by kind.
    """

    cluster: str = ""
    versions: dict[str, str] = {}


# Takes changes that belong together and take effect at once. `whole`: origins that are not named say nothing any more.
Send = Callable[[Sequence[Change], bool], None]
