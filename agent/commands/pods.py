"""Two pods of a cluster, and whether policy lets one call the other, from the objects that the API server has."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from msgspec import Struct

from agent.admin.explain import Question, Unclear, answer
from agent.commands import cluster
from agent.commands.cluster import Mistake
from agent.kubernetes.api import ApiError, ApiServer, path_of
from agent.kubernetes.discovery import Wanted, served
from policy.build import build
from policy.enrolment import Enrolment, Marks, of_pod
from policy.model import Where
from policy.registry import KINDS
from policy.resources import RawObject, plain
from policy.snapshot import Snapshot

Document = dict[str, Any]

# What runs where comes from the two pods; all other kinds are policy.
_NOT_POLICY = ("", "apps", "discovery.k8s.io")
_NOT_OURS = ("Workload",)
ANY_PORT = 80  # asked about where a pod declares none


class Name(Struct, frozen=True):
    """A pod as people write it: NAMESPACE/NAME."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Found(Struct):
    """A pod, its Namespace, and whether it is in the mesh."""

    name: Name
    pod: Document
    namespace: Document
    enrolment: Enrolment

    @property
    def node(self) -> str:
        return str((self.pod.get("spec") or {}).get("nodeName", ""))

    @property
    def phase(self) -> str:
        return str((self.pod.get("status") or {}).get("phase", "Unknown"))

    @property
    def identity(self) -> str:
        spec = self.pod.get("spec") or {}
        return f"{self.name.namespace}/{spec.get('serviceAccountName') or 'default'}"


def pod_name(words: str) -> Name:
    """Return a pod's name: a type. A name without a namespace is of `default`, as with osm."""
    if not re.fullmatch(r"(?:[a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?", words):
        raise ArgumentTypeError(f"{words!r} is no pod: write NAMESPACE/NAME")
    namespace, slash, name = words.rpartition("/")
    return Name(namespace if slash else "default", name)


def ports(found: Found) -> list[int]:
    """Return the ports that a pod's containers declare."""
    containers = (found.pod.get("spec") or {}).get("containers") or ()
    return [port["containerPort"] for one in containers for port in one.get("ports") or () if "containerPort" in port]


async def find(api: ApiServer, name: Name) -> Found:
    """Return a pod. Raise Mistake, which says what was probably meant."""
    namespace = await cluster.namespaced(api, name.namespace)
    try:
        pod = await api.get(path_of("v1", "pods", name.namespace, name.name))
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        where = f" in namespace {name.namespace}"
        raise await cluster.unknown(api, "pod", name.name, path_of("v1", "pods", name.namespace), where) from error
    return Found(name, pod, namespace, of_pod(name.namespace, _marks(namespace), _marks(pod)))


async def snapshot_of(api: ApiServer, pods: Iterable[Found]) -> Snapshot:
    """Return what a node would decide with that knew these pods and all policy of the cluster.

    Raise ApiError, ApiUnreachable.
    """
    wanted = [
        Wanted(plain(name), group, kind.versions)
        for name, kind in KINDS.items()
        if kind.group not in _NOT_POLICY and name not in _NOT_OURS
        for group in (kind.group, *kind.also)
    ]
    raws: dict[str, RawObject] = {}
    for found in pods:
        raws[f"Pod {found.name}"] = _raw("v1", "Pod", found.pod)
        raws[f"Namespace {found.name.namespace}"] = _raw("v1", "Namespace", found.namespace)
    for one in (await served(api, wanted, {})).values():
        for item in await api.list(one.path):
            raws[f"{one.kind} {one.group} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"] = _raw(
                one.version, one.kind, item
            )
    return build(list(raws.values())).snapshot


def explain(snapshot: Snapshot, source: Found, destination: Found, asked: Question) -> list[Document]:
    """Return the verdict for each port that the destination declares, or for the one that is asked about.

    Raise Mistake.
    """
    workload = snapshot.workload(str(destination.name))
    numbers = [asked.port] if asked.port else list(workload.ports if workload else ()) or [ANY_PORT]
    found = []
    for number in numbers:
        question = Question(
            str(source.name),
            f"workload:{destination.name}",
            number,
            asked.method,
            asked.path,
            asked.headers,
            asked.udp,
        )
        try:
            found.append(answer(snapshot, question))
        except Unclear as unclear:
            raise Mistake(str(unclear), unclear.hint) from unclear
    return found


def _raw(version: str, kind: str, item: Document) -> RawObject:
    metadata = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    data = {**item, "apiVersion": version, "kind": kind, "metadata": metadata}
    return RawObject(data, Where("the cluster"), {})


def _marks(found: Document) -> Marks:
    return Marks(cluster.meta(found, "labels"), cluster.meta(found, "annotations"))
