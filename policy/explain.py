"""Why a call is allowed or denied, in words: the verdict, the rule, and for a denial the nearest rule and what it
lacks.

Backends and endpoints come from candidates.py and verdicts from authorize(), as in the data plane. This file only adds
the words.
"""

from __future__ import annotations

from msgspec import Struct, structs

from policy import reachability
from policy.authz import DENIALS, ISOLATED
from policy.balancing import balancing_words
from policy.candidates import Idle, Transport, answered_here, port_of
from policy.lacking import admitted, nearest
from policy.model import Endpoint, Request, Service, Verdict, Workload
from policy.route import (
    Cors,
    Degrade,
    ExternalAuth,
    Fault,
    Fields,
    Filter,
    PathChange,
    Redirect,
    Regex,
    RequestFields,
    RequestMirror,
    ResponseFields,
    Retry,
    Rewrite,
    Sign,
    Timeouts,
    User,
    Verify,
)
from policy.snapshot import Snapshot
from policy.upstream import Circuit, Rate, ServiceBounds


class Explanation(Struct, frozen=True):
    """One verdict in words.

    `steps`: the decisions, in order. `lacked`: what kept the nearest rule from admitting the call.
    """

    allowed: bool
    rule: str
    reason: str = ""
    nearest: str = ""
    lacked: str = ""
    steps: tuple[str, ...] = ()
    # One for each identity and node of the endpoints that may be chosen, where they differ
    choices: tuple[Explanation, ...] = ()
    endpoint: str = ""
    node: str = ""  # node of the endpoint, where a manifest names it
    mtls: str = ""  # mTLS mode of its namespace
    way: str = ""  # "direct", "tunnel" or "plain"
    # "node till-3 is revoked": revoked nodes and identities of the caller and of the destination
    revoked: tuple[str, ...] = ()
    side: str = ""  # for a denial: the node that refuses
    dry_run: str = ""  # what a rule with the annotation edgemesh.io/dry-run would change, in words
    # Where a stream is denied because only HTTP is admitted: which requests, and by which rule
    requests: tuple[str, ...] = ()


def explain(
    snapshot: Snapshot,
    who: Workload,
    whom: Service | Workload,
    port: int,
    request: Request | None = None,
    udp: bool = False,
) -> Explanation:
    """Return what would happen if `who` called `port` of `whom`.

    `port` is the Service's port, or the workload's own.
    """
    return _sided(
        _explain(snapshot, who, whom, port, request, udp),
        reachability.side(reachability.home(snapshot, who), "the caller's"),
    )


def _sided(found: Explanation, callers: str) -> Explanation:
    """Name the node that refuses.

    If no other node does, it is the caller's node, which applies the same rules first.
    """
    if found.choices:
        choices = tuple(_sided(choice, callers) for choice in found.choices)
        worst = next((choice for choice in choices if not choice.allowed), choices[0])
        return structs.replace(found, choices=choices, side=worst.side, steps=worst.steps)
    if found.allowed:
        return found
    side = found.side or callers
    return structs.replace(found, side=side, steps=(*found.steps, f"refused by {side}"))


