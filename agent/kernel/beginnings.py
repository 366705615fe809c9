"""Pods that begin: each is captured, closed or let speak before its first process, while the container runtime waits.

It implements what agent/nri needs (plugin.py, `Ground`). A pod of the mesh that the policy does not name yet is closed;
one of which it is not known whether it is of the mesh stays mute (pods.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from agent.kernel import netns
from agent.kernel.namespace import CapturedNamespace
from agent.kernel.places import Places
from agent.kernel.pod_netns import PodNamespaces, differ
from agent.kernel.pods import Pods
from agent.kernel.rounds import Rounds
from agent.kernel.sandbox import Sandbox
from policy.model import Workload

log = logging.getLogger("edgemesh.kernel")


class Captures(Protocol):
    """What is done with workloads (capture.py)."""

    def wanted(self, key: str) -> Workload | None:
        """Return a workload that is to be captured on this node."""
        ...

    def take(self, workload: Workload, path: str) -> None:
        """Capture it in the namespace at `path`. Raise OSError."""
        ...

    def follow(self, place: CapturedNamespace, workload: Workload) -> None:
        """Have its place follow what is known of it now. Raise OSError."""
        ...

    def in_node(self, pod: str, uid: str) -> bool:
        """Return whether a pod of the node's own network is captured, or cannot be."""
        ...


class Beginnings:
    """Everything here is synchronous except `admitted`. `pods` None: no pods are expected."""

    def __init__(
        self, captures: Captures, finder: PodNamespaces, places: Places, rounds: Rounds, pods: Pods | None
    ) -> None:
        self._captures, self._finder, self._places, self._rounds = captures, finder, places, rounds
        self._pods = pods

    def __repr__(self) -> str:
        return f"<Beginnings of {self._pods!r}>"

    def announce(self, sandbox: Sandbox) -> None:
        """Take what the container runtime tells of a pod that begins; call while `run` runs.

        The pod is looked at at once, and not only when its turn comes in a round: the runtime waits.
        """
        self._finder.sandboxes.announce(sandbox)
        self._rounds.call()
        if self._pods is None or not sandbox.netns or netns.identity(sandbox.netns) in self._places.shut:
            return
        workload = self._captures.wanted(sandbox.pod)
        self._finder.begin(time.monotonic(), needed=False)
        if workload is not None and not (workload.unit or workload.netns):
            path = self._finder.recorded(workload)
            which, place = netns.identity(path), self._places.served.get(workload.key)
            try:
                if which == netns.identity(sandbox.netns):
                    if place is None:
                        self._captures.take(workload, path)
                    elif place.namespace.id == which:  # a round was there before CNI was done
                        self._captures.follow(place, workload)
            except OSError:
                pass  # the round that begins now tries again, and says what is wrong
        self._pods.settle(self._places.captured)

    def running(self, sandboxes: Iterable[Sandbox]) -> None:
        """Take what the container runtime tells of pods that run already. Nobody waits for them: a round does."""
        for sandbox in sandboxes:
            self._finder.sandboxes.announce(sandbox)
        self._rounds.call()

    def departed(self, sandbox_id: str) -> None:
        """Take that a pod that was announced is gone."""
        self._finder.sandboxes.forget(sandbox_id)

    async def admitted(self, sandbox: Sandbox) -> None:
        """Wait until a pod that was announced may speak, or is gone."""
        while self._pods is not None and not self._may_speak(self._pods, sandbox):
            await self._rounds.over()

    def _may_speak(self, pods: Pods, sandbox: Sandbox) -> bool:
        if sandbox.netns:
            return pods.speaks(sandbox.id)
        # It is in the node's own network, where no gate keeps it mute: the runtime waits until it is captured.
        return self._captures.in_node(sandbox.pod, sandbox.uid) or pods.enrols(sandbox) is False

    def settle(self) -> Iterator[None]:
        """Let those pods speak that may, and close those of the mesh that the snapshot does not name yet."""
        pods = self._pods
        if pods is None:
            return
        captured = self._places.captured
        pods.settle(captured)
        taken = {*captured, *self._places.early, netns.own()}
        for sandbox in pods.waiting().values():
            which = netns.identity(sandbox.netns)
            wanted = self._captures.wanted(sandbox.pod)
            named = wanted is not None and not differ(wanted.uid, sandbox.uid)
            if named or which is None or which in taken or not pods.enrols(sandbox):
                continue
            try:
                self._places.hold(Workload(sandbox.namespace, sandbox.name, ""), sandbox.netns, early=True)
            except OSError as error:
                log.warning("%s of pod %s cannot be closed: %s", sandbox.netns, sandbox.pod, error)
                continue
            log.info("%s is closed until the policy names pod %s", sandbox.netns, sandbox.pod)
            yield
