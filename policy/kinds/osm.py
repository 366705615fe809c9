"""Shapes of OSM's kinds, and of those that fsm took from it.

MeshConfig, MeshRootCertificate, AccessControl, IngressBackend, AccessCert, Egress, Retry, UpstreamTrafficSetting.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from policy.kinds.base import NOT_EMPTY, Name, Port, Strict

# OSM config.openservicemesh.io/v1alpha2, and v1alpha1, which has some of its fields and these of its own


class MeshTraffic(Strict, frozen=True):
    interception_mode: str = ""  # not acted on: workloads are captured
    enable_egress: bool = True  # false: workloads reach nothing outside the mesh but what an Egress names
    enable_permissive_traffic_policy_mode: bool = (
        False  # true: TrafficTargets are ignored, and every identity of the mesh may call
    )
    # ranges that workloads call outside the mesh, as 10.0.0.0/8
    outbound_ip_range_exclusion_list: tuple[str, ...] | None = field(name="outboundIPRangeExclusionList", default=None)
    # only calls to these ranges are captured; without: to all
    outbound_ip_range_inclusion_list: tuple[str, ...] | None = field(name="outboundIPRangeInclusionList", default=None)
    outbound_port_exclusion_list: tuple[Port, ...] | None = None  # ports that workloads call outside the mesh
    inbound_port_exclusion_list: tuple[Port, ...] | None = (
        None  # ports of workloads that any client may call outside the mesh
    )
    inbound_external_authorization: Any = None  # not acted on: no outside authorizer is asked
    # interfaces of pods and network namespaces that are left alone: anybody may call by them, and be called; charts write an
    # empty list as null
    network_interface_exclusion_list: tuple[str, ...] | None = None
    http1_per_request_load_balancing: bool = False  # not acted on: each request is balanced by itself
    http2_per_request_load_balancing: bool = True  # not acted on: each request is balanced by itself
    use_https_ingress: Any = field(name="useHTTPSIngress", default=None)  # v1alpha1's; not acted on


class MeshConfig(Strict, frozen=True):
    """Settings of the whole mesh.

    The fields that edgemesh acts on are typed. What becomes of each of OSM's other fields is in the second table below.
    """

    traffic: MeshTraffic = MeshTraffic()
    cluster_set: Any = None  # not acted on
    sidecar: Any = None  # not acted on: there are no sidecars
    repo_server: Any = None  # not acted on
    observability: Any = None  # not acted on; NodeConfig has accessLog and the metrics
    certificate: Any = None  # not acted on; NodeConfig has identity
    # enableEgressPolicy: false: an Egress lets nothing out; enableRetryPolicy: true: Retries count; the others are not acted on
    feature_flags: Any = None
    plugin_chains: Any = None  # not acted on: there are no plugins


class SecretReference(Strict, frozen=True):
    name: Name  # of the Secret
    namespace: str = ""  # that of edgemesh's own pods: its servers read Secrets nowhere else


class TresorCa(Strict, frozen=True):
    # a Secret with tls.crt (the certificate that is to sign, and what is above it), tls.key, and ca.crt (the root); or
    # with ca.crt and private.key, as OSM has it
    secret_ref: SecretReference


class Tresor(Strict, frozen=True):
    ca: TresorCa


class CertManager(Strict, frozen=True):
    issuer_name: Name  # an Issuer in the namespace of edgemesh's own pods, or a ClusterIssuer
    issuer_kind: str = "Issuer"  # or ClusterIssuer, or the kind of an issuer outside cert-manager
    issuer_group: str = "cert-manager.io"  # another one for an issuer outside cert-manager
    # a Secret whose ca.crt is the root that certificates lead to; without: what cert-manager says in status.ca
    secret_name: str = ""


class MeshRootProvider(Strict, frozen=True):
    tresor: Tresor | None = None  # the servers sign, with the key in this Secret
    cert_manager: CertManager | None = None  # cert-manager signs what the servers have checked
    vault: Any = None  # not acted on: the servers sign themselves


class MeshRootCertificate(Strict, frozen=True):
    """Who signs the certificates of a mesh in a cluster, instead of a key that edgemesh makes.

    It is read in the namespace of edgemesh's own pods, by the server that holds the lease. A change of the root is
    carried out step by step: every node trusts the new root before anything is signed under it.
    """

    provider: MeshRootProvider = MeshRootProvider()
    trust_domain: str = ""  # cannot be changed later; without: cluster.local


# OSM policy.openservicemesh.io/v1alpha1, and fsm's policy.flomesh.io/v1alpha1


class RetrySource(Strict, frozen=True):
    kind: str  # ServiceAccount
    name: Name  # of the service account that the callers run under
    namespace: str = ""  # without: that of the Retry


class RetryDestination(Strict, frozen=True):
    kind: str  # Service
    name: Name  # of the Service that is called, also where its calls are split
    namespace: str = ""  # without: that of the Retry


class RetryPolicy(Strict, frozen=True):
    # words with commas between. By what the server answers: 5xx, gateway-error (502, 503, 504), retriable-4xx (409), a
    # status as 503; of gRPC cancelled, deadline-exceeded, internal, resource-exhausted, unavailable. By what happens
    # before it answers: reset (the connection broke, or the attempt took longer than perTryTimeout), connect-failure,
    # refused-stream; 5xx and gateway-error mean these too
    retry_on: str
    per_try_timeout: str | None = None  # for each attempt, as 1s or 500ms; 0s: as without
    num_retries: Annotated[int, Meta(ge=0, le=4294967295)] | None = None  # beside the first attempt; without: 1
    # before retry N is waited by chance up to (2**N - 1) times as long, 10 times at most; without: 25ms
    retry_backoff_base_interval: str | None = None


class Retry(Strict, frozen=True):
    """When HTTP requests of a service account to Services are sent again, whatever their method.

    A MeshConfig has to switch it on with `featureFlags.enableRetryPolicy: true`, as in OSM. A rule of an HTTPRoute that
    has a `retry` of its own goes by that one.
    """

    source: RetrySource  # whose requests
    destinations: tuple[RetryDestination, ...]  # the Services that are called
    retry_policy: RetryPolicy  # when, how often, and how soon


class AccessPort(Strict, frozen=True):
    number: Port  # port on which the program listens
    protocol: str = ""  # for people: bytes go to the server unchanged


class AccessBackend(Strict, frozen=True):
    name: Name  # of a Service in the same namespace
    port: AccessPort
    tls: Any = None  # not acted on


class AccessSource(Strict, frozen=True):
    kind: str  # IPRange, or Service: the addresses of its endpoints
    name: Name  # the range, as 10.0.0.0/8, or the Service's name
    namespace: str = ""  # of the Service


class AccessControl(Strict, frozen=True):
    """Callers from outside the mesh, in plain text and by address, where `edgemesh.io/mtls` is permissive."""

    backends: tuple[AccessBackend, ...] = ()  # Services that may be called
    sources: tuple[AccessSource, ...] = ()  # callers that are admitted
    matches: tuple[Any, ...] | None = None  # OSM never gave it a meaning: an AccessControl that has it is refused


class IngressTls(Strict, frozen=True):
    # true: with protocol https, callers come in by address alone; false: only by a certificate
    skip_client_cert_validation: bool = False
    sni_hosts: tuple[str, ...] | None = None  # not acted on


class IngressPort(Strict, frozen=True):
    number: Port  # port on which the program listens
    protocol: str = ""  # http, or https: the caller's certificate is asked for, unless tls says otherwise


class IngressBackendService(Strict, frozen=True):
    name: Name  # of a Service in the same namespace
    port: IngressPort
    tls: IngressTls | None = None


class IngressSource(Strict, frozen=True):
    # IPRange; Service: the addresses of its endpoints; Gateway: callers who come in at its listeners; IngressClass, named
    # edgemesh: those of its Ingresses; or AuthenticatedPrincipal: a certificate
    kind: str
    # the range; of the Service or Gateway; or an identity of the mesh, SERVICE-ACCOUNT.NAMESPACE.TRUST-DOMAIN or a
    # SPIFFE ID; or any other name in the certificate that a caller shows to a Gateway of this namespace
    name: Name
    namespace: str = ""  # of the Service or Gateway


class IngressMatch(Strict, frozen=True):
    kind: str  # HTTPRouteGroup; an UpstreamTrafficSetting is known, and lets in nothing
    name: Name  # of the HTTPRouteGroup, in the same namespace
    api_group: str | None = None  # specs.smi-spec.io/v1alpha4


class IngressBackend(Strict, frozen=True):
    """Callers from outside the mesh, such as an ingress controller: in plain text by address, or by identity.

    It lets in its sources in strict mode too.
    """

    backends: tuple[IngressBackendService, ...] = ()  # Services that may be called
    sources: tuple[IngressSource, ...] = ()  # callers that are admitted
    matches: tuple[IngressMatch, ...] | None = None  # only requests that these admit; without: whatever is sent


class AccessCertSecret(Strict, frozen=True):
    name: Name  # a Secret that is not there yet: one that somebody else made is never overwritten
    namespace: str = ""  # no other than that of the AccessCert


class AccessCert(Strict, frozen=True):
    """A certificate for a client outside the mesh, which the servers of a cluster write into a Secret.

    Its tls.crt, tls.key and ca.crt are made anew in time. With it a client calls, and cannot be called. It gives no
    name that a workload of the mesh, or a Service, has or may have.
    """

    # names: SERVICE-ACCOUNT.NAMESPACE.TRUST-DOMAIN or its SPIFFE ID, at most one, as which the mesh knows the client; its
    # namespace is that of the AccessCert, and outside the mesh. Other DNS names are for servers that check them themselves
    subject_alt_names: tuple[str, ...]
    secret: AccessCertSecret  # where the servers write it


class EgressSource(Strict, frozen=True):
    kind: str  # ServiceAccount
    name: Name  # of the service account
    namespace: str = ""  # of the service account; without: the Egress's own
    mtls: Any = None  # not acted on, and an Egress that has it is refused: TLS is not begun here


class EgressPort(Strict, frozen=True):
    number: Port  # port that is called
    # http: Host has to be of `hosts`; https: TLS, whose server name has to be; tcp, tcp-server-first: any bytes
    protocol: str


class EgressMatch(Strict, frozen=True):
    # HTTPRouteGroup: only requests that it names, on ports of protocol http. UpstreamTrafficSetting: bounds these calls
    kind: str
    name: Name  # in the Egress's namespace
    api_group: str = ""  # specs.smi-spec.io, with or without a version; may be left out


class Egress(Strict, frozen=True):
    """What workloads may call outside the mesh where the MeshConfig says `enableEgress: false`.

    A call by host is let out only to an address that DNS gave for that host.
    """

    sources: Annotated[tuple[EgressSource, ...], NOT_EMPTY]  # who may call
    ports: Annotated[tuple[EgressPort, ...], NOT_EMPTY]  # on which ports, and how
    # names that http and https may call: pay.example.com, or *.example.com for all names below. Not looked at for tcp
    hosts: Annotated[tuple[Name, ...], NOT_EMPTY] | None = None
    # ranges in which the called address has to be, as 203.0.113.0/24; without: any address
    ip_addresses: Annotated[tuple[Name, ...], NOT_EMPTY] | None = field(name="ipAddresses", default=None)
    matches: Annotated[tuple[EgressMatch, ...], NOT_EMPTY] | None = (
        None  # the requests that http may send; without: all
    )


Count = Annotated[int, Meta(ge=1, le=4294967295)]
_Burst = Annotated[int, Meta(ge=0, le=4294967295)]
_FEW = Meta(max_length=64)  # each is looked at for each request
_Ratio = Annotated[float, Meta(ge=0, le=1)]


class TcpConnectionSettings(Strict, frozen=True):
    max_connections: Count | None = None  # connections in use at once, for each calling workload; without: any number
    connect_timeout: str | None = None  # for one attempt to connect, as 5s; without: NodeConfig limits.connectTimeout


class CircuitBreaking(Strict, frozen=True):
    stat_time_window: str  # how long requests are counted, as 1m
    degraded_time_window: str  # how long no request is sent once the circuit is open, as 1m; then one is, and decides
    min_request_amount: Count = 100  # requests that have to be counted before a ratio or amount counts
    slow_time_threshold: str | None = None  # a response is slow that takes longer than this, as 200ms
    slow_amount_threshold: Count | None = None  # slow responses that open the circuit
    slow_ratio_threshold: _Ratio | None = None  # share of slow responses that opens it, from 0 to 1
    error_amount_threshold: Count | None = None  # responses from 500 on, and requests without any, that open it
    error_ratio_threshold: _Ratio | None = None  # share of these that opens it, from 0 to 1
    degraded_status_code: int | None = None  # of the response while the circuit is open; without: 409
    degraded_response_content: str | None = None  # its body; without: Coming soon ...


class HttpConnectionSettings(Strict, frozen=True):
    max_requests: Count | None = None  # requests under way at once, for each calling workload; without: any number
    max_requests_per_connection: Count | None = None  # that one connection to a server carries; without: any number
    # requests that wait while maxConnections are in use, for each calling workload; the next ones get 503
    max_pending_requests: Annotated[int, Meta(ge=0, le=4294967295)] | None = None
    max_retries: Annotated[int, Meta(ge=0, le=4294967295)] | None = None  # repeated requests under way at once
    circuit_breaking: CircuitBreaking | None = None  # without: no circuit opens


class ConnectionSettings(Strict, frozen=True):
    """They hold at the caller's node."""

    tcp: TcpConnectionSettings | None = None  # also for the connections that carry HTTP
    http: HttpConnectionSettings | None = None


