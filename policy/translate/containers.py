"""What the containers of a pod serve: their ports by number and by name, and what the kubelet asks of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from policy.addresses import canonical, is_address
from policy.kinds.kubernetes import Container, GrpcProbe, HttpGet, PodSpec, TcpSocket
from policy.model import Probe

NamedPorts = Mapping[tuple[str, str], int]  # number of a port, by name and protocol: TCP, UDP
_HEALTH = "/grpc.health.v1.Health/Check"  # the call of a gRPC probe (gRPC Health Checking Protocol)


def programs(spec: PodSpec) -> tuple[Container, ...]:
    """Return the containers that run while the pod does: its containers, and init containers that are sidecars.

    Containers come first: where two give a port the same name, Kubernetes takes the first one too.
    """
    sidecars = (one for one in spec.init_containers or () if one.restart_policy == "Always")
    return (*(spec.containers or ()), *sidecars)


def ports_of(containers: Iterable[Container]) -> tuple[NamedPorts, tuple[int, ...]]:
    """Return the ports of containers by name, and all of their TCP and UDP port numbers."""
    named: dict[tuple[str, str], int] = {}
    numbers: set[int] = set()
    for container in containers:
        for port in container.ports or ():
            numbers.add(port.container_port)
            if port.name:
                named.setdefault((port.name, port.protocol.upper()), port.container_port)
    return named, tuple(sorted(numbers))


def probes_of(containers: Iterable[Container], addresses: Iterable[str]) -> tuple[Probe, ...]:
    """Return what the kubelet asks of containers: probes, and lifecycle hooks over HTTP.

    `addresses`: those of the pod. A probe that names another host is none of this pod.
    """
    own = frozenset(addresses)
    found: dict[Probe, None] = {}
    for container in containers:
        for target in _targets(container):
            probe = _probe(target, container, own)
            if probe is not None:
                found[probe] = None
    return tuple(found)


def _targets(container: Container) -> Iterator[HttpGet | TcpSocket | GrpcProbe]:
    for spec in (container.liveness_probe, container.readiness_probe, container.startup_probe):
        target = (spec.http_get or spec.tcp_socket or spec.grpc) if spec is not None else None
        if target is not None:
            yield target
    hooks = container.lifecycle
    for hook in (hooks.post_start, hooks.pre_stop) if hooks is not None else ():
        if hook is not None and hook.http_get is not None:
            yield hook.http_get


def _probe(target: HttpGet | TcpSocket | GrpcProbe, container: Container, own: frozenset[str]) -> Probe | None:
    named, _ = ports_of((container,))  # the kubelet looks for the name in the same container
    port = port_number(target.port, named) or port_number(target.port, named, "UDP")
    if port is None or (not isinstance(target, GrpcProbe) and _elsewhere(target.host, own)):
        return None
    if isinstance(target, GrpcProbe):
        return Probe("http", port, _HEALTH, "POST")
    if isinstance(target, TcpSocket):
        return Probe("tcp", port)
    if target.scheme.upper() == "HTTPS":
        return Probe("https", port)
    return Probe("http", port, target.path if target.path.startswith("/") else f"/{target.path}")


def _elsewhere(host: str | None, own: frozenset[str]) -> bool:
    return bool(host) and not (is_address(host or "") and canonical(host or "") in own)


def port_number(port: int | str | None, named: NamedPorts, protocol: str = "TCP") -> int | None:
    """Return the number of a port that is written as a number or as a name in `named`; None for no such port."""
    if isinstance(port, int):
        return port if 0 < port < 65536 else None
    if port is None:
        return None
    if port.isascii() and port.isdigit():
        return int(port) if 0 < int(port) < 65536 else None
    return named.get((port, protocol))
