"""Gateways of ours: they become the listeners that nodes open, with the routes that are attached to each.

What an HTTPRoute or GRPCRoute asks for is translated as for the mesh (gateway.py), with one difference: a backend of
another namespace needs a ReferenceGrant there. Within a host, routes of several objects are merged in their order of precedence.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable
from typing import Any

from msgspec import structs

from policy.draft import Draft, Input
from policy.gateway import (
    STREAMS,
    Attachment,
    ClientCheck,
    Condition,
    Gateways,
    GatewayState,
    Listener,
    ListenerState,
    VirtualHost,
    order,
)
from policy.kinds.gateways import Gateway, ListenerSet
from policy.model import Service, ServicePort
from policy.resources import Resource, plain
from policy.route import Backend, RequestMirror, Route, Rule
from policy.translate.gateway import NO_BACKEND, UNGRANTED, Item, items, ordered
from policy.translate.gateway_attachment import attach
from policy.translate.gateway_listeners import (
    Asked,
    Taken,
    addresses,
    certificates,
    classes,
    exclude_between,
    gateway_of,
    is_served,
    taken,
    wrong_addresses,
)
from policy.translate.gateway_references import granted
from policy.translate.stream_routes import items as stream_items

_UNGRANTED = "ungranted "  # begins the title of an object that a Gateway may not refer to
_MESSAGE = 1024  # characters
_MOST_ADDRESSES = 16  # of a Gateway's status, as its definition has it


def translate(resources: Input, draft: Draft) -> None:
    found = taken(resources)
    given = addresses(found.gateways, draft.doors)
    exclude_between(found.listeners, given)
    behind: dict[str, dict[str, list[Item]]] = {}  # by listener and hostname: the matches of all routes
    titles: dict[tuple[str, str], list[str]] = {}
    attachments: list[Attachment] = []
    for title, takings in attach(resources).items():
        kind, _, key = title.partition(" ")
        route = resources.get(kind, key)
        assert route is not None
        streams = plain(kind) in ("TLSRoute", "TCPRoute")
        its = stream_items(route, resources, draft) if streams else items(route, resources, draft, needs_grants=True)
        rules = list({one.rule.name: one.rule for one in its}.values())
        # A route that names a listener twice is there once.
        places = {
            (one.listener.key, host): one.listener
            for taking in takings
            for one in taking.attached
            for host in one.hostnames
        }
        for asked in {id(one): one for one in places.values()}.values():
            asked.attached += 1
        for listener, host in places:
            if streams and (older := titles.get((listener, host))):
                has = f"{older[0]} is older and has {f'host {host} of ' if host else ''}{listener}"
                draft.report(route, "warning", "$.spec.parentRefs", f"{has}: none of its connections comes here")
            behind.setdefault(listener, {}).setdefault(host, []).extend(its)
            titles.setdefault((listener, host), []).append(title)
        for taking in takings:
            said = conditions(taking.attachment, rules, draft)
            attachments.append(structs.replace(taking.attachment, conditions=said))
            if taking.attachment.reason:
                place = f"$.spec.parentRefs[{taking.attachment.number}]"
                draft.report(route, "warning", place, taking.attachment.message)
    sound = {one.key for one in found.gateways if not _wrong(one)[0]}
    for asked in found.listeners:
        _report(asked, draft)
        if not asked.served or asked.gateway.key not in sound:
            continue
        hosts = tuple(
            VirtualHost(host, _service(asked, host, titles[asked.key, host], behind[asked.key][host]))
            for host in sorted(behind.get(asked.key, {}), key=order)
        )
        at = given[asked.gateway.key]
        draft.listeners.append(_listener(asked, hosts, at, resources, _floats(at, draft)))
    states = [
        *(_of_class(one, draft) for one in resources.once(classes).values()),
        *(_of_gateway(one, found, given[one.key], resources, draft) for one in found.gateways),
        *(_of_set(one, found) for one in found.sets),
        *(_turned_away(one, draft) for one in found.turned_away),
    ]
    draft.gateways = Gateways(tuple(states), tuple(attachments))


def conditions(attachment: Attachment, rules: Iterable[Rule], draft: Draft) -> tuple[Condition, ...]:
    """Return what is said to a parent of a route with these rules."""
    rules = list(rules)
    refused = [f"{rule.name}: {rule.detail}" for rule in rules if rule.refuses and rule.detail != NO_BACKEND]
    told = f"answered 500: {'; '.join(refused)}"[:_MESSAGE]
    if attachment.reason:
        accepted = Condition("Accepted", False, attachment.reason, attachment.message)
    elif refused and len(refused) == len(rules):
        accepted = Condition("Accepted", False, "UnsupportedValue", told)
    else:
        accepted = Condition("Accepted", True, "Accepted")
    lacks = (_lack(backend, draft) for rule in rules for backend in (*rule.backends, *_copies(rule)))
    resolved = next(filter(None, lacks), Condition("ResolvedRefs", True, "ResolvedRefs"))
    if accepted.holds and refused:
        return accepted, resolved, Condition("PartiallyInvalid", True, "UnsupportedValue", told)
    return accepted, resolved


def _copies(rule: Rule) -> Iterable[Backend]:
    """Yield the Services that copies of a rule's requests go to, as backends."""
    filters = itertools.chain(rule.filters, *(one.filters for one in rule.backends))
    return (Backend(one.service, 1, one.port) for one in filters if isinstance(one, RequestMirror))


