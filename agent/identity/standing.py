"""Where one certificate stands, and when it is to be asked for again. Pure: the time and chance are arguments.

    waiting --Got--> fresh --Failed--> stale --Passed, at its end--> expired
       every failure that is the authority's no leads to refused; Got leads back to fresh from everywhere

What is held is used to its end in every state: a failed renewal takes nothing away.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

_DAY = 86400.0
_LATEST = 3 * _DAY  # after which a certificate is renewed: of 14 days a site that is cut off just before still has 11
_JITTER = 0.1  # of the time until renewal: the nodes that joined in one hour must not all renew in one hour for ever
_SOONEST = 1.0  # seconds until a renewal, however short the life

# Seconds. A refusal is somebody's decision and lasts; yet a manifest that arrives late here or there is one too.
FIRST_UNREACHABLE, MOST_UNREACHABLE = 1.0, 300.0
FIRST_REFUSED, MOST_REFUSED = 5.0, 900.0


class State(Enum):
    WAITING = "waiting"  # there was none yet
    FRESH = "fresh"
    STALE = "stale"  # its renewal failed; it is good until it ends
    EXPIRED = "expired"
    REFUSED = "refused"  # the authority said no; what is held is good until it ends


class Standing(Struct, frozen=True):
    state: State = State.WAITING
    not_before: float = 0.0
    not_after: float = 0.0  # 0: nothing is held
    due: float = 0.0  # when it is to be asked for, in the time of `now`
    failures: int = 0  # one after the other
    error: str = ""  # of the last failure, and what to do about it
    hint: str = ""


class Got(Struct, frozen=True):
    """A certificate of this validity is there. `chance`: from 0 to 1, for the jitter."""

    not_before: float
    not_after: float
    chance: float


class Failed(Struct, frozen=True):
    """It was asked for in vain."""

    error: str
    refused: bool
    chance: float
    hint: str = ""


class Sooner(Struct, frozen=True):
    """It is to be renewed within so many seconds, though it is good."""

    within: float


class Passed(Struct, frozen=True):
    """Time passed."""


class Moved(Struct, frozen=True):
    """What time it is was corrected: what was reckoned with the wrong one is reckoned anew."""


Event = Got | Failed | Sooner | Passed | Moved


def step(standing: Standing, event: Event, now: float) -> Standing:
    """Where it stands after `event`."""
    if isinstance(event, Got):
        due = max(renewal(event.not_before, event.not_after, event.chance), now + _SOONEST)
        state = State.FRESH if now < event.not_after else State.EXPIRED
        return Standing(state, event.not_before, event.not_after, due)
    if isinstance(event, Failed):
        failures = standing.failures + 1
        due = now + backoff(failures, event.refused, event.chance)
        state = State.REFUSED if event.refused else State.STALE if standing.not_after else State.WAITING
        state = State.EXPIRED if _ended(standing, now) else state
        return replace(standing, state=state, due=due, failures=failures, error=event.error, hint=event.hint)
    if isinstance(event, Sooner):
        return replace(standing, due=min(standing.due, now + event.within))
    if isinstance(event, Moved):
        longest = now + MOST_REFUSED if standing.failures else max(renewal(standing.not_before, standing.not_after, 0.0), now + _SOONEST)
        standing = replace(standing, due=min(standing.due, longest))
        if standing.state is State.EXPIRED:
            standing = replace(standing, state=State.STALE if standing.failures else State.FRESH)
    return replace(standing, state=State.EXPIRED) if _ended(standing, now) else standing


def renewal(not_before: float, not_after: float, chance: float) -> float:
    """At half its life, after three days at the latest, and up to a tenth earlier."""
    return not_before + min((not_after - not_before) / 2, _LATEST) * (1 - _JITTER * chance)


def backoff(failures: int, refused: bool, chance: float) -> float:
    """Seconds to wait after so many failures: twice as many each time, up to half of it left to chance."""
    first, most = (FIRST_REFUSED, MOST_REFUSED) if refused else (FIRST_UNREACHABLE, MOST_UNREACHABLE)
    doubled = min(most, first * 2.0 ** min(failures - 1, 30))
    return max(first, doubled * (1 - chance / 2))


def _ended(standing: Standing, now: float) -> bool:
    return standing.not_after > 0 and now >= standing.not_after
