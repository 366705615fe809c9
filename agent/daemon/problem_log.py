"""Problems in the log: each once, when it appears."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from agent.store.problems import told
from policy.model import Problem

log = logging.getLogger("edgemesh")


class ProblemLog:
    """Remembers which problems it has logged."""

    def __init__(self) -> None:
        self._told: frozenset[Problem] = frozenset()

    def tell(self, problems: Iterable[Problem]) -> int:
        """Log new problems, each once. Return how many are gone.

        Called again and again, since a certificate expires and an authority goes away without a new snapshot. A problem
        whose numbers changed (for how long, how much is left) is the same problem.
        """
        now = frozenset(told(problems))
        known = {_unnumbered(problem) for problem in self._told}
        for problem in sorted(now - self._told):
            if _unnumbered(problem) not in known or problem.where.file:
                level = {"error": logging.ERROR, "warning": logging.WARNING}.get(problem.severity, logging.INFO)
                log.log(level, "%s", problem)
        gone = len(self._told - now)
        self._told = now
        return gone


def _unnumbered(problem: Problem) -> tuple[str, str, str]:
    return problem.severity, problem.object, re.sub(r"\d+", "0", problem.message)
