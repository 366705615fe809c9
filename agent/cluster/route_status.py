"""What the status of a route of the Gateway API says to each Service or Gateway that is its parent, from what is in force. Pure.

Each entry of `status.parents` is one controller's word on one parent. Ours are those of `CONTROLLER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from policy.gateway import CONTROLLER, Condition
from policy.kinds.gateway import ParentRef
from policy.model import Service
from policy.registry import row_name
from policy.resources import RawObject, plain
from policy.route import Backend, RequestMirror, Rule
from policy.snapshot import Snapshot
from policy.translate.gateway_attachment import is_gateway as is_gateway_parent
from policy.translate.gateway_parents import GROUP, is_ours

_STREAMS = ("TLSRoute", "TCPRoute")
_KINDS = ("HTTPRoute", "GRPCRoute", *_STREAMS)
_MOST = 32  # parents, as the Gateway API bounds them
_MESSAGE = 1024  # characters


class Parent(Struct, frozen=True):
    """What is said to one parent. `ref`: as the route names it."""

    ref: dict[str, Any]
    conditions: tuple[Condition, ...]


def ours(raw: RawObject, snapshot: Snapshot) -> list[tuple[dict[str, Any], ParentRef, tuple[Condition, ...] | None]]:
    """Return the parents of a route, which may be broken, that are Services or Gateways of ours.

    Each as it is written, decoded, and what is to be said to a Gateway; None for a Service.
    """
    title = _title(raw)
    attachments = {one.number: one.conditions for one in snapshot.attachments_of(title)}
    spec = raw.data.get("spec")
    named = spec.get("parentRefs") if isinstance(spec, dict) else None
    found: list[tuple[dict[str, Any], ParentRef, tuple[Condition, ...] | None]] = []
    for number, ref in enumerate(named[:_MOST] if isinstance(named, list) else ()):
        try:
            parent = msgspec.convert(ref, ParentRef)
        except msgspec.ValidationError:
            continue
        if is_ours(parent):
            found.append((ref, parent, None))
        elif number in attachments and is_gateway_parent(parent):
            found.append((ref, parent, attachments[number]))
    return found


def parents(raw: RawObject, snapshot: Snapshot, wrong: str) -> tuple[Parent, ...]:
    """Return what is said to each parent of a route. `wrong`: why this version of it is not in force, "" if it is."""
    metadata = raw.data["metadata"]
    namespace = metadata.get("namespace") or "default"
    title = _title(raw)
    return tuple(
        Parent(
            ref,
            _conditions(title, namespace, parent, snapshot, wrong) if said is None else _to_gateway(said, wrong),
        )
        for ref, parent, said in ours(raw, snapshot)
    )


def _title(raw: RawObject) -> str:
    """Return what the route is called in the snapshot."""
    metadata, kind = raw.data["metadata"], row_name(GROUP, raw.data["kind"])
    return f"{kind} {metadata.get('namespace') or 'default'}/{metadata['name']}"


def _to_gateway(said: tuple[Condition, ...], wrong: str) -> tuple[Condition, ...]:
    refused = Condition("Accepted", False, "UnsupportedValue", wrong)
    return tuple(refused if wrong and one.type == "Accepted" else one for one in said)


def _conditions(title: str, namespace: str, parent: ParentRef, snapshot: Snapshot, wrong: str) -> tuple[Condition, ...]:
    kind = plain(title.partition(" ")[0])
    if kind in _STREAMS and not wrong:
        wrong = f"a {kind} of a Service is not done here"
    key = f"{parent.namespace or namespace}/{parent.name}"
    service = snapshot.service(key)
    rules = [] if service is None else _rules(service, title)
    refused = [f"{rule.name}: {rule.detail}" for rule in rules if rule.refuses and not rule.unresolved]
    named = [backend for rule in rules for backend in (*rule.backends, *_mirrors(rule))]
    lacking = [lack for backend in named if (lack := _lack(backend, snapshot)) is not None]
    lacking += [Condition("ResolvedRefs", False, rule.unresolved, rule.detail) for rule in rules if rule.unresolved]
    if wrong:
        accepted = Condition("Accepted", False, "UnsupportedValue", wrong)
    elif service is None:
        accepted = Condition("Accepted", False, "NoMatchingParent", f"there is no Service {key}")
    elif not _has_port(service, parent):
        accepted = Condition("Accepted", False, "NoMatchingParent", f"Service {key} has no such port")
    elif refused and len(refused) == len(rules):
        accepted = Condition("Accepted", False, "UnsupportedValue", _told(refused))
    else:
        accepted = Condition("Accepted", True, "Accepted")
    found = [accepted, lacking[0] if lacking else Condition("ResolvedRefs", True, "ResolvedRefs")]
    if accepted.holds and refused:
        found.append(Condition("PartiallyInvalid", True, "UnsupportedValue", _told(refused)))
    return tuple(found)


def _rules(service: Service, title: str) -> list[Rule]:
    """Return the rules of a route that are in force for a Service, each once: its matches are apart there."""
    named = {rule.name: rule for route in service.routes for rule in route.rules}
    return [rule for name, rule in named.items() if name.startswith(f"{title}, rule ")]


def _mirrors(rule: Rule) -> list[Backend]:
    """Return the Services that get copies of a rule's calls."""
    filters = (*rule.filters, *(one for backend in rule.backends for one in backend.filters))
    return [Backend(one.service, 1, one.port) for one in filters if isinstance(one, RequestMirror)]


