"""OSM's MeshConfig and its lists (capabilities of config.openservicemesh.io/v1alpha2 that we act on)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from policy.draft import Draft, Input
from policy.model import Exclusions, Mesh
from policy.resources import Resource
from policy.shapes import MeshConfig
from policy.translate import mtls

LABEL_MONITORED = "openservicemesh.io/monitored-by"
LABEL_IGNORE = "openservicemesh.io/ignore"
INJECTION = "openservicemesh.io/sidecar-injection"
_YES, _NO = ("enabled", "yes", "true"), ("disabled", "no", "false")


def translate(resources: Input, draft: Draft) -> None:
    """One MeshConfig speaks for the mesh; others are told that they do not."""
    _warn_of_injection(resources, draft)
    configs = sorted(resources.all("MeshConfig"), key=_precedence)
    if not configs:
        return
    for other in configs[1:]:
        draft.report(other, "warning", "$", f"a second MeshConfig; {configs[0].title} is in force", "keep one of them")
    spec: MeshConfig = configs[0].spec
    traffic = spec.traffic
    draft.mesh = Mesh(
        permissive=traffic.enable_permissive_traffic_policy_mode, egress=traffic.enable_egress, mtls=mtls.mode(configs[0]) or "strict"
    )
    draft.exclusions = Exclusions(
        tuple(sorted(set(traffic.inbound_port_exclusion_list or ()))),
        tuple(sorted(set(traffic.outbound_port_exclusion_list or ()))),
        cidrs(traffic.outbound_ip_range_exclusion_list or ()),
        cidrs(traffic.outbound_ip_range_inclusion_list or ()),
    )


def _precedence(config: Resource[Any]) -> tuple[bool, str, str, str]:
    """OSM's own comes first, so that one in a namespace of somebody else does not open the mesh; then the oldest."""
    return config.name != "osm-mesh-config", config.metadata.creation_timestamp or "9", config.namespace, config.name


def _warn_of_injection(resources: Input, draft: Draft) -> None:
    for kind in ("Namespace", "Pod", "Workload"):
        for resource in resources.all(kind):
            value = resource.annotations.get(INJECTION)
            if value is not None and value.lower() not in (*_YES, *_NO):
                path = f"$.metadata.annotations.{INJECTION}"
                draft.report(
                    resource, "warning", path, f"{INJECTION} is {value!r}, which says neither yes nor no", "write enabled or disabled"
                )


def check_mesh_config(resource: Resource[Any]) -> Iterable[tuple[str, str, str]]:
    """(path, message, hint) of a mode that is none, and every address range that is none."""
    yield from mtls.check(resource)
    traffic = resource.spec.traffic
    for name, values in (
        ("outboundIPRangeExclusionList", traffic.outbound_ip_range_exclusion_list),
        ("outboundIPRangeInclusionList", traffic.outbound_ip_range_inclusion_list),
    ):
        for number, value in enumerate(values or ()):
            try:
                ipaddress.ip_network(value.strip(), strict=False)
            except ValueError:
                yield f"$.spec.traffic.{name}[{number}]", f"{value!r} is not an address range", "write it as 10.0.0.0/8"


def cidrs(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({str(ipaddress.ip_network(value.strip(), strict=False)) for value in values}))


def enrolled_pod(pod: Resource[Any], namespace: Resource[Any] | None) -> bool:
    """Pods are in the mesh when their namespace is monitored, unless they, or else their namespace, say no."""
    if namespace is None or LABEL_MONITORED not in namespace.labels or _says(namespace.labels, LABEL_IGNORE):
        return False
    return _injection(pod, namespace)


def enrolled_workload(workload: Resource[Any], namespace: Resource[Any] | None) -> bool:
    """A Workload is in the mesh by being listed, unless it or its namespace says no."""
    if namespace is not None and _says(namespace.labels, LABEL_IGNORE):
        return False
    return _injection(workload, namespace)


def _injection(resource: Resource[Any], namespace: Resource[Any] | None) -> bool:
    value = resource.annotations.get(INJECTION) or (namespace.annotations.get(INJECTION) if namespace else None)
    return value is None or value.lower() not in _NO


def _says(labels: Any, name: str) -> bool:
    return str(labels.get(name, "false")).lower() in ("", *_YES)


def exclusions_of(draft: Draft, resource: Resource[Any]) -> Exclusions:
    """The mesh's lists, and those of the workload's annotations."""
    mesh = draft.exclusions
    annotations = resource.annotations
    if not any(name.startswith("openservicemesh.io/") for name in annotations):
        return mesh

    def ports(name: str) -> set[int]:
        found: set[int] = set()
        for word in _words(annotations.get(f"openservicemesh.io/{name}")):
            if word.isascii() and word.isdigit() and 0 < int(word) < 65536:
                found.add(int(word))
            else:
                path = f"$.metadata.annotations.openservicemesh.io/{name}"
                draft.report(
                    resource, "warning", path, f"{name}: {word!r} is no port", "ports are numbers from 1 to 65535, with commas between"
                )
        return found

    def ranges(name: str) -> set[str]:
        found: set[str] = set()
        for word in _words(annotations.get(f"openservicemesh.io/{name}")):
            try:
                found.add(str(ipaddress.ip_network(word, strict=False)))
            except ValueError:
                path = f"$.metadata.annotations.openservicemesh.io/{name}"
                draft.report(
                    resource, "warning", path, f"{name}: {word!r} is no address range", "write it as 10.0.0.0/8, with commas between"
                )
        return found

    return Exclusions(
        tuple(sorted({*mesh.inbound_ports, *ports("inbound-port-exclusion-list")})),
        tuple(sorted({*mesh.outbound_ports, *ports("outbound-port-exclusion-list")})),
        tuple(sorted({*mesh.outbound_cidrs, *ranges("outbound-ip-range-exclusion-list")})),
        tuple(sorted({*mesh.outbound_only_cidrs, *ranges("outbound-ip-range-inclusion-list")})),
    )


def _words(value: str | None) -> list[str]:
    return [word.strip() for word in (value or "").split(",") if word.strip()]
