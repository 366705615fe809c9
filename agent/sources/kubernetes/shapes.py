"""What is kept of an object of the API server: the fields that policy reads, and no other.

Of Kubernetes' own kinds, the shapes in policy/kinds name the fields. JSON is decoded into a struct that has these
fields alone, so what is not used takes no memory at any moment. Of SMI's, OSM's and our own kinds everything but the
status stays, since an unknown field there is a typing error that policy reports.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, Union, cast, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from policy.kinds.base import Lax, Metadata
from policy.registry import Kind
from policy.translate.gateway_parents import GROUP as GATEWAY_API

INGRESS_GROUP = "networking.k8s.io"

# Beginnings of the annotations that policy reads. Others may have 256 KiB on each object, and some change with each event.
_READ = ("edgemesh.io/", "openservicemesh.io/", "kubernetes.io/config.mirror")


class Meta(Struct, frozen=True):
    """What a reflector needs of the metadata."""

    name: str
    namespace: str
    resource_version: str


class Kept(Struct, frozen=True):
    """An object: plain data of the fields that are used, with its kind."""

    metadata: Meta
    data: dict[str, Any]


Decode = Callable[[bytes | msgspec.Raw], Kept]


def decoder(kind: str, version: str, row: Kind | None) -> Decode:
    """Return what makes a Kept of an object's JSON. It raises msgspec.MsgspecError.

    `version`: for apiVersion, which items of lists do not have. `row`: of policy's registry; None: all of it is used.
    """
    narrow = msgspec.json.Decoder(_narrow(row)) if row is not None and issubclass(row.spec, Lax) else None
    plain = msgspec.json.Decoder(dict[str, Any])
    status = row is None or row.status is not None
    # Of a status that only some fields are read of, no other is kept: each word that we write there ourselves would be a change
    said_fields = [one.encode_name for one in structs.fields(row.status)] if row is not None and row.status else None
    # Whose state edgemesh writes: another object of the same name, and another edit of one, are told apart by these.
    said_of = narrow is None or version.partition("/")[0] in (GATEWAY_API, INGRESS_GROUP)
    left_out = set() if said_of else {"generation"} if kind == "Pod" else {"generation", "uid"}
    names = [name for name in _METADATA if name not in left_out]

    def decode(raw: bytes | msgspec.Raw) -> Kept:
        try:
            found = msgspec.to_builtins(narrow.decode(raw)) if narrow else plain.decode(raw)
        except msgspec.ValidationError:
            found = plain.decode(raw)  # a shape that is not the declared one: policy says what is wrong with it
        metadata = found.get("metadata")
        said: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
        if narrow is None and not status:
            found.pop("status", None)
        elif narrow is None and said_fields is not None and isinstance(before := found.get("status"), dict):
            found["status"] = {name: before[name] for name in said_fields if name in before}
        kept = {name: said[name] for name in names if name in said}
        if isinstance(notes := kept.get("annotations"), dict):
            kept["annotations"] = {name: text for name, text in notes.items() if name.startswith(_READ) or _meant(name)}
        data = {"apiVersion": version, "kind": kind, "metadata": kept}
        data.update((name, value) for name, value in found.items() if name not in data)
        return Kept(Meta(*(_text(said.get(name)) for name in ("name", "namespace", "resourceVersion"))), data)

    return decode


def _meant(name: str) -> bool:
    """Return whether a name may be a misspelt one whose absence would open something (policy/translate/dry_run.py)."""
    return "dry" in name.lower() or "mesh.io/" in name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_METADATA = tuple(field.encode_name for field in structs.fields(Metadata))


def _narrow(row: Kind) -> Any:
    """Return a struct with the fields that policy reads of a kind, all of them optional and without bounds."""
    metadata = msgspec.defstruct(
        "Metadata", [(name, Any | UnsetType, UNSET) for name in _METADATA_FIELDS], rename=_METADATA_FIELDS
    )
    fields: list[tuple[str, Any, Any]] = [("metadata", metadata | UnsetType, UNSET)]
    names = {"metadata": "metadata"}
    if row.whole:
        for field in structs.fields(row.spec):
            fields.append((field.name, _loose(field.type) | UnsetType, UNSET))
            names[field.name] = field.encode_name
    elif structs.fields(row.spec):
        fields.append(("spec", _loose(row.spec) | UnsetType, UNSET))
        names["spec"] = "spec"
    if row.status is not None:
        fields.append(("status", _loose(row.status) | UnsetType, UNSET))
        names["status"] = "status"
    return msgspec.defstruct("Object", fields, rename=names)


_METADATA_FIELDS = {
    **{field.name: field.encode_name for field in structs.fields(Metadata)},
    "resource_version": "resourceVersion",
}


def _loose(kind: Any) -> Any:
    """Return the type with its structs made optional in every field, and everything else left as it comes."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        fields = structs.fields(kind)
        return (
            msgspec.defstruct(
                kind.__name__,
                [(field.name, _loose(field.type) | UnsetType, UNSET) for field in fields],
                rename={field.name: field.encode_name for field in fields},
            )
            | None
        )
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        loose = [_loose(one) for one in inner if one is not type(None)]
        return loose[0] if len(loose) == 1 else Any
    if origin in (tuple, list):
        item = _loose(inner[0])
        return Any if item is Any else cast(Any, list)[item] | None
    if origin is dict:
        value = _loose(inner[1])
        return Any if value is Any else cast(Any, dict)[str, value] | None
    return Any
