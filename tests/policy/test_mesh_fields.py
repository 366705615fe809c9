"""mesh_fields.py: every field of OSM's MeshConfig has one meaning, and it is the one that the code gives it."""

import re
from pathlib import Path

import pytest

from policy import unheeded
from policy.build import build
from policy.mesh_fields import FIELDS, field_of
from policy.model import Where
from policy.resources import RawObject

# What the definitions of osm-edge's MeshConfig list, v1alpha1 and v1alpha2 together, and OSM's before them; and what its
# chart writes beside that.
OSM = """
sidecar: enablePrivilegedInitContainer logLevel maxDataPlaneConnections sidecarClass sidecarImage sidecarWindowsImage
 initContainerImage sidecarDrivers resources.limits resources.requests configResyncInterval tlsMinProtocolVersion
 tlsMaxProtocolVersion cipherSuites ecdhCurves localProxyMode sidecarTimeout sidecarImageWindowsImage envoyImage
 envoyWindowsImage localDNSProxy.enable localDNSProxy.primaryUpstreamDNSServerIPAddr
 localDNSProxy.secondaryUpstreamDNSServerIPAddr
traffic: enableEgress outboundIPRangeExclusionList outboundIPRangeInclusionList outboundPortExclusionList
 inboundPortExclusionList networkInterfaceExclusionList enablePermissiveTrafficPolicyMode
 inboundExternalAuthorization.enable inboundExternalAuthorization.address inboundExternalAuthorization.port
 inboundExternalAuthorization.statPrefix inboundExternalAuthorization.timeout
 inboundExternalAuthorization.failureModeAllow interceptionMode http1PerRequestLoadBalancing
 http2PerRequestLoadBalancing useHTTPSIngress
observability: osmLogLevel enableDebugServer prometheusScraping tracing.enable tracing.port tracing.address
 tracing.endpoint tracing.sampledFraction remoteLogging.enable remoteLogging.level remoteLogging.port
 remoteLogging.address remoteLogging.endpoint remoteLogging.authorization remoteLogging.sampledFraction
certificate: serviceCertValidityDuration certKeyBitSize ingressGateway.subjectAltNames ingressGateway.validityDuration
 ingressGateway.secret
featureFlags: enableWASMStats enableEgressPolicy enableMulticlusterMode enableSnapshotCacheMode
 enableAsyncProxyServiceMapping enableIngressBackendPolicy enableAccessControlPolicy enableAccessCertPolicy
 enableSidecarActiveHealthChecks enableEnvoyActiveHealthChecks enableRetryPolicy enablePluginPolicy
clusterSet: properties
repoServer: ipaddr codebase
pluginChains: inbound-tcp inbound-http outbound-tcp outbound-http
"""
PATHS = [
    f"{block}.{name}"
    for line in re.sub(r"\n ", " ", OSM.strip()).splitlines()
    for block, _, names in [line.partition(": ")]
    for name in names.split()
]
# For each field: what asks for something, where it is not a text.
VALUES = {
    "traffic.enableEgress": False,
    "featureFlags.enableEgressPolicy": False,
    "traffic.enablePermissiveTrafficPolicyMode": True,
    "traffic.outboundIPRangeExclusionList": ["10.9.0.0/16"],
    "traffic.outboundIPRangeInclusionList": ["10.9.0.0/16"],
    "traffic.outboundPortExclusionList": [99],
    "traffic.inboundPortExclusionList": [99],
    "traffic.networkInterfaceExclusionList": ["eth1"],
    "traffic.interceptionMode": "none",
    "traffic.http1PerRequestLoadBalancing": True,
    "traffic.http2PerRequestLoadBalancing": False,
    "traffic.useHTTPSIngress": True,
    "traffic.inboundExternalAuthorization": {"enable": True, "address": "x"},
    "observability.tracing": {"enable": True, "address": "x"},
    "observability.remoteLogging": {"enable": True, "address": "x"},
    "sidecar.tlsMaxProtocolVersion": "TLSv1_2",
    "sidecar.localDNSProxy": {"enable": True, "primaryUpstreamDNSServerIPAddr": "10.0.0.10"},
    "sidecar": {"sidecarImage": "x"},
    "repoServer": {"ipaddr": "10.0.0.1"},
    "clusterSet": {"properties": [{"name": "region", "value": "x"}]},
    "pluginChains": {"inbound-http": [{"plugin": "x"}]},
}


