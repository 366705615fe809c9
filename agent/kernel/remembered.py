"""Places that were captured: each stays captured until a person releases it, also when no manifest names it any more.

A place is a named network namespace or a systemd unit. That a workload which vanished from the manifests stays is the
task of policy/lasting.py. This file is about the place: a workload may still be named, but with a typing error in its
`netns`, `systemdUnit` or `node`. Then its former place stays closed: the rules are in force, its listeners are not
served, and every call is refused. The names are kept on disk, since after a reboot nothing else tells of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.kernel import netns
from policy.model import Workload

_NETNS, _UNIT = "netns ", "unit "


def place_of(workload: Workload) -> str:
    """Return the place that a workload names; "" when it is found by address: such a namespace has no lasting name."""
    if workload.unit:
        return f"{_UNIT}{workload.unit}"
    return f"{_NETNS}{netns.path_of(workload.netns)}" if workload.netns else ""


def path_in(place: str) -> str:
    """Return the path of a network namespace; "" for a unit."""
    return place.removeprefix(_NETNS) if place.startswith(_NETNS) else ""


def unit_in(place: str) -> str:
    """Return the name of a unit; "" for a network namespace."""
    return place.removeprefix(_UNIT) if place.startswith(_UNIT) else ""


class Remembered:
    """The workload keys by the place where each was captured, and the places that are abandoned."""

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        self.places = dict(places or {})
        self.abandoned: dict[str, str] = {}
        self._known: dict[str, Workload] = {}
        self._released: set[str] = set()

    def __repr__(self) -> str:
        return f"<Remembered {len(self.places)} places, {len(self.abandoned)} abandoned>"

    def captured(self, workload: Workload) -> None:
        if place := place_of(workload):
            self.places[place] = workload.key

    def look(self, workloads: Iterable[Workload], wanted: Mapping[str, Workload], node: str) -> None:
        """Take what the manifests say now. `wanted`: the workloads that are captured here."""
        self._known = {workload.key: workload for workload in workloads}
        self._released = {key for key in self._released if key not in wanted}
        named: dict[str, list[str]] = {}
        for key, workload in wanted.items():
            named.setdefault(place_of(workload), []).append(key)
        left_alone = {place_of(w) for w in self._known.values() if not w.enrolled and w.node in ("", node)}
        self.abandoned = {}
        for place, key in list(self.places.items()):
            if place in named:
                self.places[place] = key if key in named[place] else named[place][0]
            elif place in left_alone or self.is_released(key):
                del self.places[place]
            else:
                self.abandoned[place] = key

    def in_order(self, wanted: Mapping[str, Workload]) -> list[str]:
        """Return the wanted keys, those first that had their place before.

        So of two workloads that name one place, the one that had it keeps it, also over a restart.
        """
        return sorted(wanted, key=lambda key: self.places.get(place_of(wanted[key])) != key)

    def workload(self, place: str) -> Workload:
        """Return a workload for an abandoned place, with what matters where its listeners are not served."""
        namespace, _, name = self.places[place].partition("/")
        return Workload(namespace, name, "", netns=path_in(place), unit=unit_in(place))

    def stays(self, workload: Workload, path: str) -> bool:
        """Return whether the namespace at `path`, captured for this workload, stays closed when it is not named."""
        return f"{_NETNS}{path}" in self.abandoned or (not place_of(workload) and not self.is_released(workload.key))

    def forget(self, place: str) -> None:
        """Forget a place that is gone for ever: a pod's cgroup, whose uid no other pod has."""
        self.abandoned.pop(place, None)
        self.places.pop(place, None)

    def is_released(self, key: str) -> bool:
        """Return whether a person released this workload, or its manifest says that it is not enrolled."""
        workload = self._known.get(key)
        return key in self._released or (workload is not None and not workload.enrolled)

    def release(self, key: str) -> None:
        """Release the places that a workload had before, and its present one once the workload is not wanted."""
        for place in [place for place, of in self.abandoned.items() if of == key]:
            del self.abandoned[place]
            del self.places[place]
        self._released.add(key)

    def done(self, wanted: Iterable[str]) -> None:
        """Forget the releases that have taken effect: they do not concern the place that a workload has now."""
        self._released.difference_update(wanted)
