"""Services that no workload serves, that share an address, or whose ports almost declare a protocol."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from policy.build import Built
from policy.draft import Input
from policy.kinds.edgemesh import WorkloadSpec
from policy.kinds.kubernetes import Container, ServicePortSpec, ServiceSpec
from policy.lint.raw import mapping, namespace_of
from policy.model import Problem
from policy.near import nearest
from policy.protocols import FIRST_WORDS
from policy.resources import Resource
from policy.translate.containers import programs

# Common first words of port names that declare nothing.
_OTHER_WORDS = frozenset(
    ("https", "http2", "http3", "h2c", "tls", "udp", "ftp", "sftp", "tftp", "smtp", "ntp", "rtp", "rtsp", "nntp")
)


class _Runs(Struct, frozen=True):
    """What a Service may select: a Workload, a Pod, or the pods of a template."""

    labels: Mapping[str, str]
    named: Mapping[str, int]
    listed: frozenset[int] = frozenset()  # the ports that a Workload lists as served; empty: it lists none


class _Running:
    """Everything of a namespace that a selector can select, by label."""

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str], list[_Runs]] = {}
        self._shown: list[str] = []

    def add(self, one: _Runs) -> None:
        for item in one.labels.items():
            self._by_label.setdefault(item, []).append(one)

    def selected(self, selector: Mapping[str, str]) -> list[_Runs]:
        fewest = min((self._by_label.get(item, []) for item in selector.items()), key=len)
        return [one for one in fewest if selector.items() <= one.labels.items()]

    @property
    def labels(self) -> list[str]:
        """The labels as people write them, sorted."""
        if not self._shown:
            self._shown = sorted(f"{name}={value}" for name, value in self._by_label)
        return self._shown


def services(built: Built) -> Iterator[Problem]:
    """Check Services, and what their selectors select."""
    resources = built.resources
    runs, slices, endpoints = _running(built), set(), set()
    taken: dict[str, str] = {}
    for one in resources.all("EndpointSlice"):
        slices.add(f"{one.namespace}/{one.labels.get('kubernetes.io/service-name', '')}")
    for raw in built.others:
        if raw.data.get("kind") == "Endpoints":
            endpoints.add(f"{namespace_of(raw.data)}/{mapping(raw.data.get('metadata')).get('name')}")
    for service in resources.all("Service"):
        spec: ServiceSpec = service.spec
        for number, port in enumerate(spec.ports or ()):
            yield from _port_words(service, number, port)
        yield from _addresses(service, taken)
        yield from _words(service)
        if not spec.ports and spec.type != "ExternalName" and spec.cluster_ip != "None":
            yield service.problem(
                "warning",
                "$.spec",
                "it has no ports, so nothing can be called through it",
                "list them under spec.ports",
            )
        if service.key in slices or spec.type == "ExternalName":
            continue
        if not spec.selector:
            if service.key not in endpoints and not _is_split(built, service.key):
                message = "it has neither a selector nor an EndpointSlice: nothing serves it"
                yield service.problem(
                    "warning", "$.spec", message, "select the labels of its Workloads: selector: {app: NAME}"
                )
            continue
        wanted = spec.selector.items()
        there = runs.get(service.namespace) or _Running()
        chosen = there.selected(spec.selector)
        if not chosen:
            labels = ", ".join(f"{name}={value}" for name, value in sorted(wanted))
            message = f"its selector selects nothing: no Workload or Pod of namespace {service.namespace} has the labels {labels}"
            yield service.problem("warning", "$.spec.selector", message, _other_labels(resources, spec.selector, there))
            continue
        for number, port in enumerate(spec.ports or ()):
            yield from _target(service, number, port, chosen, resources)


def _words(service: Resource[Any]) -> Iterator[Problem]:
    spec: ServiceSpec = service.spec
    for name, word, known in (
        ("sessionAffinity", spec.session_affinity, ("None", "ClientIP")),
        ("internalTrafficPolicy", spec.internal_traffic_policy, ("Cluster", "Local")),
    ):
        if word and word not in known:
            near = nearest(word, known)
            message = f"{name} {word!r} is not known, and taken for {known[0]}"
            yield service.problem("warning", f"$.spec.{name}", message, f"did you mean {near or known[1]}?")


def _addresses(service: Resource[Any], taken: dict[str, str]) -> Iterator[Problem]:
    """Check the addresses and port numbers of a Service.

    `taken`: the owner of each clusterIP, from the Services checked before.
    """
    spec: ServiceSpec = service.spec
    given = dict.fromkeys(filter(None, (spec.cluster_ip, *(spec.cluster_ips or ()))))
    for address in given:
        if address == "None":
            continue
        try:
            canonical = str(ipaddress.ip_address(address))
        except ValueError:
            yield service.problem(
                "warning",
                "$.spec.clusterIP",
                f"{address!r} is no IP address, and so nobody's",
                "leave it out: it gets one",
            )
            continue
        first = taken.setdefault(canonical, service.key)
        if first != service.key:
            message = f"{address} is the address of Service {first} too, and calls to it are taken for calls to that"
            yield service.problem("warning", "$.spec.clusterIP", message, "leave it out: it gets one of its own")
    numbers: set[tuple[int, str]] = set()
    for number, port in enumerate(spec.ports or ()):
        key = (port.port, (port.protocol or "TCP").upper())
        if key in numbers:
            yield service.problem(
                "warning", f"$.spec.ports[{number}].port", f"port {port.port} stands twice", "the first one is used"
            )
        numbers.add(key)


def _running(built: Built) -> Mapping[str, _Running]:
    """Return everything that a selector can select, by namespace."""
    found: dict[str, _Running] = {}
    resources = built.resources

    def runs(
        namespace: str, labels: Mapping[str, str], named: Mapping[str, int], listed: frozenset[int] = frozenset()
    ) -> None:
        found.setdefault(namespace, _Running()).add(_Runs(labels, named, listed))

    for pod in resources.all("Pod"):
        runs(pod.namespace, pod.labels, _ports_of(programs(pod.spec)))
    for deployment in resources.all("Deployment"):
        template = deployment.spec.template
        runs(deployment.namespace, template.metadata.labels or {}, _ports_of(programs(template.spec)))
    for workload in resources.all("Workload"):
        spec: WorkloadSpec = workload.spec
        labels, named, listed = (
            dict(spec.labels),
            {port.name: port.port for port in spec.ports if port.name},
            {p.port for p in spec.ports},
        )
        template_of = resources.get("Deployment", f"{workload.namespace}/{spec.template}") if spec.template else None
        if template_of is not None:
            template = template_of.spec.template
            labels = {**(template.metadata.labels or {}), **labels}
            named = {**_ports_of(programs(template.spec)), **named}
            listed |= {port.container_port for container in programs(template.spec) for port in container.ports or ()}
        runs(workload.namespace, labels, named, frozenset(listed))
    for raw in built.others:
        spec_of = mapping(raw.data.get("spec"))
        labels_of = mapping(mapping(mapping(spec_of.get("template")).get("metadata")).get("labels")) or mapping(
            spec_of.get("labels")
        )
        if labels_of:
            named = {}
            for port in spec_of["ports"] if isinstance(spec_of.get("ports"), list) else ():
                named[str(mapping(port).get("name"))] = 0
            inside = mapping(mapping(spec_of.get("template")).get("spec")).get("containers")
            for container in inside if isinstance(inside, list) else ():
                ports = mapping(container).get("ports")
                named.update({str(mapping(port).get("name")): 0 for port in (ports if isinstance(ports, list) else ())})
            runs(namespace_of(raw.data), {str(name): str(value) for name, value in labels_of.items()}, named)
    return found


def _ports_of(containers: Iterable[Container]) -> dict[str, int]:
    return {port.name: port.container_port for container in containers for port in container.ports or () if port.name}


def _is_split(built: Built, key: str) -> bool:
    service = built.snapshot.service(key)
    return service is not None and bool(service.routes)


def _other_labels(resources: Input, selector: Mapping[str, str], there: _Running) -> str:
    """Return what was probably meant: an existing label that is similar, otherwise the existing labels."""
    labels = there.labels
    for name, value in sorted(selector.items()):
        if not there.selected({name: value}) and (hint := resources.near(f"{name}={value}", labels)):
            return hint
    if not labels:
        return "give its Workloads labels: spec.labels of a Workload, metadata.labels of a Pod"
    return f"labels there: {', '.join(labels[:5])}{' ...' if len(labels) > 5 else ''}"


def _target(
    service: Resource[Any], number: int, port: ServicePortSpec, chosen: list[_Runs], resources: Input
) -> Iterator[Problem]:
    target, at = (
        port.target_port if port.target_port not in (None, "", 0) else port.port,
        f"$.spec.ports[{number}].targetPort",
    )
    if isinstance(target, str) and not (target.isascii() and target.isdigit()):
        names = sorted({name for one in chosen for name in one.named})
        if target not in names:
            message = f"no workload that it selects has a port named {target!r}, so port {port.port} has no endpoint"
            has = f"they have {', '.join(names[:5])}" if names else "name one: ports: [{name: NAME, port: NUMBER}]"
            yield service.problem("warning", at, message, resources.near(target, names) or has)
        return
    wanted = int(target or 0)
    if (port.protocol or "TCP").upper() == "TCP" and all(one.listed and wanted not in one.listed for one in chosen):
        numbers = sorted({listed for one in chosen for listed in one.listed})
        message = f"port {port.port} is sent to port {wanted}, which no workload that it selects lists"
        hint = f"they list {', '.join(map(str, numbers[:5]))}"
        yield service.problem("notice", at if port.target_port else f"$.spec.ports[{number}].port", message, hint)


def _port_words(service: Resource[Any], number: int, port: ServicePortSpec) -> Iterator[Problem]:
    """Report protocols and port names that almost declare something."""
    protocol = port.protocol or "TCP"
    if protocol not in ("TCP", "UDP"):
        at = f"$.spec.ports[{number}].protocol"
        if protocol == "SCTP":
            yield service.problem("warning", at, "SCTP is not carried", "edgemesh carries TCP")
        else:
            near = nearest(protocol, ("TCP", "UDP"))
            taken = "UDP" if protocol.upper() == "UDP" else "TCP"
            yield service.problem(
                "warning",
                at,
                f"protocol {protocol!r} is not known, and taken for {taken}",
                f"did you mean {near or 'TCP'}?",
            )
    word, dash, rest = (port.name or "").partition("-")
    if (
        port.app_protocol
        or not word
        or word.lower() in (*FIRST_WORDS, *_OTHER_WORDS)
        or word.lower().startswith(FIRST_WORDS)
    ):
        return
    near = nearest(word, FIRST_WORDS, 0.7)
    if near:
        message = (
            f"the port's name {port.name!r} declares no protocol, so the first bytes of each connection have to tell"
        )
        yield service.problem("warning", f"$.spec.ports[{number}].name", message, f"did you mean {near}{dash}{rest}?")
