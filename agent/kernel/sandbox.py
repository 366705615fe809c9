"""One pod sandbox, as the container runtime recorded it."""

from __future__ import annotations

from msgspec import Struct


class Sandbox(Struct, frozen=True):
    """A pod's sandbox. `name` is "" for a container that is no pod.

    `netns`: path of its network namespace; "" for a pod in the node's own (hostNetwork). `addresses`: given by CNI.
    `networks`: the ranges that these are from. `made`: when the record was written, nanoseconds since the epoch.
    `labels`, `annotations`: the pod's; None where the record does not say.
    """

    id: str
    namespace: str = ""
    name: str = ""
    uid: str = ""
    netns: str = ""
    addresses: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    made: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    @property
    def pod(self) -> str:
        """The key of its workload: NAMESPACE/NAME; "" for a container that is no pod."""
        return f"{self.namespace}/{self.name}" if self.name else ""


def plain(path: str) -> str:
    """Return the path of a namespace without the link /var/run, which a container need not have."""
    return path.removeprefix("/var") if path.startswith("/var/run/") else path
