"""Which resolvers do not answer, so that nobody waits for them (sans-IO; seconds of a monotonic clock).

A resolver behind a dead uplink is silent. Each program waits for it as long as its libc says, for each name of its
search list. So a resolver that leaves a question without an answer for SUSPECT seconds is asked an easy one, twice. If
it answers nothing at all, it is dead: questions to it are not waited for. It is checked again at growing intervals, and
one answer ends that. A resolver that nobody asks any more is forgotten.
"""

from __future__ import annotations

from msgspec import Struct

DEADLINE = 5.0  # seconds that a resolver gets; glibc waits as long (resolv.conf(5), RES_TIMEOUT)
CONNECT = 4.0  # seconds of DEADLINE for a connection: enough to make up for two lost SYNs (RFC 6298)
SUSPECT = 1.0  # seconds of silence after which a resolver is checked
CHECKS = (0.75, 0.75)  # seconds that it gets for each easy question: one lost datagram is no silence
_FIRST_REST, _LONGEST_REST = 2.0, 30.0  # seconds between two checks of one that is dead
FORGOTTEN = 300.0  # seconds without a question, after which it is no longer checked
MOST = 16  # resolvers remembered per workload, which chooses the resolvers it asks; libc knows three

Address = tuple[str, int]


class Known(Struct):
    """What is known of one resolver."""

    answered: float = float("-inf")  # time of the last answer
    asked: float = float("-inf")  # time of the last question of the workload
    down: float | None = None  # since when it does not answer
    silent: bool = False  # questions to it are not waited for
    checks: int = 0  # since it is dead
    watched: bool = False  # somebody checks it


class Memory:
    """The state of the resolvers of one workload."""

    def __init__(self) -> None:
        self._known: dict[Address, Known] = {}

    def __repr__(self) -> str:
        return f"<Memory of {len(self._known)} resolvers, down: {[resolver for resolver, _ in self.down()]}>"

    def down(self) -> list[tuple[Address, float]]:
        """Return the resolvers that do not answer, and since when."""
        return [(resolver, known.down) for resolver, known in self._known.items() if known.down is not None]

    def asks(self, resolver: Address, now: float) -> Known:
        """Record that a question is for this resolver. Return what is known of it."""
        known = self._known.get(resolver)
        if known is None:
            if len(self._known) >= MOST:
                self._known.pop(next(iter(self._known))).silent = False  # it is checked no longer
            known = self._known[resolver] = Known()
        elif known.silent and now - known.asked >= FORGOTTEN:
            known.silent = False  # it was not checked meanwhile, and may be back
        known.asked = now
        return known

    def answered(self, known: Known, now: float) -> None:
        known.answered, known.down, known.silent, known.checks = now, None, False, 0

    def refused(self, known: Known, now: float) -> None:
        """Record that the resolver cannot be asked: the kernel says so at once, and nobody has to wait."""
        if known.down is None:
            known.down = now

    def gave_no_answer(self, known: Known, asked: float) -> bool:
        """Record that a check was not answered. Return whether it is dead: nothing was answered since `asked`."""
        if known.answered >= asked:
            return False
        if known.down is None:
            known.down = asked
        known.silent = True
        return True

    def rest(self, known: Known, now: float) -> float | None:
        """Return the seconds until a dead resolver is checked again; None: no longer, for nobody asks it."""
        if not known.silent or now - known.asked >= FORGOTTEN:
            return None
        known.checks += 1
        return min(_FIRST_REST * 2.0 ** min(known.checks - 1, 9), _LONGEST_REST)
