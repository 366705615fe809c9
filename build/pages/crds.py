"""CustomResourceDefinitions for the kinds of edgemesh, OSM and SMI that are read: structural schemas from policy/kinds.

A schema refuses what decoding refuses, and no more; what needs more than one object is checked by the daemon and by
`edgemesh check`. They can be laid over the definitions that OSM or SMI installed: the names are theirs, every version
in which a cluster may have stored objects is listed, and conversion by a webhook, which is gone with OSM, is off.
"""

from __future__ import annotations

import typing
from types import NoneType, UnionType
from typing import Any

import msgspec

from agent.config.schema import API_VERSION, NodeConfig
from agent.kubernetes.api import plural
from pages.fields import comments, doc
from policy.registry import KINDS, Kind

OWN = ("edgemesh.io", "openservicemesh.io", "smi-spec.io")
# Versions that OSM's and SMI's releases stored and that nobody reads any more: https://github.com/openservicemesh/osm
FORMER = {
    "HTTPRouteGroup": ("v1alpha2", "v1alpha1"),
    "TCPRoute": ("v1alpha2", "v1alpha1"),
    "UDPRoute": ("v1alpha2", "v1alpha1"),
    "TrafficTarget": ("v1alpha1",),
    "TrafficSplit": ("v1alpha1",),
}
SHORT = {
    "HTTPRouteGroup": ["htr"],
    "TCPRoute": ["tr"],
    "UDPRoute": ["ur"],
    "TrafficTarget": ["tt"],
    "TrafficSplit": ["ts"],
    "MeshRootCertificate": ["mrc"],
    "MeshNode": ["mn"],
    "AccessCert": ["acct"],
}
COLUMNS = {
    "TrafficSplit": [("Service", "string", ".spec.service")],
    "TrafficTarget": [("Destination", "string", ".spec.destination.name")],
    "Workload": [("Identity", "string", ".spec.serviceAccount"), ("Node", "string", ".spec.node")],
    "MeshNode": [("Addresses", "string", ".spec.addresses")],
    "AccessCert": [
        ("Secret", "string", ".spec.secret.name"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
        ("Until", "string", ".status.notAfter"),
    ],
}
# What one object says that its shape cannot: CEL, since Kubernetes 1.25.
RULES = {
    "Workload": [
        (
            "!(has(self.netns) && self.netns != '' && has(self.systemdUnit) && self.systemdUnit != '')",
            "a program has a network namespace of its own (netns) or is in the host's (systemdUnit): write one of them",
        )
    ]
}


def definitions() -> list[dict[str, Any]]:
    """Return all of them, in the order of the registry; NodeConfig, which policy does not read, comes last."""
    group, _, version = API_VERSION.partition("/")
    rows = {name: kind for name, kind in KINDS.items() if kind.group.endswith(OWN)}
    rows["NodeConfig"] = Kind(group, (version,), NodeConfig, namespaced=False)
    return [_definition(name, kind) for name, kind in rows.items()]


def _definition(name: str, kind: Kind) -> dict[str, Any]:
    collection = plural(name)
    read = sorted(kind.versions, reverse=True)
    names: dict[str, Any] = {"kind": name, "listKind": f"{name}List", "plural": collection, "singular": name.lower()}
    if short := SHORT.get(name):
        names["shortNames"] = short
    names["categories"] = ["edgemesh"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{collection}.{kind.group}", "labels": {"app.kubernetes.io/name": "edgemesh"}},
        "spec": {
            "group": kind.group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": names,
            # Early releases of OSM converted by a webhook of theirs. It has to be taken out: with null, since what is
            # not said stays, and the two together are refused.
            "conversion": {"strategy": "None", "webhook": None},
            "versions": [
                *(_version(name, kind, version, served=True, storage=version == read[0]) for version in read),
                *(_version(name, None, version, served=False, storage=False) for version in FORMER.get(name, ())),
            ],
        },
    }


def _version(name: str, kind: Kind | None, version: str, served: bool, storage: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": version, "served": served, "storage": storage}
    if kind is None:
        return found | {"schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    spec = schema(kind.spec)
    spec["description"] = " ".join(doc(kind.spec).split())
    if name in RULES:
        spec["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in RULES[name]]
    properties = {"spec": spec}
    columns = [{"name": title, "type": type_, "jsonPath": path} for title, type_, path in COLUMNS.get(name, ())]
    if not kind.group.endswith("smi-spec.io"):  # SMI's kinds have no status: what is wrong with one is an Event
        status = schema(kind.status) if kind.status else {"type": "object"}
        properties["status"] = status | {"x-kubernetes-preserve-unknown-fields": True}
        found["subresources"] = {"status": {}}
    age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    found["additionalPrinterColumns"] = [*columns, age]
    found["schema"] = {"openAPIV3Schema": {"type": "object", "properties": properties}}
    return found


def schema(kind: object) -> dict[str, Any]:
    """Return the structural schema of a type. Raise TypeError for a type that has none."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _object(kind)
    if origin is typing.Annotated:
        inner = schema(arguments[0])
        return inner | _bounds(arguments[1:], inner.get("type", ""))
    if origin is typing.Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin in (UnionType, typing.Union):
        choices = [one for one in arguments if one is not NoneType]
        nullable = {"nullable": True} if len(choices) < len(arguments) else {}
        if len(choices) == 1:
            return schema(choices[0]) | nullable
        if set(choices) == {int, str}:
            return {"x-kubernetes-int-or-string": True} | nullable
        return {"x-kubernetes-preserve-unknown-fields": True} | nullable  # a structural schema has no choice of types
    if origin is tuple:
        return {"type": "array", "items": schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(arguments[1])}
    if kind is Any:
        return {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
    plain = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if kind in plain:
        return {"type": plain[typing.cast(type, kind)]}
    raise TypeError(f"no structural schema for {kind}")


def _object(struct: type[msgspec.Struct]) -> dict[str, Any]:
    said = comments(struct)
    properties, required = {}, []
    for field in msgspec.structs.fields(struct):
        meaning = said.get(field.name)
        properties[field.encode_name] = ({"description": meaning} if meaning else {}) | schema(field.type)
        if field.required:
            required.append(field.encode_name)
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _bounds(extra: tuple[object, ...], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    least = {"array": "minItems", "object": "minProperties"}.get(kind, "minLength")
    for meta in extra:
        if not isinstance(meta, msgspec.Meta):
            continue
        if meta.ge is not None or meta.gt is not None:
            found["minimum"] = meta.ge if meta.ge is not None else meta.gt
        if meta.gt is not None:
            found["exclusiveMinimum"] = True
        if meta.le is not None:
            found["maximum"] = meta.le
        if meta.pattern:
            found["pattern"] = meta.pattern.replace("\\Z", "$")  # RE2 has no \Z, and its $ is the end of the text
        if meta.min_length is not None:
            found[least] = meta.min_length
    return found
