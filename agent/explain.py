"""`explain SRC DST`: the words of a person -> a question for policy -> its answer as a document."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from nodeproxy.errors import FLAGS, Refused
from nodeproxy.http.message import split_target
from policy.authz import DENIALS
from policy.explain import Explanation, explain
from policy.model import Request, Service, Workload
from policy.snapshot import Snapshot

if TYPE_CHECKING:
    from agent.httpd import Ask

_T = TypeVar("_T", Service, Workload)


class Unclear(Exception):  # noqa: N818 - it is an answer for people
    """The question names something that is not there, or could mean two things; `hint` says what there is."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Question(Struct, frozen=True):
    """`source` and `destination` as people write them: NAMESPACE/NAME, NAME.NAMESPACE, or a name that only one thing has."""

    source: str
    destination: str
    port: int = 0  # 0: the only port that there is
    method: str = ""
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    udp: bool = False


def answer(snapshot: Snapshot, asked: Question) -> dict[str, Any]:
    """Raises Unclear."""
    who = find_workload(snapshot, asked.source)
    whom = find_destination(snapshot, asked.destination)
    port = asked.port or _only_port(whom, asked.udp)
    request = None if asked.udp else _request(asked)
    found = explain(snapshot, who, whom, port, request, udp=asked.udp)
    return {
        "source": who.key,
        "identity": str(who.identity),
        "destination": whom.key,
        "kind": "service" if isinstance(whom, Service) else "workload",
        "port": port,
        "asked": "udp" if asked.udp else f"{request.method} {request.path}" if request else "tcp",
        **_found(found),
    }


def _found(found: Explanation) -> dict[str, Any]:
    return {
        "allowed": found.allowed,
        "rule": found.rule,
        "reason": found.reason,
        "meaning": "" if found.allowed else _meaning(found.reason),
        "nearest": found.nearest,
        "lacked": found.lacked,
        "steps": list(found.steps),
        "endpoint": found.endpoint,
        "node": found.node,
        "mtls": found.mtls,
        "way": found.way,
        "revoked": list(found.revoked),
        "side": found.side,
        "choices": [_found(choice) for choice in found.choices],
    }


def _meaning(reason: str) -> str:
    return DENIALS.get(reason) or (FLAGS[reason].meaning if reason in FLAGS else "")


def _request(asked: Question) -> Request | None:
    """The request as the proxy would put it to policy: with the path that servers see, without the query."""
    if not (asked.method or asked.path or asked.headers):
        return None
    method = asked.method or "GET"
    try:
        target = split_target((asked.path or "/").encode(), method.encode())
    except Refused as refused:
        raise Unclear(f"no such request reaches policy: it is answered {refused.status} ({refused})") from refused
    fields = [(name.strip().lower().encode(), value.strip().encode()) for name, value in asked.headers]
    return Request(method, target.path, fields)


def find_workload(snapshot: Snapshot, words: str) -> Workload:
    """A workload by its name, or one that runs under the service account of that name. Raises Unclear."""
    found = _named(snapshot.workloads, words)
    if not found:
        found = [item for item in snapshot.workloads if str(item.identity) in _keys(words)][:1]
    if not found:
        raise _unknown(words, "workload", snapshot.workloads)
    return _one(found, words)


def find_destination(snapshot: Snapshot, words: str) -> Service | Workload:
    """A service, else a workload, by name; "service:" or "workload:" before it says which. Raises Unclear."""
    kind, _, name = words.rpartition(":")
    if kind not in ("", "service", "workload"):
        kind, name = "", words
    services = _named(snapshot.services, name) if kind != "workload" else []
    if services:
        return _one(services, name)
    if kind == "service":
        raise _unknown(name, "service", snapshot.services)
    workloads = _named(snapshot.workloads, name)
    if not workloads:
        raise _unknown(name, "service or workload", (*snapshot.services, *snapshot.workloads))
    return _one(workloads, name)


def question(ask: Ask) -> Question:
    """The question in a query string. Raises Unclear."""
    headers = []
    for header in ask.all("header"):
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise Unclear(f"the header {header!r} is not NAME:VALUE")
        headers.append((name, value))
    port = ask.get("port", "0")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise Unclear(f"the port {port!r} is no number from 1 to 65535")
    return Question(
        source=ask.get("src"),
        destination=ask.get("dst"),
        port=int(port),
        method=ask.get("method"),
        path=ask.get("path"),
        headers=tuple(headers),
        udp=ask.get("udp") not in ("", "0", "false"),
    )


def query(asked: Question) -> list[tuple[str, str]]:
    """The query string's pairs that `question` reads."""
    pairs = [("src", asked.source), ("dst", asked.destination)]
    pairs += [(name, value) for name, value in (("method", asked.method), ("path", asked.path)) if value]
    pairs += [("header", f"{name}:{value}") for name, value in asked.headers]
    pairs += [("port", str(asked.port))] if asked.port else []
    return pairs + ([("udp", "1")] if asked.udp else [])


def _keys(words: str) -> tuple[str, ...]:
    """What `words` may mean as NAMESPACE/NAME: itself, or NAME.NAMESPACE as in DNS (with or without .svc and what follows)."""
    if "/" in words:
        return (words,)
    parts = words.split(".")
    return (f"{parts[1]}/{parts[0]}",) if len(parts) > 1 else ()


def _named(items: Iterable[_T], words: str) -> list[_T]:
    keys = _keys(words)
    return [item for item in items if item.key in keys or (not keys and item.name == words)]


def _one(found: Sequence[_T], words: str) -> _T:
    if len(found) > 1:
        raise Unclear(f"{words!r} could be {' or '.join(item.key for item in found)}", "write NAMESPACE/NAME")
    return found[0]


def _unknown(words: str, kind: str, there: Sequence[Service | Workload]) -> Unclear:
    keys = sorted(item.key for item in there)
    near = difflib.get_close_matches(words, keys, 3, 0.5) or keys[:8]
    return Unclear(f"there is no {kind} {words!r}", f"there is {', '.join(near)}" if near else "the mesh knows none")


def _only_port(whom: Service | Workload, udp: bool) -> int:
    transport = "udp" if udp else "tcp"
    ports = [port if isinstance(port, int) else port.port for port in whom.ports if isinstance(port, int) or port.transport == transport]
    if len(ports) == 1:
        return ports[0]
    shown = f"it has {', '.join(map(str, ports))}" if ports else "edgemesh knows of no port that it serves"
    raise Unclear(f"which port of {whom.key}?", f"say --port; {shown}")
