"""What a broken Revocation still revokes.

Only an object that can be read, and that no longer names something, lifts its revocation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policy.decode import decode, identify
from policy.kinds.edgemesh import RevokedIdentity, RevokedNode, RevokedSerial
from policy.model import Where
from policy.registry import KINDS
from policy.resources import RawObject, Resource

KIND = "Revocation"
_PREFIX = f"{KIND} "
_LISTS: tuple[tuple[str, Any], ...] = (
    ("nodes", RevokedNode),
    ("identities", RevokedIdentity),
    ("serials", RevokedSerial),
)


def is_key(key: str) -> bool:
    return key.startswith(_PREFIX)


def may_be(raw: RawObject) -> bool:
    """Return whether this object, which cannot be read, could be a Revocation with a typing error."""
    kind = raw.data.get("kind")
    if not isinstance(kind, str) or not kind:
        return True
    ours = str(raw.data.get("apiVersion")).startswith("edgemesh.io/")
    return identify(raw)[0] == KIND or (ours and kind not in KINDS)


def merged(first: Resource[Any], second: Resource[Any]) -> Resource[Any]:
    """Return one object that revokes what both revoke, at the place of the first."""
    both = _said(first.raw.data) | _said(second.raw.data)
    return first if both == _said(first.raw.data) else _made(first.name, first.raw.where, both)


def salvaged(raw: RawObject) -> Resource[Any] | None:
    """Return what is readable of a broken Revocation; None if nothing is."""
    said = _said(raw.data) if identify(raw)[0] == KIND else frozenset()
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
            found.add(
                (name, value.namespace, value.service_account) if isinstance(value, RevokedIdentity) else (name, value)
            )
    return frozenset(found)


def _made(name: str, where: Where, said: _Said) -> Resource[Any]:
    spec: dict[str, list[Any]] = {of: [] for of, _ in _LISTS}
    for of, *item in sorted(said):
        spec[of].append({"namespace": item[0], "serviceAccount": item[1]} if of == "identities" else item[0])
    data = {"apiVersion": "edgemesh.io/v1alpha1", "kind": KIND, "metadata": {"name": name or "?"}, "spec": spec}
    made = decode(RawObject(data, where, {}))
    assert isinstance(made, Resource), made
    return made
