"""Which objects are in force: those that pass the check of their kind, or the last good version of one that does not.

If the last good version does not pass either (what it refers to was deleted), the object is left out: it grants
nothing. Kinds are settled in the order of KINDS, so that an object's references are settled before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs

from policy.collect import stays
from policy.decode import decode
from policy.draft import Input
from policy.model import Problem
from policy.registry import KINDS, Check, Kind
from policy.resources import RawObject, Resource

_NAMED = 3  # objects named in a hint


class Settlement:
    """`current`: the objects in force, by key; it is changed in place.

    `lost`: the objects that are not in force, and were reported, by key.
    """

    def __init__(
        self, current: dict[str, Resource[Any]], previous: Mapping[str, RawObject], lost: dict[str, RawObject]
    ) -> None:
        self.current = current
        self.lost = lost
        self.problems: list[Problem] = []
        self._previous = previous
        self._needing: dict[str, list[str]] = {}  # by key of a lost object: the objects not in force because of it

    def settle(self) -> None:
        """Check every object of every kind."""
        for name, kind in KINDS.items():
            if kind.check is None:
                continue
            keys = [key for key, resource in self.current.items() if resource.kind == name]
            if keys:
                known = Input(self.current.values())
                for key in keys:
                    self._one(key, kind, kind.check, known)

    def _one(self, key: str, kind: Kind, check: Check, known: Input) -> None:
        resource = self.current[key]
        faults = list(check(resource, known))
        if not faults:
            return
        needed = kind.references(resource) if kind.references else {}
        causes = {needed[path] for path, _, _ in faults if path in needed} & self.lost.keys()
        told = [fault for fault in faults if needed.get(fault[0]) not in causes]
        found = [resource.problem("error", path, message, hint) for path, message, hint in told]
        before = decode(self._previous[key]) if key in self._previous else None
        stands_in = isinstance(before, Resource) and before.raw is not resource.raw and not list(check(before, known))
        for cause in sorted(causes):
            outcome = "stays as it was" if stands_in else "is not in force either"
            self._needing.setdefault(cause, []).append(f"{resource.title}, which needs it, {outcome}")
        if isinstance(before, Resource) and stands_in:
            self.current[key] = before
            self.problems += map(stays, found)
        elif all(path in kind.stays_in_force for path, _, _ in faults):
            self.problems += found
        else:
            del self.current[key]
            self.problems += found
            self.lost[key] = resource.raw

    def with_consequences(self, problems: Iterable[Problem]) -> Iterable[Problem]:
        """Add to the hint of each cause the objects that it keeps out of force: fixing the cause fixes them."""
        seen: set[str] = set()
        for problem in problems:
            if problem.severity == "error" and problem.object in self._needing and problem.object not in seen:
                seen.add(problem.object)
                because = self._needing[problem.object]
                hint = "; ".join(because[:_NAMED]) + (
                    f"; and {len(because) - _NAMED} more need it" if len(because) > _NAMED else ""
                )
                yield structs.replace(problem, hint=f"{problem.hint}; {hint}" if problem.hint else hint)
            else:
                yield problem
