"""What is wrong with manifests, within bounds.

A file can hold any number of mistakes, and a mistake any number of characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import structs

from policy.model import Problem, Where

MOST = 100  # problems of one daemon that are reported one by one
_LONGEST = 500  # characters of one text of a problem
_WEIGHT = {"error": 0, "warning": 1, "notice": 2}


def count(number: int, noun: str) -> str:
    """Return a count with its noun, such as "1 error" or "2,000 errors"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def told(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the first problems and one that counts the rest, sorted.

    Errors come before warnings, and warnings before notices, when the first are chosen.
    """
    found = sorted(set(problems), key=lambda problem: (_WEIGHT.get(problem.severity, 2), problem))
    if len(found) > MOST:
        rest = Counter(problem.severity for problem in found[MOST:])
        words = ", ".join(count(number, severity) for severity, number in rest.items())
        severity = found[MOST].severity
        hint = "edgemesh check DIR says all of them"
        found[MOST:] = [Problem(severity, Where(), "", f"and {len(found) - MOST} more: {words}", hint)]
    return tuple(sorted(map(_shortened, found)))


def _shortened(problem: Problem) -> Problem:
    where = Where(_cut(problem.where.file), problem.where.line)
    return structs.replace(
        problem, where=where, object=_cut(problem.object), message=_cut(problem.message), hint=_cut(problem.hint)
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 12]}... ({len(text)})"