def _explain(
    snapshot: Snapshot, who: Workload, whom: Service | Workload, port: int, request: Request | None, udp: bool
) -> Explanation:
    steps = [f"{who.key} is identity {who.identity}"]
    if isinstance(whom, Workload):
        endpoint = Endpoint(whom.addresses[0] if whom.addresses else "", port, whom.key)
        return _to_workload(snapshot, who, whom, endpoint, request, udp, steps)
    transport: Transport = "udp" if udp else "tcp"
    choices = snapshot.candidates(whom, port, request, transport, who.namespace)
    route, rule = choices.route, choices.rule
    if rule is not None and route is not None and port_of(whom, port, transport) is not None:
        if rule.refuses:
            return _no(steps, rule.refuses, ": ".join(filter(None, (rule.name, rule.detail))))
        answers = any(one.answers or one.preflights for one in rule.filters)
        if request is not None and answers and answered_here(rule, request):
            steps += [f"{rule.name}: no server is asked", *map(filtering, rule.filters)]
            return Explanation(True, rule.name, steps=tuple(steps))
        weights = ", ".join(f"{backend.service} {backend.weight}" for backend in rule.backends)
        steps.append(f"{rule.name or route.name} splits {whom.key}: {weights}")
        steps += [f"{filtering(one)}" for one in rule.filters]
        steps += [timing(rule.timeouts)] if rule.timeouts is not None else []
        steps += [retrying(rule.retry)] if rule.retry is not None else []
        steps += [f"{backend.service}: {filtering(one)}" for backend in rule.backends for one in backend.filters]
    elif route is not None and rule is None:
        steps.append(f"{route.name} does not apply: no match of it fits")
    again = snapshot.retry(whom, who.identity)
    if again is not None and (rule is None or rule.retry is None):
        steps.append(retrying(again))
    if choices.reason == "all-weights-zero":
        return _no(steps, "all-weights-zero", "every backend has weight 0")
    strict = [one for one in choices.idle if one.backend.strict and one.lack != "weight"]
    idle = [
        (one.service, one.lack)
        for one in choices.idle
        if one.lack != "weight" and one.service is not None and not one.backend.strict
    ]
    if choices.takers and idle:
        named = ", ".join(service.key for service, _ in idle)
        steps.append(f"{named} has no endpoint for port {port} and takes no turns")
        idle = []
    found = [_lacking(service, lack, port, steps) for service, lack in idle]
    found += [unable(one, steps) for one in strict]
    for taker in choices.takers:
        if taker.port.near is not None:
            some = f"{len(taker.endpoints)} of {len(taker.port.endpoints)} endpoints"
            steps = [*steps, f"{taker.port.nearness}: {some} of {taker.service.key} may take it"]
        if taker.service.upstream is not None:
            steps = [*steps, *bounding(taker.service.upstream)]
        if taker.service.balancing is not None:
            steps = [*steps, balancing_words(taker.service.balancing)]
        elif taker.service.affinity:
            steps = [*steps, f"sessionAffinity ClientIP: calls of {who.key} go to one endpoint of {taker.service.key}"]
        alike: dict[str, Endpoint] = {}
        for endpoint in taker.endpoints:
            workload = snapshot.workload(endpoint.workload)
            alike.setdefault(
                f"{workload.identity} {reachability.home(snapshot, workload)}" if workload else f"?{endpoint}", endpoint
            )
        for endpoint in alike.values():
            so_far = [*steps, f"service {taker.service.key} port {port} -> endpoint {endpoint}"]
            found.append(
                _to_workload(snapshot, who, snapshot.workload(endpoint.workload), endpoint, request, udp, so_far)
            )
    if not found:
        return _no(steps, "no-endpoint", f"no backend of {whom.key} can take this")
    if len({(e.allowed, e.rule, e.reason, e.dry_run, e.node, e.way) for e in found}) == 1:
        return found[0]
    worst = next((e for e in found if not e.allowed), found[0])
    return structs.replace(worst, choices=tuple(found))


def _tried(verdict: Verdict) -> str:
    if not verdict.trial:
        return ""
    return (
        f"would be denied without {verdict.trial} (dry-run)"
        if verdict.allowed
        else f"would be allowed by {verdict.trial} (dry-run)"
    )


def filtering(one: Filter) -> str:
    """Return what a filter does, in words."""
    match one:
        case RequestFields(change):
            return f"request: {_changes(change)}"
        case ResponseFields(change):
            return f"response: {_changes(change)}"
        case Rewrite(path, host):
            return f"request: {'; '.join(filter(None, (_path(path), f'Host becomes {host}' if host else '')))}"
        case Redirect(status, scheme, host, port, path):
            where = f"{scheme or 'http'}://{host or 'the same host'}{f':{port}' if port else ''}"
            return f"answer: {status} to {', '.join(filter(None, (where, _path(path))))}"
        case Fault(delay, delayed, status, aborted):
            late = f"{delayed} % of the calls wait {delay:g} s" if delay else ""
            failed = f"{aborted} % are answered {status}" if status else ""
            return f"fault: {'; '.join(filter(None, (late, failed)))}"
        case Degrade(status):
            return f"answer: {status}, without a server"
        case Sign(what):
            return f"request: signed with key {what.key}, in {what.field}"
        case Verify(what):
            return f"request: answered 401 without a signature with key {what.key}, in {what.field}"
        case User(name):
            return f"request: filter {name} of the NodeConfig of the caller's node"
        case ExternalAuth(service, port, _, timeout, is_open):
            silent = "passes" if is_open else "is answered 503"
            asks = f"request: {service} port {port} is asked, where the caller has to be allowed too"
            return f"{asks}; without an answer in {timeout:g} s it {silent}"
        case Cors(origins, methods, headers, _, credentials):
            words = (("origins", origins), ("methods", methods), ("fields", headers))
            told = "; ".join(f"{what} {', '.join(values)}" for what, values in words if values)
            return f"pages of other origins: {told or 'none'}{'; with credentials' if credentials else ''}"
        case RequestMirror(service, port, part, whole):
            how = "a copy" if part == whole else f"a copy of {part} in {whole}"
            return f"request: {how} goes to {service} port {port}, where the caller has to be allowed too"
        case _:
            return type(one).__name__


