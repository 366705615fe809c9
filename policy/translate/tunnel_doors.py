"""How workloads are reached: tunnel ports that conflict, units that other nodes cannot reach, and shared addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.edgemesh import WorkloadSpec
from policy.model import Workload
from policy.resources import Resource
from policy.translate import workloads

Door = tuple[str, str, int]  # node, address, port

PATH = "$.spec.tunnelPort"


def check_workload(workload: Resource[Any], resources: Input) -> Iterable[Fault]:
    """Yield every fault of a Workload beyond its shape."""
    yield from workloads.check_workload(workload, resources)
    yield from check(workload, resources)


def check(workload: Resource[Any], resources: Input) -> Iterable[Fault]:
    taken = resources.once(_doors)
    for door in _doors_of(workload):
        other = taken.get(door, workload.key)  # the previous version may have had another listener
        if other != workload.key:
            _, address, port = door
            yield (
                PATH,
                f"the tunnel listener {address} port {port} is that of Workload {other}",
                "give it a tunnelPort of its own",
            )
            return


def translate(resources: Input, draft: Draft) -> None:
    """Write tunnel ports. Workloads already have their ports."""
    for resource in resources.all("Workload"):
        workload = draft.workloads[resource.key]
        port = resource.spec.tunnel_port or 0
        if port and not list(check(resource, resources)):
            draft.workloads[resource.key] = structs.replace(workload, tunnel_port=port)
    _warn_of_unreachable(resources, draft)
    _warn_of_shared(resources, draft)


def _doors(resources: Input) -> Mapping[Door, str]:
    """Return the owner of each tunnel port: the first Workload, in order of names."""
    found: dict[Door, str] = {}
    for workload in resources.all("Workload"):
        for door in _doors_of(workload):
            found.setdefault(door, workload.key)
    return found


def _doors_of(workload: Resource[Any]) -> Iterable[Door]:
    spec: WorkloadSpec = workload.spec
    if spec.tunnel_port is not None:
        for address in spec.addresses:
            try:
                yield spec.node, str(ipaddress.ip_address(address)), spec.tunnel_port
            except ValueError:
                continue  # the check of addresses reports it


def _warn_of_unreachable(resources: Input, draft: Draft) -> None:
    workloads = draft.workloads.values()
    names = {*draft.nodes, *(w.node or draft.node for w in workloads if w.node or w.netns or w.unit)}
    if len(names) < 2:
        return
    for resource in resources.all("Workload"):
        workload = draft.workloads[resource.key]
        if (
            not workload.unit
            or workload.tunnel_port
            or not workload.enrolled
            or draft.mtls(workload.namespace) == "disabled"
        ):
            continue
        name = workload.node or draft.node
        node = draft.nodes.get(name)
        if node is None or not node.addresses:
            message = (
                f"other nodes cannot reach it: node {name} does not say its addresses, and the unit has no tunnelPort"
            )
            draft.report(
                resource,
                "warning",
                "$.spec.systemdUnit",
                message,
                f"give NodeConfig {name} addresses, or the Workload a tunnelPort",
            )


def _warn_of_shared(resources: Input, draft: Draft) -> None:
    """Warn about workloads that share an address if the port does not tell which of them a connection is for."""
    by_address: dict[str, list[tuple[Resource[Any], Workload]]] = {}
    for resource in resources.all("Workload"):
        workload = draft.workloads[resource.key]
        for address in workload.addresses:
            by_address.setdefault(address, []).append((resource, workload))
    for address, sharing in by_address.items():
        owners: dict[int, str] = {}
        for number, (resource, workload) in enumerate(sharing):
            others = [other.key for _, other in sharing if other is not workload]
            if not others:
                continue
            path = f"$.spec.addresses[{workload.addresses.index(address)}]"
            if not workload.ports:
                message = f"{address} is the address of {', '.join(others)} too, and no port tells that a call is for {workload.key}"
                draft.report(resource, "warning", path, message, "list its ports")
            for port in workload.ports:
                owner = owners.setdefault(port, workload.key)
                if number and owner != workload.key:
                    message = (
                        f"port {port} of {address} is that of {owner} too; calls to it are taken for calls to {owner}"
                    )
                    draft.report(resource, "warning", path, message, "give each its own address or its own ports")
