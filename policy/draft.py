"""The mutable half of a snapshot: translators write into it, one after another; `freeze` ends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from policy.model import Exclusions, Grant, Mesh, Problem, Service, Severity, Split, Workload
from policy.resources import Resource
from policy.snapshot import Snapshot


class Input:
    """The objects in force, by kind and by name; each kind in order of names, so that the outcome does not hang on input order."""

    def __init__(self, resources: Iterable[Resource[Any]]) -> None:
        self._by_kind: dict[str, dict[str, Resource[Any]]] = {}
        for resource in resources:
            self._by_kind.setdefault(resource.kind, {})[resource.key if resource.namespace else resource.name] = resource

    def all(self, kind: str) -> Iterable[Resource[Any]]:
        return sorted(self._by_kind.get(kind, {}).values(), key=lambda r: (r.namespace, r.name))

    def get(self, kind: str, key: str) -> Resource[Any] | None:
        """`key` is "namespace/name", or the name of an object that has no namespace."""
        return self._by_kind.get(kind, {}).get(key)


class Draft:
    """What translators have found so far."""

    def __init__(self, node: str, kept: Mapping[str, Sequence[str]], ranges: Sequence[str]) -> None:
        self.node = node
        self.kept = kept
        self.ranges = ranges
        self.mesh = Mesh()
        self.exclusions = Exclusions()
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.splits: dict[str, Split] = {}
        self.grants: list[Grant] = []
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
        )
