"""What resolvers answered one workload, kept within its share of the node's memory (sans-IO; seconds of a monotonic
clock).

An answer is fresh for its TTL. After that its resolver is asked first. While the resolver gives no answer, the old one
is good for MAX_STALE (RFC 8767). That a question failed is kept too, for a second at first, so that not everybody who
asks it waits again (RFC 9520).

Each workload has a cache of its own: what one may have learned from a resolver of its choice, another one does not see.
A cache that needs room takes it from its own oldest answers. Where the node's memory is full, the largest cache gives
way. So no workload loses anything while it has no more than an equal share.
"""

from __future__ import annotations

from typing import NamedTuple

from nodeproxy.codec.dns_reply import Kept

MAX_STALE = 3 * 86400.0  # seconds; RFC 8767 section 5: one to three days
STALE_TTL = 30  # seconds for which a client may keep an old answer; the same section
RECHECK = 30.0  # seconds until a question that failed is asked again, if there is an old answer; the same section
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # the same, if there is none; RFC 9520 section 3.2: at least 1, at most 300
NODE_BYTES = 4 << 20  # of all caches of a node
WORKLOAD_BYTES = 256 << 10  # of one; some 300 names
_ENTRY, _RECORD = 500, 150  # bytes that Python takes for an entry and for a record in it, beside what they contain

Key = tuple[tuple[str, int], str, int, int]  # the resolver; name, type and flags of the question


class Entry:
    """What is known of the answer to one question. `kept` None: only that it failed."""

    __slots__ = ("end", "failures", "kept", "pause_until", "size", "until")

    def __init__(self, kept: Kept | None, until: float, end: float, size: int) -> None:
        self.kept = kept
        self.until = until  # the end of its TTL
        self.end = end  # it is forgotten then
        self.size = size
        self.failures = 0  # in a row, since it was last answered
        self.pause_until = float("-inf")  # it failed, and is not asked again before

    def __repr__(self) -> str:
        return f"<Entry until {self.until:.1f}, {self.failures} failures>"


class Usage(NamedTuple):
    """What all caches of a node hold."""

    entries: int
    bytes: int


class Budget:
    """The memory for the caches of a node."""

    def __init__(self, most: int = NODE_BYTES) -> None:
        """`most`: bytes; 0: nothing is kept."""
        self.most = most
        self.used = 0
        self._caches: list[Cache] = []

    def __repr__(self) -> str:
        return f"<Budget {self.used}/{self.most} bytes in {len(self._caches)} caches>"

    def cache(self) -> Cache:
        """Return a new cache within this memory. It must be closed."""
        cache = Cache(self)
        self._caches.append(cache)
        return cache

    def leave(self, cache: Cache) -> None:
        self._caches.remove(cache)
        self.used -= cache.used

    def make_room(self) -> None:
        while self.used > self.most:
            max(self._caches, key=lambda cache: cache.used).drop_oldest()

    def usage(self) -> Usage:
        return Usage(sum(len(cache) for cache in self._caches), self.used)


class Cache:
    """The answers of one workload's resolvers, the least recently used first."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._entries: dict[Key, Entry] = {}
        self._closed = False
        self.used = 0

    def __repr__(self) -> str:
        return f"<Cache {len(self._entries)} answers, {self.used} bytes>"

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Give its memory back. It keeps nothing afterwards."""
        self._budget.leave(self)
        self._closed = True
        self._entries.clear()
        self.used = 0

    def anew(self) -> Cache:
        """Close it, and return an empty one within the same memory."""
        self.close()
        return self._budget.cache()

    def find(self, key: Key, now: float) -> Entry | None:
        """Return what is known of a question's answer, which may be old."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        if now >= entry.end:
            self._count(-entry.size)
            return None
        self._entries[key] = entry  # the last one now
        return entry

    def put(self, key: Key, kept: Kept, now: float) -> None:
        """Keep an answer, unless it says that it is not to be kept (RFC 1035 section 3.2.1: TTL 0)."""
        if kept.ttl:
            size = _ENTRY + _RECORD * (len(kept.answers) + len(kept.authority)) + kept.size + 2 * len(key[1])
            until = now + kept.ttl
            self._store(key, Entry(kept, until, until + MAX_STALE, size))
        else:
            self._forget(key)

    def failed(self, key: Key, now: float) -> None:
        """Record that a question got no answer."""
        entry = self._entries.get(key)
        if entry is None:
            entry = Entry(None, now, now, _ENTRY + 2 * len(key[1]))
            self._store(key, entry)
        entry.failures += 1
        if entry.kept is not None:
            entry.pause_until = now + RECHECK
        else:
            pause = min(_FIRST_PAUSE * 2.0 ** min(entry.failures - 1, 9), _LONGEST_PAUSE)
            entry.pause_until = now + pause
            entry.end = now + pause + _LONGEST_PAUSE

    def resume(self, resolver: tuple[str, int]) -> None:
        """Let everything be asked again that failed at this resolver: it answers again."""
        for key, entry in self._entries.items():
            if key[0] == resolver:
                entry.pause_until = float("-inf")

    def drop_oldest(self) -> None:
        self._count(-self._entries.pop(next(iter(self._entries))).size)

    def _store(self, key: Key, entry: Entry) -> None:
        self._forget(key)
        if self._closed:
            return
        self._entries[key] = entry
        self._count(entry.size)
        while self.used > WORKLOAD_BYTES:
            self.drop_oldest()
        self._budget.make_room()

    def _forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._count(-entry.size)

    def _count(self, size: int) -> None:
        self.used += size
        self._budget.used += size
