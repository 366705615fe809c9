"""KINDS: every kind that we read, its API group and versions, its shape. Plain data in, a typed Resource or Problems out.

Kinds of our own and of SMI and OSM are strict: a field that nobody knows is a typing error. Kubernetes' own kinds are read from
real manifests, so what we do not model there is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from policy.model import Problem, Severity, Where


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


class Metadata(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None


class _Strict(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class _Lax(Struct, frozen=True, rename="camel"):
    pass


Port = Annotated[int, Meta(ge=1, le=65535)]
PortNumber = Annotated[int, Meta(ge=0, le=65535)]
Method = Annotated[str, Meta(min_length=1)]


# SMI specs.smi-spec.io


class HttpMatchSpec(_Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    path_regex: str | None = None
    methods: tuple[Method, ...] | None = None
    headers: tuple[dict[str, str], ...] | dict[str, str] | None = None  # prose says map, SDK and CRD list of maps: both are read


class HTTPRouteGroup(_Strict, frozen=True):
    matches: tuple[HttpMatchSpec, ...] = ()


class PortMatch(_Strict, frozen=True):
    name: str = ""
    ports: tuple[Port, ...] | None = None


class PortRoute(_Strict, frozen=True):
    """TCPRoute and UDPRoute. Absent matches or ports = all ports."""

    matches: PortMatch | None = None


# SMI access.smi-spec.io


class Subject(_Strict, frozen=True):
    kind: str
    name: Annotated[str, Meta(min_length=1)]
    namespace: str = ""
    port: PortNumber | None = None  # v1alpha1's; accepted, not acted on


class RouteRef(_Strict, frozen=True):
    kind: str
    name: Annotated[str, Meta(min_length=1)]
    matches: tuple[str, ...] | None = None


class TrafficTarget(_Strict, frozen=True):
    destination: Subject
    rules: tuple[RouteRef, ...] = ()
    sources: tuple[Subject, ...] = ()


# SMI split.smi-spec.io


class ObjectRef(_Strict, frozen=True):
    kind: str
    name: Annotated[str, Meta(min_length=1)]
    api_group: str = ""


class BackendSpec(_Strict, frozen=True):
    service: Annotated[str, Meta(min_length=1)]
    weight: Annotated[int, Meta(ge=0, le=1_000_000)]
    namespace: str = ""


class TrafficSplit(_Strict, frozen=True):
    service: Annotated[str, Meta(min_length=1)]
    backends: tuple[BackendSpec, ...]
    matches: tuple[ObjectRef, ...] | None = None


# OSM config.openservicemesh.io/v1alpha2


class MeshTraffic(_Strict, frozen=True):
    interception_mode: str = ""
    enable_egress: bool = True
    enable_permissive_traffic_policy_mode: bool = False
    outbound_ip_range_exclusion_list: tuple[str, ...] = field(name="outboundIPRangeExclusionList", default=())
    outbound_ip_range_inclusion_list: tuple[str, ...] = field(name="outboundIPRangeInclusionList", default=())
    outbound_port_exclusion_list: tuple[Port, ...] = ()
    inbound_port_exclusion_list: tuple[Port, ...] = ()
    inbound_external_authorization: Any = None
    network_interface_exclusion_list: tuple[str, ...] = ()
    http1_per_request_load_balancing: bool = False
    http2_per_request_load_balancing: bool = True


class MeshConfig(_Strict, frozen=True):
    """What we act on is typed; the rest of OSM's fields are known and left alone."""

    traffic: MeshTraffic = MeshTraffic()
    cluster_set: Any = None
    sidecar: Any = None
    repo_server: Any = None
    observability: Any = None
    certificate: Any = None
    feature_flags: Any = None
    plugin_chains: Any = None


# edgemesh.io/v1alpha1


class WorkloadPort(_Strict, frozen=True):
    port: Port
    name: str = ""
    protocol: Literal["TCP", "UDP"] = "TCP"


class WorkloadSpec(_Strict, frozen=True):
    service_account: str = ""
    labels: dict[str, str] = {}
    addresses: tuple[str, ...] = ()
    ports: tuple[WorkloadPort, ...] = ()
    node: str = ""
    netns: str = ""
    systemd_unit: str = ""
    template: str = ""  # a Deployment of the same namespace: labels, service account, ports and probes of its pods


# Kubernetes


class HttpGet(_Lax, frozen=True):
    port: int | str
    path: str = "/"
    scheme: str = "HTTP"


class TcpSocket(_Lax, frozen=True):
    port: int | str


class ProbeSpec(_Lax, frozen=True):
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None


class ContainerPort(_Lax, frozen=True):
    container_port: Port
    name: str = ""
    protocol: str = "TCP"


