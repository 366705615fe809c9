"""NodeConfig: the settings of one node, with defaults and units. checks.py says what is wrong with a value."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nodeproxy.capture import Marks, Ports
from nodeproxy.limits import Limits, PeerLimits, Seconds
from nodeproxy.user_filters import UserFilter
from policy.addresses import RANGES

API_VERSION = "edgemesh.io/v1alpha1"
KIND = "NodeConfig"
DEFAULT = "default"

SOCKET = "/run/edgemesh/edgemesh.sock"


class Dns(Struct, frozen=True, rename="camel"):
    enabled: bool = True  # answer workloads' questions for Service names
    # seconds for which an answer is valid; CoreDNS's kubernetes plugin has the same default
    ttl: Annotated[int, Meta(ge=0, le=86400)] = 5
    # memory for what resolvers answered, for all workloads of the node together; 0: nothing is kept
    cache_bytes: Annotated[int, Meta(ge=0, le=1 << 30)] = 4 << 20
    # true: names below the cluster's domain that no Service has are asked of the resolver, for a cluster whose DNS has
    # names of its own there; false: with Kubernetes they do not exist
    ask_unknown: bool = False
    # addresses of the resolvers whose answers count for an Egress by host; without: those that the node's files name
    # (resolv.conf, of systemd-resolved and of network namespaces too), and the Service kube-system/kube-dns
    resolvers: tuple[str, ...] = ()


class IdentityConfig(Struct, frozen=True, rename="camel"):
    """How this node proves the identity of its workloads. Seconds."""

    # validity of a requested certificate; the authority may give less. Longer than a node is likely to be cut off
    lifetime: Seconds = 14 * 86400.0
    # difference between clocks: certificates are accepted that long before and after their validity
    tolerance: Annotated[float, Meta(ge=0, le=86400)] = 300.0
    refresh: Seconds = 3600.0  # time between reads of the authority's roots: new ones take effect that late
    authority: str = ""  # HOST:PORT of the authority; "": the one that this node joined


class AuthorityConfig(Struct, frozen=True, rename="camel"):
    """The authority's listener; used with `edgemesh run --authority` only."""

    listen: str = "0.0.0.0:15012"  # HOST:PORT where nodes join and renew


class Http2(Struct, frozen=True, rename="camel"):
    """Bounds of every HTTP/2 connection: flow-control windows (RFC 9113 section 5.2) and concurrent streams."""

    # bytes that a peer may send on one stream before some are read
    stream_window: Annotated[int, Meta(ge=16384, le=2**31 - 1)] = 262144
    # the same for all streams of a connection together; HTTP/2 begins with 65,535, and it cannot shrink
    connection_window: Annotated[int, Meta(ge=65535, le=2**31 - 1)] = 1048576
    streams: Annotated[int, Meta(ge=1, le=10_000)] = 100  # streams that a peer may have open at once on one connection


class ProbesConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Which process may send a workload's declared probes in plain text, without an identity."""

    # the process that listens on this TCP port of the node: the kubelet's is 10250; 0: any process of the node;
    # without: 10250 where the daemon runs with --kubernetes, otherwise 0
    listener: Annotated[int, Meta(ge=0, le=65535)] | None = None


class KubernetesConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A node whose workloads are pods of Kubernetes."""

    # whether a new pod is mute, in the kernel, until it is captured or known to be outside the mesh, also while no
    # daemon runs; auto: where the daemon runs with --kubernetes; off: a pod may call for the moments until it is captured
    gate: Literal["auto", "on", "off"] = "auto"
    # whether containerd starts a small program of edgemesh before it serves a pod (/opt/nri/plugins/05-edgemesh), which
    # holds new pods of the mesh mute from boot on, and lets others speak while no daemon runs; auto: as gate, where
    # containerd has NRI; off: pods that begin before the daemon does are open until it is up
    boot_gate: Literal["auto", "on", "off"] = "auto"
    # ranges of which this node's pods get their addresses; empty: as the container runtime's CNI records say
    pod_ranges: tuple[str, ...] = ()
    # TCP port, on the daemon's pod's address, of pages that people read through the API server (edgemesh status
    # --all-nodes); 0: none
    door: Annotated[int, Meta(ge=0, le=65535)] = 15019


class GatewayConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Callers from outside the mesh, who come in at the listeners of Gateways."""

    # folder that has NAMESPACE/NAME/tls.crt and tls.key for each Secret that a listener names, and NAMESPACE/NAME/ca.crt
    # for each ConfigMap; "": none. With Kubernetes the API server has them, and nothing is read here
    certificates: str = ""
    # ranges, as 192.0.2.16/28, of which each Gateway that names no address gets one of its own; a node listens at those
    # that it has. All nodes need the same. Empty: such a Gateway is at all addresses of all nodes
    addresses: tuple[str, ...] = ()
    # ranges of the load balancers before this node: what they say in x-forwarded-for, -proto and -host is kept; of
    # everybody else it is dropped
    trusted_networks: tuple[str, ...] = ()
    # true: connections from trustedNetworks begin with a PROXY header, version 1 or 2, that says who calls
    proxy_protocol: bool = False


class UpdateConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """When one daemon hands over to another. Seconds."""

    deadline: Seconds = 30.0  # time for the new daemon to take over and report healthy
    drain_timeout: Seconds = 600.0  # time for connections of the old daemon to end; it accepts no new ones meanwhile


class NodeConfig(Struct, frozen=True, rename="camel"):
    """Paths, addresses and bounds of one node's daemon."""

    node: str = ""  # the node's name; "": the host name
    addresses: tuple[str, ...] = ()  # where other nodes reach this one: its tunnel listener is there, on ports.tunnel
    # true: its network costs by the byte, so idle connections get few keepalives
    metered: bool = False
    state_dir: str = "/var/lib/edgemesh"  # what outlives a restart: keys, certificates, the last good policy
    admin_socket: str = SOCKET  # socket by which commands reach the daemon
    # HOST:PORT where Prometheus may read metrics too, with the token; "": metrics are on the admin socket only
    metrics_address: str = ""
    # file with the bearer token for metricsAddress; a file that every user may read is refused
    metrics_token_file: str = ""
    # HOST:PORT where a kubelet may ask for /live and /settled, without a token; "": nowhere
    health_address: str = ""
    metrics_rows: Annotated[int, Meta(ge=1, le=100_000)] = 1000  # pairs of workloads that metrics count separately
    # ranges from which Services without an address get one; such addresses never leave the node
    service_range: tuple[str, ...] = RANGES
    dns: Dns = Dns()
    # what a stopped daemon leaves: closed: every call is refused; open: no rules at all
    on_stop: Literal["closed", "open"] = "closed"
    # which calls get a line on standard output; failed: denied ones, and 5xx
    access_log: Literal["off", "denied", "failed", "all"] = "failed"
    native_lane: bool = True  # use the fast path, where it was compiled
    # true: a call that dials one Service and names another in Host or in TLS gets 421. It finds callers that use an old
    # address. Rules do not need it, since they use the address that was dialled. It is for meshes without gateways,
    # which pass on the Host that they received.
    refuse_other_hosts: bool = False
    # folder with the keys of HTTPFilters that sign and verify: NAMESPACE/NAME, 16 to 4,096 bytes, which only root may
    # read; a namespace's HTTPFilters get keys of that namespace only; "": none
    filter_keys: str = "/etc/edgemesh/filter-keys"
    filters: tuple[UserFilter, ...] = ()  # filters that are Python on this node, for HTTPFilters that name one (user)
    # folder of their files; only root may be able to write there; "": none
    filter_code: str = "/etc/edgemesh/filters"
    poll_interval: Seconds = 2.0  # seconds between scans of the manifests where inotify does not work
    limits: Limits = Limits()
    ports: Ports = Ports()
    marks: Marks = Marks()
    identity: IdentityConfig = IdentityConfig()
    authority: AuthorityConfig = AuthorityConfig()
    http2: Http2 = Http2()
    peers: PeerLimits = PeerLimits()
    update: UpdateConfig = UpdateConfig()
    probes: ProbesConfig = ProbesConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()
    gateway: GatewayConfig = GatewayConfig()


# Fields that take effect while the daemon runs; all others wait for its next start.
LIVE = frozenset(("limits", "access_log", "poll_interval"))
