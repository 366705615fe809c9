"""Labels and annotations of enrolment and capture that stand where nothing reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policy.build import Built
from policy.enrolment import IGNORE, INJECTION, MESH, MONITORED, NEVER
from policy.model import Problem
from policy.resources import Resource

_LABEL, _ANNOTATION, _BOTH = ("labels",), ("annotations",), ("labels", "annotations")
_ON_PODS = {"Pod": _ANNOTATION, "Workload": _ANNOTATION}
# By name: where each kind may have it.
_READ: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    MONITORED: {"Namespace": _LABEL},
    IGNORE: {"Namespace": _LABEL},
    MESH: {"Namespace": _LABEL, "Pod": _BOTH, "Workload": _BOTH},
    INJECTION: {"Namespace": _ANNOTATION, **_ON_PODS},
    "openservicemesh.io/inbound-port-exclusion-list": _ON_PODS,
    "openservicemesh.io/outbound-port-exclusion-list": _ON_PODS,
    "openservicemesh.io/outbound-ip-range-exclusion-list": _ON_PODS,
    "openservicemesh.io/outbound-ip-range-inclusion-list": _ON_PODS,
}


def marks(built: Built) -> Iterator[Problem]:
    """Check labels and annotations of Namespaces, Pods, Workloads, Services and Deployments."""
    resources = built.resources
    for kind in ("Namespace", "Pod", "Workload", "Service", "Deployment"):
        for resource in resources.all(kind):
            for place, there in (("labels", resource.labels), ("annotations", resource.annotations)):
                for name in there:
                    if name in _READ and place not in _READ[name].get(kind, ()):
                        yield _misplaced(resource, place, name)
    for namespace in resources.all("Namespace"):
        for name in (MONITORED, MESH):
            if namespace.name in NEVER and name in namespace.labels:
                message = f"pods of {namespace.name} are never in the mesh, whatever {name} says"
                yield namespace.problem("warning", f"$.metadata.labels.{name}", message, "take the label away")


def _misplaced(resource: Resource[Any], place: str, name: str) -> Problem:
    read = _READ[name].get(resource.kind)
    if read is not None:
        message = f"{name} says nothing among the {place}"
        hint = f"write it under metadata.{read[0]}"
    else:
        message = f"{name} says nothing on a {resource.kind}"
        if "Pod" not in _READ[name]:
            hint = f"write it on the Namespace, under metadata.{_READ[name]['Namespace'][0]}"
        elif resource.kind == "Deployment":
            hint = "write it on its pods, under spec.template.metadata.annotations"
        else:
            hint = "write it on the Pod or Workload, under metadata.annotations"
    return resource.problem("warning", f"$.metadata.{place}.{name}", message, hint)
