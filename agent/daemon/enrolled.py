"""Whether a pod that begins is of the mesh, before its own object was read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from agent.kernel.pod_netns import differ
from agent.kernel.sandbox import Sandbox
from agent.sources.source import Remote
from agent.store.store import Store
from policy import enrolment
from policy.enrolment import Marks

_UNREACHED = 3.0  # seconds for which a server that does not answer is waited for
_LISTING = 30.0  # the same for one that answers, until all is listed


def enrols(store: Store, current: Callable[[], bool], sandbox: Sandbox) -> bool | None:
    """Return whether a pod is of the mesh; None: not known yet.

    By its Namespace as the store knows it, and by what the container runtime told of the pod. A pod whose Namespace is
    not known may be of the mesh; so may one whose Namespace was not of the mesh when the last daemon ran, until what
    the store knows is `current`. Where the runtime did not tell the pod's labels, the pod's own object is waited for,
    unless its Namespace is not of the mesh.
    """
    if sandbox.namespace in enrolment.NEVER:
        return False
    found = _as_known(store, sandbox)
    return None if found is False and not current() else found


def _as_known(store: Store, sandbox: Sandbox) -> bool | None:
    around = store.marks(sandbox.namespace)
    if around is None:
        return None
    if sandbox.labels is not None and sandbox.annotations is not None:
        pod = Marks(sandbox.labels, sandbox.annotations)
        return enrolment.of_pod(sandbox.namespace, around, pod).enrolled
    if not enrolment.enrols(around):
        return False
    published = store.published
    workload = published.snapshot.workload(sandbox.pod) if published else None
    return workload.enrolled if workload is not None and not differ(workload.uid, sandbox.uid) else None


class Current:
    """Whether Namespaces are known as they are now. Once they are, it stays so: each change is heard of.

    A server that does not answer is not waited for without end: then what was known at the last run counts.
    """

    def __init__(self, remotes: Sequence[Remote], now: Callable[[], float] = time.monotonic) -> None:
        self._remotes, self._now = remotes, now
        self._since = now()
        self._so = not remotes

    def __call__(self) -> bool:
        if not self._so:
            missing = [report for remote in self._remotes if not (report := remote.report())["synced"]]
            patience = _LISTING if any(report["connected"] for report in missing) else _UNREACHED
            self._so = not missing or self._now() - self._since >= patience
        return self._so
