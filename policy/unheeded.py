"""What an object requests and edgemesh does not do: fields without effect here, with the consequences.

Manifests come from other meshes, where these fields have effect. A person who wrote `inboundExternalAuthorization:
{enable: true}` relies on it, so it is a warning. Fields that are not relied on (an image, a log level) are one notice
for the whole object. What becomes of each field of a MeshConfig is in mesh_fields.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, structs

from policy.draft import Input
from policy.enrolment import IGNORE, INJECTION, MESH, MONITORED
from policy.kinds.osm import AccessControl, MeshConfig
from policy.kinds.smi import TrafficTarget
from policy.mesh_fields import FIELDS, field_of, is_set
from policy.model import Problem
from policy.resources import Resource, from_cluster
from policy.translate.dry_run import ANNOTATION as DRY_RUN

# Flags of OSM that switch a kind on, and what objects of that kind do all the same when it is off.
_SWITCHES = (
    ("enableAccessControlPolicy", "AccessControl", "let plain text in"),
    ("enableIngressBackendPolicy", "IngressBackend", "let their sources in"),
    ("enableAccessCertPolicy", "AccessCert", "give certificates"),
)
_SHOWN = 8  # fields that a notice names

_PREFIXES = ("openservicemesh.io/", "edgemesh.io/")
# Annotations and labels of OSM that concern its sidecars; with ANNOTATIONS, all that are known.
_SIDECARS = (
    "metrics",
    "port",
    "inbound-port-inclusion-list",
    "outbound-port-inclusion-list",
    "egress-gateway-mode",
    "uuid",
    "reconcile",
)


class Annotation(Struct, frozen=True):
    """An annotation or label that edgemesh acts on."""

    on: str  # kinds of object that it is read on
    meaning: str


ANNOTATIONS: dict[str, Annotation] = {
    "edgemesh.io/mtls": Annotation(
        "Namespace, MeshConfig",
        "how its workloads are called: `strict` (mTLS, and what an IngressBackend lets in; the default), `permissive` (also in plain text from the addresses of an"
        " AccessControl), `disabled` (as permissive, and other nodes call it in plain text too)",
    ),
    "edgemesh.io/idle-timeout": Annotation(
        "Service",
        'seconds after which a quiet connection ends: `"7200"`, `"off"`, or for each port by name or number `"db=off, http=600"`',
    ),
    "edgemesh.io/encoded-slash": Annotation(
        "Workload, Pod", "`name`: the server reads `%2F` in a path as a part of a name, and rules are matched so"
    ),
    DRY_RUN: Annotation(
        "TrafficTarget",
        'what would change: `"true"`: it admits nothing, and refused calls that it would admit are counted; `"removal"`: it'
        " admits, and calls that it alone admits are counted. Without it, it is in force. Anything else, a misspelt name too,"
        " is an error",
    ),
    MESH: Annotation(
        "Namespace (label); Pod (label or annotation); Workload",
        "`enabled` on a Namespace: its Pods are in the mesh; `disabled`: left alone, neither captured nor called by identity",
    ),
    MONITORED: Annotation("Namespace (label)", "its Pods are in the mesh; Workloads are without it"),
    IGNORE: Annotation("Namespace (label)", "`true`: nothing of this namespace is in the mesh"),
    INJECTION: Annotation(
        "Namespace, Workload, Pod",
        "`disabled`: its workloads are left alone; `enabled` on a Pod or Workload has precedence over its Namespace",
    ),
    "openservicemesh.io/inbound-port-exclusion-list": Annotation(
        "Workload, Pod", "ports, with commas between, on which anybody may call it without the mesh"
    ),
    "openservicemesh.io/outbound-port-exclusion-list": Annotation(
        "Workload, Pod", "ports, with commas between, that it calls without the mesh"
    ),
    "openservicemesh.io/outbound-ip-range-exclusion-list": Annotation(
        "Workload, Pod", "address ranges, with commas between, that it calls without the mesh"
    ),
    "openservicemesh.io/outbound-ip-range-inclusion-list": Annotation(
        "Workload, Pod", "address ranges, with commas between: only calls to these are captured"
    ),
}
_SAYING = ("Namespace", "Pod", "Workload", "Service", "Deployment", "MeshConfig")  # kinds that people annotate


def unheeded(resources: Input) -> Iterator[Problem]:
    """Yield a Problem for everything that objects in force request and edgemesh does not do.

    It is `unmet` where people may rely on it.
    """
    for problem in _all(resources):
        yield structs.replace(problem, unmet=True) if problem.severity == "warning" else problem


def _all(resources: Input) -> Iterator[Problem]:
    for config in resources.all("MeshConfig"):
        yield from _mesh(config, resources)
    for target in resources.all("TrafficTarget"):
        yield from _target(target)
    for control in resources.all("AccessControl"):
        yield from _control(control)
    for cert in resources.all("AccessCert"):
        if not from_cluster(cert.raw):
            message = "no certificate is made for it: its Secret is of a cluster, and this object is not from one"
            hint = "let the client in by its address (IngressBackend), or make its machine a node (edgemesh ca token, edgemesh join)"
            yield cert.problem("warning", "$.spec.secret", message, hint)
    for kind in _SAYING:
        for resource in resources.all(kind):
            yield from _annotations(resource, resources)


def _mesh(config: Resource[Any], resources: Input) -> Iterator[Problem]:
    spec: MeshConfig = config.spec
    for row in FIELDS:
        if row.asks is not None and row.asks(_at(config, row.path)):
            message = f"spec.{row.path} is not heeded: {row.words}"
            yield config.problem("warning", f"$.spec.{row.path}", message, row.hint)
    for flag, kind, what in _SWITCHES:
        if _at(config, f"featureFlags.{flag}") is False and any(resources.all(kind)):
            message = f"spec.featureFlags.{flag} is not heeded: {kind}s {what} all the same"
            yield config.problem("warning", f"$.spec.featureFlags.{flag}", message, f"take the {kind}s away")
    if useless := list(_useless(config)):
        reasons: dict[str, list[str]] = {}
        for path, why in useless[:_SHOWN]:
            reasons.setdefault(why, []).append(f"spec.{path}")
        more = f"; and {len(useless) - _SHOWN} more" if len(useless) > _SHOWN else ""
        named = "; ".join(f"{', '.join(paths)} ({why})" for why, paths in reasons.items())
        yield config.problem("notice", f"$.spec.{useless[0][0]}", f"edgemesh has no use for {named}{more}")
    targets = sum(1 for _ in resources.all("TrafficTarget"))
    if spec.traffic.enable_permissive_traffic_policy_mode and targets:
        count = f"{targets} TrafficTarget{'s are' if targets > 1 else ' is'}"
        message = f"the mesh is permissive: every call between workloads passes, and {count} not asked"
        yield config.problem(
            "notice", "$.spec.traffic.enablePermissiveTrafficPolicyMode", message, "set it to false to have them hold"
        )


def _useless(config: Resource[Any]) -> Iterator[tuple[str, str]]:
    """Yield each field that says something and has nothing to act on, and why."""
    for path in _leaves(config.raw.data.get("spec") or {}, ""):
        row = field_of(path)
        if row is None:
            yield path, "no MeshConfig has it"
        elif row.here == "none" or (
            row.here == "missed" and row.path == path and not (row.asks and row.asks(_at(config, path)))
        ):
            yield path, row.words


def _at(resource: Resource[Any], path: str) -> Any:
    value: Any = resource.raw.data.get("spec")
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _leaves(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    elif path and is_set(value):
        yield path


def _target(target: Resource[Any]) -> Iterator[Problem]:
    spec: TrafficTarget = target.spec
    subjects = (("destination", spec.destination), *((f"sources[{n}]", one) for n, one in enumerate(spec.sources)))
    for at, subject in subjects:
        if subject.port:
            message = f"spec.{at}.port is not heeded: the rules alone say which ports are admitted"
            yield target.problem("warning", f"$.spec.{at}.port", message, "name the port in a TCPRoute")
    for number, rule in enumerate(spec.rules):
        if rule.kind in ("TCPRoute", "UDPRoute") and rule.matches:
            message = f"spec.rules[{number}].matches is not heeded: a {rule.kind} has one list of ports, and all of them are admitted"
            yield target.problem(
                "warning", f"$.spec.rules[{number}].matches", message, f"make a {rule.kind} for each list of ports"
            )
        if rule.kind == "UDPRoute":
            message = "UDP is not captured: datagrams between workloads pass whether a UDPRoute admits them or not"
            yield target.problem(
                "warning", f"$.spec.rules[{number}]", message, "edgemesh status counts them; a firewall can stop them"
            )


def _control(control: Resource[Any]) -> Iterator[Problem]:
    spec: AccessControl = control.spec
    for number, backend in enumerate(spec.backends):
        if backend.port.protocol.lower() == "https" and backend.tls is None:
            message = f"spec.backends[{number}].port.protocol is not heeded: TLS is not opened here, and comes to the server as it is sent"
            yield control.problem(
                "warning", f"$.spec.backends[{number}].port.protocol", message, "let the server itself speak TLS"
            )


def _annotations(resource: Resource[Any], resources: Input) -> Iterator[Problem]:
    for name in (*resource.annotations, *resource.labels):
        if not name.startswith(_PREFIXES) or name in ANNOTATIONS:
            continue
        of = "annotations" if name in resource.annotations else "labels"
        short = name.partition("/")[2]
        if short in _SIDECARS or short.startswith("sidecar-resource-"):
            message = f"{name} is not heeded: there are no sidecars"
            yield resource.problem("notice", f"$.metadata.{of}.{name}", message)
        else:
            hint = resources.near(name, ANNOTATIONS) or f"known are {', '.join(ANNOTATIONS)}"
            yield resource.problem("warning", f"$.metadata.{of}.{name}", f"nobody reads {name}", hint)
