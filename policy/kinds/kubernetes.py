"""Shapes of the fields that edgemesh reads of Kubernetes' kinds. Fields that it does not use are ignored."""

from __future__ import annotations

from msgspec import field

from policy.kinds.base import Lax, Metadata, Port


class HttpGet(Lax, frozen=True):
    port: int | str  # number or name of a container port
    path: str = "/"  # path that the node's prober may request
    scheme: str = "HTTP"  # or HTTPS, which is admitted where the prober is known by its socket
    host: str | None = None  # another host than the pod: then the pod is not what is probed


class TcpSocket(Lax, frozen=True):
    port: int | str  # number or name of a container port
    host: str | None = None  # as for httpGet


class GrpcProbe(Lax, frozen=True):
    port: int  # port on which the gRPC health service is
    service: str | None = None  # what it is asked about; anything is admitted


class ProbeSpec(Lax, frozen=True):
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    grpc: GrpcProbe | None = None  # an exec probe makes no connection


class Hook(Lax, frozen=True):
    http_get: HttpGet | None = None


class Lifecycle(Lax, frozen=True):
    post_start: Hook | None = None
    pre_stop: Hook | None = None


class ContainerPort(Lax, frozen=True):
    container_port: Port  # port on which the program listens
    name: str = ""  # name by which a Service's targetPort may refer to it
    protocol: str = "TCP"  # or UDP, SCTP


class Container(Lax, frozen=True):
    ports: tuple[ContainerPort, ...] | None = None
    liveness_probe: ProbeSpec | None = None
    readiness_probe: ProbeSpec | None = None
    startup_probe: ProbeSpec | None = None
    lifecycle: Lifecycle | None = None
    restart_policy: str | None = None  # of an init container: Always makes it a sidecar


class PodSpec(Lax, frozen=True):
    """A program that a container runtime started: its identity, its place, and what its probes request."""

    hostname: str | None = None  # its name below that of a headless Service; without: that of the pod
    service_account_name: str | None = None  # its identity, with its namespace; without: default
    service_account: str | None = None  # the deprecated alias
    node_name: str | None = None  # node that it runs on
    host_network: bool | None = None  # true: it shares the node's addresses
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None  # only sidecars among them have ports and probes


class PodIP(Lax, frozen=True):
    ip: str = ""  # an address of the pod, IPv4 or IPv6


class PodCondition(Lax, frozen=True):
    type: str = ""  # only Ready is used
    status: str = ""  # "True" or "False"


class PodStatus(Lax, frozen=True):
    phase: str = ""  # a pod that is Succeeded or Failed is no longer in the mesh
    conditions: tuple[PodCondition, ...] | None = None
    pod_ip: str = field(name="podIP", default="")  # its address
    pod_ips: tuple[PodIP, ...] | None = field(name="podIPs", default=None)


class PodTemplate(Lax, frozen=True):
    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()


class Deployment(Lax, frozen=True):
    """Read only as the template of a Workload: labels, service account, ports and probes of its pods."""

    template: PodTemplate


class ServicePortSpec(Lax, frozen=True):
    port: Port  # port that callers dial
    name: str | None = None  # its prefix declares the protocol: http-, grpc-, tcp-, tcp-server-first-
    target_port: int | str | None = (
        None  # where the program listens: number, or name of a port of the workload; without: `port`
    )
    protocol: str | None = None  # TCP (the default) or UDP; UDP is not captured
    app_protocol: str | None = None  # declares the protocol; takes precedence over the prefix of the name


class ClientIP(Lax, frozen=True):
    timeout_seconds: int | None = None  # without: 10800


class SessionAffinityConfig(Lax, frozen=True):
    client_ip: ClientIP | None = field(name="clientIP", default=None)


class ServiceSpec(Lax, frozen=True):
    """A name and address for the workloads that its selector selects."""

    ports: tuple[ServicePortSpec, ...] | None = None
    selector: dict[str, str] | None = None  # labels that a workload must have to be an endpoint
    # its address; without: one of NodeConfig serviceRange; None: it has none, and its name resolves to the endpoints'
    # addresses
    cluster_ip: str | None = field(name="clusterIP", default=None)
    cluster_ips: tuple[str, ...] | None = field(name="clusterIPs", default=None)  # the same for both families
    type: str | None = None  # ExternalName: another name for a host outside the mesh
    external_name: str | None = None  # the host that an ExternalName stands for
    publish_not_ready_addresses: bool | None = None  # true: workloads that are not ready are called too
    session_affinity: str | None = None  # ClientIP: the calls of a workload go to one endpoint
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str | None = None  # Local: workloads call only endpoints of their own node


class SliceConditions(Lax, frozen=True):
    ready: bool | None = None  # false: it receives no calls
    serving: bool | None = None  # with terminating: it receives calls where no endpoint is ready
    terminating: bool | None = None  # true: it is about to end


class TargetRef(Lax, frozen=True):
    kind: str = ""  # Pod
    name: str = ""  # name of the pod
    namespace: str = ""  # namespace of the pod


class HintName(Lax, frozen=True):
    name: str = ""  # of the zone, or of the node


class SliceHints(Lax, frozen=True):
    for_zones: tuple[HintName, ...] | None = None  # zones whose workloads call it
    for_nodes: tuple[HintName, ...] | None = None  # nodes whose workloads call it


class SliceEndpoint(Lax, frozen=True):
    addresses: tuple[str, ...] = ()  # addresses on which it is reached
    conditions: SliceConditions | None = None
    hostname: str | None = None  # its name below that of a headless Service
    target_ref: TargetRef | None = None  # without a pod, and at nobody's address: it is outside the mesh
    node_name: str | None = None  # node that it is on
    topology: dict[str, str] | None = None  # before discovery.k8s.io/v1: kubernetes.io/hostname is that node
    hints: SliceHints | None = None  # acted on where every ready endpoint has them


class SlicePort(Lax, frozen=True):
    name: str | None = None  # name of the Service's port
    port: int | None = None  # port on which the endpoint listens
    protocol: str | None = None  # TCP or UDP


class Nothing(Lax, frozen=True):
    """A kind of which only the metadata matters."""


class EndpointSlice(Lax, frozen=True):
    """The endpoints of a Service, instead of its selector.

    The fields are beside metadata: EndpointSlice has no spec.
    """

    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None
    address_type: str = ""  # IPv4 or IPv6
