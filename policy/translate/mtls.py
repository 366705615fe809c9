"""Annotation edgemesh.io/mtls: how workloads are called, for the mesh (on the MeshConfig) or for a Namespace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.model import Mtls
from policy.resources import Resource

ANNOTATION = "edgemesh.io/mtls"
PATH = f"$.metadata.annotations.{ANNOTATION}"
_MODES: dict[str, Mtls] = {mode: mode for mode in get_args(Mtls)}
_MUTE = ("Service", "Pod", "Deployment", "Workload")  # kinds on which the annotation has no effect


def check(resource: Resource[Any], _: Input) -> Iterable[Fault]:
    value = resource.annotations.get(ANNOTATION)
    if value is not None and value not in _MODES:
        yield PATH, f"{ANNOTATION} is {value!r}", "write strict, permissive or disabled"


def mode(resource: Resource[Any]) -> Mtls | None:
    """Return the mode that an object sets; None if it sets none. An unknown word counts as strict."""
    value = resource.annotations.get(ANNOTATION)
    return None if value is None else _MODES.get(value, "strict")


def translate(resources: Input, draft: Draft) -> None:
    """Write the modes of Namespaces. The MeshConfig's mode is written before."""
    for namespace in resources.all("Namespace"):
        said = mode(namespace)
        if said is not None:
            draft.modes[namespace.name] = said
    for kind in _MUTE:
        for resource in resources.all(kind):
            if ANNOTATION in resource.annotations:
                draft.report(
                    resource,
                    "warning",
                    PATH,
                    f"{ANNOTATION} says nothing here",
                    "annotate the Namespace, or the MeshConfig",
                )
