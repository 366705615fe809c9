"""RawObject: one object as a source delivered it.

Resource: a decoded object of a kind that edgemesh reads (decode.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from msgspec import Struct

from policy.kinds.base import Metadata
from policy.model import Problem, Severity, Where

_S = TypeVar("_S", bound=Struct)


CLUSTER = "kubernetes:"  # what the `where` of an object begins with that a Kubernetes API server said


class RawObject(Struct, frozen=True):
    """One object as a source delivered it: plain data, where it begins, and the line of each part by msgspec path
    ("$.spec.rules[0]").

    `lines` has a line for every path: its own line, or that of the nearest enclosing part that has one.
    """

    data: dict[str, Any]
    where: Where
    lines: Mapping[str, int]

    def line(self, path: str) -> int:
        """Return the line of a path, or of the nearest part around it."""
        while path:
            try:
                return self.lines[path]
            except KeyError:
                path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.where.line


class Resource(Struct, Generic[_S], frozen=True):
    """An object of a kind that edgemesh reads, in the shape of its kind."""

    kind: str  # name of its row in KINDS
    version: str
    namespace: str
    name: str
    metadata: Metadata
    spec: _S
    status: Any  # of the kind's status shape; None if the kind has none
    raw: RawObject

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        return f"{self.kind} {self.key}" if self.namespace else f"{self.kind} {self.name}"

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.annotations or {}

    def problem(self, severity: Severity, path: str, message: str, hint: str = "") -> Problem:
        return Problem(severity, Where(self.raw.where.file, self.raw.line(path)), self.title, message, hint)


def from_cluster(raw: RawObject) -> bool:
    """Return whether a Kubernetes API server said this object: it tells of every deletion."""
    return raw.where.file.startswith(CLUSTER)


def plain(kind: str) -> str:
    """Return the kind as manifests write it, of the name of a row of KINDS."""
    return kind.partition(".")[0]


def key_of(kind: str, namespace: str, name: str) -> str:
    return f"{kind} {namespace}/{name}"
