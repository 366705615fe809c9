"""The messages of NRI that are used, as values: registration, configuration, and events of pod sandboxes. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from agent.kernel.sandbox import Sandbox, plain
from agent.nri.protobuf import MalformedError, field, fields, message, number, text

RUNTIME, PLUGIN = "nri.pkg.api.v1alpha1.Runtime", "nri.pkg.api.v1alpha1.Plugin"
# Numbers of events; a plugin subscribes by a mask of 1 << number - 1, in which nothing means everything.
RUN_POD_SANDBOX, REMOVE_POD_SANDBOX = 1, 3
_SUBSCRIBED = sum(1 << event - 1 for event in (RUN_POD_SANDBOX, REMOVE_POD_SANDBOX))
_LONGEST = 65_536  # characters of the labels or annotations of one pod that are kept; Kubernetes' bound is 256 KiB


class Configuration(Struct, frozen=True):
    """What the runtime says of itself. `limit`: seconds that it waits for an answer to an event."""

    runtime: str
    version: str
    limit: float


class Synchronized(Struct, frozen=True):
    """The sandboxes that run when a plugin connects. `more`: another message follows."""

    sandboxes: tuple[Sandbox, ...]
    more: bool


def register(name: str, index: str) -> bytes:
    """Return the payload of RegisterPlugin. `index`: two digits, by which plugins are called in order."""
    return field(1, name) + field(2, index)


def configuration(payload: bytes) -> Configuration:
    """Return what Configure says. Raise MalformedError."""
    found: dict[int, int | bytes] = dict(fields(payload))
    milliseconds = number(found.get(5, 0))
    return Configuration(text(found.get(2, b"")), text(found.get(3, b"")), milliseconds / 1000 or 2.0)


def subscription() -> bytes:
    """Return the answer to Configure."""
    return field(2, _SUBSCRIBED)


def synchronized(payload: bytes) -> Synchronized:
    """Return what Synchronize says. Raise MalformedError."""
    sandboxes, more = [], False
    for at, value in fields(payload):
        if at == 1:
            sandboxes.append(sandbox(message(value)))
        elif at == 3:
            more = bool(number(value))
    return Synchronized(tuple(sandboxes), more)


def synchronization(more: bool) -> bytes:
    """Return the answer to Synchronize: that nothing is to change, and whether more is expected."""
    return field(2, 1) if more else b""


def event(method: str, payload: bytes) -> tuple[int, Sandbox | None]:
    """Return the number of an event and its sandbox; 0 for a method that is no such event. Raise MalformedError.

    Older runtimes send all of them as StateChange.
    """
    which = {"RunPodSandbox": RUN_POD_SANDBOX, "RemovePodSandbox": REMOVE_POD_SANDBOX}.get(method, 0)
    found: dict[int, int | bytes] = dict(fields(payload)) if which or method == "StateChange" else {}
    if method == "StateChange":
        which = number(found.get(1, 0))
    pod = found.get(2 if method == "StateChange" else 1)
    if which not in (RUN_POD_SANDBOX, REMOVE_POD_SANDBOX) or pod is None:
        return 0, None
    return which, sandbox(message(pod))


def sandbox(data: bytes) -> Sandbox:
    """Return a PodSandbox. Raise MalformedError."""
    words = {1: "", 2: "", 3: "", 4: ""}  # id, name, uid, namespace
    labels: list[bytes] = []
    annotations: list[bytes] = []
    addresses: set[str] = set()
    netns = ""
    for at, value in fields(data):
        if at in words:
            words[at] = text(value)
        elif at == 5:
            labels.append(message(value))
        elif at == 6:
            annotations.append(message(value))
        elif at == 8:
            netns = _netns(message(value)) or netns
        elif at == 10:
            addresses.add(text(value))
    if not words[1]:
        raise MalformedError("a sandbox without an id")
    return Sandbox(
        words[1],
        words[4],
        words[2],
        words[3],
        plain(netns),
        frozenset(addresses),
        labels=_pairs(labels),
        annotations=_pairs(annotations),
    )


def _netns(linux: bytes) -> str:
    """Return the path of the network namespace; "" for a pod in the node's own."""
    for at, value in fields(linux):
        if at == 5:
            namespace: dict[int, int | bytes] = dict(fields(message(value)))
            if namespace.get(1) == b"network":
                return text(namespace.get(2, b""))
    return ""


def _pairs(entries: Iterable[bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    kept = 0
    for entry in entries:
        pair: dict[int, int | bytes] = dict(fields(entry))
        key, value = text(pair.get(1, b"")), text(pair.get(2, b""))
        kept += len(key) + len(value)
        if kept > _LONGEST and "edgemesh.io/" not in key and "openservicemesh.io/" not in key:
            continue  # nothing here reads it
        found[key] = value
    return found
