"""OSM's MeshConfig, and its labels and annotations that say what is in the mesh and what is not captured."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from policy import enrolment
from policy.draft import Draft, Input
from policy.enrolment import Enrolment, Marks
from policy.faults import Fault
from policy.kinds.osm import MeshConfig
from policy.model import Exclusions, Mesh
from policy.resources import Resource
from policy.translate import mtls


def translate(resources: Input, draft: Draft) -> None:
    """Write the settings of the mesh. One MeshConfig is in force; every other one gets a warning."""
    _warn_of_words(resources, draft)
    configs = sorted(resources.all("MeshConfig"), key=precedence)
    if not configs:
        return
    for other in configs[1:]:
        draft.report(other, "warning", "$", f"a second MeshConfig; {configs[0].title} is in force", "keep one of them")
    spec: MeshConfig = configs[0].spec
    traffic = spec.traffic
    draft.mesh = Mesh(
        permissive=traffic.enable_permissive_traffic_policy_mode,
        egress=traffic.enable_egress,
        mtls=mtls.mode(configs[0]) or "strict",
    )
    draft.exclusions = Exclusions(
        tuple(sorted(set(traffic.inbound_port_exclusion_list or ()))),
        tuple(sorted(set(traffic.outbound_port_exclusion_list or ()))),
        cidrs(traffic.outbound_ip_range_exclusion_list or ()),
        cidrs(traffic.outbound_ip_range_inclusion_list or ()),
        tuple(sorted(set(traffic.network_interface_exclusion_list or ()))),
    )


FLAG = "enableEgressPolicy"


def is_off(config: Resource[Any]) -> bool:
    """Return whether a MeshConfig says that no Egress lets anything out."""
    flags = config.spec.feature_flags
    return isinstance(flags, Mapping) and flags.get(FLAG) is False


def precedence(config: Resource[Any]) -> tuple[bool, str, str, str]:
    """Return a sort key: OSM's own MeshConfig first, then the oldest.

    So a MeshConfig in another namespace does not open the mesh.
    """
    return config.name != "osm-mesh-config", config.metadata.creation_timestamp or "9", config.namespace, config.name


def _warn_of_words(resources: Input, draft: Draft) -> None:
    for kind in ("Namespace", "Pod", "Workload"):
        for resource in resources.all(kind):
            for place, name, word in enrolment.strange(_marks(resource), kind == "Namespace"):
                draft.report(
                    resource,
                    "warning",
                    f"$.metadata.{place}.{name}",
                    f"{name} is {word!r}, which says neither yes nor no, and counts as yes",
                    "write enabled or disabled",
                )


def check_mesh_config(resource: Resource[Any], resources: Input) -> Iterable[Fault]:
    """Yield a fault for a mode that does not exist, and for each text that is no address range."""
    yield from mtls.check(resource, resources)
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
    for number, value in enumerate(traffic.network_interface_exclusion_list or ()):
        if not _INTERFACE.fullmatch(value):
            path = f"$.spec.traffic.networkInterfaceExclusionList[{number}]"
            yield path, f"{value!r} is no name of a network interface", "write one name in each item, as net1"


# What Linux takes as a name of an interface (15 characters), without what a ruleset would read as more than a name
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,14}")


def cidrs(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({str(ipaddress.ip_network(value.strip(), strict=False)) for value in values}))


def pod_enrolment(pod: Resource[Any], namespace: Resource[Any] | None) -> Enrolment:
    return enrolment.of_pod(pod.namespace, None if namespace is None else _marks(namespace), _marks(pod))


def workload_enrolment(workload: Resource[Any], namespace: Resource[Any] | None) -> Enrolment:
    return enrolment.of_workload(workload.namespace, None if namespace is None else _marks(namespace), _marks(workload))


def enrols(namespace: Resource[Any]) -> bool:
    """Return whether a Namespace has a label that puts its pods into the mesh."""
    return enrolment.enrols(_marks(namespace))


def _marks(resource: Resource[Any]) -> Marks:
    return Marks(resource.labels, resource.annotations)


def exclusions_of(draft: Draft, resource: Resource[Any]) -> Exclusions:
    """Return what is not captured of a workload: the mesh's lists and those of its annotations."""
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
                    resource,
                    "warning",
                    path,
                    f"{name}: {word!r} is no port",
                    "ports are numbers from 1 to 65535, with commas between",
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
                    resource,
                    "warning",
                    path,
                    f"{name}: {word!r} is no address range",
                    "write it as 10.0.0.0/8, with commas between",
                )
        return found

    return Exclusions(
        tuple(sorted({*mesh.inbound_ports, *ports("inbound-port-exclusion-list")})),
        tuple(sorted({*mesh.outbound_ports, *ports("outbound-port-exclusion-list")})),
        tuple(sorted({*mesh.outbound_cidrs, *ranges("outbound-ip-range-exclusion-list")})),
        tuple(sorted({*mesh.outbound_only_cidrs, *ranges("outbound-ip-range-inclusion-list")})),
        mesh.interfaces,
    )


def _words(value: str | None) -> list[str]:
    return [word.strip() for word in (value or "").split(",") if word.strip()]
