"""Pods and Workloads: what runs where, under which identity, with which ports, labels and probes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from policy.addresses import canonical, is_address
from policy.draft import Draft, Input
from policy.enrolment import INJECTION, Enrolment
from policy.faults import Fault
from policy.kinds.edgemesh import WorkloadSpec
from policy.kinds.kubernetes import Container, PodSpec
from policy.model import POD, Workload
from policy.resources import Resource
from policy.translate.containers import NamedPorts, ports_of, probes_of, programs
from policy.translate.osm import exclusions_of, pod_enrolment, workload_enrolment

ENCODED_SLASH = "edgemesh.io/encoded-slash"  # annotation of a Workload or Pod
# Annotation of a pod that the kubelet reports and read from a file: the UID by which it runs it.
_MIRRORED = "kubernetes.io/config.mirror"
_LOOPBACK = ("127.0.0.1", "::1")  # the kubelet's too, where a pod shares its network
_UID = re.compile(r"[0-9A-Za-z-]{1,64}")
# The one reference that a Workload can do without: it stays captured, with fewer labels and perhaps the default
# account.
TEMPLATE = "$.spec.template"


class Runner(Struct):
    """A workload, and what only the translation of Services needs to know of it."""

    workload: Workload
    labels: Mapping[str, str]
    named_ports: NamedPorts
    ready: bool = True
    hostname: str = ""  # in DNS, below a headless Service


def check_workload(workload: Resource[Any], resources: Input) -> Iterable[Fault]:
    spec: WorkloadSpec = workload.spec
    if spec.netns and spec.systemd_unit:
        yield "$.spec.systemdUnit", "both netns and systemdUnit", "a workload runs in one of them"
    for number, address in enumerate(spec.addresses):
        if not is_address(address):
            yield (
                f"$.spec.addresses[{number}]",
                f"{address!r} is no IP address",
                "write it without a prefix length" if "/" in address else "",
            )
    if "\0" in spec.netns or spec.netns in (".", "..") or ("/" in spec.netns and not spec.netns.startswith("/")):
        yield (
            "$.spec.netns",
            f"{spec.netns!r} is neither a name nor an absolute path",
            "a name under /run/netns, or a path",
        )
    if spec.systemd_unit and (
        "/" in spec.systemd_unit or "\0" in spec.systemd_unit or "." not in spec.systemd_unit.strip(".")
    ):
        yield "$.spec.systemdUnit", f"{spec.systemd_unit!r} is no unit's name", "write it as till.service"
    if spec.template and resources.get("Deployment", f"{workload.namespace}/{spec.template}") is None:
        yield (
            TEMPLATE,
            f"there is no Deployment {workload.namespace}/{spec.template}",
            resources.missing("Deployment", workload.namespace, spec.template)
            or "it names a Deployment of the same namespace",
        )


def runners_of(resources: Input, draft: Draft) -> dict[str, Runner]:
    """Return everything that runs, by key. A Workload takes precedence over a Pod of the same name."""
    pods, workloads = _pods(resources, draft), _workloads(resources, draft)
    for key in sorted(pods.keys() & workloads.keys()):
        listed = resources.get("Workload", key)
        assert listed is not None
        draft.report(
            listed,
            "warning",
            "$.metadata.name",
            f"there is a Pod {key} too, which is not looked at",
            "give one another name",
        )
    return {**pods, **workloads}


def _pods(resources: Input, draft: Draft) -> dict[str, Runner]:
    found: dict[str, Runner] = {}
    for pod in resources.all("Pod"):
        spec: PodSpec = pod.spec
        status = pod.status
        if status.phase in ("Succeeded", "Failed"):
            continue
        enrolment = pod_enrolment(pod, resources.get("Namespace", pod.namespace))
        uid = pod.annotations.get(_MIRRORED) or pod.metadata.uid
        if spec.host_network and enrolment.enrolled and not _UID.fullmatch(uid):
            enrolment = Enrolment(False, "hostNetwork: it has no metadata.uid, by which its cgroup is found")
            message = "a hostNetwork pod without metadata.uid is not captured: it calls and is called as its node is, outside the mesh"
            hint = f"write it as Kubernetes has it, or annotate it with {INJECTION}: disabled"
            draft.report(pod, "warning", "$.spec.hostNetwork", message, hint)
        given = (*(ip.ip for ip in status.pod_ips or ()), status.pod_ip)
        addresses = tuple(dict.fromkeys(canonical(address) for address in given if is_address(address)))
        named, numbers = ports_of(programs(spec))
        workload = Workload(
            pod.namespace,
            pod.name,
            spec.service_account_name or spec.service_account or "default",
            addresses,
            numbers,
            spec.node_name or "",
            "",
            f"{POD}{uid}" if spec.host_network and enrolment.enrolled else "",
            exclusions_of(draft, pod),
            probes_of(programs(spec), (*addresses, *_LOOPBACK) if spec.host_network else addresses),
            enrolment.enrolled,
            literal_slash=_literal_slash(draft, pod),
            host_network=bool(spec.host_network),
            left_out=enrolment.why,
            uid=uid,
        )
        # A manifest without status (a box without Kubernetes) counts as ready.
        ready = all(condition.status != "False" for condition in status.conditions or () if condition.type == "Ready")
        ready = ready and bool(addresses) and not pod.metadata.deletion_timestamp
        found[pod.key] = Runner(workload, pod.labels, named, ready, spec.hostname or pod.name)
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
                containers = programs(template.spec)
        enrolment = workload_enrolment(resource, resources.get("Namespace", resource.namespace))
        if not spec.enrolled:
            enrolment = Enrolment(False, "the Workload says enrolled: false")
        named, numbers = ports_of(containers)
        named = {**named, **{(p.name, p.protocol): p.port for p in spec.ports if p.name}}
        numbers = tuple(sorted({*numbers, *(p.port for p in spec.ports)}))
        addresses = tuple(dict.fromkeys(canonical(a) for a in spec.addresses))
        workload = Workload(
            resource.namespace,
            resource.name,
            account or "default",
            addresses,
            numbers,
            spec.node,
            spec.netns,
            spec.systemd_unit,
            exclusions_of(draft, resource),
            probes_of(containers, addresses),
            enrolment.enrolled,
            literal_slash=_literal_slash(draft, resource),
            left_out=enrolment.why,
        )
        found[resource.key] = Runner(workload, labels, named, hostname=resource.name)
    return found


def _literal_slash(draft: Draft, resource: Resource[Any]) -> bool:
    """Return whether the annotation says that this server reads %2F as a part of a name.

    If so, its rules see only that reading of a path.
    """
    said = resource.annotations.get(ENCODED_SLASH)
    if said not in (None, "name"):
        path = f"$.metadata.annotations.{ENCODED_SLASH}"
        draft.report(
            resource,
            "warning",
            path,
            f"{ENCODED_SLASH}: {said!r} is not known, and changes nothing",
            "name is the one value that there is",
        )
    return said == "name"
