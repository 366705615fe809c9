"""Routes of Gateways and Ingresses that lead to servers of the mesh which let nobody in who comes that way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policy.build import Built
from policy.entering import shown
from policy.gateway import Listener
from policy.model import Endpoint, Identity, PlainGrant, Problem, Service, Workload
from policy.resources import Resource
from policy.route import Backend
from policy.snapshot import Snapshot
from policy.translate.gateway_attachment import ROUTE_KINDS

_RULE = ", rule "  # stands in the name of a rule between the route's title and the rule's number or name


def entrances(built: Built) -> Iterator[Problem]:
    """Report backends of routes at listeners, to which callers of that listener are not let in."""
    snapshot = built.snapshot
    if snapshot.mesh.permissive or not snapshot.listeners:
        return
    opened = _Opened(snapshot)
    by_title = {one.title: one for kind in (*ROUTE_KINDS, "Ingress") for one in built.resources.all(kind)}
    told: set[tuple[str, str, str]] = set()
    for listener, name, backend in _ways(snapshot):
        title, _, which = name.partition(_RULE)
        route, service = by_title.get(title), snapshot.service(backend.service)
        if route is None or service is None or (name, listener.gateway, backend.service) in told:
            continue
        endpoints = _endpoints(service, backend.port)
        if not endpoints or any(opened.lets_some_in(listener, one) for one in endpoints):
            continue
        told.add((name, listener.gateway, backend.service))
        yield _problem(route, which, listener, service, endpoints[0].port)


def _ways(snapshot: Snapshot) -> Iterator[tuple[Listener, str, Backend]]:
    """Yield each backend that callers of a listener may be led to, with the name of the rule."""
    for listener in snapshot.listeners:
        for host in listener.hosts:
            for route in host.service.routes:
                for rule in route.rules:
                    for backend in rule.backends:
                        if backend.weight:
                            yield listener, rule.name, backend


def _endpoints(service: Service, number: int) -> tuple[Endpoint, ...]:
    port = next((one for one in service.ports if one.port == number and one.transport == "tcp"), None)
    return () if port is None else port.endpoints


def _problem(route: Resource[Any], which: str, listener: Listener, service: Service, port: int) -> Problem:
    at = f"$.spec.rules[{int(which) - 1}]" if which.isdigit() else "$.spec.rules"
    whose = shown(listener.gateway)
    message = f"Service {service.key} lets in nobody who comes by {whose}: such calls get 403"
    kind, _, name = whose.partition(" ")
    space, _, name = name.rpartition("/")
    source = f"kind: {kind}, name: {name}" + (f", namespace: {space}" if space not in ("", service.namespace) else "")
    hint = f"an IngressBackend of namespace {service.namespace} opens port {port} of its servers, with a source {{{source}}}"
    return route.problem("warning", at, message, hint)


class _Opened:
    """What lets callers from outside in to which workload and port."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._plain: dict[tuple[str, int], list[PlainGrant]] = {}
        for grant in snapshot.plain:
            for port in grant.ports:
                self._plain.setdefault((grant.destination, port), []).append(grant)
        # Who has an identity of the mesh that a listener may learn from a certificate
        self._proved: frozenset[Identity] = frozenset(grant.destination for grant in snapshot.grants)

    def lets_some_in(self, listener: Listener, endpoint: Endpoint) -> bool:
        """Return whether an endpoint may take some call of the listener."""
        workload = self._snapshot.workload(endpoint.workload)
        return workload is None or not workload.enrolled or self._admits(listener, workload, endpoint.port)

    def _admits(self, listener: Listener, workload: Workload, port: int) -> bool:
        strict = self._snapshot.mtls(workload.namespace) == "strict"
        asks = listener.clients is not None and not listener.clients.optional
        if asks and workload.identity in self._proved:
            return True
        return any(
            (grant.networks and (grant.strict or not strict))
            or listener.gateway in grant.gateways
            or (asks and grant.principals and listener.gateway.startswith(f"{workload.namespace}/"))
            for grant in self._plain.get((workload.key, port), ())
        )
