"""KINDS: every kind that we read, its API group and versions, its shape (shapes.py). Plain data in, a typed Resource or Problem out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from policy.model import Problem, Severity, Where
from policy.shapes import (
    AccessControl,
    Deployment,
    EndpointSlice,
    HTTPRouteGroup,
    MeshConfig,
    Metadata,
    Nothing,
    PodSpec,
    PodStatus,
    PortRoute,
    Revocation,
    ServiceSpec,
    TrafficSplit,
    TrafficTarget,
    WorkloadSpec,
)


class RawObject(Struct, frozen=True):
    """One object as a source gave it: plain data, where it begins, and the line of each part by msgspec path ("$.spec.rules[0]").

    `lines` answers for every path: its own line, or that of the nearest part that has one.
    """

    data: dict[str, Any]
    where: Where
    lines: Mapping[str, int]

    def line(self, path: str) -> int:
        """The line of a path, else of the nearest part around it."""
        while path:
            try:
                return self.lines[path]
            except KeyError:
                path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.where.line


class Kind(Struct, frozen=True):
    group: str  # "" is Kubernetes' core
    versions: tuple[str, ...]
    spec: type[Struct]
    namespaced: bool = True
    whole: bool = False  # the fields stand at the top of the object, not under spec
    status: type[Struct] | None = None
    strict: bool = True
    also: tuple[str, ...] = ()  # groups of later projects that have the kind too, with the same versions


KINDS: dict[str, Kind] = {
    "Namespace": Kind("", ("v1",), Nothing, namespaced=False, strict=False),
    "ServiceAccount": Kind("", ("v1",), Nothing, whole=True, strict=False),
    "Service": Kind("", ("v1",), ServiceSpec, strict=False),
    "Pod": Kind("", ("v1",), PodSpec, status=PodStatus, strict=False),
    "EndpointSlice": Kind("discovery.k8s.io", ("v1",), EndpointSlice, whole=True, strict=False),
    "Deployment": Kind("apps", ("v1",), Deployment, strict=False),
    "Workload": Kind("edgemesh.io", ("v1alpha1",), WorkloadSpec),
    "Revocation": Kind("edgemesh.io", ("v1alpha1",), Revocation, namespaced=False),
    "TrafficTarget": Kind("access.smi-spec.io", ("v1alpha2", "v1alpha3"), TrafficTarget),
    "HTTPRouteGroup": Kind("specs.smi-spec.io", ("v1alpha3", "v1alpha4"), HTTPRouteGroup),
    "TCPRoute": Kind("specs.smi-spec.io", ("v1alpha3", "v1alpha4"), PortRoute),
    "UDPRoute": Kind("specs.smi-spec.io", ("v1alpha3", "v1alpha4"), PortRoute),
    "TrafficSplit": Kind("split.smi-spec.io", ("v1alpha2", "v1alpha3", "v1alpha4"), TrafficSplit),
    "MeshConfig": Kind("config.openservicemesh.io", ("v1alpha2",), MeshConfig),
    "AccessControl": Kind("policy.openservicemesh.io", ("v1alpha1",), AccessControl, also=("policy.flomesh.io",)),
}
# Read by agent/config.py; policy has nothing to say about it.
ELSEWHERE = frozenset(("edgemesh.io/NodeConfig",))

_S = TypeVar("_S", bound=Struct)


class Resource(Struct, Generic[_S], frozen=True):
    """An object of a kind that we read, checked against its shape."""

    kind: str
    version: str
    namespace: str
    name: str
    metadata: Metadata
    spec: _S
    status: Any  # of the kind's status shape; None when the kind has none
    raw: RawObject

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        return f"{self.kind} {self.key}" if self.namespace else f"{self.kind} {self.name}"

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.annotations or {}

    def problem(self, severity: Severity, path: str, message: str, hint: str = "") -> Problem:
        return Problem(severity, Where(self.raw.where.file, self.raw.line(path)), self.title, message, hint)


class Unread(Struct, frozen=True):
    """An object of a kind that we do not read."""

    group: str
    kind: str
    where: Where


_LISTS = frozenset(("List", *(f"{kind}List" for kind in KINDS)))
_DEEPEST = 8  # lists inside lists; kubectl writes one


def unwrap(raws: Iterable[RawObject]) -> Iterable[RawObject]:
    """The objects, with `kind: List` taken apart. What is no object in a list is one without a kind, and is reported as that."""
    for raw in raws:
        if _is_list(raw.data):
            yield from _items(raw, raw.data, "$", _DEEPEST)
        else:
            yield raw


def _items(raw: RawObject, data: Mapping[str, Any], path: str, deeper: int) -> Iterable[RawObject]:
    for number, item in enumerate(data.get("items") or ()):
        at = f"{path}.items[{number}]"
        found = item if isinstance(item, dict) else {}
        if deeper and _is_list(found):
            yield from _items(raw, found, at, deeper - 1)
        else:
            yield RawObject(found, Where(raw.where.file, raw.line(at)), _Shifted(raw, at))


def _is_list(data: Mapping[str, Any]) -> bool:
    kind = data.get("kind")
    return isinstance(kind, str) and kind in _LISTS and isinstance(data.get("items"), list | None)


class _Shifted(dict[str, int]):
    """Lines of an object inside a List."""

    def __init__(self, raw: RawObject, prefix: str) -> None:
        super().__init__()
        self._raw, self._prefix = raw, prefix

    def __missing__(self, path: str) -> int:
        return self._raw.line(self._prefix + path[1:])


def decode(raw: RawObject) -> Resource[Any] | Unread | Problem | None:
    """Check one object against its kind's shape. None: a kind that is read elsewhere. Never raises, whatever the data is."""
    data = raw.data
    kind_name, api_version = data.get("kind"), data.get("apiVersion")
    if not isinstance(kind_name, str) or not isinstance(api_version, str) or not kind_name or not api_version:
        missing = "kind" if not isinstance(kind_name, str) or not kind_name else "apiVersion"
        return Problem("error", raw.where, "", f"an object without {missing}", "every object begins with apiVersion and kind")
    group, _, version = api_version.rpartition("/")
    if f"{group}/{kind_name}" in ELSEWHERE:
        return None
    kind = KINDS.get(kind_name)
    if kind is None or group not in (kind.group, *kind.also):
        return Unread(group, kind_name, raw.where)
    name = _name(data)
    title = f"{kind_name} {name}"

    def wrong(path: str, message: str, hint: str = "") -> Problem:
        return Problem("error", Where(raw.where.file, raw.line(path)), title, message, hint)

    if version not in kind.versions:
        known = ", ".join(f"{group}/{v}".lstrip("/") for v in kind.versions)
        return wrong("$.apiVersion", f"version {version} of {kind_name} is not read", f"write {known}")
    try:
        metadata = msgspec.convert(data.get("metadata", {}), Metadata)
    except msgspec.ValidationError as error:
        return _invalid(wrong, error, "$.metadata")
    if not metadata.name:
        return wrong("$.metadata", "no metadata.name")
    for field_name, value in (("name", metadata.name), ("namespace", metadata.namespace)):
        if "/" in value:  # "namespace/name" names an object everywhere, and must name one
            return wrong(f"$.metadata.{field_name}", f"metadata.{field_name} is {value!r}", "names have no slash")
    if kind.strict:
        for field_name in data:
            if field_name not in ("apiVersion", "kind", "metadata", "spec", "status"):
                hint = f"write it under spec: spec.{field_name}" if field_name in kind.spec.__struct_encode_fields__ else ""
                return wrong(f"$.{field_name}", f"unknown field {field_name}", hint)
    at = "$" if kind.whole else "$.spec"
    try:
        spec = msgspec.convert(data if kind.whole else (data.get("spec") or {}), kind.spec)
    except msgspec.ValidationError as error:
        return _invalid(wrong, error, at)
    status = None
    if kind.status is not None:
        try:
            status = msgspec.convert(data.get("status") or {}, kind.status)
        except msgspec.ValidationError as error:
            return _invalid(wrong, error, "$.status")
    namespace = (metadata.namespace or "default") if kind.namespaced else ""
    return Resource(kind_name, version, namespace, metadata.name, metadata, spec, status, raw)