class TcpLocalRateLimit(Strict, frozen=True):
    connections: Count  # new ones for each unit
    unit: str  # second, minute or hour
    burst: _Burst = 0  # beyond these, at once


class FieldValue(Strict, frozen=True):
    name: Name  # of the header field, in any case
    value: str  # its value


class HttpLocalRateLimit(Strict, frozen=True):
    requests: Count  # for each unit
    unit: str  # second, minute or hour
    burst: _Burst = 0  # beyond these, at once
    response_status_code: Annotated[int, Meta(ge=0, le=599)] = 0  # from 400 to 599; without: 429
    response_headers_to_add: Annotated[tuple[FieldValue, ...], Meta(max_length=16)] | None = (
        None  # fields that this response has
    )


class LocalRateLimit(Strict, frozen=True):
    tcp: TcpLocalRateLimit | None = None  # of new connections to the server: the next ones are closed
    http: HttpLocalRateLimit | None = None  # of requests: the next ones are answered with a status


class RateLimit(Strict, frozen=True):
    """Rates hold at the server's node, for each workload of the Service and all of its callers together."""

    local: LocalRateLimit | None = None
    global_: Any = field(name="global", default=None)  # not acted on: no rate limit service is asked


class HttpRateLimit(Strict, frozen=True):
    local: HttpLocalRateLimit | None = None
    global_: Any = field(name="global", default=None)  # not acted on: no rate limit service is asked


class HttpRouteSetting(Strict, frozen=True):
    path: Name  # pattern (RE2) that fits paths from their beginning
    rate_limit: HttpRateLimit | None = None  # of these requests; that of all requests holds for them too


class HttpHeaderSetting(Strict, frozen=True):
    headers: Annotated[
        tuple[FieldValue, ...], Meta(max_length=16)
    ]  # fields of the request, and patterns (RE2) of their values: all have to match
    rate_limit: HttpRateLimit | None = None  # of these requests; that of all requests holds for them too


class UpstreamTrafficSetting(Strict, frozen=True):
    """What bounds the calls to a Service: rates, connections, requests under way, a circuit breaker."""

    host: Name  # a Service of the same namespace: NAME, or NAME.NAMESPACE.svc.cluster.local
    connection_settings: ConnectionSettings | None = None
    rate_limit: RateLimit | None = None
    http_routes: Annotated[tuple[HttpRouteSetting, ...], _FEW] | None = None
    http_headers: Annotated[tuple[HttpHeaderSetting, ...], _FEW] | None = None
