"""unheeded.py: what is asked for and not done is said, with what follows; what is not asked for is not."""

import re
from pathlib import Path

import policy
from policy import unheeded
from policy.build import build
from policy.model import Where
from policy.resources import RawObject
from policy.unheeded import ANNOTATIONS


def told(kind, spec, api="config.openservicemesh.io/v1alpha2", more=(), **metadata):
    data = {"apiVersion": api, "kind": kind, "metadata": {"name": "x", "namespace": "n", **metadata}, "spec": spec}
    raws = [RawObject(one, Where("x.yaml", 1), {}) for one in (data, *more)]
    built = build(raws)
    assert not [problem for problem in built.problems if problem.severity == "error"]
    found = list(unheeded.unheeded(built.resources))
    assert all(problem.unmet == (problem.severity == "warning") for problem in found)
    return [(problem.severity, problem.message) for problem in found]


def test_the_rest_is_one_notice_with_the_reasons():
    spec = {
        "sidecar": {"logLevel": "error", "resources": {}, "initContainerImage": "x"},
        "observability": {"osmLogLevel": "info"},
        "certificate": {"serviceCertValidityDuration": "24h"},
    }
    assert told("MeshConfig", spec) == [
        (
            "notice",
            "edgemesh has no use for spec.sidecar.logLevel, spec.sidecar.initContainerImage (there are no sidecars);"
            " spec.observability.osmLogLevel (the daemon has one level of log);"
            " spec.certificate.serviceCertValidityDuration (certificates live as long as NodeConfig identity.lifetime says,"
            " for OSM's 24h would end the mesh of a site that is cut off for a day)",
        )
    ]
    ((_, message),) = told("MeshConfig", {"sidecar": {f"field{number}": 1 for number in range(20)}})
    assert message.endswith("spec.sidecar.field7 (there are no sidecars); and 12 more")


def test_a_flag_that_would_shut_what_stays_open():
    control = {
        "apiVersion": "policy.openservicemesh.io/v1alpha1",
        "kind": "AccessControl",
        "metadata": {"name": "a", "namespace": "n"},
        "spec": {
            "backends": [{"name": "b", "port": {"number": 80}}],
            "sources": [{"kind": "IPRange", "name": "10.0.0.0/8"}],
        },
    }
    off = {"featureFlags": {"enableAccessControlPolicy": False}}
    assert told("MeshConfig", off) == []
    assert [
        severity for severity, message in told("MeshConfig", off, more=[control]) if "let plain text in" in message
    ] == ["warning"]
    assert not [
        m
        for _, m in told("MeshConfig", {"featureFlags": {"enableAccessControlPolicy": True}}, more=[control])
        if "featureFlags" in m
    ]
    ingress = control | {"kind": "IngressBackend"}
    off = {"featureFlags": {"enableIngressBackendPolicy": False}}
    assert [m for _, m in told("MeshConfig", off, more=[ingress]) if "featureFlags" in m] == [
        "spec.featureFlags.enableIngressBackendPolicy is not heeded: IngressBackends let their sources in all the same"
    ]


def test_annotations():
    annotations = {
        "openservicemesh.io/outbound-port-exclusion-list": "25",
        "openservicemesh.io/metrics": "enabled",
        "openservicemesh.io/inbound-port-exclusion-lst": "25",
        "example.org/other": "x",
    }
    assert told("Pod", {}, "v1", annotations=annotations) == [
        ("notice", "openservicemesh.io/metrics is not heeded: there are no sidecars"),
        ("warning", "nobody reads openservicemesh.io/inbound-port-exclusion-lst"),
    ]
    assert told("Namespace", {}, "v1", labels={"openservicemesh.io/monitored-by": "osm"}) == []
    assert [
        severity for severity, _ in told("Namespace", {}, "v1", labels={"openservicemesh.io/monitord-by": "osm"})
    ] == ["warning"]


PORTS = {
    "apiVersion": "specs.smi-spec.io/v1alpha4",
    "kind": "TCPRoute",
    "metadata": {"name": "ports", "namespace": "n"},
    "spec": {},
}


def test_every_annotation_that_a_translator_reads_is_known():
    """Its prefixes are written nowhere else in the translators than in names that they read."""
    read = set()
    for file in (Path(policy.__file__).parent / "translate").glob("*.py"):
        read |= set(re.findall(r'"((?:edgemesh|openservicemesh)\.io/[a-z-]+)"', file.read_text()))
    read = {name for name in read if not name.endswith("-controller")}  # what a class of Gateways or Ingresses names
    assert {"edgemesh.io/mtls", "edgemesh.io/idle-timeout", "edgemesh.io/encoded-slash"} <= read <= ANNOTATIONS.keys()
    values = {"mtls": "strict", "idle-timeout": "off", "encoded-slash": "name"}
    for name, annotation in ANNOTATIONS.items():
        kind = annotation.on.partition(" ")[0].strip(",")
        of = "labels" if "label" in annotation.on else "annotations"
        api, spec = (
            ("edgemesh.io/v1alpha1", {"addresses": ["10.0.0.1"]})
            if kind == "Workload"
            else ("v1", {"ports": [{"port": 80}]})
        )
        value = values.get(
            name.partition("/")[2], "10.0.0.0/8" if "range" in name else "80" if "port" in name else "true"
        )
        more = ()
        if kind == "TrafficTarget":
            api, more = "access.smi-spec.io/v1alpha3", (PORTS,)
            subject = {"kind": "ServiceAccount", "name": "a"}
            spec = {"destination": subject, "sources": [subject], "rules": [{"kind": "TCPRoute", "name": "ports"}]}
        assert told(kind, spec, api, more, **{of: {name: value}}) == [], name