def spec(path, value):
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def made(spec, version="v1alpha2"):
    data = {
        "apiVersion": f"config.openservicemesh.io/{version}",
        "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config", "namespace": "osm-system"},
        "spec": spec,
    }
    workload = {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": "w", "namespace": "n"},
        "spec": {"addresses": ["10.0.0.1"]},
    }
    source = {"kind": "ServiceAccount", "name": "w"}
    egress = {
        "apiVersion": "policy.openservicemesh.io/v1alpha1",
        "kind": "Egress",
        "metadata": {"name": "e", "namespace": "n"},
        "spec": {"sources": [source], "ports": [{"number": 443, "protocol": "tcp"}]},
    }
    retry = {
        "apiVersion": "policy.openservicemesh.io/v1alpha1",
        "kind": "Retry",
        "metadata": {"name": "r", "namespace": "n"},
        "spec": {
            "source": source,
            "destinations": [{"kind": "Service", "name": "s"}],
            "retryPolicy": {"retryOn": "5xx"},
        },
    }
    built = build([RawObject(one, Where("x.yaml", 1), {}) for one in (data, workload, egress, retry)])
    assert not [p for p in built.problems if p.severity == "error"], built.problems
    return built, [(p.severity, p.message) for p in unheeded.unheeded(built.resources)]


def value_of(field):
    return VALUES.get(field.path, True if field.path.startswith("featureFlags.") else "x")


@pytest.mark.parametrize("path", PATHS)
def test_every_field_of_osm_has_a_row(path):
    assert field_of(path) is not None


def test_every_row_is_a_field_of_osm():
    for field in FIELDS:
        assert [path for path in PATHS if f"{path}.".startswith(f"{field.path}.")], field.path
    assert len({field.path for field in FIELDS}) == len(FIELDS)
    assert field_of("sidecar.resources.limits").path == "sidecar.resources"
    assert field_of("nothing.of.it") is None


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_a_field_does_what_its_row_says(field):
    plain, _ = made({})
    built, told = made(spec(field.path, value_of(field)))
    acts = built.snapshot != plain.snapshot
    assert acts == (field.here == "done")
    warned = [message for severity, message in told if severity == "warning"]
    noticed = [message for severity, message in told if severity == "notice"]
    if field.here == "missed" or (field.here == "always" and field.asks):
        assert warned == [f"spec.{field.path} is not heeded: {field.words}"]
        assert noticed == []
    elif field.here == "none":
        (message,) = noticed
        assert message.startswith(f"edgemesh has no use for spec.{field.path}")
        assert field.words in message
        assert warned == []
    else:
        assert told == []


@pytest.mark.parametrize("field", [one for one in FIELDS if one.asks], ids=lambda field: field.path)
def test_a_field_that_asks_for_nothing_is_not_warned_of(field):
    assert not field.asks(None)
    assert not field.asks({})
    if isinstance(value_of(field), dict):
        assert not field.asks({name: False if value is True else "" for name, value in value_of(field).items()})


def test_v1alpha1_is_read_as_v1alpha2():
    old, told = made(
        {
            "sidecar": {"envoyImage": "x"},
            "traffic": {"enableEgress": False, "useHTTPSIngress": False, "outboundPortExclusionList": [99]},
            "observability": {"prometheusScraping": True},
        },
        "v1alpha1",
    )
    new, _ = made({"traffic": {"enableEgress": False, "outboundPortExclusionList": [99]}})
    assert old.snapshot == new.snapshot
    assert not old.snapshot.mesh.egress
    assert [severity for severity, _ in told] == ["notice"]


def test_the_page_has_every_row():
    page = (Path(__file__).parents[2] / "docs/reference/kinds/meshconfig.md").read_text()
    words = {"done": "done", "always": "always so", "missed": "not done", "none": "no meaning here"}
    for field in FIELDS:
        assert f"| `spec.{field.path}` | {words[field.here]} | " in page
