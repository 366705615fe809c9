"""Revocation: which nodes, identities and certificates are refused."""

from __future__ import annotations

from policy.draft import Draft, Input
from policy.kinds.edgemesh import Revocation
from policy.model import Identity, Revoked, canonical_serial


def translate(resources: Input, draft: Draft) -> None:
    """Write what is revoked. Workloads are translated before."""
    nodes: set[str] = set()
    identities: set[Identity] = set()
    serials: set[str] = set()
    known = {*draft.nodes, draft.node, *(workload.node for workload in draft.workloads.values())}
    for resource in resources.all("Revocation"):
        spec: Revocation = resource.spec
        nodes.update(spec.nodes)
        identities.update(Identity(one.namespace, one.service_account) for one in spec.identities)
        serials.update(map(canonical_serial, spec.serials))
        if not (spec.nodes or spec.identities or spec.serials):
            draft.report(resource, "notice", "$.spec", "revokes nobody")
        for number, node in enumerate(spec.nodes):
            if node == draft.node:
                message = f"this node, {node}, is revoked: other nodes refuse it"
                draft.report(resource, "warning", f"$.spec.nodes[{number}]", message)
            elif node not in known:
                draft.report(
                    resource,
                    "notice",
                    f"$.spec.nodes[{number}]",
                    f"no node {node} is known here",
                    "is the name written right?",
                )
    draft.revoked = Revoked(tuple(sorted(nodes)), tuple(sorted(identities)), tuple(sorted(serials)))
