"""Which pods of this node may speak: those that are captured, and those that are not of the mesh.

Theory of operation. A pod's sandbox is told by the container runtime (agent/nri), or found in what it wrote
(sandboxes.py), whichever comes first. In every round each sandbox that is not known yet is judged: its namespace is
captured, so that its listeners and rules are in force; or it is not of the mesh. In both cases the gate lets its
interface speak (gate.py). Otherwise the pod stays mute: a pod of the mesh until it is captured, a pod of which it is not
known whether it is of the mesh, until that is known.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping

from agent.kernel import netns
from agent.kernel.gate import Gate
from agent.kernel.links import wires
from agent.kernel.sandbox import Sandbox
from agent.kernel.sandboxes import Namespace, Sandboxes
from policy.model import Problem, Where

log = logging.getLogger("edgemesh.kernel")

# Whether a pod is of the mesh; None: not known yet.
Enrols = Callable[[Sandbox], bool | None]
_PATIENCE = 10.0  # seconds for which a pod may be mute before that is a problem


class Pods:
    """Keeps the gate in line with what is captured. Everything here is synchronous."""

    def __init__(self, sandboxes: Sandboxes, gate: Gate, ranges: tuple[str, ...] = ()) -> None:
        """`ranges`: where pods get their addresses from; empty: as CNI recorded."""
        self.gate = gate
        self.enrols: Enrols = _unknown
        self._sandboxes = sandboxes
        self._ranges = set(ranges)
        # by id; not by namespace alone, whose number passes to the next one as soon as it is gone
        self._open: dict[str, tuple[Namespace, tuple[int, ...]]] = {}
        self._mute: dict[str, tuple[Sandbox, float]] = {}  # by id, with the time since when

    def __repr__(self) -> str:
        return f"<Pods {len(self._open)} open, {len(self._mute)} mute>"

    def speaks(self, sandbox_id: str) -> bool:
        """Return whether the gate lets a sandbox speak, or does not concern it."""
        return sandbox_id not in self._mute

    def waiting(self) -> Mapping[str, Sandbox]:
        """Return the sandboxes that are mute, by id."""
        return {key: sandbox for key, (sandbox, _) in self._mute.items()}

    def settle(self, captured: Container[Namespace], now: float | None = None) -> None:
        """Let those speak that may, in one transaction. `captured`: namespaces whose rules are in force."""
        now = time.monotonic() if now is None else now
        pods = {key: placed for key, placed in self._sandboxes.believed(now).items() if placed.sandbox.name}
        self.gate.ranges |= self._ranges or {network for pod in pods.values() for network in pod.sandbox.networks}
        self.gate.begin()
        were, self._open = self._open, {}
        for key, (which, ends) in were.items():
            if key in pods and pods[key].which == which:
                self._open[key] = which, ends
        self.gate.forget(_all_ends(were) - _all_ends(self._open))
        before, self._mute = self._mute, {}
        for key, placed in pods.items():
            sandbox, which = placed.sandbox, placed.which
            if key in self._open:
                continue
            # None yet: the runtime is still at it. The next round looks again.
            ends = _ends(sandbox, which)
            if ends and (self.gate.known.issuperset(ends) or which in captured or self.enrols(sandbox) is False):
                self._open[key] = which, ends
                self.gate.pass_(ends)
            else:
                self._mute[key] = before.get(key) or (sandbox, now)
        self.gate.put()

    def problems(self, now: float | None = None) -> Iterator[Problem]:
        """Yield what is wrong with the gate, and pods that have been mute for long."""
        now = time.monotonic() if now is None else now
        yield from self.gate.problems()
        for sandbox, since in sorted(self._mute.values(), key=lambda one: one[0].pod):
            if now - since >= _PATIENCE and self.gate.in_force:
                known = self.enrols(sandbox)
                why = "it is of the mesh and not captured yet" if known else "its Namespace is not known yet"
                message = f"is mute for {now - since:.0f} s: {why}"
                hint = "it may call when that is mended; edgemesh status shows workloads that are not captured, and sources that are not read"
                yield Problem("warning", Where(), f"Pod {sandbox.pod}", message, hint)


def _all_ends(opened: Mapping[str, tuple[Namespace, tuple[int, ...]]]) -> set[int]:
    return {end for _, ends in opened.values() for end in ends}


def _unknown(sandbox: Sandbox) -> bool | None:
    return None


def _ends(sandbox: Sandbox, which: Namespace) -> tuple[int, ...]:
    """Return the node's ends of a sandbox's interfaces; () when it is gone."""
    try:
        namespace = netns.Namespace(sandbox.netns)
    except OSError:
        return ()
    try:
        return wires(namespace)[1] if namespace.id == which else ()
    finally:
        namespace.close()
