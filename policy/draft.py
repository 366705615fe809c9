"""Input: the objects in force. Draft: the snapshot while translators write it, one after another; `freeze` ends it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from policy.gateway import Gateways, Listener
from policy.model import (
    CallerRetry,
    EgressGrant,
    Exclusions,
    Grant,
    Identity,
    Mesh,
    Mtls,
    Names,
    Node,
    PlainGrant,
    Problem,
    Revoked,
    Service,
    Severity,
    Workload,
)
from policy.near import did_you_mean
from policy.resources import Resource
from policy.route import Route
from policy.snapshot import Snapshot
from policy.upstream import ServiceBounds

_T = TypeVar("_T")
_GUESSES = 100  # words per build that are compared with known names, because each comparison takes time
_COMPARED = 500  # names that one word is compared with


class Input:
    """The objects in force, by kind and sorted by name: the result does not depend on the order of the input."""

    def __init__(self, resources: Iterable[Resource[Any]]) -> None:
        self._by_kind: dict[str, dict[str, Resource[Any]]] = {}
        for resource in resources:
            self._by_kind.setdefault(resource.kind, {})[resource.key if resource.namespace else resource.name] = (
                resource
            )
        self._made: dict[object, Any] = {}
        self._guesses = _GUESSES

    def all(self, kind: str) -> Iterable[Resource[Any]]:
        return sorted(self._by_kind.get(kind, {}).values(), key=lambda r: (r.namespace, r.name))

    def every(self) -> Iterable[Resource[Any]]:
        """Return the objects of all kinds, in no particular order."""
        return itertools.chain.from_iterable(of.values() for of in self._by_kind.values())

    def get(self, kind: str, key: str) -> Resource[Any] | None:
        """Return one object, or None. `key` is "namespace/name", or the name of an object that has no namespace."""
        return self._by_kind.get(kind, {}).get(key)

    def once(self, make: Callable[[Input], _T]) -> _T:
        """Return `make(self)`. It is computed once and cached."""
        if make not in self._made:
            self._made[make] = make(self)
        found: _T = self._made[make]
        return found

    def near(self, word: str, known: Iterable[str]) -> str:
        """Return "did you mean X?" for an unknown name.

        Return "" if no known name is similar, or after _GUESSES in this build.
        """
        if self._guesses <= 0:
            return ""
        self._guesses -= 1
        return did_you_mean(word, itertools.islice(known, _COMPARED))

    def missing(self, kind: str, namespace: str, name: str) -> str:
        """Return a hint where an object may be that is not in this namespace; "" if there is no hint."""
        names = self.once(_names)
        elsewhere = (
            [of for (one, of), there in names.items() if one == kind and name in there] if self._guesses > 0 else []
        )
        if elsewhere:
            self._guesses -= 1
            return f"there is one in namespace {elsewhere[0]}"
        return self.near(name, names.get((kind, namespace), ()))


def _names(resources: Input) -> Mapping[tuple[str, str], frozenset[str]]:
    """Return all names, by kind and namespace."""
    found: dict[tuple[str, str], set[str]] = {}
    for resource in resources.every():
        found.setdefault((resource.kind, resource.namespace), set()).add(resource.name)
    return {key: frozenset(names) for key, names in sorted(found.items())}


class Draft:
    """The output of the translators so far."""

    def __init__(
        self,
        node: str,
        kept: Mapping[str, Sequence[str]],
        ranges: Sequence[str],
        nodes: Iterable[Node] = (),
        doors: Sequence[str] = (),
    ) -> None:
        self.node = node
        self.nodes = {one.name: one for one in nodes}
        self.kept = kept
        self.ranges = ranges
        self.doors = doors  # ranges of which each Gateway gets an address
        self.mesh = Mesh()
        self.exclusions = Exclusions()
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.routes: dict[str, tuple[Route, ...]] = {}  # by key of the Service
        self.grants: list[Grant] = []
        self.trials: list[Grant] = []
        self.retries: dict[tuple[str, Identity], CallerRetry] = {}  # by key of the Service, and caller
        self.modes: dict[str, Mtls] = {}
        self.revoked = Revoked()
        self.plain: list[PlainGrant] = []
        self.egress: list[EgressGrant] = []
        self.outside: dict[str, ServiceBounds] = {}  # by title of the Egress
        self.names = Names()
        self.isolated: tuple[tuple[str, str], ...] = ()  # range, and the Isolation that cuts it off
        self.unread: tuple[str, ...] = ()  # keys of Services that exist and are not in force
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.listeners: list[Listener] = []  # of Gateways
        self.gateways = Gateways()
        self.problems: list[Problem] = []

    def report(self, resource: Resource[Any], severity: Severity, path: str, message: str, hint: str = "") -> None:
        self.problems.append(resource.problem(severity, path, message, hint))

    def freeze(self) -> Snapshot:
        services = []
        for key in sorted(self.services):
            routes = self.routes.get(key)
            services.append(replace(self.services[key], routes=routes) if routes else self.services[key])
        return Snapshot(
            self.node,
            self.mesh,
            tuple(self.workloads[key] for key in sorted(self.workloads)),
            tuple(services),
            tuple(sorted(self.grants, key=_order)),
            self.addresses,
            tuple(self.nodes[name] for name in sorted(self.nodes)),
            dict(sorted(self.modes.items())),
            self.revoked,
            tuple(sorted(self.plain, key=lambda g: (g.destination, g.rule, g.ports, g.networks))),
            self.names,
            tuple(self.listeners),
            self.gateways,
            trials=tuple(sorted(self.trials, key=_order)),
            outside=dict(sorted(self.outside.items())),
            egress=tuple(sorted(self.egress, key=lambda g: (g.source, g.rule))),
            retries=tuple(self.retries[key] for key in sorted(self.retries)),
            isolated=self.isolated,
        )

    def mtls(self, namespace: str) -> Mtls:
        return self.modes.get(namespace, self.mesh.mtls)


def _order(grant: Grant) -> tuple[Identity, Identity, str]:
    return grant.destination, grant.source, grant.rule
