"""Which addresses resolvers gave one workload for which names (sans-IO; seconds of a monotonic clock).

Policy lets calls out of the mesh by name. What a caller writes as Host or as the server name of TLS proves nothing of
where it goes: the name counts only with an address that DNS gave for it. A program keeps an address somewhat longer
than its TTL says, hence GRACE.
"""

from __future__ import annotations

from collections.abc import Iterable

GRACE = 600.0  # seconds after its TTL for which an address is still that name's
MOST_NAMES = 1024  # of one workload, which chooses what it asks
MOST_ADDRESSES = 4096  # of all its names together; one answer has 200 at most


class Ties:
    """The names of one workload, with the addresses of each. The name that was asked for least lately gives way."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, float]] = {}  # until when each address counts
        self._addresses = 0
        self.distrusted = ""  # the last resolver that was asked and does not count
        self.trusted: tuple[str, int] | None = None  # the last one that counts

    def __repr__(self) -> str:
        return f"<Ties of {len(self._names)} names, {self._addresses} addresses>"

    def give(self, name: str, addresses: Iterable[str], ttl: float, now: float) -> None:
        """Record an answer: for `ttl` seconds this name, in lower case and without a final dot, has these addresses."""
        before = self._names.pop(name, {})
        self._addresses -= len(before)
        found = {address: until for address, until in before.items() if until > now}
        for address in addresses:
            found[address] = max(now + ttl + GRACE, found.get(address, 0.0))
        if not found:
            return
        self._names[name] = found
        self._addresses += len(found)
        while len(self._names) > MOST_NAMES or (self._addresses > MOST_ADDRESSES and len(self._names) > 1):
            self._addresses -= len(self._names.pop(next(iter(self._names))))

    def has(self, name: str, address: str, now: float) -> bool:
        """Return whether a resolver gave this address for this name, and not too long ago."""
        return self._names.get(name, {}).get(address, 0.0) > now
