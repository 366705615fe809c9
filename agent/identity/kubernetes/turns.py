"""Callers have turns: who asks for much waits for itself alone. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque

_OF_ONE = 256  # requests of one caller that wait; more are found again by the next list
_CALLERS = 4096


class Turns:
    """Names that wait, by caller, each once. A name that was taken is not added before `done`."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[str]] = OrderedDict()
        self._names: set[str] = set()
        self._taken: set[str] = set()

    def __repr__(self) -> str:
        return f"<Turns {len(self._names)} of {len(self._waiting)} callers>"

    def add(self, caller: str, name: str) -> bool:
        """Return False when there is no room."""
        if name in self._taken or name in self._names:
            return True
        if caller not in self._waiting and len(self._waiting) >= _CALLERS:
            return False
        queue = self._waiting.setdefault(caller, deque())
        if len(queue) >= _OF_ONE:
            return False
        queue.append(name)
        self._names.add(name)
        return True

    def take(self) -> str | None:
        """Return the next name, of the caller whose turn it is; None when nothing waits."""
        if not self._waiting:
            return None
        caller, queue = self._waiting.popitem(last=False)
        name = queue.popleft()
        if queue:
            self._waiting[caller] = queue  # at the end
        self._names.discard(name)
        self._taken.add(name)
        return name

    def done(self, name: str, again: str = "") -> None:
        """Note that a taken name was dealt with. `again`: it waits once more, as a request of this caller."""
        self._taken.discard(name)
        if again:
            self.add(again, name)