def timing(timeouts: Timeouts) -> str:
    """Return a rule's timeouts in words."""
    said = (("the request", timeouts.request), ("each attempt", timeouts.attempt))
    return f"timeouts: {', '.join(f'{what} {seconds:g} s' for what, seconds in said if seconds is not None)}"


def limiting(bounds: ServiceBounds) -> list[str]:
    """Return the rates of a Service's servers in words."""
    said = []
    if bounds.connection_rate is not None:
        said.append(f"{bounds.name}: new connections {_often(bounds.connection_rate)}")
    for one in bounds.request_rates:
        which = ""
        if one.match is not None:
            fits = f" ({one.match.path.value})" if isinstance(one.match.path, Regex) else ""
            which = f" that {one.name}{fits} fits"
        said.append(f"{bounds.name}: requests{which} {_often(one.rate)}, else {one.status}")
    return said


def bounding(bounds: ServiceBounds) -> list[str]:
    """Return what bounds each calling workload of a Service, in words."""
    words = (
        ("connections in use", bounds.max_connections),
        ("requests under way", bounds.max_requests),
        ("requests waiting for a connection", bounds.max_pending),
        ("retries under way", bounds.max_retries),
        ("requests on one connection", bounds.max_per_connection),
    )
    said = [f"{what} at most {most}" for what, most in words if most is not None]
    if bounds.connect_timeout is not None:
        said.append(f"{bounds.connect_timeout:g} s to connect")
    if bounds.circuit is not None:
        said.append(_breaking(bounds.circuit))
    return [f"{bounds.name}, for each caller: {', '.join(said)}"] if said else []


def _breaking(said: Circuit) -> str:
    slow = f"slower than {said.slow:g} s"
    words = (
        (f"{said.errors} errors", said.errors),
        (f"{said.error_ratio:.0%} errors", said.error_ratio),
        (f"{said.slow_amount} {slow}", said.slow_amount),
        (f"{said.slow_ratio:.0%} {slow}", said.slow_ratio),
    )
    when = " or ".join(what for what, there in words if there) or "nothing"
    return f"the circuit opens for {said.rest:g} s at {when}, of {said.least} or more requests in {said.window:g} s, then {said.status}"


def _often(rate: Rate) -> str:
    unit, seconds = next((u, s) for u, s in (("second", 1), ("minute", 60), ("hour", 3600)) if rate.each * s >= 1)
    article = "an" if unit == "hour" else "a"
    return f"{rate.each * seconds:g} {article} {unit}, {rate.most:g} at once"


def retrying(retry: Retry) -> str:
    """Return when requests are sent again, in words."""
    on = [_ranges(retry.statuses)] if retry.statuses else []
    on += [f"grpc-status {', '.join(map(str, retry.grpc))}"] if retry.grpc else []
    on += [_FAILURES[one] for one in retry.failures]
    wait = f"{retry.least:g} to " if retry.least else "up to "
    longest = "" if retry.most is None else f", {retry.most:g} s at most"
    each = f"; each attempt {retry.timeout:g} s" if retry.timeout is not None else ""
    whose = f"{retry.name}: " if retry.name else ""
    also = "" if retry.any_method else "; what may have had an effect only by idempotent methods"
    return (
        f"{whose}up to {retry.attempts} more {'attempts' if retry.attempts != 1 else 'attempt'} on {', '.join(on)}"
        f"; waits {wait}{retry.least + retry.backoff:g} s first{longest}{each}{also}"
    )


_FAILURES = {
    "connect": "no connection",
    "refused": "a request that the server did not take",
    "reset": "a broken connection",
    "timeout": "an attempt that takes too long",
}


