"""Revocation: who is refused. A revocation is lifted by an object that can be read and no longer says it, and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policy.draft import Draft, Input
from policy.model import Identity, Revoked, Where, canonical_serial
from policy.resources import RawObject, Resource, Unread, decode, identify
from policy.shapes import Revocation, RevokedIdentity, RevokedNode, RevokedSerial

KIND = "Revocation"
_PREFIX = f"{KIND} "
# (message, hint) for one that is gone while something cannot be read.
LEFT = ("is gone, but something cannot be read that may be it: what it revokes stays revoked", "mend what cannot be read")
_LISTS: tuple[tuple[str, Any], ...] = (("nodes", RevokedNode), ("identities", RevokedIdentity), ("serials", RevokedSerial))


def is_key(key: str) -> bool:
    return key.startswith(_PREFIX)


def may_be(raw: RawObject, unread: Unread | None) -> bool:
    """Could this object, which cannot be read, be a Revocation with a typing error? `unread`: it is of a kind that we do not read."""
    kind = raw.data.get("kind")
    if not isinstance(kind, str) or not kind:
        return True
    return kind == KIND or (unread is not None and unread.group == "edgemesh.io")


def merged(first: Resource[Any], second: Resource[Any]) -> Resource[Any]:
    """One object that revokes what both do. It stands where the first one does."""
    both = _said(first.raw.data) | _said(second.raw.data)
    return first if both == _said(first.raw.data) else _made(first.name, first.raw.where, both)


def salvaged(raw: RawObject) -> Resource[Any] | None:
    """What can be read of a broken Revocation; None when nothing can."""
    said = _said(raw.data) if raw.data.get("kind") == KIND else frozenset()
    return _made(identify(raw)[2], raw.where, said) if said else None


_Said = frozenset[tuple[str, ...]]  # list and item: ("nodes", "till-3"), ("identities", "shop", "web")


def _said(data: Mapping[str, Any]) -> _Said:
    spec = data.get("spec")
    found: set[tuple[str, ...]] = set()
    for name, kind in _LISTS:
        items = spec.get(name) if isinstance(spec, dict) else None
        for item in items if isinstance(items, list) else ():
            try:
                value = msgspec.convert(item, kind)
            except msgspec.ValidationError:
                continue
            found.add((name, value.namespace, value.service_account) if isinstance(value, RevokedIdentity) else (name, value))
    return frozenset(found)


def _made(name: str, where: Where, said: _Said) -> Resource[Any]:
    spec: dict[str, list[Any]] = {of: [] for of, _ in _LISTS}
    for of, *item in sorted(said):
        spec[of].append({"namespace": item[0], "serviceAccount": item[1]} if of == "identities" else item[0])
    data = {"apiVersion": "edgemesh.io/v1alpha1", "kind": KIND, "metadata": {"name": name or "?"}, "spec": spec}
    made = decode(RawObject(data, where, {}))
    assert isinstance(made, Resource), made
    return made


def translate(resources: Input, draft: Draft) -> None:
    """After workloads are known."""
    nodes: set[str] = set()
    identities: set[Identity] = set()
    serials: set[str] = set()
    known = {*draft.nodes, draft.node, *(workload.node for workload in draft.workloads.values())}
    for resource in resources.all(KIND):
        spec: Revocation = resource.spec
        nodes.update(spec.nodes)
        identities.update(Identity(one.namespace, one.service_account) for one in spec.identities)
        serials.update(map(canonical_serial, spec.serials))
        if not (spec.nodes or spec.identities or spec.serials):
            draft.report(resource, "notice", "$.spec", "revokes nobody")
        for number, node in enumerate(spec.nodes):
            if node == draft.node:
                message = f"this node, {node}, is revoked: other nodes refuse it"
                draft.report(resource, "warning", f"$.spec.nodes[{number}]", message)
            elif node not in known:
                draft.report(resource, "notice", f"$.spec.nodes[{number}]", f"no node {node} is known here", "is the name written right?")
    draft.revoked = Revoked(tuple(sorted(nodes)), tuple(sorted(identities)), tuple(sorted(serials)))