def _lack(backend: Backend, draft: Draft) -> Condition | None:
    """Return why the reference to a backend cannot be resolved; None if it can."""
    if backend.service.startswith(f"{UNGRANTED} "):
        message = f"no ReferenceGrant lets the route use {backend.service.removeprefix('ungranted ')}"
        return Condition("ResolvedRefs", False, "RefNotPermitted", message)
    if " " in backend.service:
        return Condition("ResolvedRefs", False, "InvalidKind", f"{backend.service} is no Service")
    service = draft.services.get(backend.service)
    if service is None:
        return Condition("ResolvedRefs", False, "BackendNotFound", f"there is no Service {backend.service}")
    if not any(port.port == backend.port and port.transport == "tcp" for port in service.ports):
        return Condition("ResolvedRefs", False, "BackendNotFound", f"{backend.service} has no port {backend.port}")
    return None


def _listener(
    asked: Asked, hosts: tuple[VirtualHost, ...], given: tuple[str, ...], resources: Input, floats: bool
) -> Listener:
    said = asked.said
    passes = said.tls is not None and said.tls.mode == "Passthrough"
    return Listener(
        asked.gateway.key,
        said.name,
        said.port,
        said.protocol,  # type: ignore[arg-type]  # a key of ROUTES
        asked.owner.title,
        given,
        asked.hostname,
        () if passes else certificates(asked),
        passes,
        _clients(asked, resources) if said.protocol in ("HTTPS", "TLS") and not passes else None,
        hosts,
        floats,
    )


def _floats(given: tuple[str, ...], draft: Draft) -> bool:
    """Return whether one of a Gateway's addresses is of no node in particular."""
    networks = [ipaddress.ip_network(one) for one in draft.doors]
    return any(ipaddress.ip_address(address) in network for address in given for network in networks)


def _clients(asked: Asked, resources: Input) -> ClientCheck | None:
    tls = asked.gateway.spec.tls
    if tls is None or tls.frontend is None:
        return None
    own = (one.tls for one in tls.frontend.per_port or () if one.port == asked.said.port)
    validation = next(own, tls.frontend.default).validation
    if validation is None:
        return None
    own_namespace, roots = asked.gateway.namespace, []
    for one in validation.ca_certificate_refs:
        namespace = one.namespace or own_namespace
        lets = granted(resources, "Gateway", own_namespace, one.kind, namespace, one.name, one.group)
        # What it may not use is not read, and without its roots nobody is let in
        roots.append(f"{'' if lets else _UNGRANTED}{one.kind} {namespace}/{one.name}")
    return ClientCheck(tuple(roots), validation.mode == "AllowInsecureFallback")