def _ranges(numbers: tuple[int, ...]) -> str:
    """Return sorted numbers in short form: "409, 500-599"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _path(change: PathChange | None) -> str:
    if change is None:
        return ""
    return f"path becomes {change.value or '/'}" + (
        "" if change.prefix is None else f" in the place of {change.prefix}"
    )


def _changes(change: Fields) -> str:
    """Return what is done to fields; their values may be secrets, so only names are told."""
    words = (("sets", [name for name, _ in change.set]), ("adds", [name for name, _ in change.add]))
    told = [f"{verb} {', '.join(names)}" for verb, names in (*words, ("removes", list(change.remove))) if names]
    return "; ".join(told) or "changes nothing"


def unable(one: Idle, steps: list[str]) -> Explanation:
    """Explain the refusal of the share of a strict backend that cannot take it."""
    name, port = one.backend.service, one.backend.port
    if one.service is None:
        return _no(steps, "bad-route", f"the backend {name} does not exist")
    if one.lack == "no-port":
        return _no(steps, "bad-route", f"the backend {name} has no port {port}")
    return _no(steps, "no-endpoint", f"the backend {name} has no endpoint for port {port}")


def _lacking(service: Service, lack: str, port: int, steps: list[str]) -> Explanation:
    """Explain why a Service cannot take the call, where no other Service can."""
    if lack == "no-port":
        numbers = ", ".join(str(one.port) for one in service.ports) or "none"
        return _no(steps, "no-port", f"service {service.key} has port {numbers}, not {port}")
    if lack == "no-near-endpoint" and (found := port_of(service, port, "tcp")) is not None:
        lacked = f"service {service.key} has no endpoint for port {port} that may take it: {found.nearness}"
        return _no(steps, "no-endpoint", lacked)
    return _no(steps, "no-endpoint", f"service {service.key} has no endpoint for port {port}")


def _to_workload(
    snapshot: Snapshot,
    who: Workload,
    whom: Workload | None,
    endpoint: Endpoint,
    request: Request | None,
    udp: bool,
    steps: list[str],
) -> Explanation:
    verdict = (
        ISOLATED
        if who.isolated
        else snapshot.admits(
            who.identity, whom, endpoint.port, request, "udp" if udp else "tcp", endpoint.outside, endpoint.address
        )
    )
    found = Explanation(verdict.allowed, verdict.rule, verdict.reason, endpoint=str(endpoint), dry_run=_tried(verdict))
    if whom is None or not whom.enrolled:
        if whom is not None:
            steps = [*steps, f"{whom.key} is not in the mesh: {whom.left_out or 'it is not enrolled'}"]
        elif endpoint.outside:
            steps = [*steps, f"{endpoint} is outside the mesh: its EndpointSlice names no pod"]
        return structs.replace(found, steps=tuple(steps), lacked="" if verdict.allowed else DENIALS[verdict.reason])
    steps = [*steps, f"{whom.key} is identity {whom.identity}"]
    if not udp:
        steps += [words for one in snapshot.bounds(endpoint) for words in limiting(one)]
        request = snapshot.as_read_by(whom, request) if request is not None else None
        over = reachability.find(snapshot, who, whom, endpoint.address, endpoint.port, request)
        steps += [over.words, *over.revoked]
        found = structs.replace(found, node=over.node, mtls=over.mtls, way=over.kind, revoked=over.revoked)
        if verdict.allowed and over.reason:
            found = structs.replace(
                found, allowed=False, rule="", reason=over.reason, lacked=over.lacked, side=over.side
            )
        elif over.kind == "direct":
            found = structs.replace(found, side="" if verdict.allowed else over.side)
    if not verdict.allowed:
        if verdict.reason == "isolated":
            closest, lacked = "", f"{who.isolated or whom.isolated} cuts off {who.key if who.isolated else whom.key}"
        elif verdict.reason == "revoked":  # no rule lacks anything: one of them may admit the call
            closest, lacked = "", snapshot.refuses(who.identity, "") or snapshot.refuses(whom.identity, whom.node)
        else:
            closest, lacked = nearest(snapshot, who.identity, whom.identity, endpoint.port, request, udp)
        requests = (
            admitted(snapshot, who.identity, whom.identity, endpoint.port) if verdict.reason == "http-only" else ()
        )
        found = structs.replace(found, nearest=closest, lacked=lacked, requests=requests)
    return structs.replace(found, steps=tuple(steps))


def _no(steps: list[str], reason: str, lacked: str, endpoint: Endpoint | None = None) -> Explanation:
    return Explanation(False, "", reason, "", lacked, tuple(steps), (), str(endpoint or ""))