def identify(raw: RawObject) -> tuple[str, str, str]:
    """(kind, namespace, name) of an object that may be wrong otherwise: whose last good version stands in for it."""
    kind_name = raw.data.get("kind")
    namespace, _, name = _name(raw.data).rpartition("/")
    return (kind_name if isinstance(kind_name, str) else ""), namespace, name


def _name(data: Mapping[str, Any]) -> str:
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    kind = KINDS.get(str(data.get("kind")))
    if kind is not None and not kind.namespaced:
        return str(name or "?")
    return f"{namespace or 'default'}/{name or '?'}"


def _invalid(wrong: Any, error: msgspec.ValidationError, prefix: str) -> Problem:
    message, _, path = str(error).partition(" - at `")
    path = path.rpartition("` in `")[2].rstrip("`") or "$"  # "key` in `$.labels" when a key is wrong
    full = prefix + path[1:]
    hint = ""
    if message.startswith("Object contains unknown field"):
        unknown = message.split("`")[1]
        full = f"{full}.{unknown}"
        message = f"unknown field {full[2:]}"
    else:
        if message.endswith("of length >= 1") and "array" in message:
            hint = "name at least one, or leave it out"
        elif message in ("Expected `str`, got `int`", "Expected `str`, got `float`"):
            hint = "write it in quotes"
        message = f"{full[2:]}: {message}"
    problem: Problem = wrong(full, message, hint)
    return problem


def key_of(kind: str, namespace: str, name: str) -> str:
    return f"{kind} {namespace}/{name}"


def sequence(value: Sequence[Any] | None) -> Sequence[Any]:
    """Kubernetes writes an empty list as null."""
    return value or ()
