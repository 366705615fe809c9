"""Kubernetes' own kinds and edgemesh's Workload: who runs where, which Services there are, and what serves them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from policy.addresses import allot
from policy.draft import Draft, Input
from policy.model import Endpoint, Probe, Protocol, Service, ServicePort, Workload
from policy.resources import Resource
from policy.shapes import Container, EndpointSlice, PodSpec, ServicePortSpec, ServiceSpec, WorkloadSpec
from policy.translate.osm import enrolled_pod, enrolled_workload, exclusions_of

Fault = tuple[str, str, str]
_PREFIXES: tuple[tuple[str, Protocol], ...] = (("tcp-server-first", "tcp-server-first"), ("http", "http"), ("grpc", "grpc"), ("tcp", "tcp"))
_APP_PROTOCOLS: dict[str, Protocol] = {
    "http": "http",
    "tcp": "tcp",
    "tcp-server-first": "tcp-server-first",
    "grpc": "grpc",
    "kubernetes.io/h2c": "grpc",
    "https": "tcp",
    "kubernetes.io/wss": "tcp",
    "kubernetes.io/ws": "http",
}


# The one reference that a Workload can do without: it stays captured, with fewer labels and perhaps the default account.
STANDS_ALONE = "$.spec.template"


class Runner(Struct):
    """A workload, and what only building needs to know of it."""

    workload: Workload
    labels: Mapping[str, str]
    named_ports: Mapping[str, int]
    ready: bool = True


def check_workload(workload: Resource[Any], resources: Input) -> Iterable[Fault]:
    spec: WorkloadSpec = workload.spec
    if spec.netns and spec.systemd_unit:
        yield "$.spec.systemdUnit", "both netns and systemdUnit", "a workload runs in one of them"
    for number, address in enumerate(spec.addresses):
        if not _is_address(address):
            yield f"$.spec.addresses[{number}]", f"{address!r} is no IP address", "write it without a prefix length"
    if "\0" in spec.netns or spec.netns in (".", "..") or ("/" in spec.netns and not spec.netns.startswith("/")):
        yield "$.spec.netns", f"{spec.netns!r} is neither a name nor an absolute path", "a name under /run/netns, or a path"
    if spec.systemd_unit and ("/" in spec.systemd_unit or "\0" in spec.systemd_unit or "." not in spec.systemd_unit.strip(".")):
        yield "$.spec.systemdUnit", f"{spec.systemd_unit!r} is no unit's name", "write it as till.service"
    if spec.template and resources.get("Deployment", f"{workload.namespace}/{spec.template}") is None:
        yield (
            "$.spec.template",
            f"there is no Deployment {workload.namespace}/{spec.template}",
            "it names a Deployment of the same namespace",
        )


def translate(resources: Input, draft: Draft) -> None:
    pods, workloads = _pods(resources, draft), _workloads(resources, draft)
    for key in sorted(pods.keys() & workloads.keys()):
        listed = resources.get("Workload", key)
        assert listed is not None
        draft.report(listed, "warning", "$.metadata.name", f"there is a Pod {key} too, which is not looked at", "give one another name")
    runners = {**pods, **workloads}
    services = list(resources.all("Service"))
    slices: dict[str, list[Resource[Any]]] = {}
    for one in resources.all("EndpointSlice"):
        name = one.labels.get("kubernetes.io/service-name")
        if name:
            slices.setdefault(f"{one.namespace}/{name}", []).append(one)
    finder = _Finder(runners.values())
    needy = [s.key for s in services if not _cluster_ips(s.spec) and not _headless(s.spec)]
    draft.addresses = allot(needy, draft.kept, draft.ranges)
    for service in services:
        if service.key in draft.addresses and not draft.addresses[service.key]:
            hint = "give the Service a clusterIP, or make serviceRange larger"
            draft.report(service, "warning", "$", "no address is left for it in serviceRange, so nothing can call it by name", hint)
    # The ports that Services send to a workload are its ports too: they tell apart workloads that share an address.
    served: dict[str, set[int]] = {}
    for service in services:
        chosen = finder.selected(service) if service.key not in slices else []
        ports = tuple(
            _port(service, spec, number, slices.get(service.key), chosen, finder, draft)
            for number, spec in enumerate(service.spec.ports or ())
        )
        for port in ports:
            for endpoint in port.endpoints:
                served.setdefault(endpoint.workload, set()).add(endpoint.port)
        addresses = _cluster_ips(service.spec) or draft.addresses.get(service.key, ())
        draft.services[service.key] = Service(service.namespace, service.name, addresses, ports)
    for key, runner in runners.items():
        workload = runner.workload
        extra = served.get(key)
        if extra and not extra <= set(workload.ports):
            workload = _replaced(workload, tuple(sorted(extra.union(workload.ports))))
        draft.workloads[key] = workload


def _replaced(workload: Workload, ports: tuple[int, ...]) -> Workload:
    values = {name: getattr(workload, name) for name in Workload.__struct_fields__}
    return Workload(**{**values, "ports": ports})


# who runs


def _pods(resources: Input, draft: Draft) -> dict[str, Runner]:
    found: dict[str, Runner] = {}
    for pod in resources.all("Pod"):
        spec: PodSpec = pod.spec
        status = pod.status
        if status.phase in ("Succeeded", "Failed"):
            continue
        enrolled = enrolled_pod(pod, resources.get("Namespace", pod.namespace))
        if spec.host_network and enrolled:
            draft.report(pod, "warning", "$.spec.hostNetwork", "a hostNetwork pod cannot be told from its node; it is not in the mesh", "")
            enrolled = False
        addresses = tuple(dict.fromkeys(a for a in (*(ip.ip for ip in status.pod_ips or ()), status.pod_ip) if _is_address(a)))
        named, numbers = _container_ports(spec.containers or ())
        workload = Workload(
            pod.namespace,
            pod.name,
            spec.service_account_name or spec.service_account or "default",
            tuple(_canonical(a) for a in addresses),
            numbers,
            spec.node_name or "",
            "",
            "",
            exclusions_of(draft, pod),
            _probes(spec.containers or (), named),
            enrolled,
        )
        # A manifest without status (a bare box) says nothing against the pod.
        ready = all(condition.status != "False" for condition in status.conditions or () if condition.type == "Ready")
        found[pod.key] = Runner(workload, pod.labels, named, ready and bool(addresses))
        _warn_of_https_probes(pod, draft)
    return found


def _workloads(resources: Input, draft: Draft) -> dict[str, Runner]:
    found: dict[str, Runner] = {}
    for resource in resources.all("Workload"):
        spec: WorkloadSpec = resource.spec
        labels: Mapping[str, str] = spec.labels
        account = spec.service_account
        containers: tuple[Container, ...] = ()
        if spec.template:
            deployment = resources.get("Deployment", f"{resource.namespace}/{spec.template}")
            if deployment is not None:
                template = deployment.spec.template
                labels = {**(template.metadata.labels or {}), **labels}
                account = account or template.spec.service_account_name or template.spec.service_account or ""
                containers = template.spec.containers or ()
        named, numbers = _container_ports(containers)
        named = {**named, **{p.name: p.port for p in spec.ports if p.name}}
        numbers = tuple(sorted({*numbers, *(p.port for p in spec.ports)}))
        workload = Workload(
            resource.namespace,
            resource.name,
            account or "default",
            tuple(dict.fromkeys(_canonical(a) for a in spec.addresses)),
            numbers,
            spec.node,
            spec.netns,
            spec.systemd_unit,
            exclusions_of(draft, resource),
            _probes(containers, named),
            enrolled_workload(resource, resources.get("Namespace", resource.namespace)),
        )
        found[resource.key] = Runner(workload, labels, named)
    return found


def _container_ports(containers: Iterable[Container]) -> tuple[dict[str, int], tuple[int, ...]]:
    ports = [port for container in containers for port in container.ports or ()]
    return {port.name: port.container_port for port in ports if port.name}, tuple(sorted({port.container_port for port in ports}))


def _probes(containers: Iterable[Container], named: Mapping[str, int]) -> tuple[Probe, ...]:
    found: dict[Probe, None] = {}
    for container in containers:
        for spec in (container.liveness_probe, container.readiness_probe, container.startup_probe):
            if spec is None:
                continue
            target = spec.http_get or spec.tcp_socket
            port = _number(target.port, named) if target else None
            if port is None:
                continue
            if spec.http_get is not None and spec.http_get.scheme.upper() == "HTTP":
                path = spec.http_get.path
                found[Probe("http", port, path if path.startswith("/") else f"/{path}")] = None
            elif spec.tcp_socket is not None:
                found[Probe("tcp", port)] = None
    return tuple(found)


def _warn_of_https_probes(pod: Resource[Any], draft: Draft) -> None:
    for number, container in enumerate(pod.spec.containers or ()):
        for spec in (container.liveness_probe, container.readiness_probe, container.startup_probe):
            if spec is not None and spec.http_get is not None and spec.http_get.scheme.upper() == "HTTPS":
                message = "an HTTPS probe is refused: what is inside cannot be seen, and the node's address is no identity"
                draft.report(pod, "warning", f"$.spec.containers[{number}]", message, "probe over HTTP, or by exec")


# what serves a Service


class _Finder:
    """Runners by label, so that a selector looks at few of them."""

    def __init__(self, runners: Iterable[Runner]) -> None:
        self._by_label: dict[tuple[str, str, str], list[Runner]] = {}
        self.by_address: dict[str, list[Runner]] = {}
        for runner in runners:
            namespace = runner.workload.namespace
            for item in runner.labels.items():
                self._by_label.setdefault((namespace, *item), []).append(runner)
            for address in runner.workload.addresses:
                self.by_address.setdefault(address, []).append(runner)

    def selected(self, service: Resource[Any]) -> list[Runner]:
        selector: dict[str, str] = service.spec.selector or {}
        if not selector:
            return []
        lists = [self._by_label.get((service.namespace, *item), []) for item in selector.items()]
        fewest = min(lists, key=len)
        wanted = selector.items()
        return [runner for runner in fewest if wanted <= runner.labels.items() and runner.ready]

    def at(self, address: str, port: int) -> str:
        found = self.by_address.get(address, [])
        if len(found) > 1:
            found = [r for r in found if port in r.workload.ports] or found
        return found[0].workload.key if found else ""


def _port(
    service: Resource[Any],
    spec: ServicePortSpec,
    number: int,
    slices: list[Resource[Any]] | None,
    chosen: list[Runner],
    finder: _Finder,
    draft: Draft,
) -> ServicePort:
    endpoints = set(_from_slices(slices, spec, finder) if slices else _from_runners(chosen, spec))
    transport = "udp" if (spec.protocol or "TCP").upper() == "UDP" else "tcp"
    return ServicePort(
        spec.name or "",
        spec.port,
        _protocol(service, spec, number, draft),
        "udp" if transport == "udp" else "tcp",
        tuple(sorted(endpoints)),
    )


def _from_slices(slices: Iterable[Resource[Any]], spec: ServicePortSpec, finder: _Finder) -> Iterator[Endpoint]:
    for one in slices:
        found: EndpointSlice = one.spec
        # EndpointSlice ports carry the names of Service ports.
        numbers = [p.port for p in found.ports or () if (p.name or "") == (spec.name or "") and p.port]
        for port in numbers:
            for endpoint in found.endpoints or ():
                if endpoint.conditions is not None and endpoint.conditions.ready is False:
                    continue
                for address in endpoint.addresses[:1]:  # "the first one is used" (discovery/v1)
                    if _is_address(address):
                        canonical = _canonical(address)
                        yield Endpoint(canonical, port, finder.at(canonical, port))


def _from_runners(chosen: Iterable[Runner], spec: ServicePortSpec) -> Iterator[Endpoint]:
    target = spec.target_port if spec.target_port not in (None, "", 0) else spec.port
    for runner in chosen:
        port = _number(target, runner.named_ports)  # N23: resolved for each endpoint
        if port is not None:
            # One endpoint for a workload: its first address, as a pod's podIP is.
            for address in runner.workload.addresses[:1]:
                yield Endpoint(address, port, runner.workload.key)


def _protocol(service: Resource[Any], spec: ServicePortSpec, number: int, draft: Draft) -> Protocol:
    """appProtocol wins, else the prefix of the port's name; else nothing is declared and the first bytes tell."""
    if spec.app_protocol:
        known = _APP_PROTOCOLS.get(spec.app_protocol.lower())
        if known is not None:
            return known
        message = f"appProtocol {spec.app_protocol} is not known; the first bytes will tell"
        draft.report(service, "warning", f"$.spec.ports[{number}].appProtocol", message, f"known are {', '.join(_APP_PROTOCOLS)}")
        return ""
    name = (spec.name or "").lower()
    for prefix, protocol in _PREFIXES:
        if name == prefix or name.startswith(f"{prefix}-"):
            return protocol
    return ""


def _number(port: int | str | None, named: Mapping[str, int]) -> int | None:
    if isinstance(port, int):
        return port if 0 < port < 65536 else None
    if port is None:
        return None
    if port.isascii() and port.isdigit():
        return int(port) if 0 < int(port) < 65536 else None
    return named.get(port)


def _cluster_ips(spec: ServiceSpec) -> tuple[str, ...]:
    given = (*(spec.cluster_ips or ()), spec.cluster_ip or "")
    return tuple(dict.fromkeys(_canonical(a) for a in given if _is_address(a)))


def _headless(spec: ServiceSpec) -> bool:
    return spec.cluster_ip == "None" or spec.type == "ExternalName"


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def _canonical(value: str) -> str:
    return value if ":" not in value else str(ipaddress.ip_address(value))
