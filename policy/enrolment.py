"""Which pods and Workloads are in the mesh, by labels and annotations of their Namespace and their own.

It is asked with plain labels and annotations, so that a capture can ask it before the pod's object was read.

| says | on | what |
|---|---|---|
| `openservicemesh.io/monitored-by`, with any value | Namespace (label) | its pods are in the mesh |
| `edgemesh.io/mesh: enabled` | Namespace (label) | the same; `disabled`: they are not, whatever else it says |
| `openservicemesh.io/ignore` | Namespace (label) | nothing in it is in the mesh |
| `openservicemesh.io/sidecar-injection: disabled` | Namespace, pod (annotation) | the pod is not; a pod's own word has precedence |
| `edgemesh.io/mesh: disabled` | pod (label or annotation) | the pod is not |

A word that means neither yes nor no is reported and taken for yes: a typing error does not open a pod.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

MONITORED = "openservicemesh.io/monitored-by"
IGNORE = "openservicemesh.io/ignore"
INJECTION = "openservicemesh.io/sidecar-injection"
MESH = "edgemesh.io/mesh"
# Namespaces whose pods are never in the mesh: those of Kubernetes itself, which the mesh needs, and its own.
NEVER = frozenset(("kube-system", "edgemesh-system"))
_YES, _NO = ("enabled", "yes", "true"), ("disabled", "no", "false")


class Marks(Struct, frozen=True):
    """The labels and annotations of one object."""

    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class Enrolment(Struct, frozen=True):
    """Whether something is in the mesh. `why`: in words, why it is not; "" if it is."""

    enrolled: bool
    why: str = ""


_IN = Enrolment(True)


def of_pod(namespace: str, around: Marks | None, pod: Marks) -> Enrolment:
    """Return whether a pod is in the mesh: if its Namespace is, and nothing of the two leaves it out.

    `around`: of its Namespace; None if there is no such Namespace, or it is not known yet.
    """
    if namespace in NEVER:
        return Enrolment(False, f"namespace {namespace} is never in the mesh")
    if around is None:
        return Enrolment(False, f"Namespace {namespace} is not known")
    if left := _left_out(namespace, around):
        return left
    if not enrols(around):
        return Enrolment(False, f"Namespace {namespace} has neither label {MONITORED} nor {MESH}: enabled")
    return _own(namespace, around, pod, "the pod")


def of_workload(namespace: str, around: Marks | None, workload: Marks) -> Enrolment:
    """Return whether a Workload is in the mesh: it is, unless it or its Namespace leaves it out."""
    around = around or Marks()
    return _left_out(namespace, around) or _own(namespace, around, workload, "the Workload")


def enrols(namespace: Marks) -> bool:
    """Return whether a Namespace has a label that puts its pods into the mesh."""
    word = namespace.labels.get(MESH)
    return MONITORED in namespace.labels or (word is not None and _word(word) is not False)


def strange(marks: Marks, namespace: bool) -> Iterator[tuple[str, str, str]]:
    """Yield each word that means neither yes nor no: "labels" or "annotations", the name, and the word."""
    places = (("annotations", INJECTION), ("labels", MESH), *(() if namespace else (("annotations", MESH),)))
    for kind, name in places:
        word = (marks.labels if kind == "labels" else marks.annotations).get(name)
        if word is not None and _word(word) is None:
            yield kind, name, word


def _left_out(namespace: str, around: Marks) -> Enrolment | None:
    """Return that a Namespace leaves out everything in it; None if it does not."""
    word = around.labels.get(IGNORE)
    if word is not None and (not word or _word(word)):
        return Enrolment(False, f"Namespace {namespace} has label {IGNORE}")
    if _word(around.labels.get(MESH, "")) is False:
        return Enrolment(False, f"Namespace {namespace} has label {MESH}: {around.labels[MESH]}")
    return None


def _own(namespace: str, around: Marks, own: Marks, what: str) -> Enrolment:
    said = ((MESH, own.labels), (MESH, own.annotations), (INJECTION, own.annotations))
    words = [(name, marks[name]) for name, marks in said if marks.get(name)]
    for name, word in words:
        if _word(word) is False:
            return Enrolment(False, f"{what} says {name}: {word}")
    if not words and _word(around.annotations.get(INJECTION, "")) is False:
        return Enrolment(False, f"Namespace {namespace} says {INJECTION}: {around.annotations[INJECTION]}")
    return _IN


def _word(word: str) -> bool | None:
    """Return what a word means: True, False, or None for a word that means neither."""
    word = word.strip().lower()
    return True if word in _YES else False if word in _NO else None
