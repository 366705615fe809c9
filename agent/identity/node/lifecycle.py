"""The state of one certificate, and when it is requested again. Pure: the time and chance are arguments.

    waiting --Got--> fresh --Failed--> stale --Passed, at its end--> expired
       every refusal by the authority leads to refused; Got leads back to fresh from everywhere

In every state a certificate is used until it expires: a failed renewal takes nothing away.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from nodeproxy.backoff import Backoff

_DAY = 86400.0
_LATEST = 3 * _DAY  # a certificate is renewed by then: a site that is cut off just before has 11 of 14 days left
_JITTER = 0.1  # part of the time until renewal: nodes that joined in one hour must not always renew in one hour
_SOONEST = 1.0  # seconds until a renewal, however short the life

# Seconds. A refusal is a decision and lasts; but a manifest that arrives late, here or there, also causes one.
_UNREACHABLE = Backoff(1.0, 300.0, 1.0, 0.5)
_REFUSED = Backoff(5.0, 900.0, 1.0, 0.5)


class State(Enum):
    WAITING = "waiting"  # there was no certificate yet
    FRESH = "fresh"
    STALE = "stale"  # renewal failed; the certificate is valid until it ends
    EXPIRED = "expired"
    REFUSED = "refused"  # the authority refused; a held certificate is valid until it ends


class Lifecycle(Struct, frozen=True):
    state: State = State.WAITING
    not_before: float = 0.0
    not_after: float = 0.0  # 0: nothing is held
    due: float = 0.0  # when it is requested next, in the time of `now`
    failures: int = 0  # in a row
    error: str = ""  # the last failure, and what to do about it
    hint: str = ""


class Got(Struct, frozen=True):
    """A certificate of this validity arrived. `chance`: from 0 to 1, for the jitter."""

    not_before: float
    not_after: float
    chance: float


class Failed(Struct, frozen=True):
    """A request failed."""

    error: str
    refused: bool
    chance: float
    hint: str = ""


class Sooner(Struct, frozen=True):
    """The certificate is to be renewed within so many seconds, though it is valid."""

    within: float


class Passed(Struct, frozen=True):
    """Time passed."""


class Moved(Struct, frozen=True):
    """The time was corrected: what was computed with the wrong time is computed again."""


Event = Got | Failed | Sooner | Passed | Moved


def step(standing: Lifecycle, event: Event, now: float) -> Lifecycle:
    """Return the state after `event`."""
    if isinstance(event, Got):
        due = _due(event.not_before, event.not_after, event.chance, now)
        state = State.FRESH if now < event.not_after else State.EXPIRED
        return Lifecycle(state, event.not_before, event.not_after, due)
    if isinstance(event, Failed):
        failures = standing.failures + 1
        due = now + backoff(failures, event.refused, event.chance)
        state = State.REFUSED if event.refused else State.STALE if standing.not_after else State.WAITING
        state = State.EXPIRED if _ended(standing, now) else state
        return replace(standing, state=state, due=due, failures=failures, error=event.error, hint=event.hint)
    if isinstance(event, Sooner):
        return replace(standing, due=min(standing.due, now + event.within))
    if isinstance(event, Moved):
        # The wrong time may have caused the failures: wait no longer than after the last one.
        longest = (
            now + backoff(standing.failures, True, 0.0)
            if standing.failures
            else _due(standing.not_before, standing.not_after, 0.0, now)
        )
        standing = replace(standing, due=min(standing.due, longest))
        if standing.state is State.EXPIRED:
            standing = replace(standing, state=State.STALE if standing.failures else State.FRESH)
    return replace(standing, state=State.EXPIRED) if _ended(standing, now) else standing


def renewal(not_before: float, not_after: float, chance: float) -> float:
    """Return the renewal time: at half of the life, after three days at the latest, and up to a tenth earlier."""
    return not_before + min((not_after - not_before) / 2, _LATEST) * (1 - _JITTER * chance)


def _due(not_before: float, not_after: float, chance: float, now: float) -> float:
    """Return when to renew: at once when a certificate begins later than now.

    The clock of its issuer was ahead, and no peer accepts it yet.
    """
    return now + _SOONEST if now < not_before else max(renewal(not_before, not_after, chance), now + _SOONEST)


def backoff(failures: int, refused: bool, chance: float) -> float:
    """Return the seconds to wait after so many failures: twice as many each time, up to half of it left to chance."""
    wait = _REFUSED if refused else _UNREACHABLE
    return max(wait.first, wait.after(failures, chance))


def _ended(standing: Lifecycle, now: float) -> bool:
    return standing.not_after > 0 and now >= standing.not_after
