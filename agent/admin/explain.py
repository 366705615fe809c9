"""`explain SRC DST`: turns a person's words into a question for policy, and the result into a document."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct, structs

from nodeproxy.codec.message import split_target
from nodeproxy.errors import FLAGS, Refused
from policy.authz import DENIALS
from policy.explain import Explanation, explain
from policy.explain_outside import explain_outside
from policy.model import Endpoint, Request, Service, Workload
from policy.near import nearest
from policy.protocols import is_opaque
from policy.snapshot import Snapshot

if TYPE_CHECKING:
    from agent.http.server import HttpRequest

_T = TypeVar("_T", Service, Workload)


class Unclear(Exception):  # noqa: N818 - it is an answer for people
    """The question names something that does not exist, or that could mean two things; `hint` says what exists."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Question(Struct, frozen=True):
    """A question about one call.

    `source` and `destination` as people write them: NAMESPACE/NAME, NAME.NAMESPACE, a unique name, or an address.
    A destination may have a port (stock:80, 10.1.0.3:8080, [fd00::1]:8080), and may be a URL (http://stock/items).
    """

    source: str
    destination: str
    port: int = 0  # 0: the only port that there is
    method: str = ""
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    udp: bool = False
    outside: str = ""  # in the place of a source: the address of a caller outside the mesh, and after % its Gateway


def answer(snapshot: Snapshot, asked: Question) -> dict[str, Any]:
    """Return the document that answers `asked`. Raise Unclear."""
    who = find_workload(snapshot, asked.source)
    scheme = asked.destination.partition("://")[0] if "://" in asked.destination else ""
    asked = unfolded(asked)
    try:
        whom = find_destination(snapshot, asked.destination, who.namespace)
    except Unclear:
        if not _is_outside(snapshot, asked.destination):
            raise
        return _outside(snapshot, who, asked, scheme, asked.destination.lower().removesuffix("."), "")
    if isinstance(whom, Endpoint):  # an address: its port says more about it
        dialled = snapshot.destination(whom.address, asked.port)
        found = dialled.service or dialled.workload
        if found is None and snapshot.has_address(whom.address):
            sharing = ", ".join(one.key for one in snapshot.workloads_at(whom.address))
            raise Unclear(f"{whom.address} is the address of {sharing}", "its port tells which is meant: ADDRESS:PORT")
        if found is None:
            host = next((value for name, value in asked.headers if name.strip().lower() == "host"), "")
            return _outside(snapshot, who, asked, scheme, host, whom.address)
        whom = dialled.workload if dialled.kind == "workload" and dialled.workload else found
    port = asked.port or only_port(whom, asked.udp)
    request = None if asked.udp else request_of(asked)
    told = explain(snapshot, who, whom, port, request, udp=asked.udp)
    http = request is None and not asked.udp and may_be_http(whom, port)
    document = told_of(told, http)
    return {
        "source": who.key,
        "identity": str(who.identity),
        "destination": whom.key,
        "kind": "service" if isinstance(whom, Service) else "workload",
        "port": port,
        "asked": "udp"
        if asked.udp
        else f"{request.method} {request.path}"
        if request
        else "some request"
        if document["requests"]
        else "tcp",
        **document,
    }


def _is_outside(snapshot: Snapshot, words: str) -> bool:
    """Return whether a name that nothing of the mesh has is a host elsewhere, and no typing error."""
    labels = words.lower().removesuffix(".").split(".")
    if len(labels) < 2 or not all(re.fullmatch("[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?", label) for label in labels):
        return False
    spaces = {one.namespace for one in snapshot.services} | {one.namespace for one in snapshot.workloads}
    return labels[1] not in spaces or (len(labels) > 2 and labels[2] != "svc")


def _outside(
    snapshot: Snapshot, who: Workload, asked: Question, scheme: str, host: str, address: str
) -> dict[str, Any]:
    """Return the document about a call out of the mesh. Raise Unclear."""
    if asked.udp:
        raise Unclear(f"{host or address} is outside the mesh", "datagrams to the outside are not stopped")
    if not asked.port:
        raise Unclear(f"which port of {host or address}?", "say --port, or HOST:PORT")
    request = None if scheme == "https" else request_of(asked)
    protocol: Literal["", "http", "https"] = "https" if scheme == "https" else "http" if request is not None else ""
    told = explain_outside(snapshot, who, host, address, asked.port, protocol, request)
    return {
        "source": who.key,
        "identity": str(who.identity),
        "destination": host or address,
        "kind": "outside",
        "port": asked.port,
        "asked": f"{request.method} {request.path}" if request else "TLS" if protocol else "some call",
        **told_of(told, http=True),
    }


def unfolded(asked: Question) -> Question:
    """Return the question with the port and URL parts of its destination in their own fields. Raise Unclear."""
    words, port, path, method = asked.destination, asked.port, asked.path, asked.method
    scheme, is_url, rest = words.partition("://")
    if is_url:
        if scheme not in ("http", "https"):
            raise Unclear(f"{scheme}:// is no kind of address that is known here", "http://, https://, or HOST:PORT")
        try:
            host, number = urlsplit(words).hostname or "", urlsplit(words).port
        except ValueError as error:
            raise Unclear(f"{words!r} is no URL: {error}") from error
        at = min((where for mark in "/?#" if (where := rest.find(mark)) >= 0), default=len(rest))
        words = f"[{host}]" if ":" in host else rest[:at].rpartition("@")[2].partition(":")[0]
        port = port or number or (80 if scheme == "http" else 443)
        if scheme == "http":  # the proxy does not see what is in TLS, so it is not part of the question
            path, method = path or rest[at:].partition("#")[0] or "/", method or "GET"
            path = path if path.startswith("/") else f"/{path}"
    elif match := re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):([0-9]{1,5})", words):
        words, port = match[1], port or int(match[2])
    return structs.replace(asked, destination=words, port=port, path=path, method=method)