def _has_port(service: Service, parent: ParentRef) -> bool:
    return (parent.port is None and not parent.section_name) or any(
        port.transport == "tcp" and parent.port in (None, port.port) and parent.section_name in (None, "", port.name)
        for port in service.ports
    )


def _lack(backend: Backend, snapshot: Snapshot) -> Condition | None:
    """Return why the reference to a backend cannot be resolved; None if it can."""
    if " " in backend.service:  # of another kind (policy/translate/gateway.py)
        return Condition("ResolvedRefs", False, "InvalidKind", f"{backend.service} is no Service")
    service = snapshot.service(backend.service)
    if service is None:
        return Condition("ResolvedRefs", False, "BackendNotFound", f"there is no Service {backend.service}")
    if not any(port.port == backend.port and port.transport == "tcp" for port in service.ports):
        return Condition("ResolvedRefs", False, "BackendNotFound", f"{backend.service} has no port {backend.port}")
    return None


def _told(lines: Iterable[str]) -> str:
    return f"answered 500: {'; '.join(lines)}"[:_MESSAGE]


def merged(held: Any, said: tuple[Parent, ...], generation: int, now: str) -> list[dict[str, Any]]:
    """Return `status.parents` with our entries in it. `held`: as it is. What other controllers say stays.

    A condition that says what it said keeps its time.
    """
    entries = [one for one in held if isinstance(one, dict)][:_MOST] if isinstance(held, list) else []
    others = [one for one in entries if one.get("controllerName") != CONTROLLER]
    mine = [one for one in entries if one.get("controllerName") == CONTROLLER]
    for parent in said:
        before = next((one for one in mine if one.get("parentRef") == parent.ref), {})
        conditions = [written(one, before.get("conditions"), generation, now) for one in parent.conditions]
        others.append({"parentRef": parent.ref, "controllerName": CONTROLLER, "conditions": conditions})
    return others[:_MOST]


def written(condition: Condition, before: Any, generation: int, now: str) -> Mapping[str, Any]:
    """Return a condition as it is written. `before`: the conditions that are there; one that stays keeps its time."""
    status = "True" if condition.holds else "False"
    since = now
    for one in before if isinstance(before, list) else ():
        if isinstance(one, dict) and (one.get("type"), one.get("status")) == (condition.type, status):
            since = one.get("lastTransitionTime") or now
    return {
        "type": condition.type,
        "status": status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def is_route(version: str, kind: object) -> bool:
    return kind in _KINDS and version.partition("/")[0] == GROUP
