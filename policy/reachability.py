"""How a call gets from one workload to another, and which of their nodes refuses it, whatever the grants say."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from policy.model import Request, Workload
from policy.snapshot import Snapshot


class Reachability(Struct, frozen=True):
    """How a call travels. `reason` "": no node refuses it.

    `side`: the node that refuses (or the only node involved); `lacked`: why.
    """

    kind: Literal["direct", "tunnel", "plain"]
    node: str  # node of the destination; "" if no manifest names it
    mtls: str
    words: str
    revoked: tuple[str, ...] = ()
    rule: str = ""  # the AccessControl or IngressBackend that admits plain text
    reason: str = ""
    side: str = ""
    lacked: str = ""


def find(
    snapshot: Snapshot, who: Workload, whom: Workload, address: str, port: int, request: Request | None = None
) -> Reachability:
    """Return how a call travels from `who` to `port` of `whom` at `address`. `request` None: an opaque stream."""
    here, there = home(snapshot, who), home(snapshot, whom)
    mode = snapshot.mtls(whom.namespace)
    revoked = tuple(dict.fromkeys(_revoked(snapshot, who, here) + _revoked(snapshot, whom, there)))
    if here and here == there:
        words = f"{whom.key} is on node {there}, as the caller: direct, mTLS mode {mode}"
        return Reachability("direct", there, mode, words, revoked, side=f"node {there}")
    place = f"{whom.key} is on node {there}" if there else f"no manifest says which node {whom.key} is on"
    hop = snapshot.hop(whom, address)
    if hop is None:
        words = f"{place}: dialled in plain text at {address}, mTLS mode {mode}"
        rule = next((found for one in who.addresses if (found := snapshot.plain_rule(one, whom, port, request))), "")
        if rule:
            return Reachability("plain", there, mode, f"{words}; {rule} lets it in", revoked, rule)
        whence = " or ".join(who.addresses) or f"{who.key}, which has no address,"
        lacked = f"no AccessControl or IngressBackend lets plain text from {whence} reach port {port} of {whom.key}"
        return Reachability(
            "plain", there, mode, words, revoked, "", "no-identity", side(there, "the destination's"), lacked
        )
    words = f"{place}: tunnel to {f'node {hop.node}' if hop.node else 'its own door'} at {hop}, expecting {hop.spiffe}, mTLS mode {mode}"
    if not there:
        words += "; direct while this node has joined no mesh"
    why = snapshot.refuses(None, hop.node) if hop.node else snapshot.refuses(whom.identity, there)
    if why:
        return Reachability("tunnel", there, mode, words, revoked, "", "peer-revoked", side(here, "the caller's"), why)
    why = snapshot.refuses(who.identity, here)
    if why:
        return Reachability(
            "tunnel", there, mode, words, revoked, "", "peer-revoked", side(there, "the destination's"), why
        )
    return Reachability("tunnel", there, mode, words, revoked)


def home(snapshot: Snapshot, workload: Workload) -> str:
    """Return the node that a workload is on; "" if no manifest names it.

    A workload with a place but without a node is on this node.
    """
    return workload.node or (snapshot.node if workload.netns or workload.unit else "")


def side(node: str, whose: str) -> str:
    return f"node {node}, {whose}" if node else f"{whose} node"


def _revoked(snapshot: Snapshot, workload: Workload, node: str) -> tuple[str, ...]:
    return tuple(filter(None, (snapshot.refuses(None, node), snapshot.refuses(workload.identity, ""))))
