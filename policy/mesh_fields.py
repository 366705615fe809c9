"""Every field of OSM's MeshConfig, and what becomes of it here.

A row stands for its path below spec and for all paths below that, unless a longer one has a row of its own. The fields
that the translators read are those of kinds/osm.py; docs/reference/kinds/meshconfig.md shows the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

# done: it acts as its words say. always: what it asks for is so, whatever it says. missed: it promises something that is
# not done. none: it has nothing to act on.
Here = Literal["done", "always", "missed", "none"]


class Field(Struct, frozen=True):
    """One field, or a block of them.

    `words`: what it does, or why not; a warning is made of them if the field is "missed", or "always" and asks for
    something else. `asks`: whether this value asks for what is not so; None: never.
    """

    path: str
    here: Here
    words: str
    hint: str = ""
    asks: Callable[[Any], bool] | None = None


def _on(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("enable") is True


def is_set(value: Any) -> bool:
    return value not in (None, "", 0, False, (), [], {})


def _any(value: Any) -> bool:
    return isinstance(value, Mapping) and any(map(is_set, value.values()))


_SIDECARS = "there are no sidecars"
_RETRIED = "an endpoint that fails rests, and is tried again by calls"
_CLUSTERS = "there is one cluster, and no other's Services are known"
_TLS = "between nodes it is TLS 1.3 and nothing else"
_PACE = "what changes is told at once, and never asked for again in turns"

FIELDS: tuple[Field, ...] = (
    Field("traffic.enableEgress", "done", "`false`: workloads reach nothing outside the mesh but what an Egress names"),
    Field(
        "traffic.enablePermissiveTrafficPolicyMode",
        "done",
        "`true`: every identity of the mesh may call every workload",
    ),
    Field("traffic.outboundIPRangeExclusionList", "done", "calls to these ranges are not captured"),
    Field("traffic.outboundIPRangeInclusionList", "done", "calls to other ranges are not captured"),
    Field("traffic.outboundPortExclusionList", "done", "calls to these ports are not captured"),
    Field("traffic.inboundPortExclusionList", "done", "anybody may call these ports of workloads"),
    Field(
        "traffic.inboundExternalAuthorization",
        "missed",
        "no request is shown to an outside authorizer: what a TrafficTarget admits is served",
        "let the server itself ask it",
        _on,
    ),
    Field(
        "traffic.interceptionMode",
        "always",
        "workloads are captured with nftables",
        "sidecar-injection: disabled leaves one out",
        lambda value: value == "none",
    ),
    Field(
        "traffic.networkInterfaceExclusionList",
        "done",
        "calls by these interfaces of pods and network namespaces are not captured; units and hostNetwork pods use those of the"
        " node, which are captured all the same",
    ),
    Field("traffic.http1PerRequestLoadBalancing", "always", "each request is balanced by itself"),
    Field(
        "traffic.http2PerRequestLoadBalancing",
        "always",
        "each request of HTTP/2 is balanced by itself",
        "",
        lambda value: value is False,
    ),
    Field(
        "traffic.useHTTPSIngress",
        "missed",
        "an IngressBackend says for each port whether its callers come with a certificate",
        "write protocol: https there",
        is_set,
    ),
    Field(
        "observability.tracing",
        "missed",
        "no spans are sent",
        "x-edgemesh-request and the access log say what became of a request",
        _on,
    ),
    Field(
        "observability.remoteLogging",
        "missed",
        "no log is sent anywhere",
        "the access log is on the daemon's standard output",
        _on,
    ),
    Field("observability.enableDebugServer", "always", "the admin socket tells root of the node all that it tells"),
    Field(
        "observability.prometheusScraping",
        "always",
        "metrics are on the admin socket, and on NodeConfig metricsAddress",
    ),
    Field("observability.osmLogLevel", "none", "the daemon has one level of log"),
    Field(
        "certificate.serviceCertValidityDuration",
        "missed",
        "certificates live as long as NodeConfig identity.lifetime says, for OSM's 24h would end the mesh of a site that is cut"
        " off for a day",
        "set that one",
        lambda value: is_set(value) and value != "24h",
    ),
    Field("certificate.certKeyBitSize", "none", "keys are P-256"),
    Field(
        "certificate.ingressGateway",
        "missed",
        "no certificate is made for an ingress gateway",
        "write an AccessCert for it",
        is_set,
    ),
    Field("sidecar.tlsMinProtocolVersion", "always", _TLS),
    Field(
        "sidecar.tlsMaxProtocolVersion", "always", _TLS, "", lambda value: value in ("TLSv1_0", "TLSv1_1", "TLSv1_2")
    ),
    Field("sidecar.cipherSuites", "missed", "between nodes it is TLS 1.3, with the suites of OpenSSL", "", is_set),
    Field("sidecar.ecdhCurves", "missed", "between nodes it is TLS 1.3, with the groups of OpenSSL", "", is_set),
    Field(
        "sidecar.localDNSProxy",
        "missed",
        "the servers that it names are not asked",
        "edgemesh answers for Services itself, and asks the resolver of the workload for all else (NodeConfig dns)",
        lambda value: _on(value) and any(is_set(one) for name, one in value.items() if name != "enable"),
    ),
    Field("sidecar.sidecarTimeout", "none", "NodeConfig limits has a timeout for each case"),
    Field(
        "sidecar.maxDataPlaneConnections",
        "none",
        "no sidecar has a connection to a controller; NodeConfig limits.connections bounds those of workloads",
    ),
    Field(
        "sidecar.localProxyMode",
        "none",
        "a server is called at the address that its caller dialled, whichever it listens at",
    ),
    Field("sidecar.configResyncInterval", "none", _PACE),
    Field("sidecar.resources", "none", "the daemon's are those of its DaemonSet"),
    Field("sidecar", "none", _SIDECARS),
    Field("repoServer.codebase", "missed", "no code is loaded from there", "", is_set),
    Field("repoServer", "none", _SIDECARS),
    Field("pluginChains", "missed", "no plugin runs", "", _any),
    Field("clusterSet", "missed", _CLUSTERS, "", _any),
    Field("featureFlags.enableEgressPolicy", "done", "`false`: an Egress lets nothing out"),
    Field(
        "featureFlags.enableAccessControlPolicy",
        "always",
        "an AccessControl lets plain text in where mTLS is permissive",
        "take the AccessControls away",
    ),
    Field("featureFlags.enableIngressBackendPolicy", "always", "an IngressBackend lets in its sources"),
    Field("featureFlags.enableAccessCertPolicy", "always", "an AccessCert gives a certificate, in a cluster"),
    Field("featureFlags.enableSidecarActiveHealthChecks", "missed", f"nobody probes endpoints: {_RETRIED}", "", is_set),
    Field("featureFlags.enableEnvoyActiveHealthChecks", "missed", f"nobody probes endpoints: {_RETRIED}", "", is_set),
    Field("featureFlags.enableRetryPolicy", "done", "`true`: Retries count"),
    Field("featureFlags.enablePluginPolicy", "missed", "no plugin runs", "", is_set),
    Field("featureFlags.enableWASMStats", "missed", "metrics are edgemesh's own", "", is_set),
    Field("featureFlags.enableMulticlusterMode", "missed", _CLUSTERS, "", is_set),
    Field("featureFlags.enableSnapshotCacheMode", "none", "there is no controller that sidecars ask"),
    Field("featureFlags.enableAsyncProxyServiceMapping", "none", "there is no controller that sidecars ask"),
)
_BY_PATH = {field.path: field for field in FIELDS}


def field_of(path: str) -> Field | None:
    """Return the row for a path below spec: that of the path itself, or of the nearest block around it."""
    while path:
        if path in _BY_PATH:
            return _BY_PATH[path]
        path = path.rpartition(".")[0]
    return None
