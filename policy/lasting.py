"""Objects that are no longer in the manifests but stay in force, because their absence would open what they closed.

Absence is never permission. A TrafficTarget that disappears grants nothing any more: that closes. But a program without
its Workload would no longer be captured, and a thief without the Revocation would be trusted again. Nothing shows
whether a person deleted the object or a transfer broke off between two documents. So the object stays as it was, with a
warning, until a person says otherwise: with `edgemesh release NAME`, or with an object of that name that says the
opposite.

| kind | stays | says the opposite |
|---|---|---|
| Workload, Pod | if it is of this node and in the mesh, unless another names its place | `enrolled: false` |
| Namespace | if the mesh captures its pods, or it is stricter than the mesh | the Namespace without that |
| MeshConfig | the one in force, if it forbids egress: only that part | a MeshConfig with `enableEgress: true` |
| Revocation | always | a Revocation of that name with an empty list |
| Isolation | always | an Isolation of that name with other ranges |
| NodeConfig | "default", and this node's own (agent/config/schema.py) | a NodeConfig of that name |
| Deployment | if a Workload's template names it: it holds the identity | a template that names another |

The same holds for parts of objects: a MeshConfig that no longer mentions `enableEgress`, or that replaces one which
forbade egress; a Namespace that lost the mark that enrolled its pods here or made it stricter than the mesh; a Workload
or Pod that lost the annotation which put it into the mesh although its Namespace is not in it.

The absence of an object of any other kind refuses calls, or changes where a call goes or how many do, but not whether it
may.

What a Kubernetes API server said is different: it tells of each deletion and edit, so absence there is somebody's word.
Pods come and go, and a Namespace that lost its label has left the mesh. Of its objects only a Revocation stays. Where a
node reads a directory too, what the directory said stays as above, also when the cluster has an object of that name:
that the file is gone is nobody's word, and that the cluster's object never said it is none either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from policy.decode import decode
from policy.enrolment import IGNORE, INJECTION, MESH, MONITORED
from policy.kinds.edgemesh import WorkloadSpec
from policy.model import Mtls, Problem
from policy.resources import RawObject, Resource, from_cluster, key_of
from policy.translate import mtls
from policy.translate.osm import FLAG, enrols, is_off, pod_enrolment, precedence, workload_enrolment

_RANK: dict[Mtls, int] = {word: rank for rank, word in enumerate(get_args(Mtls))}  # from strict to disabled

_Objects = dict[str, Resource[Any]]


def keep(current: _Objects, previous: Mapping[str, RawObject], node: str) -> dict[str, Problem]:
    """Add the objects that stay in force to `current`. Return a warning for each, by key.

    `previous`: the objects that the last build accepted, without those that a person released.
    """
    problems: dict[str, Problem] = {}
    for key in sorted(key for key, resource in current.items() if resource.kind in _PARTS and key in previous):
        before = decode(previous[key])
        if not isinstance(before, Resource) or from_cluster(before.raw):
            continue
        stays = _PARTS[before.kind](before, current[key], current, node)
        if stays is not None:
            current[key], message, hint = stays
            problems[key] = current[key].problem("warning", "$", message, f"edgemesh release {name_of(key)} {hint}")
    for resource, message, hint in _heirs(current, previous):
        key = key_of(resource.kind, resource.namespace, resource.name)
        current[key] = resource
        problems[key] = resource.problem("warning", "$", message, f"edgemesh release {name_of(key)} {hint}")
    for kind, keeper in _KEEPERS.items():
        for key in sorted(key for key in previous if key.startswith(f"{kind} ") and key not in current):
            before = decode(previous[key])
            if not isinstance(before, Resource) or (kind != "Revocation" and from_cluster(before.raw)):
                continue
            stays = keeper(before, current, node)
            if stays is not None:
                resource, message, hint = stays
                current[key] = resource
                problems[key] = resource.problem("warning", "$", message, f"edgemesh release {name_of(key)} {hint}")
    return problems


def name_of(key: str) -> str:
    """Return a key in the form that `edgemesh release` takes."""
    kind, _, name = key.partition(" ")
    return name if kind in ("Workload", "Pod") else f"{kind}/{name.lstrip('/')}"


def keys_of(name: str) -> tuple[str, ...]:
    """Return the keys that a name given to `edgemesh release` may mean.

    The name is NAMESPACE/NAME of a workload, or KIND/NAME, KIND/NAMESPACE/NAME.
    """
    kind, _, rest = name.partition("/")
    if kind in (*_KEEPERS, "NodeConfig"):  # agent/config keeps a NodeConfig
        return (f"{kind} {rest if '/' in rest else f'/{rest}'}",)
    return (f"Workload {name}", f"Pod {name}")


_Stays = tuple[Resource[Any], str, str] | None


def _workload(before: Resource[Any], current: _Objects, node: str) -> _Stays:
    spec: WorkloadSpec = before.spec
    if not (
        spec.enrolled
        and _local(spec, node)
        and workload_enrolment(before, current.get(f"Namespace /{before.namespace}")).enrolled
    ):
        return None
    if any(_same_place(spec, other.spec) for other in _of("Workload", current) if other.spec.node in ("", node)):
        return None
    return (
        before,
        "is in no manifest any more: it stays captured, under the policy that there is",
        _OPENS.format("a Workload"),
    )


def _local(spec: WorkloadSpec, node: str) -> bool:
    return spec.node == node or (not spec.node and bool(spec.netns or spec.systemd_unit))


_OPENS = "lets go of it, and opens it; so does {} of that name with enrolled: false"


def _same_place(one: WorkloadSpec, other: WorkloadSpec) -> bool:
    if one.netns or one.systemd_unit:
        return (one.netns, one.systemd_unit) == (other.netns, other.systemd_unit)
    return bool(set(one.addresses) & set(other.addresses))


def _pod(before: Resource[Any], current: _Objects, node: str) -> _Stays:
    ended = before.status.phase in ("Succeeded", "Failed")
    namespace = current.get(f"Namespace /{before.namespace}")
    enrolled = pod_enrolment(before, namespace).enrolled and not before.spec.host_network
    if ended or not enrolled or before.spec.node_name != node:
        return None
    mine = _addresses(before)
    if any(mine & _addresses(other) for other in _of("Pod", current)) or any(
        mine & set(o.spec.addresses) for o in _of("Workload", current)
    ):
        return None
    return (
        before,
        "is in no manifest any more: it stays captured while its network namespace is there",
        "lets go of it, and opens it",
    )


def _addresses(pod: Resource[Any]) -> set[str]:
    return {address for address in (pod.status.pod_ip, *(ip.ip for ip in pod.status.pod_ips or ())) if address}


def _namespace(before: Resource[Any], current: _Objects, _: str) -> _Stays:
    mesh = _mesh_mode(current)
    said = mtls.mode(before)
    if not enrols(before) and (said is None or _RANK[said] >= _RANK[mesh]):
        return None
    return before, "is in no manifest any more: what it says of its workloads stays in force", "undoes that"


def _mesh_mode(current: _Objects) -> Mtls:
    return next((said for config in _of("MeshConfig", current) if (said := mtls.mode(config))), "strict")


def _deployment(before: Resource[Any], current: _Objects, _: str) -> _Stays:
    name = before.name
    users = [w for w in _of("Workload", current) if w.namespace == before.namespace and w.spec.template == name]
    if not users:
        return None
    return before, f"is in no manifest any more, and says who {users[0].title} is: it stays in force", "undoes that"


def _mesh_config(before: Resource[Any], current: _Objects, _: str) -> _Stays:
    if any(_of("MeshConfig", current)) or before.spec.traffic.enable_egress:
        return None
    data = {
        **before.raw.data,
        "metadata": {"name": before.name, "namespace": before.namespace},
        "spec": {"traffic": {"enableEgress": False}, **({"featureFlags": {FLAG: False}} if is_off(before) else {})},
    }
    made = decode(RawObject(data, before.raw.where, {}))
    assert isinstance(made, Resource), made
    return (
        made,
        "is in no manifest any more: that it forbids egress stays in force",
        "allows egress; so does a MeshConfig that says so",
    )


def _heirs(current: _Objects, previous: Mapping[str, RawObject]) -> Iterable[tuple[Resource[Any], str, str]]:
    """Yield a MeshConfig that replaces, by another name, one which forbade egress, if it does not mention egress."""
    known = [decode(raw) for key, raw in previous.items() if key.startswith("MeshConfig ") and not from_cluster(raw)]
    before = min((config for config in known if isinstance(config, Resource)), key=precedence, default=None)
    now = min(_of("MeshConfig", current), key=precedence, default=None)
    if before is not None and now is not None and key_of("MeshConfig", before.namespace, before.name) not in current:
        stays = _egress(before, now, current, "")
        if stays is not None:
            yield stays


def _revocation(before: Resource[Any], _: _Objects, __: str) -> _Stays:
    return (
        before,
        "is in no manifest any more: whom it revokes stays revoked",
        "lifts it here; a Revocation of that name that revokes nobody does everywhere",
    )


def _isolation(before: Resource[Any], _: _Objects, __: str) -> _Stays:
    return (
        before,
        "is in no manifest any more: what it cuts off stays cut off",
        "lifts it here; an Isolation of that name with other ranges does everywhere",
    )


def _egress(before: Resource[Any], now: Resource[Any], _: _Objects, __: str) -> _Stays:
    """Keep egress forbidden where a MeshConfig no longer says so."""
    spec = now.raw.data.get("spec") or {}
    traffic, flags = spec.get("traffic") or {}, spec.get("featureFlags") or {}
    forbids = "enableEgress" not in traffic and not before.spec.traffic.enable_egress
    shuts = FLAG not in flags and is_off(before)  # an Egress that somebody wrote lets nothing out
    if not forbids and not shuts:
        return None
    kept = {"traffic": {**traffic, "enableEgress": False}} if forbids else {}
    kept |= {"featureFlags": {**flags, FLAG: False}} if shuts else {}
    lost = "enableEgress" if forbids else FLAG
    return (
        _with(now, before, spec={**spec, **kept}),
        f"{_gone(now)}says nothing of {lost} any more: egress stays forbidden",
        f"allows it; so does {lost}: true",
    )


def _marks(before: Resource[Any], now: Resource[Any], current: _Objects, node: str) -> _Stays:
    """Keep the marks that a Namespace has lost.

    They are the label that enrolled its pods here, and the annotation that made it stricter than the mesh. Beside a
    cluster's Namespace the one that is gone had a file of its own: it enrolled also the pods that come later.
    """
    metadata = dict(now.raw.data.get("metadata") or {})
    lost: list[str] = []
    pods = from_cluster(now.raw) or any(
        pod.namespace == now.name and pod.spec.node_name == node for pod in _of("Pod", current)
    )
    if pods and enrols(before) and not enrols(now) and IGNORE not in now.labels and MESH not in now.labels:
        marks = {name: before.labels[name] for name in (MONITORED, MESH) if name in before.labels}
        metadata["labels"] = {**now.labels, **marks}
        lost.extend(marks)
    said = mtls.mode(before)
    if said is not None and mtls.mode(now) is None and _RANK[said] < _RANK[_mesh_mode(current)]:
        metadata["annotations"] = {**now.annotations, mtls.ANNOTATION: said}
        lost.append(mtls.ANNOTATION)
    if not lost:
        return None
    message = f"{_gone(now)}says nothing of {' and '.join(lost)} any more: what it said stays in force"
    return (
        _with(now, before, metadata=metadata),
        message,
        f"undoes that; so does a word of its own: {IGNORE}, or another {mtls.ANNOTATION}",
    )


def _injection(before: Resource[Any], now: Resource[Any], current: _Objects, node: str) -> _Stays:
    """Keep the annotation that a Workload or Pod of this node has lost, if it was in the mesh only by that annotation
    and its Namespace is not in the mesh.
    """
    lost = [name for name in (INJECTION, MESH) if name in before.annotations and name not in now.annotations]
    if not lost:
        return None
    kept = {name: before.annotations[name] for name in lost}
    made = _with(now, before, metadata={**now.raw.data["metadata"], "annotations": {**now.annotations, **kept}})
    namespace = current.get(f"Namespace /{now.namespace}")
    local = now.spec.node_name == node if now.kind == "Pod" else _local(now.spec, node)
    enrolment = pod_enrolment if now.kind == "Pod" else workload_enrolment
    if not local or enrolment(now, namespace).enrolled or not enrolment(made, namespace).enrolled:
        return None
    return (
        made,
        f"{_gone(now)}says nothing of {lost[0]} any more: it stays captured",
        f"lets go of it, and opens it; so does {lost[0]}: disabled",
    )


def _gone(now: Resource[Any]) -> str:
    """Return how a warning begins: an object of the directory is not changed but gone, if the cluster's has its place."""
    return "is in no manifest any more, and the cluster's " if from_cluster(now.raw) else ""


def _with(now: Resource[Any], before: Resource[Any], **parts: Any) -> Resource[Any]:
    """Return `now` with the parts of `before` that stay.

    It is where `now` is; but a cluster's object then is where `before` was, whose word it is, or the next build would
    take what stays for the API server's word and let it go.
    """
    whose = before.raw if from_cluster(now.raw) else now.raw
    made = decode(RawObject({**now.raw.data, **parts}, whose.where, whose.lines))
    assert isinstance(made, Resource), made
    return made


_PARTS = {"MeshConfig": _egress, "Namespace": _marks, "Workload": _injection, "Pod": _injection}
_KEEPERS = {  # Namespaces come before the workloads in them
    "Namespace": _namespace,
    "Deployment": _deployment,
    "MeshConfig": _mesh_config,
    "Revocation": _revocation,
    "Isolation": _isolation,
    "Workload": _workload,
    "Pod": _pod,
}


def _of(kind: str, current: _Objects) -> Iterable[Resource[Any]]:
    return (resource for key, resource in sorted(current.items()) if resource.kind == kind)
