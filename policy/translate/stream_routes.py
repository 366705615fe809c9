"""TLSRoute and TCPRoute (Gateway API): what becomes of whole connections that come to a listener of a Gateway."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from msgspec import structs

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.gateway_streams import TCPRoute, TLSRoute
from policy.resources import Resource, plain
from policy.route import HttpMatch, Rule
from policy.translate.gateway import Item, backend
from policy.translate.gateway_attachment import has_gateway
from policy.translate.gateway_parents import parents

CLOSED = "its connections are closed"
_NAME = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


def check(route: Resource[Any], known: Input) -> Iterable[Fault]:
    """Yield what makes a route unusable. One without a Gateway of ours among its parents is left alone."""
    if not has_gateway(route, known):
        return
    for number, name in enumerate(route.spec.hostnames or () if isinstance(route.spec, TLSRoute) else ()):
        if not _NAME.fullmatch(name.lower()) or _is_address(name):
            hint = "write a name, or *. and a name; an address is never named in a TLS handshake"
            yield f"$.spec.hostnames[{number}]", f"{name!r} is no server name", hint
    for number, rule in enumerate(route.spec.rules):
        for index, one in enumerate(rule.backend_refs):
            if one.kind == "Service" and one.group in ("", "core") and one.port is None:
                at = f"$.spec.rules[{number}].backendRefs[{index}].port"
                yield at, f"backend {one.name} has no port", "name the Service's port"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def items(route: Resource[TLSRoute | TCPRoute], resources: Input, draft: Draft) -> list[Item]:
    """Return the one rule of a route: it fits every connection that its listener and hostname are for."""
    said = route.spec.rules[0]
    at = "$.spec.rules[0].backendRefs"
    backends = [
        backend(route, one, f"{at}[{index}]", (), resources, draft, needs_grants=True, outcome=CLOSED)
        for index, one in enumerate(said.backend_refs)
    ]
    if not any(one.weight for one in backends):
        draft.report(route, "warning", at, f"every weight is 0: {CLOSED}", "give a backend a weight")
    keys = [one.service for one in backends]
    numbered = tuple(structs.replace(one, number=keys[:index].count(one.service)) for index, one in enumerate(backends))
    rule = Rule(numbered, name=f"{route.title}, rule {said.name or 1}")
    age = (route.metadata.creation_timestamp or "9", route.namespace, route.name)
    return [Item(age, HttpMatch("every connection"), rule)]


def translate(resources: Input, draft: Draft) -> None:
    """Point out the parents for which such a route has no effect here (gateways.py translates the others)."""
    for kind in ("TLSRoute", "TCPRoute.gateway.networking.k8s.io"):
        for route in resources.all(kind):
            for number, parent in parents(route):
                message = (
                    f"a {plain(kind)} of a Service is not done here: Service {parent.name} is called as without it"
                )
                problem = route.problem("warning", f"$.spec.parentRefs[{number}]", message, "name a Gateway")
                draft.problems.append(structs.replace(problem, unmet=True))
