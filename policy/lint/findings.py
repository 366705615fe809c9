"""LINTS: every check of what is in force. Each finding is a warning, or a notice where it may well be meant.

The checks are a separate pass over what a build accepted. So a finding can consider everything at once, and decisions
need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from policy.build import Built
from policy.lint.entrances import entrances
from policy.lint.marks import marks
from policy.lint.matches import matches
from policy.lint.names import names
from policy.lint.placement import workloads
from policy.lint.references import asked, classes, parents, sources
from policy.lint.selectors import services
from policy.lint.subjects import callers, revoked, subjects
from policy.model import Problem
from policy.unheeded import unheeded

LINTS: tuple[Callable[[Built], Iterator[Problem]], ...] = (
    subjects,
    callers,
    revoked,
    services,
    parents,
    classes,
    sources,
    asked,
    entrances,
    matches,
    workloads,
    names,
    marks,
)


def lint(built: Built) -> tuple[Problem, ...]:
    """Return all findings about what a build accepted, sorted and without duplicates."""
    found = {problem for look in LINTS for problem in look(built)}
    return tuple(sorted({*found, *unheeded(built.resources)}))
