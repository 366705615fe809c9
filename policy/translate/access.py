"""AccessControl (OSM, fsm): which addresses may call a Service in plain text, where mTLS is not strict."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.osm import (
    AccessBackend,
    AccessControl,
    AccessSource,
    IngressBackend,
    IngressBackendService,
    IngressSource,
)
from policy.model import Endpoint, PlainGrant, Service
from policy.resources import Resource
from policy.translate.mtls import ANNOTATION

SPEAK_TLS = "let the server itself speak TLS"


def check(control: Resource[Any], _: Input) -> Iterable[Fault]:
    spec: AccessControl = control.spec
    yield from check_ends(spec)
    if spec.matches:
        yield (
            "$.spec.matches",
            "matches are not read, and without them this would let in more than it says",
            "leave matches out",
        )


def check_ends(spec: AccessControl | IngressBackend) -> Iterable[Fault]:
    if not spec.backends:
        yield "$.spec.backends", "no backends", "name at least one Service and its port"
    if not spec.sources:
        yield "$.spec.sources", "no sources", "name at least one IPRange or Service"
    sources: Iterable[AccessSource | IngressSource] = spec.sources
    for number, source in enumerate(sources):
        if source.kind == "IPRange":
            try:
                ipaddress.ip_network(source.name, strict=False)
            except ValueError:
                yield (
                    f"$.spec.sources[{number}].name",
                    f"{source.name!r} is not an address range",
                    "write it as 10.0.0.0/8",
                )


def translate(resources: Input, draft: Draft) -> None:
    """Write plain grants. Services and their endpoints are translated before."""
    for control in resources.all("AccessControl"):
        if draft.mtls(control.namespace) == "strict":
            message = f"does nothing: namespace {control.namespace} is in strict mode, where only mTLS comes in"
            draft.report(control, "warning", "$", message, f"annotate the Namespace with {ANNOTATION}: permissive")
            continue
        spec: AccessControl = control.spec
        networks = {
            network
            for number, source in enumerate(spec.sources)
            for network in networks_of(control, number, source, resources, draft)
        }
        ports: dict[str, set[int]] = {}
        for number, backend in enumerate(spec.backends):
            if backend.tls is not None:
                message = (
                    "tls is not looked at: bytes go to the server as they come, and no client certificate is asked for"
                )
                draft.report(control, "warning", f"$.spec.backends[{number}].tls", message, SPEAK_TLS)
            for endpoint in behind(control, number, backend, resources, draft):
                ports.setdefault(endpoint.workload, set()).add(endpoint.port)
        for workload, numbers in sorted(ports.items()):
            if networks:
                draft.plain.append(PlainGrant(control.title, workload, tuple(sorted(numbers)), tuple(sorted(networks))))


def networks_of(
    control: Resource[Any], number: int, source: AccessSource | IngressSource, resources: Input, draft: Draft
) -> Iterable[str]:
    """Return the networks that a source names, and report what is wrong with it."""
    at = f"$.spec.sources[{number}]"
    if source.kind == "IPRange":
        return (str(ipaddress.ip_network(source.name, strict=False)),)
    if source.kind == "Service":
        key = f"{source.namespace or control.namespace}/{source.name}"
        service = draft.services.get(key)
        if service is None:
            draft.report(
                control,
                "warning",
                f"{at}.name",
                f"there is no Service {key}, so it lets nobody in",
                _near(resources, key),
            )
            return ()
        return {str(ipaddress.ip_network(address)) for address in _addresses(service, draft)}
    message = f"source kind {source.kind} is left out: whoever calls in plain text is known by address alone"
    draft.report(control, "warning", f"{at}.kind", message, "known are IPRange and Service")
    return ()


def _near(resources: Input, key: str) -> str:
    namespace, _, name = key.partition("/")
    return resources.missing("Service", namespace, name)


def _addresses(service: Service, draft: Draft) -> Iterable[str]:
    """Yield the addresses that the pods of a Service call from.

    An endpoint has one, and its workload may have one of each family.
    """
    for port in service.ports:
        for endpoint in port.endpoints:
            yield endpoint.address
            workload = draft.workloads.get(endpoint.workload)
            if workload is not None:
                yield from workload.addresses


def behind(
    control: Resource[Any], number: int, backend: AccessBackend | IngressBackendService, resources: Input, draft: Draft
) -> Iterable[Endpoint]:
    """Return the endpoints that a backend names.

    As in OSM, a backend's port is the port on which the server listens, not the Service's. Whoever writes EndpointSlices
    may name workloads of other namespaces: calls go there, but who is let in is said in their own namespace.
    """
    at = f"$.spec.backends[{number}]"
    key = f"{control.namespace}/{backend.name}"
    service = draft.services.get(key)
    if service is None:
        draft.report(
            control,
            "warning",
            f"{at}.name",
            f"there is no Service {key} in the {control.kind}'s namespace",
            _near(resources, key),
        )
        return ()
    tcp = [port for port in service.ports if port.transport == "tcp"]
    wanted = backend.port.number
    found = [endpoint for port in tcp for endpoint in port.endpoints if endpoint.port == wanted]
    if not found:
        found = [endpoint for port in tcp if port.port == wanted for endpoint in port.endpoints]
        if found:
            targets = ", ".join(str(port) for port in sorted({endpoint.port for endpoint in found}))
            message = f"{wanted} is a port of Service {key}; the port that its servers listen on is meant here, which is {targets}"
            draft.report(control, "notice", f"{at}.port.number", message, "write that one, as OSM does")
        elif not any(port.port == wanted for port in tcp):
            targets = (
                ", ".join(str(port) for port in sorted({endpoint.port for port in tcp for endpoint in port.endpoints}))
                or "none"
            )
            message = f"no server of Service {key} listens on {wanted}"
            draft.report(control, "warning", f"{at}.port.number", message, f"the ports of its servers: {targets}")
    own = [endpoint for endpoint in found if endpoint.workload.startswith(f"{control.namespace}/")]
    others = sorted({one.workload.partition("/")[0] for one in found if one.workload} - {control.namespace})
    if others:
        message = f"Service {key} has endpoints of namespace {', '.join(others)}, which are left out"
        draft.report(control, "warning", f"{at}.name", message, f"a {control.kind} is for workloads of its namespace")
    return own
