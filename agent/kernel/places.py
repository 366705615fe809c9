"""The network namespaces that have our rules, each in one state, and the table of what becomes of it.

In every state the rules are in force. `served`: the proxy has its listeners. `closed`: nothing is listened for, so every
call is refused; it was captured, and no manifest names it any more, until a person lets go of it. `early`: closed as well,
but no fault: a pod of the mesh that the policy does not name yet, or one that was deleted and whose sandbox is about to be.

| state | what is so | what becomes of it |
|---|---|---|
| served | a wanted workload has it, the same one | it is kept |
| served | it is gone, or another one has its path | `drop` |
| served | another workload is wanted in it | `pass on` |
| served | a person released its workload | `open` |
| served | it was a pod's | `shut early` |
| served | nothing names it | `shut` |
| closed, early | it is gone, or a workload is wanted in it | `drop` |
| early | its pod is outside the mesh | `open` |
| closed, early | a person let go of it | `open` |
| closed, early | else | it is kept |
| none | a workload is wanted in it | `serve` |
| none | it was captured before, or is a new pod's of the mesh | `hold` |

The first row that fits counts (MOVES).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from msgspec import Struct

from agent.kernel import netns
from agent.kernel.context import CaptureContext
from agent.kernel.namespace import CapturedNamespace
from agent.kernel.sandboxes import Namespace
from nodeproxy.capture import Doors
from policy.model import Workload

log = logging.getLogger("edgemesh.kernel")

State = Literal["served", "closed", "early"]
Move = Literal["keep", "drop", "pass on", "open", "shut", "shut early"]
Attach = Callable[[Workload, Doors], None]
Detach = Callable[[str], None]


class Facts(Struct, frozen=True):
    """What a round found out of a place."""

    there: bool = True  # its path leads to the same namespace
    named: bool = False  # the workload that it is served for is wanted in it
    sought: bool = False  # some workload is wanted in it
    released: bool = False  # a person, or a manifest, lets go of it
    outside: bool = False  # it is that of a pod that is not of the mesh
    pod: bool = False  # it is a pod's, whose sandbox ends with it


# States, the facts that must be so (with a value each), and the move.
MOVES: tuple[tuple[tuple[State, ...], dict[str, bool], Move], ...] = (
    (("served",), {"named": True}, "keep"),
    (("served",), {"there": False}, "drop"),
    (("served",), {"sought": True}, "pass on"),
    (("served",), {"released": True}, "open"),
    (("served",), {"pod": True}, "shut early"),
    (("served",), {}, "shut"),
    (("closed", "early"), {"there": False}, "drop"),
    (("closed", "early"), {"sought": True}, "drop"),
    (("early",), {"outside": True}, "open"),
    (("closed", "early"), {"released": True}, "open"),
    (("closed", "early"), {}, "keep"),
)


def move_of(state: State, facts: Facts) -> Move:
    """Return what becomes of a place."""
    for states, so, move in MOVES:
        if state in states and all(getattr(facts, name) is value for name, value in so.items()):
            return move
    raise AssertionError(f"no row fits {state} and {facts}")


class Places:
    """Carries the moves out. Rules are removed by `open` alone."""

    def __init__(self, capture: CaptureContext) -> None:
        self._capture = capture
        self.attach: Attach = _nobody
        self.detach: Detach = _nobody
        self.served: dict[str, CapturedNamespace] = {}  # by the workload's key
        self.shut: dict[Namespace, CapturedNamespace] = {}  # closed and early ones
        self.early: set[Namespace] = set()
        # namespaces that pass to another workload, with the name under which their descriptors are kept
        self._passed: dict[Namespace, str] = {}

    def __repr__(self) -> str:
        return f"<Places {len(self.served)} served, {len(self.shut)} shut>"

    def __iter__(self) -> Iterator[CapturedNamespace]:
        return iter((*self.served.values(), *self.shut.values()))

    @property
    def taken(self) -> set[Namespace]:
        """All of them."""
        return {place.namespace.id for place in self}

    @property
    def captured(self) -> set[Namespace]:
        """Those whose rules are meant for good, so without the early ones."""
        return self.taken - self.early

    @property
    def closed(self) -> list[CapturedNamespace]:
        return [place for which, place in self.shut.items() if which not in self.early]

    def state(self, place: CapturedNamespace) -> State:
        which = place.namespace.id
        return "early" if which in self.early else "closed" if which in self.shut else "served"

    # into a state

    def serve(self, workload: Workload, path: str, addresses: Iterable[str] = ()) -> CapturedNamespace:
        """Capture a namespace, and have the proxy serve it. Raise OSError; then nothing has changed."""
        place = CapturedNamespace(self._capture, workload, path, addresses)
        self.served[workload.key] = place
        self._passed.pop(place.namespace.id, None)
        return place

    def hold(self, workload: Workload, path: str, early: bool) -> None:
        """Put the rules in force in a namespace, and serve nothing there. Raise OSError; then nothing has changed."""
        place = CapturedNamespace(self._capture, workload, path)
        place.doors.close()
        self._shut(place, early)

    # out of it

    def move(self, place: CapturedNamespace, facts: Facts) -> Move:
        """Do with a place what the table says, and return what that was."""
        state = self.state(place)
        move = move_of(state, facts)
        if move == "keep":
            return move
        if state == "served":
            key = place.workload.key
            del self.served[key]
            if move == "pass on":
                self._pass_on(place)
            self.detach(key)
        else:
            del self.shut[place.namespace.id]
            self.early.discard(place.namespace.id)
        if move in ("shut", "shut early"):
            self._shut(place, early=move == "shut early")
            if self._capture.prober is not None:
                self._capture.prober.forget(place.namespace)
            return move
        if move == "open":
            place.remove()
        if move != "pass on":
            self._capture.kept.drop(place.name)
        place.close()
        return move

    def forget_passed(self, sought: Iterable[Namespace | None]) -> None:
        """Close the listeners of namespaces that passed to a workload which is not wanted there after all."""
        for which in self._passed.keys() - set(sought):
            name = self._passed.pop(which)
            for sock in self._capture.kept.take(name):
                sock.close()
            self._capture.kept.drop(name)

    def release(self, open_node: bool) -> None:
        """Stop. The rules stay in force, and their descriptors kept for the next start, unless the node is to be open."""
        for key, place in list(self.served.items()):
            del self.served[key]
            self.detach(key)
            if open_node:
                place.remove()
                self._capture.kept.drop(place.name)
            place.close()
            log.info("let go of %s in %s", key, place.namespace.path)
        for place in self.shut.values():
            if open_node:
                place.remove()
            place.close()
        self.shut, self.early = {}, set()

    def _shut(self, place: CapturedNamespace, early: bool) -> None:
        self.shut[place.namespace.id] = place
        if early:
            self.early.add(place.namespace.id)
        self._capture.kept.hold(place.name, [place.table.socket])

    def _pass_on(self, place: CapturedNamespace) -> None:
        """Keep the listeners for the workload that takes over.

        The proxy closes its copies only later, and connections made meanwhile wait in the queue.
        """
        sockets = [sock.dup() for sock in (*place.doors, place.table.socket) if sock.fileno() >= 0]
        self._capture.kept.give_back(place.name, sockets)
        self._passed[place.namespace.id] = place.name


def there(place: CapturedNamespace) -> bool:
    """Return whether a place's path still leads to its namespace."""
    return netns.identity(place.namespace.path) == place.namespace.id


def _nobody(*_: object) -> None:
    raise RuntimeError("CaptureManager.serve comes first")
