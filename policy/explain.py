"""Why, in words: the verdict that authorize() gives, the rule behind it, and for a denial the nearest rule and what it lacked."""

from __future__ import annotations

from msgspec import Struct, structs

from policy import way
from policy.authz import DENIALS
from policy.match import Matcher, header_fits, path_fits
from policy.model import Endpoint, Grant, HttpMatch, Identity, Request, Service, Workload
from policy.snapshot import Snapshot

_FITS = 1000  # closeness of a rule that lacks nothing


class Explanation(Struct, frozen=True):
    """`steps` are what was found on the way; `lacked` is what kept the nearest rule from admitting this."""

    allowed: bool
    rule: str
    reason: str = ""
    nearest: str = ""
    lacked: str = ""
    steps: tuple[str, ...] = ()
    choices: tuple[Explanation, ...] = ()  # one for each kind of endpoint and node that could be chosen, when they differ
    endpoint: str = ""
    node: str = ""  # that the endpoint is on, where a manifest says it
    mtls: str = ""  # the mode of its namespace
    way: str = ""  # "direct", "tunnel" or "plain"
    revoked: tuple[str, ...] = ()  # "node till-3 is revoked": of the caller's and the destination's nodes and identities
    side: str = ""  # for a denial: the node that refuses


def explain(
    snapshot: Snapshot, who: Workload, whom: Service | Workload, port: int, request: Request | None = None, udp: bool = False
) -> Explanation:
    """What would happen if `who` called `port` of `whom`. `port` is the service's port, or the workload's own."""
    return _sided(_explain(snapshot, who, whom, port, request, udp), way.side(way.home(snapshot, who), "the caller's"))


def _sided(found: Explanation, callers: str) -> Explanation:
    """What nobody else refuses, the caller's node does: it asks the same rules first."""
    if found.choices:
        choices = tuple(_sided(choice, callers) for choice in found.choices)
        worst = next((choice for choice in choices if not choice.allowed), choices[0])
        return structs.replace(found, choices=choices, side=worst.side, steps=worst.steps)
    if found.allowed:
        return found
    side = found.side or callers
    return structs.replace(found, side=side, steps=(*found.steps, f"refused by {side}"))


def _explain(snapshot: Snapshot, who: Workload, whom: Service | Workload, port: int, request: Request | None, udp: bool) -> Explanation:
    steps = [f"{who.key} is identity {who.identity}"]
    if isinstance(whom, Workload):
        endpoint = Endpoint(whom.addresses[0] if whom.addresses else "", port, whom.key)
        return _to_workload(snapshot, who, whom, endpoint, request, udp, steps)
    services, more = _split(snapshot, whom, request, steps)
    if more is not None:
        return more
    idle = [s for s in services if not any(p.port == port and (p.transport == "udp") == udp and p.endpoints for p in s.ports)]
    if 0 < len(idle) < len(services):  # N22, A16: its share goes to the others
        steps.append(f"{', '.join(s.key for s in idle)} has no endpoint for port {port} and takes no turns")
        services = [s for s in services if s not in idle]
    found: list[Explanation] = []
    for service in services:
        ports = [p for p in service.ports if p.port == port and (p.transport == "udp") == udp]
        if not ports:
            numbers = ", ".join(str(p.port) for p in service.ports) or "none"
            found.append(_no(steps, "no-port", f"service {service.key} has port {numbers}, not {port}"))
            continue
        if not ports[0].endpoints:
            found.append(_no(steps, "no-endpoint", f"service {service.key} has no endpoint for port {port}"))
        alike: dict[str, Endpoint] = {}
        for endpoint in ports[0].endpoints:
            workload = snapshot.workload(endpoint.workload)
            alike.setdefault(f"{workload.identity} {way.home(snapshot, workload)}" if workload else f"?{endpoint}", endpoint)
        for endpoint in alike.values():
            so_far = [*steps, f"service {service.key} port {port} -> endpoint {endpoint}"]
            found.append(_to_workload(snapshot, who, snapshot.workload(endpoint.workload), endpoint, request, udp, so_far))
    if not found:
        return _no(steps, "no-endpoint", f"no backend of {whom.key} can take this")
    if len({(e.allowed, e.rule, e.reason, e.node, e.way) for e in found}) == 1:
        return found[0]
    worst = next((e for e in found if not e.allowed), found[0])
    return structs.replace(worst, choices=tuple(found))


