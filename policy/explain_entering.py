"""Why a caller from outside the mesh comes in or not, in words: the verdict, the rule, and what the nearest one lacks.

The verdict is that of the data plane: `lets_in` at a listener of a Gateway, `judge` where the server is on another node,
`plain_rule` for plain text that comes to the server itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from policy.authz import DENIALS, NO_IDENTITY
from policy.candidates import answered_here
from policy.doors import Came, Doors
from policy.entering import distrusts, judge, shown
from policy.explain import Explanation, filtering, retrying, timing, unable
from policy.gateway import VirtualHost
from policy.lacking import match_lack, written
from policy.model import Endpoint, PlainGrant, Request, Service, Verdict, Workload
from policy.reachability import home
from policy.snapshot import Snapshot

_SHOWN = 6  # sources that are named


def explain_entering(
    snapshot: Snapshot, came: Came, whom: Service | Workload, port: int, request: Request | None = None
) -> Explanation:
    """Return what would happen if this caller called `port` of `whom`: by a Gateway's listener of this node, or itself."""
    steps = _of(came)
    if isinstance(whom, Workload):
        return _to(snapshot, came, Endpoint(next(iter(whom.addresses), ""), port, whom.key), request, steps)
    there = next((one for one in whom.ports if one.port == port and one.transport == "tcp"), None)
    endpoints = there.endpoints if there is not None else ()
    return _among(
        [_to(snapshot, came, one, request, [*steps, f"{whom.key} port {port} -> {one}"]) for one in endpoints],
        Explanation(False, "", "no-endpoint", "", f"{whom.key} has no endpoint for port {port}", tuple(steps)),
    )


def explain_by_route(
    snapshot: Snapshot, came: Came, hosts: Iterable[VirtualHost], request: Request | None
) -> Explanation:
    """Return what would happen to a call for these hosts of a listener, which are asked in this order."""
    steps = _of(came)
    for virtual in hosts:
        found = snapshot.candidates(virtual.service, virtual.service.ports[0].port, request)
        rule = found.rule
        if rule is None or rule.refuses == "no-route":
            continue
        steps.append(f"{rule.name} takes it, for {virtual.hostname or 'every host'}")
        if rule.refuses:
            return Explanation(False, "", rule.refuses, rule.name, rule.detail, tuple(steps))
        steps += map(filtering, rule.filters)
        steps += [timing(rule.timeouts)] if rule.timeouts is not None else []
        steps += [retrying(rule.retry)] if rule.retry is not None else []
        if request is not None and rule.filters and answered_here(rule, request):
            return Explanation(True, rule.name, steps=(*steps, "no server is asked"))
        if found.reason == "all-weights-zero":
            return Explanation(False, "", found.reason, rule.name, "every backend has weight 0", tuple(steps))
        answers = [unable(one, steps) for one in found.idle if one.backend.strict and one.lack != "weight"]
        for taker in found.takers:
            for endpoint in taker.endpoints:
                so_far = [*steps, f"{taker.service.key} port {taker.port.port} -> {endpoint}"]
                answers.append(_to(snapshot, came, endpoint, request, so_far))
        return _among(answers, Explanation(False, "", "no-endpoint", rule.name, "no backend has one", tuple(steps)))
    return Explanation(False, "", "no-route", "", "no rule of a route at this listener fits", tuple(steps))


def _of(came: Came) -> list[str]:
    where = f"it comes in by {shown(came.gateway)}" if came.gateway else "it calls the server itself, in plain text"
    return [f"{came.address} is outside the mesh", where]


def _among(answers: list[Explanation], none: Explanation) -> Explanation:
    """Return the answer that stands for several: the worst, with all of them where they differ."""
    if not answers:
        return none
    if len({(one.allowed, one.rule, one.reason, one.node, one.way) for one in answers}) == 1:
        return answers[0]
    worst = next((one for one in answers if not one.allowed), answers[0])
    return structs.replace(worst, choices=tuple(answers))


