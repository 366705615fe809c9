"""Which listeners take which routes: parentRefs of routes that name a Gateway or ListenerSet of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from policy.draft import Input
from policy.gateway import Attachment, shared
from policy.kinds.gateway import ParentRef
from policy.resources import Resource, plain
from policy.translate.gateway_listeners import Asked, age, taken
from policy.translate.gateway_parents import GROUP
from policy.translate.gateway_references import admits

_PARENTS = ("Gateway", "ListenerSet")
ROUTE_KINDS = (
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute.gateway.networking.k8s.io",
)  # names of their rows in KINDS


class Attached(Struct, frozen=True):
    """A route at one listener, for these hosts of it."""

    listener: Asked
    hostnames: tuple[str, ...]


class Taking(Struct, frozen=True):
    """What became of one parent of one route."""

    attachment: Attachment
    attached: tuple[Attached, ...] = ()


def is_gateway(parent: ParentRef) -> bool:
    """Return whether a parent is a Gateway or ListenerSet, of whichever class."""
    return parent.kind in _PARENTS and parent.group in (None, GROUP)


def has_gateway(route: Resource[Any], resources: Input) -> bool:
    """Return whether a Gateway or ListenerSet of ours is among the parents of a route."""
    return any(True for _ in _parents(route, resources))


def _owner(route: Resource[Any], parent: ParentRef) -> str:
    return f"{parent.kind} {parent.namespace or route.namespace}/{parent.name}"


def _parents(route: Resource[Any], resources: Input) -> Iterator[tuple[int, ParentRef]]:
    owners = resources.once(_owners)
    for number, parent in enumerate(route.spec.parent_refs or ()):
        if is_gateway(parent) and _owner(route, parent) in owners:
            yield number, parent


def _owners(resources: Input) -> frozenset[str]:
    found = taken(resources)
    owners: tuple[Resource[Any], ...] = (*found.gateways, *found.sets, *found.turned_away)
    return frozenset(one.title for one in owners)


def attach(resources: Input) -> dict[str, tuple[Taking, ...]]:
    """Return what became of the parents of ours that each route names, by the route's title, the oldest route first.

    Where an HTTPRoute and a GRPCRoute are for the same hosts of one listener, the older one has it (GRPCRoute's own page).
    """
    routes = [route for kind in ROUTE_KINDS for route in resources.all(kind)]
    kinds: dict[str, list[tuple[str, str]]] = {}  # by listener: kind and hostname of the routes that have it
    return {
        route.title: found
        for route in sorted(routes, key=age)
        if (
            found := tuple(
                _attach(route, number, parent, resources, kinds) for number, parent in _parents(route, resources)
            )
        )
    }


def _attach(
    route: Resource[Any], number: int, parent: ParentRef, resources: Input, kinds: dict[str, list[tuple[str, str]]]
) -> Taking:
    owner = _owner(route, parent)

    def refused(reason: str, message: str) -> Taking:
        return Taking(Attachment(route.title, number, (), reason, message))

    named = [
        one
        for one in taken(resources).listeners
        if one.owner.title == owner
        and parent.section_name in (None, "", one.said.name)
        and parent.port in (None, one.said.port)
    ]
    if not named:
        wanted = " ".join(str(one) for one in (parent.section_name, parent.port) if one)
        return refused("NoMatchingParent", f"{owner} has no listener {wanted}".rstrip())
    allowing = [one for one in named if _allows(one, route, resources)]
    if not allowing:
        article = "an" if route.kind == "HTTPRoute" else "a"
        return refused(
            "NotAllowedByListeners",
            f"no listener of {owner} takes {article} {plain(route.kind)} of namespace {route.namespace}",
        )
    fitting = [(one, hosts) for one in allowing if (hosts := _hosts(one, route))]
    if not fitting:
        return refused("NoMatchingListenerHostname", f"no listener of {owner} is for {', '.join(route.spec.hostnames)}")
    free = [(one, hosts) for one, hosts in fitting if not _has_other(kinds.get(one.key, ()), route.kind, hosts)]
    if not free:
        other = "GRPCRoute" if route.kind == "HTTPRoute" else "HTTPRoute"
        return refused("NotAllowedByListeners", f"an older {other} has these hosts of {owner}")
    for one, hosts in free:
        kinds.setdefault(one.key, []).extend((route.kind, host) for host in hosts)
    attachment = Attachment(route.title, number, tuple(one.key for one, _ in free))
    return Taking(attachment, tuple(Attached(one, hosts) for one, hosts in free))


def _allows(one: Asked, route: Resource[Any], resources: Input) -> bool:
    chosen = one.said.allowed_routes.namespaces if one.said.allowed_routes is not None else None
    return plain(route.kind) in one.kinds and admits(chosen, "Same", one.owner.namespace, route.namespace, resources)


def _hosts(one: Asked, route: Resource[Any]) -> tuple[str, ...]:
    """Return the hosts of a listener that a route is for; () if there are none."""
    wanted = [name.lower() for name in getattr(route.spec, "hostnames", None) or ()] or [""]
    both = (shared(one.hostname, name) for name in wanted)
    return tuple(dict.fromkeys(name for name in both if name is not None))


def _has_other(routes: Sequence[tuple[str, str]], kind: str, hosts: Sequence[str]) -> bool:
    return any(other != kind and shared(name, host) is not None for other, name in routes for host in hosts)
