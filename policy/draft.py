"""The mutable half of a snapshot: translators write into it, one after another; `freeze` ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from policy.model import Exclusions, Grant, Mesh, Mtls, Node, PlainGrant, Problem, Revoked, Service, Severity, Split, Workload
from policy.resources import Resource
from policy.snapshot import Snapshot

_T = TypeVar("_T")


class Input:
    """The objects in force, by kind and by name; each kind in order of names, so that the outcome does not hang on input order."""

    def __init__(self, resources: Iterable[Resource[Any]]) -> None:
        self._by_kind: dict[str, dict[str, Resource[Any]]] = {}
        for resource in resources:
            self._by_kind.setdefault(resource.kind, {})[resource.key if resource.namespace else resource.name] = resource
        self._made: dict[object, Any] = {}

    def all(self, kind: str) -> Iterable[Resource[Any]]:
        return sorted(self._by_kind.get(kind, {}).values(), key=lambda r: (r.namespace, r.name))

    def get(self, kind: str, key: str) -> Resource[Any] | None:
        """`key` is "namespace/name", or the name of an object that has no namespace."""
        return self._by_kind.get(kind, {}).get(key)

    def once(self, make: Callable[[Input], _T]) -> _T:
        """What `make` makes of these objects, made when it is first asked for."""
        if make not in self._made:
            self._made[make] = make(self)
        found: _T = self._made[make]
        return found


class Draft:
    """What translators have found so far."""

    def __init__(self, node: str, kept: Mapping[str, Sequence[str]], ranges: Sequence[str], nodes: Iterable[Node] = ()) -> None:
        self.node = node
        self.nodes = {one.name: one for one in nodes}
        self.kept = kept
        self.ranges = ranges
        self.mesh = Mesh()
        self.exclusions = Exclusions()
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.splits: dict[str, Split] = {}
        self.grants: list[Grant] = []
        self.modes: dict[str, Mtls] = {}
        self.revoked = Revoked()
        self.plain: list[PlainGrant] = []
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.problems: list[Problem] = []

    def report(self, resource: Resource[Any], severity: Severity, path: str, message: str, hint: str = "") -> None:
        self.problems.append(resource.problem(severity, path, message, hint))

    def freeze(self) -> Snapshot:
        services = []
        for key in sorted(self.services):
            service = self.services[key]
            split = self.splits.get(key)
            services.append(Service(service.namespace, service.name, service.addresses, service.ports, split))
        return Snapshot(
            self.node,
            self.mesh,
            tuple(self.workloads[key] for key in sorted(self.workloads)),
            tuple(services),
            tuple(sorted(self.grants, key=lambda g: (g.destination, g.source, g.rule))),
            self.addresses,
            tuple(self.nodes[name] for name in sorted(self.nodes)),
            dict(sorted(self.modes.items())),
            self.revoked,
            tuple(sorted(self.plain, key=lambda g: (g.destination, g.rule, g.ports, g.networks))),
        )

    def mtls(self, namespace: str) -> Mtls:
        return self.modes.get(namespace, self.mesh.mtls)
