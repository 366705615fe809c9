"""The listeners that Gateways and ListenerSets of ours ask for, and what keeps one from being served.

A listener that cannot be served stays closed and says why; the others of its Gateway are served. Of two that exclude
each other the one of the Gateway comes before those of ListenerSets, and an older object before a newer one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from policy.addresses import allot
from policy.draft import Input
from policy.gateway import CONTROLLER, ROUTES, Condition
from policy.kinds.gateways import Gateway, GatewayListener, ListenerSet
from policy.resources import Resource
from policy.translate.gateway_parents import GROUP
from policy.translate.gateway_references import admits, granted

_KNOWN = ("HTTP", "HTTPS", "TLS", "TCP", "UDP")
_TLS = ("HTTPS", "TLS")


class Asked(Struct):
    """One listener that an object asks for, and what is wrong with it."""

    gateway: Resource[Gateway]
    owner: Resource[Any]  # the Gateway, or a ListenerSet of it
    said: GatewayListener
    kinds: tuple[str, ...] = ()  # of routes that it takes
    refused: tuple[str, str] = ("", "")  # reason and message of Accepted False
    conflict: tuple[str, str] = ("", "")  # of Conflicted True
    unresolved: tuple[str, str] = ("", "")  # of ResolvedRefs False
    attached: int = 0  # routes

    @property
    def key(self) -> str:
        return f"{self.owner.title} {self.said.name}"

    @property
    def hostname(self) -> str:
        """Return the hosts that it is for; what is no HTTP and no TLS names none."""
        return "" if self.said.protocol in ("TCP", "UDP") else (self.said.hostname or "").lower()

    @property
    def served(self) -> bool:
        """Return whether nodes listen for it: also where one of several kinds of route is unknown."""
        broken = self.unresolved[0] not in ("", "InvalidRouteKinds") or (self.unresolved[0] and not self.kinds)
        return not (self.refused[0] or self.conflict[0] or broken)

    def conditions(self) -> tuple[Condition, ...]:
        served = self.served and not self.unresolved[0]
        why = next((one for one in (self.refused, self.conflict, self.unresolved) if one[0]), ("", ""))[1]
        refused = self.refused if self.refused[0] else self.conflict
        return (
            Condition("Accepted", not refused[0], refused[0] or "Accepted", refused[1]),
            Condition("Conflicted", bool(self.conflict[0]), self.conflict[0] or "NoConflicts", self.conflict[1]),
            Condition("ResolvedRefs", not self.unresolved[0], self.unresolved[0] or "ResolvedRefs", self.unresolved[1]),
            Condition("Programmed", served, "Programmed" if served else "Invalid", why),
        )


class Taken(Struct, frozen=True):
    """The Gateways of ours, and all listeners that are asked for, in their order of precedence."""

    gateways: tuple[Resource[Gateway], ...]
    sets: tuple[Resource[ListenerSet], ...]  # that their Gateway allows
    turned_away: tuple[Resource[ListenerSet], ...]  # that it does not
    listeners: tuple[Asked, ...]

    def of(self, owner: Resource[Any]) -> tuple[Asked, ...]:
        """Return the listeners of a Gateway (without those of its ListenerSets), or of a ListenerSet."""
        return tuple(one for one in self.listeners if one.owner.title == owner.title)


def age(resource: Resource[Any]) -> tuple[str, str, str]:
    """Return the key that sorts an older object before a newer one."""
    return resource.metadata.creation_timestamp or "9", resource.namespace, resource.name


def classes(resources: Input) -> Mapping[str, Resource[Any]]:
    """Return the GatewayClasses of ours, by name."""
    return {one.name: one for one in resources.all("GatewayClass") if one.spec.controller_name == CONTROLLER}


def is_served(gateway_class: Resource[Any]) -> bool:
    """Return whether a GatewayClass is accepted: it asks for no parameters, since none are known."""
    return gateway_class.spec.parameters_ref is None


def gateway_of(listener_set: Resource[ListenerSet]) -> str:
    """Return the key of the Gateway that a ListenerSet is for."""
    parent = listener_set.spec.parent_ref
    return f"{parent.namespace or listener_set.namespace}/{parent.name}"


def taken(resources: Input) -> Taken:
    """Return what is asked for, once for a build."""
    return resources.once(_taken)


def _taken(resources: Input) -> Taken:
    ours = {name for name, one in resources.once(classes).items() if is_served(one)}
    gateways = sorted((one for one in resources.all("Gateway") if one.spec.gateway_class_name in ours), key=age)
    by_key = {one.key: one for one in gateways}
    sets: list[Resource[ListenerSet]] = []
    turned_away: list[Resource[ListenerSet]] = []
    for one in sorted(resources.all("ListenerSet"), key=age):
        gateway = by_key.get(gateway_of(one))
        parent = one.spec.parent_ref
        if gateway is None or parent.kind not in (None, "Gateway") or parent.group not in (None, GROUP):
            continue
        chosen = gateway.spec.allowed_listeners
        allows = chosen is not None and admits(chosen.namespaces, "None", gateway.namespace, one.namespace, resources)
        (sets if allows else turned_away).append(one)
    listeners: list[Asked] = []
    for gateway in gateways:
        its = [one for one in sets if gateway_of(one) == gateway.key]
        asked = [Asked(gateway, gateway, one) for one in gateway.spec.listeners]
        asked += [Asked(gateway, owner, one) for owner in its for one in owner.spec.listeners]
        for listener in asked:
            _judge(listener, resources)
        _exclude(asked)
        listeners += asked
    return Taken(tuple(gateways), tuple(sets), tuple(turned_away), tuple(listeners))


def _judge(asked: Asked, resources: Input) -> None:
    """Say what is wrong with one listener by itself."""
    said = asked.said
    fitting = ROUTES.get(said.protocol, ())
    if said.protocol not in _KNOWN or not fitting:
        known = ", ".join(sorted(ROUTES))
        asked.refused = "UnsupportedProtocol", f"protocol {said.protocol} is not served here; {known} are"
    wanted = said.allowed_routes.kinds if said.allowed_routes is not None else None
    if not wanted:
        asked.kinds = fitting
    else:
        asked.kinds = tuple(
            dict.fromkeys(one.kind for one in wanted if one.group in (None, GROUP) and one.kind in fitting)
        )
        unknown = [one.kind for one in wanted if one.group not in (None, GROUP) or one.kind not in fitting]
        if unknown:
            asked.unresolved = "InvalidRouteKinds", f"a listener of {said.protocol} takes no {', '.join(unknown)}"
    if said.protocol in _TLS and fitting:
        _judge_certificates(asked, resources)


def _judge_certificates(asked: Asked, resources: Input) -> None:
    tls = asked.said.tls
    if tls is not None and tls.mode == "Passthrough":
        if asked.said.protocol == "HTTPS":
            asked.refused = "UnsupportedValue", "a listener of HTTPS ends TLS: mode Passthrough is for protocol TLS"
        return
    refs = (tls.certificate_refs or ()) if tls is not None else ()
    if not refs:
        asked.unresolved = "InvalidCertificateRef", "it names no certificate"
    for one in refs:
        namespace = one.namespace or asked.owner.namespace
        if one.group not in (None, "") or one.kind not in (None, "Secret"):
            asked.unresolved = "InvalidCertificateRef", f"a certificate is in a Secret, not in a {one.kind}"
        elif not granted(resources, asked.owner.kind, asked.owner.namespace, "Secret", namespace, one.name):
            message = f"no ReferenceGrant of namespace {namespace} lets {asked.owner.title} use Secret {one.name}"
            asked.unresolved = "RefNotPermitted", message


def certificates(asked: Asked) -> tuple[str, ...]:
    """Return the keys of the Secrets that a listener shows callers."""
    refs = (asked.said.tls.certificate_refs or ()) if asked.said.tls is not None else ()
    return tuple(f"{one.namespace or asked.owner.namespace}/{one.name}" for one in refs)


def _carrier(protocol: str) -> str:
    """Return what a port can carry only one of: TLS tells HTTPS and TLS apart by the host that is named."""
    return "TLS" if protocol in _TLS else protocol


def _transport(protocol: str) -> str:
    return "udp" if protocol == "UDP" else "tcp"


def _exclude(asked: Sequence[Asked]) -> None:
    """Say which listeners of one Gateway exclude each other: the first one stays."""
    carriers: dict[tuple[str, int], str] = {}
    names: dict[tuple[str, int, str], str] = {}
    for one in asked:
        if one.refused[0]:
            continue
        place = _transport(one.said.protocol), one.said.port
        carrier = carriers.setdefault(place, _carrier(one.said.protocol))
        if carrier != _carrier(one.said.protocol):
            message = f"another listener has port {one.said.port} for {carrier}"
            one.conflict = "ProtocolConflict", message
            continue
        first = names.setdefault((*place, one.hostname), one.key)
        if first != one.key:
            of = f"host {one.hostname}" if one.hostname else "all hosts"
            one.conflict = "HostnameConflict", f"{first} has port {one.said.port} for {of}"


def exclude_between(asked: Iterable[Asked], given: Mapping[str, tuple[str, ...]]) -> None:
    """Say which listeners need a port for something else than an older Gateway has it for. Hosts they may share.

    `given`: the addresses of each Gateway, by its key.
    """
    carriers: dict[tuple[str, int, str], tuple[str, str]] = {}
    for one in asked:
        if not one.served:
            continue
        place, carrier = (_transport(one.said.protocol), one.said.port), _carrier(one.said.protocol)
        for address in given[one.gateway.key] or ("",):
            has, owner = carriers.setdefault((*place, address), (carrier, one.gateway.title))
            if has != carrier or (carrier in ("TCP", "UDP") and owner != one.gateway.title):
                one.conflict = "ProtocolConflict", f"{owner} has port {one.said.port} for {has}"


def addresses(gateways: Iterable[Resource[Gateway]], ranges: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each Gateway by its key: those that it names, or else one of `ranges`; () for all.

    One that a Gateway's status has stays its own.
    """
    found = {one.key: named(one) for one in gateways}
    networks = [ipaddress.ip_network(one) for one in ranges]
    taken_before = {
        one for its in found.values() for one in its if any(ipaddress.ip_address(one) in net for net in networks)
    }
    kept = {
        one.key: tuple(
            said.value for said in one.status.addresses or () if said.value and said.value not in taken_before
        )
        for one in gateways
        if not found[one.key]
    }
    given = allot([*taken_before, *kept], kept | {address: (address,) for address in taken_before}, ranges)
    return found | {key: given[key] for key in kept}


def named(gateway: Resource[Gateway]) -> tuple[str, ...]:
    """Return the addresses that a Gateway names."""
    return tuple(
        dict.fromkeys(one.value for one in gateway.spec.addresses or () if one.value and not wrong_address(one))
    )


def wrong_address(one: Any) -> str:
    """Return why an address that a Gateway names cannot be listened at; "" if it can."""
    if one.type not in (None, "IPAddress"):
        return f"an address of type {one.type} is not known here"
    if one.value:
        try:
            ipaddress.ip_address(one.value)
        except ValueError:
            return f"{one.value} is no IP address"
    return ""


def wrong_addresses(gateway: Resource[Gateway]) -> Iterator[str]:
    """Yield why addresses of a Gateway cannot be used."""
    yield from filter(None, map(wrong_address, gateway.spec.addresses or ()))
