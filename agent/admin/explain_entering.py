"""`explain --from-outside ADDRESS[%GATEWAY] DST`: the question about a caller outside the mesh, and its document."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from msgspec import structs

from agent.admin import explain
from agent.admin.explain import Question, Unclear, address_of, told_of
from policy.doors import Came
from policy.entering import shown
from policy.explain import Explanation
from policy.explain_entering import explain_by_route, explain_entering
from policy.gateway import STREAMS, Front, Listener, VirtualHost, host_of
from policy.model import Endpoint, Request, Service
from policy.near import nearest
from policy.snapshot import Snapshot

_BY = "%"  # between the caller's address and its Gateway


def answer(snapshot: Snapshot, asked: Question) -> dict[str, Any]:
    """Return the document that answers `asked`, whoever calls. Raise Unclear."""
    if not asked.outside:
        return explain.answer(snapshot, asked)
    words, by, named = asked.outside.partition(_BY)
    address = address_of(words)
    if not address:
        raise Unclear(f"{words!r} is no address", "write ADDRESS, or ADDRESS%NAMESPACE/GATEWAY")
    if asked.udp:
        raise Unclear("datagrams from outside are not judged", "ask without --udp")
    gateway = _gateway(snapshot, named) if by else ""
    came = Came(address, gateway)
    asked = _opened(asked) if gateway else asked
    is_url = "://" in asked.destination
    asked = explain.unfolded(asked)
    if gateway and (is_url or not _is_of_the_mesh(snapshot, asked.destination)):
        return _by_route(snapshot, came, asked)
    whom = explain.find_destination(snapshot, asked.destination)
    if isinstance(whom, Endpoint):
        dialled = snapshot.destination(whom.address, asked.port)
        found = dialled.workload if dialled.kind == "workload" and dialled.workload else dialled.service
        found = found or snapshot.workload_at(whom.address)
        if found is None:
            raise Unclear(f"{whom.address} is no address of the mesh", "edgemesh routes and status list those")
        whom = found
    port = asked.port or explain.only_port(whom, False)
    request = explain.request_of(asked)
    told = explain_entering(snapshot, came, whom, port, request)
    kind = "service" if isinstance(whom, Service) else "workload"
    return _document(came, whom.key, kind, port, request, told, request is None and explain.may_be_http(whom, port))


def _by_route(snapshot: Snapshot, came: Came, asked: Question) -> dict[str, Any]:
    """Return the document of a call for a host of the Gateway's listeners. Raise Unclear."""
    its = [one for one in snapshot.listeners if one.gateway == came.gateway and asked.port in (0, one.port)]
    if not its:
        ports = sorted({one.port for one in snapshot.listeners if one.gateway == came.gateway})
        has = ", ".join(map(str, ports))
        raise Unclear(f"{shown(came.gateway)} has no listener at port {asked.port}", f"it has {has}")
    ports = sorted({one.port for one in its})
    if len(ports) > 1:
        listed = ", ".join(map(str, ports))
        raise Unclear(f"which port of {shown(came.gateway)}?", f"say --port, or a URL; it has {listed}")
    host = host_of(asked.destination)
    hosts = _hosts(its, host)
    streams = all(one.protocol in STREAMS for one in its)
    request = None if streams else explain.request_of(_for_host(asked, host))
    told = explain_by_route(snapshot, came, hosts, request)
    return _document(came, host, "gateway", ports[0], request, told, request is None and not streams)


def _hosts(listeners: list[Listener], host: str) -> tuple[VirtualHost, ...]:
    return Front(listeners).virtual_hosts(host, host)


def _for_host(asked: Question, host: str) -> Question:
    """Return the question with the Host that it means, and about the path / where it names none."""
    headers = asked.headers
    if not any(name.strip().lower() == "host" for name, _ in headers):
        headers = (*headers, ("host", host))
    return structs.replace(asked, headers=headers, path=asked.path or "/")


def _opened(asked: Question) -> Question:
    """Return the question with what a listener sees: it ends the TLS of an https URL."""
    words = asked.destination
    if not words.startswith("https://"):
        return asked
    try:
        port = urlsplit(words).port
    except ValueError as error:
        raise Unclear(f"{words!r} is no URL: {error}") from error
    return structs.replace(asked, destination=f"http://{words.partition('://')[2]}", port=asked.port or port or 443)


def _is_of_the_mesh(snapshot: Snapshot, words: str) -> bool:
    try:
        explain.find_destination(snapshot, words)
    except Unclear as unclear:
        if "could be" in str(unclear):
            raise
        return False
    return True


def _gateway(snapshot: Snapshot, words: str) -> str:
    """Return the key of the Gateway that a person means: NAMESPACE/NAME, its name alone, or an IngressClass. Raise Unclear."""
    known = sorted(snapshot.programmed)
    wanted = words.replace("IngressClass/", "IngressClass ")
    found = [one for one in known if wanted in (one, one.rpartition("/")[2], one.rpartition(" ")[2])]
    if len(found) == 1:
        return found[0]
    if found:
        raise Unclear(f"{words!r} could be {' or '.join(map(shown, found))}", "write NAMESPACE/NAME")
    near = nearest(wanted, known, 0.5)
    there = f"there is {', '.join(map(shown, known[:8]))}" if known else "no Gateway has a listener that is served"
    raise Unclear(f"no listener of Gateway {words} is served", f"did you mean {near}? {there}" if near else there)


def _document(
    came: Came, destination: str, kind: str, port: int, request: Request | None, told: Explanation, http: bool
) -> dict[str, Any]:
    document = told_of(told, http)
    some = "some request" if document["requests"] else "tcp"
    return {
        "source": f"{came.address} (outside{f', by {shown(came.gateway)}' if came.gateway else ''})",
        "identity": "",
        "destination": destination,
        "kind": kind,
        "port": port,
        "asked": f"{request.method} {request.path}" if request else some,
        **document,
    }
