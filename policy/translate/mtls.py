"""Annotation edgemesh.io/mtls: what workloads are called over, for the mesh (on the MeshConfig) or for a Namespace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from policy.draft import Draft, Input
from policy.model import Mtls
from policy.resources import Resource

Fault = tuple[str, str, str]  # path, message, hint

ANNOTATION = "edgemesh.io/mtls"
PATH = f"$.metadata.annotations.{ANNOTATION}"
_MODES: dict[str, Mtls] = {mode: mode for mode in get_args(Mtls)}
_MUTE = ("Service", "Pod", "Deployment", "Workload")  # where people may look for it


def check(resource: Resource[Any]) -> Iterable[Fault]:
    value = resource.annotations.get(ANNOTATION)
    if value is not None and value not in _MODES:
        yield PATH, f"{ANNOTATION} is {value!r}", "write strict, permissive or disabled"


def mode(resource: Resource[Any]) -> Mtls | None:
    """What an object says; None when it says nothing. A word that nobody knows, and no good one before it, opens nothing."""
    value = resource.annotations.get(ANNOTATION)
    return None if value is None else _MODES.get(value, "strict")


def translate(resources: Input, draft: Draft) -> None:
    """After the MeshConfig was read."""
    for namespace in resources.all("Namespace"):
        said = mode(namespace)
        if said is not None:
            draft.modes[namespace.name] = said
    for kind in _MUTE:
        for resource in resources.all(kind):
            if ANNOTATION in resource.annotations:
                draft.report(resource, "warning", PATH, f"{ANNOTATION} says nothing here", "annotate the Namespace, or the MeshConfig")