def _to(snapshot: Snapshot, came: Came, endpoint: Endpoint, request: Request | None, steps: list[str]) -> Explanation:
    whom, shown_at = snapshot.workload(endpoint.workload), str(endpoint) if endpoint.address else ""
    if whom is None or not whom.enrolled:
        what = f"{whom.key} is not in the mesh" if whom is not None else f"{endpoint} is outside the mesh"
        verdict = snapshot.lets_in(came.address, whom, endpoint.port, request, came.gateway)
        told = "the route is enough" if came.gateway else "nothing guards it"
        lacked = DENIALS.get(verdict.reason, "")
        return Explanation(
            verdict.allowed, verdict.rule, verdict.reason, "", lacked, (*steps, f"{what}: {told}"), endpoint=shown_at
        )
    here, there, mode = snapshot.node, home(snapshot, whom), snapshot.mtls(whom.namespace)
    far = bool(came.gateway and there != here and mode != "disabled")
    side, way, why = f"node {there}" if there else "the server's node", "direct", ""
    if far:
        way = "tunnel"
        steps = [*steps, f"{whom.key} is on node {there}: node {here} passes it on by mTLS, and says who calls"]
        why = distrusts(snapshot, here, came.gateway)
    elif not came.gateway:
        way = "plain"
    steps = [*steps, f"mTLS mode {mode}"]
    if why:
        verdict, closest, lacked = Verdict(False, "", "not-a-gateway"), "", why
    else:
        verdict = _verdict(snapshot, came, whom, endpoint.port, request, far)
        closest, lacked = (
            ("", "") if verdict.allowed else _lacked(snapshot, verdict, came, whom, endpoint.port, request)
        )
    requests = () if verdict.allowed or why or request is not None else _admitted(snapshot, came, whom, endpoint.port)
    if not verdict.allowed and not requests:
        steps = [*steps, f"refused by {side}"]
    return Explanation(
        verdict.allowed,
        verdict.rule,
        verdict.reason,
        closest,
        lacked,
        tuple(steps),
        endpoint=shown_at,
        node=there,
        mtls=mode,
        way=way,
        side="" if verdict.allowed else side,
        requests=requests,
    )


def _verdict(snapshot: Snapshot, came: Came, whom: Workload, port: int, request: Request | None, far: bool) -> Verdict:
    if far:
        return judge(snapshot, came, whom, port, request)
    if came.gateway:
        return snapshot.lets_in(came.address, whom, port, request, came.gateway, came.names, came.identity)
    rule = "" if snapshot.is_node_address(came.address) else snapshot.plain_rule(came.address, whom, port, request)
    return Verdict(True, rule) if rule else NO_IDENTITY


def _lacked(
    snapshot: Snapshot, verdict: Verdict, came: Came, whom: Workload, port: int, request: Request | None
) -> tuple[str, str]:
    """Return the IngressBackend or AccessControl that came closest, and what it lacks."""
    if verdict.reason == "isolated":
        cut = snapshot.isolates(came.address)
        return "", f"{cut or whom.isolated} cuts off {came.address if cut else whom.key}"
    if verdict.reason != "no-identity":
        return "", DENIALS.get(verdict.reason, "")
    if not came.gateway and snapshot.is_node_address(came.address):
        return "", f"{came.address} is the address of a node, which NAT lends to whom the node forwards"
    best: tuple[float, str, str] = (0, "", f"no IngressBackend and no AccessControl opens {whom.key} to the outside")
    for grant in snapshot.plain:
        if grant.destination == whom.key:
            closeness, lacked = _lack(snapshot, grant, came, whom, port, request)
            if closeness > best[0]:
                best = closeness, grant.rule, f"{grant.rule} {lacked}"
    return best[1], best[2]


def _lack(
    snapshot: Snapshot, grant: PlainGrant, came: Came, whom: Workload, port: int, request: Request | None
) -> tuple[float, str]:
    if port not in grant.ports:
        return 1, f"opens port {_some(map(str, grant.ports))}, not {port}"
    if not grant.strict and snapshot.mtls(whom.namespace) == "strict":
        return 2, f"counts only where mTLS is not strict, and in namespace {whom.namespace} it is"
    if not _knows(grant, came, port):
        sources = [
            *grant.networks,
            *map(shown, grant.gateways),
            *(f"the certificate {one}" for one in grant.principals),
        ]
        by = f" by {shown(came.gateway)}" if came.gateway else ", which comes by no Gateway"
        return 3, f"lets in {_some(sources)}, not {came.address}{by}"
    closest = (3.5, "admits HTTP requests only")
    for match in grant.http or ():
        if request is not None:
            missing, lacked = match_lack(match, request)
            closest = max(closest, (4 + 1 / (1 + missing), f"has match {match.name}, which {lacked}"))
    return closest


def _knows(grant: PlainGrant, came: Came, port: int) -> bool:
    """Return whether a grant lets in some request of this caller to this port."""
    doors = Doors((structs.replace(grant, http=None),))
    where = (grant.destination, port)
    return bool(doors.rule(came.address, *where, False, None) or doors.through(came, *where, None))


def _admitted(snapshot: Snapshot, came: Came, whom: Workload, port: int) -> tuple[str, ...]:
    """Return the requests that come in where an opaque stream does not."""
    strict = snapshot.mtls(whom.namespace) == "strict"
    return tuple(
        f"{written(match)} (match {match.name} of {grant.rule})"
        for grant in snapshot.plain
        if grant.destination == whom.key and port in grant.ports and (grant.strict or not strict)
        if grant.http is not None and _knows(grant, came, port)
        for match in grant.http
    )


def _some(values: Iterable[str]) -> str:
    every = list(dict.fromkeys(values))
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
