"""MeshNode: the workloads of other nodes of a cluster, and how those nodes are reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import structs

from policy.addresses import canonical, is_address
from policy.draft import Draft, Input
from policy.kinds.edgemesh import MeshNode, MeshNodeWorkload
from policy.model import Node, Workload
from policy.translate.workloads import Runner


def translate(resources: Input, draft: Draft) -> None:
    """Write how nodes are reached. What the NodeConfig of a node says has precedence."""
    for one in resources.all("MeshNode"):
        spec: MeshNode = one.spec
        for number, address in enumerate(spec.addresses):
            if not is_address(address):
                message = f"{address!r} is no IP address, and is not used"
                draft.report(one, "warning", f"$.spec.addresses[{number}]", message)
        known = draft.nodes.get(one.name)
        if known is None:
            draft.nodes[one.name] = Node(one.name, _addresses(spec.addresses), spec.tunnel_port)
        elif not known.addresses:
            draft.nodes[one.name] = structs.replace(known, addresses=_addresses(spec.addresses))


def runners_of(resources: Input, draft: Draft, here: Mapping[str, Runner]) -> dict[str, Runner]:
    """Return the workloads of other nodes, by key.

    `here`: the workloads that have objects of their own. An entry with the key of one of them, or with an address of
    one that runs on this node, is out of date.
    """
    own = {
        address
        for runner in here.values()
        if runner.workload.node in ("", draft.node)
        for address in runner.workload.addresses
    }
    found: dict[str, Runner] = {}
    for one in resources.all("MeshNode"):
        if one.name == draft.node:
            continue
        spec: MeshNode = one.spec
        for entry in spec.workloads:
            if f"{entry.namespace}/{entry.name}" not in here:
                runner = _runner(one.name, entry, own)
                found[runner.workload.key] = runner
    return found


def _runner(node: str, entry: MeshNodeWorkload, own: set[str]) -> Runner:
    workload = Workload(
        entry.namespace,
        entry.name,
        entry.service_account or "default",
        tuple(address for address in _addresses(entry.addresses) if address not in own),
        tuple(sorted(set(entry.ports))),
        node,
        enrolled=entry.enrolled,
        literal_slash=entry.encoded_slash == "name",
        host_network=entry.host_network,
        left_out="" if entry.enrolled else f"MeshNode {node} says enrolled: false",
    )
    # Whether it is ready is said by EndpointSlices; no selector selects it.
    return Runner(workload, {}, {})


def _addresses(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(canonical(address) for address in given if is_address(address)))
