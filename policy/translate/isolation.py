"""Isolation: addresses that are cut off. Nobody of the mesh calls them, and what runs there calls nobody of the mesh."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from msgspec import structs

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.edgemesh import Isolation
from policy.model import ServicePort
from policy.networks import Networks
from policy.resources import Resource

_SHOWN = 8  # workloads that a notice names


def check(resource: Resource[Any], _: Input) -> Iterable[Fault]:
    """Yield a fault for each text that is no address range."""
    for number, value in enumerate(resource.spec.cidrs):
        try:
            ipaddress.ip_network(value.strip(), strict=False)
        except ValueError:
            yield f"$.spec.cidrs[{number}]", f"{value!r} is not an address range", "write it as 10.0.0.0/8"


def translate(resources: Input, draft: Draft) -> None:
    """Mark the workloads that are cut off, and take their turns. Workloads and Services are translated before."""
    rules: list[tuple[str, str]] = []
    for resource in resources.all("Isolation"):
        spec: Isolation = resource.spec
        title = f"Isolation {resource.name}"
        ranges = [(str(ipaddress.ip_network(one.strip(), strict=False)), title) for one in spec.cidrs]
        rules += ranges
        own = Networks(ranges)
        found = sorted(
            one.key for one in draft.workloads.values() if any(own.rule(address) for address in one.addresses)
        )
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        message = (
            f"cuts off {', '.join(found[:_SHOWN])}{more}" if found else "no workload is at an address in these ranges"
        )
        draft.report(resource, "notice", "$.spec.cidrs", message)
    if not rules:
        return
    draft.isolated = tuple(sorted(rules))
    networks = Networks(draft.isolated)
    for key, workload in draft.workloads.items():
        rule = next((rule for address in workload.addresses if (rule := networks.rule(address))), "")
        if rule:
            draft.workloads[key] = structs.replace(workload, isolated=rule)
    for key, service in draft.services.items():
        ports = tuple(_without(port, networks, draft) for port in service.ports)
        if ports != service.ports:
            draft.services[key] = structs.replace(service, ports=ports)


def _without(port: ServicePort, networks: Networks, draft: Draft) -> ServicePort:
    """Return a port whose callers use no endpoint that is cut off."""
    rules = set()
    near = []
    for endpoint in port.endpoints if port.near is None else port.near:
        workload = draft.workloads.get(endpoint.workload)
        rule = (workload.isolated if workload is not None else "") or networks.rule(endpoint.address)
        if rule:
            rules.add(rule)
        else:
            near.append(endpoint)
    if not rules:
        return port
    why = f"{', '.join(sorted(rules))} cuts the others off"
    return structs.replace(port, near=tuple(near), nearness="; ".join(filter(None, (port.nearness, why))))