def _service(asked: Asked, host: str, titles: Iterable[str], matches: list[Item]) -> Service:
    """Return what stands for a virtual host: calls that no rule of it fits are asked of the next one."""
    if asked.said.protocol in STREAMS:  # the oldest route has all connections
        port = ServicePort(asked.said.name, asked.said.port, "tcp")
        route = Route(next(iter(titles)), (matches[0].rule,))
    else:
        port = ServicePort(asked.said.name, asked.said.port, "http")
        route = Route(", ".join(titles), ordered(matches))
    return Service(asked.gateway.namespace, f"{asked.key}, {host or 'every host'}", (), (port,), (route,))


def _report(asked: Asked, draft: Draft) -> None:
    number = next(index for index, one in enumerate(asked.owner.spec.listeners) if one is asked.said)
    for reason, message in (asked.refused, asked.conflict, asked.unresolved):
        if reason:
            told = f"listener {asked.said.name}: {message}"
            draft.report(asked.owner, "warning", f"$.spec.listeners[{number}]", told)


def _of_class(one: Resource[Any], draft: Draft) -> GatewayState:
    if is_served(one):
        return GatewayState(one.title, (Condition("Accepted", True, "Accepted"),))
    message = "edgemesh takes no parameters"
    draft.report(one, "warning", "$.spec.parametersRef", f"{message}: its Gateways are not served", "take it away")
    return GatewayState(one.title, (Condition("Accepted", False, "InvalidParameters", message),))


def _wrong(gateway: Resource[Gateway]) -> tuple[str, str]:
    """Return why nothing of a Gateway is served, as reason and message; ("", "") if it is."""
    infrastructure = gateway.spec.infrastructure
    if infrastructure is not None and infrastructure.parameters_ref is not None:
        return "InvalidParameters", "edgemesh takes no parameters"
    wrong = next(wrong_addresses(gateway), "")
    return ("UnsupportedAddress", wrong) if wrong else ("", "")


def _of_gateway(
    gateway: Resource[Gateway], found: Taken, given: tuple[str, ...], resources: Input, draft: Draft
) -> GatewayState:
    its = found.of(gateway)
    reason, message = _wrong(gateway)
    if reason:
        draft.report(gateway, "warning", "$.spec", f"{message}: the Gateway is not served")
    for root in dict.fromkeys(root for one in its if (check := _clients(one, resources)) for root in check.roots):
        if root.startswith(_UNGRANTED):
            told = (
                f"no ReferenceGrant lets the Gateway use {root.removeprefix(_UNGRANTED)}: nobody's certificate is valid"
            )
            draft.report(gateway, "warning", "$.spec.tls.frontend", told, "make one in that namespace")
    at = given or tuple(dict.fromkeys(one for node in draft.nodes.values() for one in node.addresses))
    conditions = _overall(its, reason, message)
    return GatewayState(gateway.title, conditions, tuple(map(_of_listener, its)), at[:_MOST_ADDRESSES])


def _overall(its: Iterable[Asked], reason: str = "", message: str = "") -> tuple[Condition, ...]:
    """Return the conditions of an object by those of its listeners. `reason`: why none of it is served."""
    accepted = [not (one.refused[0] or one.conflict[0]) for one in its]
    if reason:
        return Condition("Accepted", False, reason, message), Condition("Programmed", False, "Invalid", message)
    valid = not accepted or any(accepted)
    word = "Accepted" if all(accepted) else "ListenersNotValid"
    told = "" if all(accepted) else "not every listener is valid"
    served = valid and any(one.served for one in its)
    programmed = Condition(
        "Programmed", served, "Programmed" if served else "Invalid", "" if served else "no listener is served"
    )
    return Condition("Accepted", valid, word, told), programmed


def _of_listener(asked: Asked) -> ListenerState:
    return ListenerState(asked.key, asked.said.name, asked.kinds, asked.attached, asked.conditions())


def _of_set(listener_set: Resource[ListenerSet], found: Taken) -> GatewayState:
    its = found.of(listener_set)
    return GatewayState(listener_set.title, _overall(its), tuple(map(_of_listener, its)))


def _turned_away(listener_set: Resource[ListenerSet], draft: Draft) -> GatewayState:
    message = f"Gateway {gateway_of(listener_set)} allows no ListenerSet of namespace {listener_set.namespace}"
    draft.report(listener_set, "warning", "$.spec.parentRef", message)
    return GatewayState(listener_set.title, _overall((), "NotAllowed", message))
