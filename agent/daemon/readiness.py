"""Whether this node does what its manifests ask: starting, degraded or enforcing; and the Problems that prevent it.

*Settled* is the weaker state: everything wanted has been looked at, and whatever could be captured is. It is what the
service manager is told (READY=1), because units that are workloads wait for it before they start. They need a daemon
that captures them, and not that every other workload runs. *Enforcing* is the stronger one: every workload of this node
is captured, or is known not to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.admin.daemon import Readiness
from agent.kernel.condition import Condition
from policy.model import Problem, Where

_CLOSED = "edgemesh release {} opens it; a manifest that names it again, or the workload with enrolled: false, does too"
_HINT = "no policy holds for its calls, and nobody is refused there"


def uncaptured(conditions: Mapping[str, Condition]) -> list[str]:
    """Return the workloads that should be captured and are not, except those known not to run."""
    return sorted(key for key, condition in conditions.items() if not condition.captured and not condition.waiting)


def state(settled: bool, conditions: Mapping[str, Condition]) -> Readiness:
    if not settled:
        return "starting"
    return "degraded" if uncaptured(conditions) else "enforcing"


def in_words(found: Readiness, node: str, conditions: Mapping[str, Condition]) -> str:
    """Return one line, for the log and the service manager."""
    if found == "degraded":
        names = uncaptured(conditions)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"degraded: not captured on {node}: {', '.join(names[:3])}{more}; edgemesh status says why"
    return f"enforces policy on {node}" if found == "enforcing" else f"starting on {node}"


def problems(conditions: Mapping[str, Condition], where: Callable[[str], Where]) -> Iterable[Problem]:
    """Yield an error for each workload that is not captured. `where`: the place of a workload in the manifests."""
    for key in uncaptured(conditions):
        yield Problem(
            "error", where(key), f"Workload {key}", f"is not captured: {conditions[key].error or 'not yet'}", _HINT
        )


def closed(places: Mapping[str, str], unclosed: Mapping[str, str], where: Callable[[str], Where]) -> Iterable[Problem]:
    """Yield a warning for each place that is closed because no manifest names it, an error where closing failed."""
    for place, key in places.items():
        message = f"{place} was captured for it, and nothing names it any more: it stays closed, and every call of it and to it is refused"
        yield Problem("warning", where(key), f"Workload {key}", message, _CLOSED.format(key))
    for place, fault in unclosed.items():
        yield Problem(
            "error", Where(), place, f"was captured, nothing names it any more, and it cannot be closed: {fault}", _HINT
        )
