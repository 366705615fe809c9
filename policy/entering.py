"""A caller outside the mesh whose server is on another node than the listener that it came in by.

The listener's node says who called, and proves by its own certificate that it is that node. The server's node decides as
for a caller of its own listeners, and believes of the other node no more than this:

that it is a gateway   a node that manifests name, and at which they put a listener of the Gateway that it speaks for
the caller's address   from such a node
names                  if a listener of that Gateway asks callers for certificates; they count as at a listener of here
an identity            on the same condition, and only of a namespace without workloads of the mesh: who runs on a node of
                       the mesh calls from there, so that such a claim could only be a lie

Both nodes ask this: the caller's learns at once what the other one would refuse.
"""

from __future__ import annotations

from policy.authz import REVOKED
from policy.doors import Came
from policy.model import Request, Verdict, Workload
from policy.snapshot import Snapshot


def distrusts(snapshot: Snapshot, node: str, gateway: str = "") -> str:
    """Return why a node is not believed to pass on calls of a Gateway; "" if it is. `gateway` "": of any."""
    if node not in snapshot.node_names:
        return f"no NodeConfig and no MeshNode names node {node}"
    if not gateway:
        some = any(not distrusts(snapshot, node, one) for one in snapshot.programmed)
        return "" if some else f"no Gateway has a listener at node {node}"
    found = snapshot.programmed.get(gateway)
    if found is None:
        return f"no listener of {shown(gateway)} is served"
    if found.everywhere or not found.addresses.isdisjoint(snapshot.addresses_at(node)):
        return ""
    listed = ", ".join(sorted(found.addresses))
    return f"{shown(gateway)} has its listeners at {listed}, which no NodeConfig or MeshNode gives to node {node}"


def judge(snapshot: Snapshot, came: Came, whom: Workload | None, port: int, request: Request | None = None) -> Verdict:
    """Return whether a caller may come in to `whom`, as another node tells of it. Ask `distrusts` before."""
    identity, names = came.identity, came.names
    if identity is not None and snapshot.refuses(identity, came.issued_to, came.serial):
        return REVOKED
    found = snapshot.programmed.get(came.gateway)
    if found is None or not found.asks:
        identity, names = None, ()
    if identity is not None and identity.namespace in snapshot.spaces:
        identity = None
    return snapshot.lets_in(came.address, whom, port, request, came.gateway, names, identity)


def may_be_http(snapshot: Snapshot, came: Came, whom: Workload, port: int) -> bool:
    """Return whether some request of this caller may come in where an opaque stream may not."""
    if snapshot.plain_looks(whom, port):
        return True
    identity = came.identity
    if identity is None or identity.namespace in snapshot.spaces:
        return False
    return snapshot.authorize(identity, whom, port).reason == "http-only"


def shown(gateway: str) -> str:
    """Return a Gateway's key in words."""
    return gateway if " " in gateway else f"Gateway {gateway}"
