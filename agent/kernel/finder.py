"""Which namespace a workload runs in that only its addresses tell."""

from __future__ import annotations

import errno

from msgspec import Struct

from agent.kernel import netns
from policy.model import Workload


class _Seen(Struct):
    path: str
    since: float
    read: float  # when its addresses were
    addresses: frozenset[str]


class Finder:
    """Namespaces by address, for pods: their namespaces have names that nobody tells us.

    A workload with NET_ADMIN can give itself any address, so an address that two namespaces have says nothing: who is found by
    it would be whoever claims it. Then neither is taken, and people are told.

    All are looked at only while somebody is sought; one that is new, in every round, because it gets its addresses after its name.
    """

    _NEW, _STALE = 5.0, 2.0  # seconds

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._paths: dict[str, set[str]] | None = None
        self._now = 0.0

    def begin(self, now: float) -> None:
        """A new round."""
        self._now = now
        self._paths = None

    def path_of(self, workload: Workload) -> str:
        """The namespace that alone has an address of this workload; "" for none. Raises OSError when several claim one."""
        paths = self._look() if self._paths is None else self._paths
        found = {path for address in workload.addresses for path in paths.get(address, ())}
        if len(found) > 1:
            names = ", ".join(sorted(found))
            raise OSError(errno.EEXIST, f"several network namespaces have its addresses: {names}; name the right one with netns")
        return next(iter(found), "")

    def _look(self) -> dict[str, set[str]]:
        now, before = self._now, self._seen
        self._seen, self._paths = {}, {}
        for path in netns.named():
            key = netns.identity(path)
            if key is None or key in self._seen or key == netns.own():
                continue  # a second name of the same, or the node's own
            seen = before.get(key)
            if seen is None or seen.path != path or now - seen.since < self._NEW or now - seen.read >= self._STALE:
                seen = _Seen(path, seen.since if seen else now, now, netns.addresses_in(path))
            self._seen[key] = seen
            for address in seen.addresses:
                self._paths.setdefault(address, set()).add(path)
        return self._paths
