"""What the rule that came closest lacks: why it does not admit a call, in words."""

from __future__ import annotations

from policy.match import parameter, path_fits, value_fits
from policy.model import Grant, Identity, Request
from policy.route import Exact, HttpMatch, Prefix, Regex
from policy.snapshot import Snapshot

_FITS = 1000  # closeness of a rule that lacks nothing


def nearest(
    snapshot: Snapshot, source: Identity, destination: Identity, port: int, request: Request | None, udp: bool
) -> tuple[str, str]:
    """Return the rule that came closest, and what it lacks. The source counts most, then the port, then the match."""
    to_it = [g for g in snapshot.grants if g.destination == destination]
    best: tuple[int, str, str] = (-1, "", f"no TrafficTarget has {destination} as its destination")
    for grant in to_it:
        if grant.source != source:
            sources = sorted({str(g.source) for g in to_it if g.rule == grant.rule})
            if str(source) in sources:
                continue  # the same target, seen from another of its sources
            candidate = (0, grant.rule, f"{grant.rule} names source {', '.join(sources)}, not {source}")
        else:
            candidate = _lack(grant, port, request, udp)
        if candidate[0] > best[0]:
            best = candidate
    return best[1], best[2]


def admitted(snapshot: Snapshot, source: Identity, destination: Identity, port: int) -> tuple[str, ...]:
    """Return every match that admits some request on this port, as a person would write it."""
    found: dict[str, None] = {}
    for grant in snapshot.grants:
        if grant.source == source and grant.destination == destination and (not grant.tcp or port in grant.tcp):
            for match in grant.http or ():
                found[f"{written(match)} (match {match.name} of {grant.rule})"] = None
    return tuple(found)


def written(match: HttpMatch) -> str:
    """Return a match as a person would write it."""
    path = "any path" if match.path is None else match.path.value
    headers = "".join(f", header {name} {wanted.value!r}" for name, wanted in match.headers)
    query = "".join(f", parameter {name} {wanted.value!r}" for name, wanted in match.query)
    return f"{' or '.join(match.methods) or 'any method'} {path}{headers}{query}"


def _lack(grant: Grant, port: int, request: Request | None, udp: bool) -> tuple[int, str, str]:
    rule = grant.rule
    if udp:
        if grant.udp is None:
            return 1, rule, f"{rule} has no UDPRoute"
        return 2, rule, f"{rule} lists UDP ports {', '.join(map(str, grant.udp))}, not {port}"
    if grant.tcp is None and grant.http is None:
        return 1, rule, f"{rule} has no TCPRoute and no HTTPRouteGroup"
    if grant.tcp and port not in grant.tcp:
        return 2, rule, f"{rule} lists TCP ports {', '.join(map(str, grant.tcp))}, not {port}"
    if request is None:
        return 3, rule, f"{rule} admits HTTP requests only; add a TCPRoute to admit an opaque stream"
    closest = (3, f"{rule}: its HTTPRouteGroup has no match")
    for match in grant.http or ():
        missing, lacked = match_lack(match, request)
        near = max(_FITS - missing, 4)
        if near > closest[0]:
            closest = (near, f"match {match.name} of {rule} {lacked}")
    return closest[0], rule, closest[1]


def match_lack(match: HttpMatch, request: Request) -> tuple[int, str]:
    """Return how much of a match does not fit (the path counts most), and which parts, in words."""
    missing = 0
    lacked: list[str] = []
    if not path_fits(match, request):
        missing += 3
        read = "".join(f", or {other!r} for a server that takes %2F for a slash" for other in request.others[:1])
        lacked.append(f"{_wanted_path(match)}, this is {request.path!r}{read}")
    if match.methods and request.method not in match.methods:
        missing += 1
        lacked.append(f"method {' or '.join(match.methods)}, this is {request.method}")
    values = [("header", name, name, wanted, request.header(name)) for name, wanted in match.headers]
    values += [("parameter", name, "", wanted, parameter(request, name)) for name, wanted in match.query]
    for what, name, field, wanted, value in values:
        if not value_fits(field, wanted, value):
            missing += 1
            has = "it is absent" if value is None else f"it is {value!r}"
            lacked.append(f"{what} {name} to {'have' if isinstance(wanted, Regex) else 'be'} {wanted.value!r}, {has}")
    return missing, f"wants {'; and '.join(lacked)}" if lacked else "does not fit"


def _wanted_path(match: HttpMatch) -> str:
    match match.path:
        case Exact(value):
            return f"the path {value!r}"
        case Prefix(value):
            return f"the path {value!r} or one below it"
        case Regex(value):
            return f"a path that begins with {value!r}"
        case None:
            return "any path"