def may_be_http(whom: Service | Workload, port: int) -> bool:
    """Return whether no manifest declares another protocol than HTTP for this port."""
    if isinstance(whom, Workload):
        return True
    return all(not is_opaque(one.protocol) for one in whom.ports if one.port == port and one.transport == "tcp")


def told_of(found: Explanation, http: bool) -> dict[str, Any]:
    """Return the document of an explanation.

    `http`: the question names no request, and the port may speak HTTP: then the document says what is admitted instead
    of what is not.
    """
    choices = [told_of(choice, http) for choice in found.choices]
    denied = next((choice for choice in choices if not choice["allowed"]), None)
    if denied is not None:  # one endpoint that refuses can fail the caller's next call
        return {**denied, "choices": choices}
    some = http and bool(found.requests)
    return {
        "allowed": found.allowed or some,
        "rule": found.nearest if some else found.rule,
        "requests": list(found.requests) if some else [],
        "reason": "" if some else found.reason,
        "meaning": "" if found.allowed or some else _meaning(found.reason),
        "nearest": "" if some else found.nearest,
        "missing": "" if some else found.lacked,
        "steps": [step for step in found.steps if not (some and step.startswith("refused by "))],
        "dry_run": found.dry_run,
        "endpoint": found.endpoint,
        "node": found.node,
        "mtls": found.mtls,
        "transport": found.way,
        "revoked": list(found.revoked),
        "side": "" if some else found.side,
        "choices": choices,
    }


def _meaning(reason: str) -> str:
    return DENIALS.get(reason) or (FLAGS[reason].meaning if reason in FLAGS else "")


def request_of(asked: Question) -> Request | None:
    """Return the request as the proxy would put it to policy: with the path that servers see, without the query."""
    if not (asked.method or asked.path or asked.headers):
        return None
    method = asked.method or "GET"
    try:
        target = split_target((asked.path or "/").encode(), method.encode())
    except Refused as refused:
        raise Unclear(f"no such request reaches policy: it is answered {refused.status} ({refused})") from refused
    fields = [(name.strip().lower().encode(), value.strip().encode()) for name, value in asked.headers]
    return Request(method, target.path, fields, target.others, target.sent)


def find_workload(snapshot: Snapshot, words: str) -> Workload:
    """Return a workload by its name or address, or the one under the service account of that name. Raise Unclear."""
    if address := address_of(words):
        there = snapshot.workloads_at(address)
        if not there:
            raise Unclear(f"{words} is the address of no workload", "edgemesh status lists them with their addresses")
        return _one(there, words)
    found = _named(snapshot.workloads, words)
    if not found:
        found = [item for item in snapshot.workloads if str(item.identity) in _keys(words)][:1]
    if not found:
        raise _unknown(words, "workload", snapshot.workloads)
    return _one(found, words)


def find_destination(snapshot: Snapshot, words: str, namespace: str = "") -> Service | Workload | Endpoint:
    """Return a service, else a workload, by its name; the prefix "service:" or "workload:" says which. Raise Unclear.

    An address is an Endpoint without a port. If several have a bare name, it means the one in the caller's `namespace`,
    as in DNS.
    """
    if address := address_of(words):
        return Endpoint(address, 0)
    kind, _, name = words.rpartition(":")
    if kind not in ("", "service", "workload"):
        kind, name = "", words
    services = _named(snapshot.services, name) if kind != "workload" else []
    if services:
        return _one([one for one in services if one.namespace == namespace] or services, name)
    if kind == "service":
        raise _unknown(name, "service", snapshot.services)
    workloads = _named(snapshot.workloads, name)
    if not workloads:
        raise _unknown(name, "service or workload", (*snapshot.services, *snapshot.workloads))
    return _one([one for one in workloads if one.namespace == namespace] or workloads, name)


def address_of(words: str) -> str:
    """Return the address as manifests write it; "" when it is none."""
    try:
        return str(ipaddress.ip_address(words.removeprefix("[").removesuffix("]")))
    except ValueError:
        return ""


def question(ask: HttpRequest) -> Question:
    """Read the question in a query string. Raise Unclear."""
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
        outside=ask.get("outside"),
    )


def query(asked: Question) -> list[tuple[str, str]]:
    """Return the query string's pairs that `question` reads."""
    pairs = [("outside", asked.outside)] if asked.outside else [("src", asked.source)]
    pairs.append(("dst", asked.destination))
    pairs += [(name, value) for name, value in (("method", asked.method), ("path", asked.path)) if value]
    pairs += [("header", f"{name}:{value}") for name, value in asked.headers]
    pairs += [("port", str(asked.port))] if asked.port else []
    return pairs + ([("udp", "1")] if asked.udp else [])


def _keys(words: str) -> tuple[str, ...]:
    """Return what `words` may mean as NAMESPACE/NAME: itself, or NAME.NAMESPACE as in DNS (with or without .svc...)."""
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
    keys = sorted({item.key for item in there})
    near = nearest(words, keys, 0.5)
    known = f"there is {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}" if keys else "the mesh knows none"
    return Unclear(f"there is no {kind} {words!r}", f"did you mean {near}? {known}" if near else known)


def only_port(whom: Service | Workload, udp: bool) -> int:
    transport = "udp" if udp else "tcp"
    ports = [
        port if isinstance(port, int) else port.port
        for port in whom.ports
        if isinstance(port, int) or port.transport == transport
    ]
    if len(ports) == 1:
        return ports[0]
    shown = f"it has {', '.join(map(str, ports))}" if ports else "edgemesh knows of no port that it serves"
    raise Unclear(f"which port of {whom.key}?", f"say --port; {shown}")
