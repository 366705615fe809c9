"""The objects of a cluster, sent to its API server; whether the daemons run, and in words why one does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from agent.install import addon
from agent.kubernetes.api import ApiError, ApiServer, path_of, plural

Document = dict[str, Any]

MANAGER = "edgemesh"  # the field manager of server-side apply
CLEANER = "edgemesh-cleanup"  # the DaemonSet that takes rules and state off the nodes
PODS = {"labelSelector": "app.kubernetes.io/name=edgemesh"}
_LOG_LINES = 5
_LOG_BYTES = 4096


class Fault(Struct, frozen=True):
    """Why the daemon of one node is not ready."""

    node: str
    message: str
    hint: str = ""
    pod: str = ""
    ended: bool = False  # it ended: its log may say why


def path(one: Mapping[str, Any], collection: bool = False) -> str:
    """Return the path of an object, or of the collection that it belongs to."""
    metadata = one["metadata"]
    return path_of(
        one["apiVersion"], plural(one["kind"]), metadata.get("namespace", ""), "" if collection else metadata["name"]
    )


async def has_flow_control(api: ApiServer) -> bool:
    """Return whether the API server has the queues as we write them: Kubernetes 1.29 and newer."""
    try:
        await api.get("/apis/flowcontrol.apiserver.k8s.io/v1")
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


async def apply(api: ApiServer, one: Document) -> None:
    """Make an object what we say, also where somebody else made it. Raise ApiError, ApiUnreachable."""
    if one["kind"] == "CustomResourceDefinition":
        await _without_webhook(api, one)
        one = without_nulls(one)
    await api.patch(path(one), one, apply=MANAGER)


async def _without_webhook(api: ApiServer, definition: Document) -> None:
    """Take the conversion by a webhook out of a definition that is there: applied null does not."""
    try:
        there = await api.get(path(definition))
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return
        raise
    if ((there.get("spec") or {}).get("conversion") or {}).get("strategy") == "Webhook":
        await api.patch(path(definition), {"spec": {"conversion": {"strategy": "None", "webhook": None}}})


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


async def remove(api: ApiServer, where: str, foreground: bool = False) -> bool:
    """Delete an object. Return False when it was not there. Raise ApiError, ApiUnreachable."""
    try:
        await api.delete(where, {"propagationPolicy": "Foreground"} if foreground else None)
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True


def cleaner(daemon: Mapping[str, Any], held: bool = False) -> Document:
    """Return the DaemonSet that cleans every node, made of an agent's: its image, its rights, its folders.

    `held`: it runs on no node yet.
    """
    found: Document = msgspec.json.decode(msgspec.json.encode(daemon))
    labels = {**addon.LABELS, "app.kubernetes.io/component": "cleanup"}
    spec = found["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    kept = {key: container[key] for key in ("image", "imagePullPolicy", "securityContext", "volumeMounts", "resources")}
    spec["containers"] = [{"name": "cleanup", "args": ["cleanup", "--all", "--stay"], **kept}]
    # Ready once all of the node is clean: a container that comes after it runs.
    spec["initContainers"] = [{"name": "clean", "args": ["cleanup", "--all"], **kept}]
    spec.pop("affinity", None)
    spec["nodeSelector"] = {"edgemesh.io/cleanup": "held"} if held else {}
    spec["terminationGracePeriodSeconds"] = 1
    spec["automountServiceAccountToken"] = False
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": CLEANER, "namespace": addon.NAMESPACE, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


# whether they run


class Progress(Struct, frozen=True):
    """How many of the nodes that should have a daemon have one that is ready."""

    ready: int
    wanted: int
    known: bool  # the controllers have seen what was applied

    @property
    def done(self) -> bool:
        return self.known and self.ready >= self.wanted


def progress(sets: Iterable[Mapping[str, Any]]) -> Progress:
    ready = wanted = 0
    known = True
    for one in sets:
        status = one.get("status") or {}
        desired = status.get("desiredNumberScheduled", 0)
        wanted += desired
        ready += min(status.get("numberAvailable", 0), status.get("updatedNumberScheduled", 0), desired)
        known = known and status.get("observedGeneration", 0) >= one["metadata"].get("generation", 0)
    return Progress(ready, wanted, known)


def leaving(pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the nodes with a daemon that was told to end and has not: after a handover its last connections go on."""
    return sorted(
        {(pod.get("spec") or {}).get("nodeName", "") for pod in pods if pod["metadata"].get("deletionTimestamp")}
    )


def faults(pods: Sequence[Mapping[str, Any]]) -> list[Fault]:
    """Return what keeps pods from being ready, by node."""
    found = []
    for pod in pods:
        status, spec = pod.get("status") or {}, pod.get("spec") or {}
        conditions = {one.get("type"): one for one in status.get("conditions") or ()}
        if pod["metadata"].get("deletionTimestamp") or (conditions.get("Ready") or {}).get("status") == "True":
            continue
        node, name = spec.get("nodeName") or _meant(spec), pod["metadata"]["name"]
        scheduled = conditions.get("PodScheduled") or {}
        if scheduled.get("status") == "False":
            found.append(Fault(node, f"no room: {scheduled.get('message', '')}", pod=name))
            continue
        if status.get("phase") == "Failed":
            found.append(Fault(node, status.get("message") or status.get("reason") or "the pod failed", pod=name))
            continue
        states = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        state: Mapping[str, Any] = next((one for one in states if not one.get("ready")), {})
        found.append(_waiting(node, name, state))
    return sorted(found, key=lambda fault: fault.node)


def _waiting(node: str, pod: str, container: Mapping[str, Any]) -> Fault:
    state = container.get("state") or {}
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"):
        image = container.get("image", "")
        hint = (
            "without a registry: put the image archive of this version into /var/lib/rancher/k3s/agent/images on that node;"
            f" elsewhere ctr -n k8s.io images import; or --image names one that can be pulled ({waiting.get('message', '')[:200]})"
        )
        return Fault(node, f"has no image {image}", hint, pod)
    if ended:
        code, why = ended.get("exitCode"), ended.get("reason", "")
        if why == "OOMKilled":
            return Fault(node, "was killed at its memory limit", "--set memoryLimit=512Mi", pod, ended=True)
        return Fault(
            node, f"ended with {code}{f' ({why})' if why not in ('', 'Error', 'Completed') else ''}", "", pod, True
        )
    if reason and reason not in ("ContainerCreating", "PodInitializing"):
        return Fault(node, f"{reason}: {waiting.get('message', '')}", "", pod)
    if "running" in state:
        return Fault(
            node, "runs, and has not captured what is there yet", f"kubectl logs -n {addon.NAMESPACE} {pod}", pod
        )
    return Fault(node, "is being started", f"kubectl describe pod -n {addon.NAMESPACE} {pod}", pod)


def _meant(spec: Mapping[str, Any]) -> str:
    """Return the node that a DaemonSet's pod is for, which has none yet."""
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in affinity.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return "?"


async def log_of(api: ApiServer, pod: str, container: str = "edgemesh") -> str:
    """Return the last lines that a daemon wrote; "" when they cannot be had."""
    where = path_of("v1", "pods", addon.NAMESPACE, pod, "log")
    query = {"container": container, "tailLines": str(_LOG_LINES), "limitBytes": str(_LOG_BYTES)}
    for previous in ({}, {"previous": "true"}):
        try:
            response = await api.request("GET", where, {**query, **previous}, accept="*/*")
        except ApiError:
            continue
        if text := response.body.decode("utf-8", "replace").strip():
            return text
    return ""
