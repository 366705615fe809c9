"""The shapes of the kinds that we read: SMI, OSM, edgemesh's own, and what we model of Kubernetes' kinds.

Kinds of our own and of SMI and OSM are strict: a field that nobody knows is a typing error. Kubernetes' own kinds are read from
real manifests, so what we do not model there is left alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field


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
# An empty list is not the same as none: in SMI, a list left out means everything, and one that became empty by mistake must not.
_SOME = Meta(min_length=1)


# SMI specs.smi-spec.io


class HttpMatchSpec(_Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    path_regex: str | None = None
    methods: Annotated[tuple[Method, ...], _SOME] | None = None
    headers: Annotated[tuple[dict[str, str], ...], _SOME] | Annotated[dict[str, str], _SOME] | None = (
        None  # prose says map, SDK and CRD list of maps: both are read
    )


class HTTPRouteGroup(_Strict, frozen=True):
    matches: tuple[HttpMatchSpec, ...] = ()


class PortMatch(_Strict, frozen=True):
    name: str = ""
    ports: Annotated[tuple[Port, ...], _SOME] | None = None


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
    matches: Annotated[tuple[str, ...], _SOME] | None = None


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
    matches: Annotated[tuple[ObjectRef, ...], _SOME] | None = None


# OSM config.openservicemesh.io/v1alpha2


class MeshTraffic(_Strict, frozen=True):
    interception_mode: str = ""
    enable_egress: bool = True
    enable_permissive_traffic_policy_mode: bool = False
    outbound_ip_range_exclusion_list: tuple[str, ...] | None = field(name="outboundIPRangeExclusionList", default=None)
    outbound_ip_range_inclusion_list: tuple[str, ...] | None = field(name="outboundIPRangeInclusionList", default=None)
    outbound_port_exclusion_list: tuple[Port, ...] | None = None
    inbound_port_exclusion_list: tuple[Port, ...] | None = None
    inbound_external_authorization: Any = None
    network_interface_exclusion_list: tuple[str, ...] | None = None  # charts write an empty list as null
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


# OSM policy.openservicemesh.io/v1alpha1, and fsm's policy.flomesh.io/v1alpha1


class AccessPort(_Strict, frozen=True):
    number: Port
    protocol: str = ""


class AccessBackend(_Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    port: AccessPort
    tls: Any = None


class AccessSource(_Strict, frozen=True):
    kind: str
    name: Annotated[str, Meta(min_length=1)]
    namespace: str = ""


class AccessControl(_Strict, frozen=True):
    """`matches` was never given a meaning by OSM."""

    backends: tuple[AccessBackend, ...] = ()
    sources: tuple[AccessSource, ...] = ()
    matches: tuple[Any, ...] | None = None


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
    tunnel_port: Port | None = None  # its own tunnel door, where other nodes reach it; without: the usual one of its address


RevokedNode = Annotated[str, Meta(min_length=1)]
RevokedSerial = Annotated[str, Meta(pattern="^[0-9A-Fa-f:]*[0-9A-Fa-f]\\Z")]


class RevokedIdentity(_Strict, frozen=True):
    namespace: Annotated[str, Meta(min_length=1)]
    service_account: Annotated[str, Meta(min_length=1)]


class Revocation(_Strict, frozen=True):
    """Who is refused from now on. All Revocations add up; what none of them names any more is trusted again."""

    nodes: tuple[RevokedNode, ...] = ()
    identities: tuple[RevokedIdentity, ...] = ()
    serials: tuple[RevokedSerial, ...] = ()


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


class PodCondition(_Lax, frozen=True):
    type: str = ""
    status: str = ""


class PodStatus(_Lax, frozen=True):
    phase: str = ""
    conditions: tuple[PodCondition, ...] | None = None
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


class Nothing(_Lax, frozen=True):
    """A kind of which only the metadata matters."""


class EndpointSlice(_Lax, frozen=True):
    """The fields stand beside metadata: EndpointSlice has no spec."""

    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None
    address_type: str = ""
