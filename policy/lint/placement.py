"""Workloads that no node captures, that no client can call, or that share what cannot be shared."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from policy.build import Built
from policy.kinds.edgemesh import WorkloadSpec
from policy.model import Problem
from policy.near import nearest

_SEGMENT = re.compile("[A-Za-z0-9._-]+")  # SPIFFE-ID section 2.2


def workloads(built: Built) -> Iterator[Problem]:
    """Check enrolled Workloads: place, addresses, node and service account."""
    resources = built.resources
    nodes = sorted(node.name for node in built.snapshot.nodes)
    places: dict[tuple[str, str], str] = {}
    for resource in resources.all("Workload"):
        spec: WorkloadSpec = resource.spec
        workload = built.snapshot.workload(resource.key)
        if workload is None or not workload.enrolled:
            continue
        if not (spec.netns or spec.systemd_unit or spec.node):
            message = "it says neither netns, systemdUnit nor node: no node captures it, and no policy holds for it"
            yield resource.problem(
                "warning",
                "$.spec",
                message,
                "netns: NAME for a network namespace, systemdUnit: NAME.service for a unit",
            )
        elif not (spec.netns or spec.systemd_unit or spec.addresses):
            message = f"nothing tells which of node {spec.node}'s namespaces it is in"
            yield resource.problem("warning", "$.spec", message, "give it netns, systemdUnit or addresses")
        if not spec.addresses and not spec.systemd_unit:
            yield resource.problem(
                "warning",
                "$.spec",
                "it has no addresses, so it can be called through no Service",
                "addresses: [10.1.0.2]",
            )
        for field, place in (("netns", spec.netns), ("systemdUnit", spec.systemd_unit)):
            first = (
                places.setdefault((spec.node or built.snapshot.node, place), resource.key) if place else resource.key
            )
            if first != resource.key:
                message = f"{field} {place} is that of Workload {first} too: what runs in one place is one workload, with one identity"
                yield resource.problem("warning", f"$.spec.{field}", message, "give each its own, or keep one of them")
        for number, address in enumerate(spec.addresses):
            # A unit's program may listen only on its box's loopback
            if not spec.systemd_unit and not _is_callable(address):
                message = f"{address} is no address that others could call"
                yield resource.problem(
                    "warning", f"$.spec.addresses[{number}]", message, "give it the address that its namespace has"
                )
        if spec.node and nodes and spec.node not in nodes and spec.node != built.snapshot.node:
            near = nearest(spec.node, [*nodes, built.snapshot.node], 0.8)
            if near:
                yield resource.problem(
                    "warning", "$.spec.node", f"no NodeConfig is named {spec.node}", f"did you mean {near}?"
                )
        if not spec.service_account and workload.service_account == "default":
            message = f"it has no serviceAccount, so it is {workload.identity}, as is everything there that has none"
            yield resource.problem(
                "warning", "$.spec", message, "give it a serviceAccount of its own: rules are about these"
            )
        elif not _SEGMENT.fullmatch(workload.service_account):
            message = f"serviceAccount {workload.service_account!r} cannot stand in a certificate"
            yield resource.problem("warning", "$.spec.serviceAccount", message, "letters, digits, '.', '_' and '-'")


def _is_callable(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True  # another check reports it
    return not (parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast)