class Container(_Lax, frozen=True):
    ports: tuple[ContainerPort, ...] | None = None
    liveness_probe: ProbeSpec | None = None
    readiness_probe: ProbeSpec | None = None
    startup_probe: ProbeSpec | None = None


class PodSpec(_Lax, frozen=True):
    service_account_name: str | None = None
    service_account: str | None = None  # the deprecated alias
    node_name: str | None = None
    host_network: bool | None = None
    containers: tuple[Container, ...] | None = None


class PodIP(_Lax, frozen=True):
    ip: str = ""


class PodStatus(_Lax, frozen=True):
    phase: str = ""
    pod_ip: str = field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] | None = field(name="podIPs", default=None)


class PodTemplate(_Lax, frozen=True):
    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()


class Deployment(_Lax, frozen=True):
    template: PodTemplate


class ServicePortSpec(_Lax, frozen=True):
    port: Port
    name: str | None = None
    target_port: int | str | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class ServiceSpec(_Lax, frozen=True):
    ports: tuple[ServicePortSpec, ...] | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str | None = field(name="clusterIP", default=None)
    cluster_ips: tuple[str, ...] | None = field(name="clusterIPs", default=None)
    type: str | None = None


class SliceConditions(_Lax, frozen=True):
    ready: bool | None = None


class TargetRef(_Lax, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class SliceEndpoint(_Lax, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: SliceConditions | None = None
    target_ref: TargetRef | None = None


class SlicePort(_Lax, frozen=True):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class _Nothing(_Lax, frozen=True):
    """A kind of which only the metadata matters."""


class EndpointSlice(_Lax, frozen=True):
    """The fields stand beside metadata: EndpointSlice has no spec."""

    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None
    address_type: str = ""


class Kind(Struct, frozen=True):
    group: str  # "" is Kubernetes' core
    versions: tuple[str, ...]
    spec: type[Struct]
    namespaced: bool = True
    whole: bool = False  # the fields stand at the top of the object, not under spec
    status: type[Struct] | None = None
    strict: bool = True


KINDS: dict[str, Kind] = {
    "Namespace": Kind("", ("v1",), _Nothing, namespaced=False, strict=False),
    "ServiceAccount": Kind("", ("v1",), _Nothing, whole=True, strict=False),
    "Service": Kind("", ("v1",), ServiceSpec, strict=False),
    "Pod": Kind("", ("v1",), PodSpec, status=PodStatus, strict=False),
    "EndpointSlice": Kind("discovery.k8s.io", ("v1",), EndpointSlice, whole=True, strict=False),
    "Deployment": Kind("apps", ("v1",), Deployment, strict=False),
    "Workload": Kind("edgemesh.io", ("v1alpha1",), WorkloadSpec),
    "TrafficTarget": Kind("access.smi-spec.io", ("v1alpha2", "v1alpha3"), TrafficTarget),
    "HTTPRouteGroup": Kind("specs.smi-spec.io", ("v1alpha3", "v1alpha4"), HTTPRouteGroup),
    "TCPRoute": Kind("specs.smi-spec.io", ("v1alpha3", "v1alpha4"), PortRoute),
    "UDPRoute": Kind("specs.smi-spec.io", ("v1alpha3", "v1alpha4"), PortRoute),
    "TrafficSplit": Kind("split.smi-spec.io", ("v1alpha2", "v1alpha3", "v1alpha4"), TrafficSplit),
    "MeshConfig": Kind("config.openservicemesh.io", ("v1alpha2",), MeshConfig),
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


def unwrap(raws: Iterable[RawObject]) -> Iterable[RawObject]:
    """The objects, with `kind: List` taken apart."""
    for raw in raws:
        items = raw.data.get("items")
        if raw.data.get("kind") in ("List", *(f"{kind}List" for kind in KINDS)) and isinstance(items, list):
            for number, item in enumerate(items):
                if isinstance(item, dict):
                    prefix = f"$.items[{number}]"
                    yield from unwrap([RawObject(item, Where(raw.where.file, raw.line(prefix)), _Shifted(raw, prefix))])
        else:
            yield raw


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
    if kind is None or kind.group != group:
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
    path = path.rstrip("`") or "$"
    full = prefix + path[1:]
    hint = ""
    if message.startswith("Object contains unknown field"):
        unknown = message.split("`")[1]
        full = f"{full}.{unknown}"
        message = f"unknown field {full[2:]}"
    else:
        message = f"{full[2:]}: {message}"
    problem: Problem = wrong(full, message, hint)
    return problem


def key_of(kind: str, namespace: str, name: str) -> str:
    return f"{kind} {namespace}/{name}"


def sequence(value: Sequence[Any] | None) -> Sequence[Any]:
    """Kubernetes writes an empty list as null."""
    return value or ()
