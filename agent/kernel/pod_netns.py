"""Find the namespace of a workload whose manifest does not name one: by the runtime's record, else by its addresses."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Mapping

from msgspec import Struct

from agent.kernel import netns
from agent.kernel.sandboxes import Sandboxes
from policy.model import Workload

log = logging.getLogger("edgemesh.kernel")

_NEW = 5.0  # seconds after its name appears in which a namespace receives the addresses that count as its own
_STALE = 2.0  # seconds between reads of the addresses of a namespace that is not new
_MOST = 8192  # namespaces that are remembered at most


class _Seen(Struct):
    path: str
    cookie: int
    since: float  # when the name was first seen
    moments: float  # until when addresses that it receives count as its own
    read: float  # when the addresses were last read
    addresses: frozenset[str]


class PodNamespaces:
    """Namespaces of pods, which have names that no API reports.

    Where the container runtime recorded in which namespace a pod of that namespace and name runs (sandboxes.py), it is
    that one, whatever addresses the pod has: after a pod was made anew, they are others than a manifest or a cached
    object says. A namespace that is recorded for one pod is never another's, so an address that passes from pod to pod
    takes no identity along. Only without such a record addresses are looked at.

    A workload with NET_ADMIN can give itself any address, also that of a pod that is briefly away. So an address alone
    does not identify a workload. A second fact, which the namespace's processes cannot change, must show that the
    address is that namespace's own: the container runtime recorded that it assigned the address, or, for a
    namespace without such a record, the namespace had the address in the moments after it was made.

    So namespaces are read as soon as they have a name, whichever workload is looked for at that time. The first
    addresses of each are remembered (`met`) by the kernel's cookie for it, which is never reused, also over a restart
    of the daemon. A namespace that was made while no daemon ran keeps the addresses that it has, except those that
    another had before. When two namespaces have one address as their own, neither is taken, and the condition says so.
    """

    def __init__(self, met: Mapping[int, Iterable[str]] | None = None, sandboxes: Sandboxes | None = None) -> None:
        self.met: dict[int, frozenset[str]] = {cookie: frozenset(first) for cookie, first in (met or {}).items()}
        self.sandboxes = sandboxes or Sandboxes()
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._claims: dict[str, list[tuple[int, int]]] | None = None
        self._given: Mapping[tuple[int, int], frozenset[str]] = {}
        self._pods: dict[tuple[int, int], str] = {}  # the pod that is recorded for a namespace
        self._recorded: dict[str, list[tuple[str, str]]] = {}  # UID and path by pod, the oldest first
        self._addresses: dict[tuple[int, int] | None, frozenset[str]] = {}  # as recorded for a namespace
        self._names_read = False
        self._began = False
        self._changed = -1  # modification time of the directory of names
        self._until = 0.0
        self._told: set[str] = set()
        self._now = 0.0

    def __repr__(self) -> str:
        return f"<PodNamespaces of {len(self._seen)} namespaces, {len(self.met)} met>"

    def begin(self, now: float, needed: bool = True) -> None:
        """Begin a round. `needed`: there are workloads known by their addresses only, found or not."""
        self._now = now
        self._claims = None
        self._names_read = False
        if needed:
            self._meet()

    def _meet(self) -> None:
        """Read namespaces that are new. Costs one system call where there are none."""
        try:
            changed = os.stat(netns.FOLDER).st_mtime_ns
        except OSError:
            changed = 0
        if changed != self._changed:
            self._changed, self._until = changed, self._now + _NEW
        if self._now < self._until:
            self._look(new_only=True)

    def recorded(self, workload: Workload) -> str:
        """Return the path of the namespace that is recorded for a pod; "" for none.

        A pod that has its name and another UID is another pod: it may have another identity. Of two sandboxes of one
        pod the one that was made last counts: the other is about to be removed.
        """
        self._read_names()
        for uid, path in reversed(self._recorded.get(workload.key, ())):
            if not differ(uid, workload.uid):
                return path
        return ""

    def given(self, which: tuple[int, int] | None) -> frozenset[str]:
        """Return the addresses that the container runtime recorded for a namespace; none where it did not."""
        self._read_names()
        return self._addresses.get(which, frozenset())

    def _read_names(self) -> None:
        if self._names_read:
            return
        self._names_read = True
        self._pods, self._recorded, self._addresses = {}, {}, {}
        placed = sorted(self.sandboxes.believed(self._now).values(), key=lambda one: one.sandbox.made)
        for one in placed:
            self._addresses[one.which] = one.sandbox.addresses
            if pod := one.sandbox.pod:
                self._pods[one.which] = pod
        # A pod's namespace that passed to another pod is only the latter's.
        for one in placed:
            if self._pods.get(one.which) == (pod := one.sandbox.pod):
                self._recorded.setdefault(pod, []).append((one.sandbox.uid, one.sandbox.netns))

    def _read_given(self) -> Mapping[tuple[int, int], frozenset[str]]:
        found: dict[tuple[int, int], frozenset[str]] = {}
        for sandbox in self.sandboxes.read(self._now).values():
            if sandbox.addresses and (which := netns.identity(sandbox.netns)) is not None:
                found[which] = found.get(which, frozenset()) | sandbox.addresses
        return found

    def path_of(self, workload: Workload) -> str:
        """Return the path of this workload's namespace; "" for none. Raise OSError when it cannot be determined."""
        if path := self.recorded(workload):
            return path
        if self._claims is None:
            self._look()
            self._given = self._read_given()
            self._claims = {}
            for key, seen in self._seen.items():
                for address in seen.addresses:
                    self._claims.setdefault(address, []).append(key)
        found = {key for address in workload.addresses for key in self._claims.get(address, ())}
        doubts = {key: self._doubt(key, workload) for key in found}
        sure = [key for key in found if not doubts[key]]
        names = ", ".join(sorted(self._seen[key].path for key in found))
        if len(sure) == 1:
            path = self._seen[sure[0]].path
            if len(found) > 1 and names not in self._told:
                self._told.add(names)
                log.warning(
                    "%s: several network namespaces have its addresses: %s; only %s got them as its own",
                    workload.key,
                    names,
                    path,
                )
            return path
        if len(found) > 1:
            raise OSError(
                errno.EEXIST, f"several network namespaces have its addresses: {names}; name the right one with netns"
            )
        for key in found:
            raise OSError(
                errno.EPERM, f"{names} has its address, and {doubts[key]}; if it is the right one, name it with netns"
            )
        return ""

    def _doubt(self, key: tuple[int, int], workload: Workload) -> str:
        """Return why a namespace that has a workload's address is not the workload's; "" when it is."""
        seen = self._seen[key]
        mine = seen.addresses.intersection(workload.addresses)
        if pod := self._pods.get(key):
            return f"the container runtime made it for pod {pod}"
        given = self._given.get(key)
        if given is not None:
            return "" if mine <= given else f"the container runtime gave it {', '.join(sorted(given)) or 'none'}"
        if any(mine & others for others in self._given.values()):
            return "the container runtime gave that to another one"
        return "" if mine <= self.met.get(seen.cookie, frozenset()) else "that did not come with it"

    def _look(self, new_only: bool = False) -> None:
        now, before, self._seen = self._now, self._seen, {}
        first_look, self._began = not self._began, True
        fresh = not self.met  # nothing is remembered of this boot: all that exists now existed before the daemon
        for path in netns.named():
            key = netns.identity(path)
            if key is None or key in self._seen or key == netns.own():
                continue  # a second name of one namespace, or the node's own
            seen = before.get(key)
            if seen is None:
                seen = self._met(path, now, first_look, fresh)
                if seen is None:
                    continue  # it cannot be read just now
            elif now - seen.since < _NEW or seen.path != path or (not new_only and now - seen.read >= _STALE):
                cookie, addresses = netns.inspect(path)
                if not cookie:
                    pass  # this one cannot be read either: keep what was read before
                elif cookie != seen.cookie:  # another namespace, which got the inode number of one that is gone
                    self._remember(cookie, self.met.get(cookie, addresses))
                    seen = _Seen(path, cookie, now, now + _NEW, now, addresses)
                else:
                    seen = _Seen(path, cookie, seen.since, seen.moments, now, addresses)
                    if now < seen.moments:
                        self._remember(cookie, self.met.get(cookie, frozenset()) | addresses)
            self._seen[key] = seen

    def _met(self, path: str, now: float, first_look: bool, fresh: bool) -> _Seen | None:
        """Read a namespace that is seen for the first time."""
        cookie, addresses = netns.inspect(path)
        if not cookie:
            return None
        moments = now + _NEW
        if cookie in self.met:
            moments = now  # an earlier daemon knew it
        elif first_look:
            taken = frozenset[str]() if fresh else frozenset().union(*self.met.values())
            self._remember(cookie, addresses - taken)
            if addresses:
                moments = now  # it has its own addresses already
        else:
            self._remember(cookie, addresses)
        return _Seen(path, cookie, now, moments, now, addresses)

    def _remember(self, cookie: int, first: frozenset[str]) -> None:
        self.met[cookie] = first
        while len(self.met) > _MOST:
            del self.met[next(iter(self.met))]


def differ(uid: str, other: str) -> bool:
    """Return whether two UIDs are known to be those of two pods; "" is not known."""
    return bool(uid and other) and uid != other