def _split(snapshot: Snapshot, whom: Service, request: Request | None, steps: list[str]) -> tuple[list[Service], Explanation | None]:
    backends = snapshot.backends(whom, request)
    if backends is None:
        if whom.split is not None:
            steps.append(f"{whom.split.name} does not apply: no match of it fits")
        return [whom], None
    assert whom.split is not None
    weights = ", ".join(f"{b.service} {b.weight}" for b in backends)
    steps.append(f"{whom.split.name} splits {whom.key}: {weights}")
    if not any(b.weight for b in backends):
        return [], _no(steps, "all-weights-zero", "every backend has weight 0")
    return [s for b in backends if b.weight and (s := snapshot.service(b.service)) is not None], None


def _to_workload(
    snapshot: Snapshot, who: Workload, whom: Workload | None, endpoint: Endpoint, request: Request | None, udp: bool, steps: list[str]
) -> Explanation:
    if whom is None:
        if snapshot.mesh.permissive:
            return Explanation(True, "permissive mode", steps=tuple(steps), endpoint=str(endpoint))
        return _no(steps, "unknown-workload", DENIALS["unknown-workload"], endpoint)
    if not whom.enrolled:
        steps = [*steps, f"{whom.key} is not in the mesh"]
        if snapshot.mesh.egress:
            return Explanation(True, "enableEgress", steps=tuple(steps), endpoint=str(endpoint))
        return _no(steps, "not-enrolled", DENIALS["not-enrolled"], endpoint)
    steps = [*steps, f"{whom.key} is identity {whom.identity}"]
    if udp:
        verdict = snapshot.authorize_udp(who.identity, whom, endpoint.port)
        found = Explanation(verdict.allowed, verdict.rule, verdict.reason, endpoint=str(endpoint))
    else:
        verdict = snapshot.authorize(who.identity, whom, endpoint.port, request)
        over = way.find(snapshot, who, whom, endpoint.address, endpoint.port)
        steps += [over.words, *over.revoked]
        found = Explanation(verdict.allowed, verdict.rule, verdict.reason, endpoint=str(endpoint))
        found = structs.replace(found, node=over.node, mtls=over.mtls, way=over.kind, revoked=over.revoked)
        if verdict.allowed and over.reason:
            found = structs.replace(found, allowed=False, rule="", reason=over.reason, lacked=over.lacked, side=over.side)
        elif over.kind == "direct":
            found = structs.replace(found, side="" if verdict.allowed else over.side)
    if not verdict.allowed:
        nearest, lacked = _nearest(snapshot, who.identity, whom.identity, endpoint.port, request, udp)
        if verdict.reason == "revoked":
            nearest, lacked = "", snapshot.refuses(who.identity, "") or snapshot.refuses(whom.identity, whom.node)
        found = structs.replace(found, nearest=nearest, lacked=lacked)
    return structs.replace(found, steps=tuple(steps))


def _no(steps: list[str], reason: str, lacked: str, endpoint: Endpoint | None = None) -> Explanation:
    return Explanation(False, "", reason, "", lacked, tuple(steps), (), str(endpoint or ""))


def _nearest(snapshot: Snapshot, source: Identity, destination: Identity, port: int, request: Request | None, udp: bool) -> tuple[str, str]:
    """The rule that came closest, and what it lacked. Closeness: who matters most, then the port, then the route."""
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
        missing, lacked = _match_lack(match, request)
        near = max(_FITS - missing, 4)
        if near > closest[0]:
            closest = (near, f"match {match.name} of {rule} {lacked}")
    return closest[0], rule, closest[1]


def _match_lack(match: HttpMatch, request: Request) -> tuple[int, str]:
    """How much of a match does not fit, the path counting most, and that in words."""
    assert Matcher((match,)).first(request) < 0, "a match that fits lacks nothing"
    missing = 0
    lacked: list[str] = []
    if not path_fits(match, request.path):
        missing += 3
        lacked.append(f"a path that begins with {match.path_regex!r}, this is {request.path!r}")
    if match.methods and request.method not in match.methods:
        missing += 1
        lacked.append(f"method {' or '.join(match.methods)}, this is {request.method}")
    for name, pattern in match.headers:
        value = request.header(name)
        if not header_fits(pattern, value):
            missing += 1
            has = "it is absent" if value is None else f"it is {value!r}"
            lacked.append(f"header {name} to have {pattern!r}, {has}")
    return missing, f"wants {'; and '.join(lacked)}" if lacked else "does not fit"
