"""Services: names, addresses, ports. endpoints.py says which endpoints serve them."""

from __future__ import annotations

import re
from typing import Any

from msgspec import structs

from policy.addresses import allot, canonical, is_address
from policy.draft import Draft, Input
from policy.kinds.kubernetes import ServicePortSpec, ServiceSpec
from policy.model import Names, Protocol, Service, ServicePort
from policy.protocols import APP_PROTOCOLS, by_port_name
from policy.resources import Resource, from_cluster
from policy.translate import mesh_nodes
from policy.translate.endpoints import (
    Finder,
    Serving,
    hosts_of_runners,
    hosts_of_slices,
    of_runners,
    of_slices,
    place_of,
)
from policy.translate.workloads import runners_of

IDLE_TIMEOUT = "edgemesh.io/idle-timeout"  # annotation of a Service
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")  # of an ExternalName
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?")
_LONGEST_IDLE = 366 * 86400.0
_AFFINITY, _LONGEST_AFFINITY = 10800.0, 86400  # seconds; Kubernetes' default, and the most that it admits


def translate(resources: Input, draft: Draft) -> None:
    """Write Services with their endpoints, and workloads.

    The ports that Services send to are added to a workload's own.
    """
    here = runners_of(resources, draft)
    runners = {**mesh_nodes.runners_of(resources, draft, here), **here}
    services, lists, aliases = [], [], {}
    for service in resources.all("Service"):
        if service.spec.type == "ExternalName":
            target = service.spec.external_name or ""
            if _HOST.fullmatch(target):
                aliases[service.key] = target
            message = f"ExternalName: calls to {target or 'it'} leave the mesh"
            draft.report(service, "notice", "$.spec.type", message)
        elif service.spec.ports or not _headless(service.spec):
            services.append(service)
        else:
            lists.append(service)  # headless and without ports: a list of addresses, which nothing is sent to
    slices: dict[str, list[Resource[Any]]] = {}
    for one in resources.all("EndpointSlice"):
        name = one.labels.get("kubernetes.io/service-name")
        if name:
            slices.setdefault(f"{one.namespace}/{name}", []).append(one)
    finder, place = Finder(runners.values()), place_of(resources, draft)
    needy = [s.key for s in services if not _cluster_ips(s.spec) and not _headless(s.spec)]
    draft.addresses = allot(needy, draft.kept, draft.ranges)
    for service in services:
        if service.key in draft.addresses and not draft.addresses[service.key]:
            hint = "give the Service a clusterIP, or make serviceRange larger"
            draft.report(
                service,
                "warning",
                "$",
                "no address is left for it in serviceRange, so nothing can call it by name",
                hint,
            )
    hosts = {}
    for service in (*services, *lists):
        if _headless(service.spec):
            of = slices.get(service.key)
            hosts[service.key] = hosts_of_runners(finder.selected(service)) if of is None else hosts_of_slices(of)
    namespaces = list(resources.all("Namespace"))
    draft.names = Names(
        aliases,
        hosts,
        tuple(namespace.name for namespace in namespaces),
        any(from_cluster(namespace.raw) for namespace in namespaces),
        draft.unread,
    )
    # The ports that Services send to a workload are its ports too: they tell apart workloads that share an address. Only
    # those of its own namespace: others could say that a port of the node is a pod's.
    served: dict[str, set[int]] = {}
    for service in services:
        sliced, local = slices.get(service.key), service.spec.internal_traffic_policy == "Local"
        chosen = finder.selected(service) if sliced is None else []
        ports = tuple(
            _port(
                service,
                spec,
                number,
                of_runners(chosen, spec, place, local)
                if sliced is None
                else of_slices(sliced, spec, finder, place, local),
                draft,
            )
            for number, spec in enumerate(service.spec.ports or ())
        )
        for port in ports:
            for endpoint in port.endpoints:
                if endpoint.workload.startswith(f"{service.namespace}/"):
                    served.setdefault(endpoint.workload, set()).add(endpoint.port)
        addresses = _cluster_ips(service.spec) or draft.addresses.get(service.key, ())
        draft.services[service.key] = Service(
            service.namespace, service.name, addresses, ports, affinity=_affinity(service.spec)
        )
    for key, runner in runners.items():
        workload = runner.workload
        extra = served.get(key)
        if extra and not extra <= set(workload.ports):
            workload = structs.replace(workload, ports=tuple(sorted(extra.union(workload.ports))))
        draft.workloads[key] = workload


def _port(service: Resource[Any], spec: ServicePortSpec, number: int, serving: Serving, draft: Draft) -> ServicePort:
    transport = "udp" if (spec.protocol or "TCP").upper() == "UDP" else "tcp"
    return ServicePort(
        spec.name or "",
        spec.port,
        _protocol(service, spec, number, draft),
        "udp" if transport == "udp" else "tcp",
        serving.endpoints,
        _idle(service, spec, number, draft),
        serving.near,
        serving.nearness,
    )


def _affinity(spec: ServiceSpec) -> float:
    """Return for how many seconds a caller's next call goes to the endpoint of the one before; 0: to any."""
    if spec.session_affinity != "ClientIP":
        return 0.0
    config = spec.session_affinity_config
    said = config.client_ip.timeout_seconds if config is not None and config.client_ip is not None else None
    return float(said) if said is not None and 0 < said <= _LONGEST_AFFINITY else _AFFINITY


def _idle(service: Resource[Any], spec: ServicePortSpec, number: int, draft: Draft) -> float | None:
    """Return the idle timeout of this port's connections in seconds, 0 for none; None if the Service sets no valid one.

    The annotation is "off", seconds, or one of these for each port.
    """
    said = service.annotations.get(IDLE_TIMEOUT)
    if said is None:
        return None
    found = None
    for part in said.split(","):
        port, assigned, value = part.strip().rpartition("=")
        if not assigned or port.strip() in (spec.name or "", str(spec.port)):
            found = value.strip()
    if found is None or found == "off":
        return None if found is None else 0.0
    if not _SECONDS.fullmatch(found) or not 0 < float(found) <= _LONGEST_IDLE:
        if number == 0 or "=" in said:
            hint = 'seconds, or off: "3600", "off", or for each port "db=off, http=600"'
            draft.report(
                service,
                "warning",
                f"$.metadata.annotations.{IDLE_TIMEOUT}",
                f"{found!r} is no time, and counts for nothing",
                hint,
            )
        return None
    return float(found)


def _protocol(service: Resource[Any], spec: ServicePortSpec, number: int, draft: Draft) -> Protocol:
    """Return the protocol that appProtocol or the port's name declares; "" if neither does: the first bytes decide."""
    if not spec.app_protocol:
        return by_port_name(spec.name or "")
    known = APP_PROTOCOLS.get(spec.app_protocol.lower())
    if known is not None:
        return known
    message = f"appProtocol {spec.app_protocol} is not known; the first bytes will tell"
    draft.report(
        service, "warning", f"$.spec.ports[{number}].appProtocol", message, f"known are {', '.join(APP_PROTOCOLS)}"
    )
    return ""


def _cluster_ips(spec: ServiceSpec) -> tuple[str, ...]:
    given = (*(spec.cluster_ips or ()), spec.cluster_ip or "")
    return tuple(dict.fromkeys(canonical(a) for a in given if is_address(a)))


def _headless(spec: ServiceSpec) -> bool:
    return spec.cluster_ip == "None"
