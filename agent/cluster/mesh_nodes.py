"""What a MeshNode says of each node, from all Pods, Nodes and Namespaces of the cluster. Pure.

Of an object only what is written is kept: a cluster has tens of thousands of pods. Which nodes changed is known by what
changed, so that a pod costs the look at one node.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from policy import enrolment
from policy.addresses import canonical, is_address
from policy.enrolment import INJECTION, MESH, Marks
from policy.translate.workloads import ENCODED_SLASH

TUNNEL = 15008  # the port that a MeshNode need not name


class Metadata(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class ContainerPort(Struct, frozen=True, rename="camel"):
    container_port: int = 0
    protocol: str = "TCP"


class Container(Struct, frozen=True):
    ports: tuple[ContainerPort, ...] | None = None


class PodSpec(Struct, frozen=True, rename="camel"):
    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] | None = None


class PodIP(Struct, frozen=True):
    ip: str = ""


class PodStatus(Struct, frozen=True, rename="camel"):
    phase: str = ""
    pod_ip: str = field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] | None = field(name="podIPs", default=None)


class Pod(Struct, frozen=True):
    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NodeAddress(Struct, frozen=True):
    type: str = ""
    address: str = ""


class NodeStatus(Struct, frozen=True):
    addresses: tuple[NodeAddress, ...] | None = None


class Node(Struct, frozen=True):
    metadata: Metadata = Metadata()
    status: NodeStatus = NodeStatus()


class Namespace(Struct, frozen=True):
    metadata: Metadata = Metadata()


class _Entry(Struct, frozen=True):
    """What is kept of a pod."""

    node: str
    namespace: str
    name: str
    account: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]  # of a hostNetwork pod
    host_network: bool
    encoded_slash: str
    marks: Marks


class MeshNodes:
    """The cluster as it was last seen. `changed`: the nodes whose MeshNode may have to be written or deleted."""

    def __init__(self, tunnel_port: int = TUNNEL) -> None:
        self.changed: set[str] = set()
        self._tunnel_port = tunnel_port
        self._nodes: dict[str, tuple[str, ...]] = {}
        self._pods: dict[str, _Entry] = {}
        self._of_node: dict[str, dict[str, _Entry]] = {}
        self._namespaces: dict[str, Marks] = {}

    def __repr__(self) -> str:
        return f"<MeshNodes {len(self._nodes)} nodes, {len(self._pods)} pods>"

    def node(self, name: str, node: Node | None) -> None:
        """Take a Node; None: it is gone."""
        if node is None:
            self._nodes.pop(name, None)
        else:
            addresses = tuple(one.address for one in node.status.addresses or () if one.type == "InternalIP")
            known = _canonical(addresses)
            if self._nodes.get(name) == known:
                return
            self._nodes[name] = known
        self.changed.add(name)

    def namespace(self, name: str, namespace: Namespace | None) -> None:
        """Take a Namespace; None: it is gone."""
        marks = None if namespace is None else _marks(namespace.metadata, whole=True)
        if self._namespaces.get(name) == marks:
            return
        if marks is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = marks
        self.changed.update(entry.node for entry in self._pods.values() if entry.namespace == name)

    def pod(self, key: str, pod: Pod | None) -> None:
        """Take a Pod; None: it is gone."""
        before = self._pods.get(key)
        after = None if pod is None else _entry(pod)
        if before == after:
            return
        if before is not None:
            del self._pods[key]
            of_node = self._of_node[before.node]
            del of_node[key]
            if not of_node:
                del self._of_node[before.node]
            self.changed.add(before.node)
        if after is not None:
            self._pods[key] = after
            self._of_node.setdefault(after.node, {})[key] = after
            self.changed.add(after.node)

    def spec(self, node: str) -> dict[str, Any] | None:
        """Return what the MeshNode of a node says; None if there is no such Node, and so should be no MeshNode."""
        if node not in self._nodes:
            return None
        spec: dict[str, Any] = {"addresses": list(self._nodes[node])}
        if self._tunnel_port != TUNNEL:
            spec["tunnelPort"] = self._tunnel_port
        of_node = self._of_node.get(node, {})
        spec["workloads"] = [self._workload(of_node[key]) for key in sorted(of_node)]
        return spec

    def _workload(self, entry: _Entry) -> dict[str, Any]:
        said = enrolment.of_pod(entry.namespace, self._namespaces.get(entry.namespace), entry.marks)
        workload: dict[str, Any] = {
            "namespace": entry.namespace,
            "name": entry.name,
            "serviceAccount": entry.account,
            "addresses": list(entry.addresses),
            "enrolled": said.enrolled,
        }
        if entry.ports:
            workload["ports"] = list(entry.ports)
        if entry.host_network:
            workload["hostNetwork"] = True
        if entry.encoded_slash:
            workload["encodedSlash"] = entry.encoded_slash
        return workload


def _entry(pod: Pod) -> _Entry | None:
    """Return what is kept of a pod; None while it has no node or no address, and when it has ended."""
    spec, status, metadata = pod.spec, pod.status, pod.metadata
    addresses = _canonical((*(one.ip for one in status.pod_ips or ()), status.pod_ip))
    if not spec.node_name or not addresses or status.phase in ("Succeeded", "Failed"):
        return None
    ports: tuple[int, ...] = ()
    if spec.host_network:
        declared = (port for container in spec.containers or () for port in container.ports or ())
        ports = tuple(
            sorted({p.container_port for p in declared if p.protocol == "TCP" and 0 < p.container_port < 65536})
        )
    return _Entry(
        spec.node_name,
        metadata.namespace,
        metadata.name,
        spec.service_account_name or "default",
        addresses,
        ports,
        spec.host_network,
        (metadata.annotations or {}).get(ENCODED_SLASH, "")[:16],
        _marks(metadata),
    )


def _marks(metadata: Metadata, whole: bool = False) -> Marks:
    """Return the labels and annotations that enrolment looks at. `whole`: of a Namespace, whose labels are few."""
    labels, annotations = metadata.labels or {}, metadata.annotations or {}
    return Marks(
        labels if whole else {name: labels[name] for name in (MESH,) if name in labels},
        {name: annotations[name] for name in (MESH, INJECTION) if name in annotations},
    )


def _canonical(addresses: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(canonical(address) for address in addresses if is_address(address)))
