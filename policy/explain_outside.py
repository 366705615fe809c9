"""Why a call out of the mesh is let out or not, in words: the verdict, the rule, and the nearest Egress and what it
lacks.

The verdict is that of the data plane (egress.py). Only what DNS says is not known here: a host is taken to have the
address that is called.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

from policy.authz import DENIALS
from policy.egress import STAGES, fitting, named
from policy.explain import Explanation
from policy.lacking import match_lack, written
from policy.model import EgressGrant, Outgoing, Request, Verdict, Workload
from policy.snapshot import Snapshot

Protocol = Literal["http", "https", "tcp"]
_SPOKEN: tuple[Protocol, ...] = ("https", "http", "tcp")  # what is tried where the question does not say
_SHOWN = 6  # hosts and ranges that are named


def explain_outside(
    snapshot: Snapshot,
    who: Workload,
    host: str,
    address: str,
    port: int,
    protocol: Protocol | Literal[""] = "",
    request: Request | None = None,
) -> Explanation:
    """Return what would happen if `who` called this. `host`, `address`: one of them may be "".

    `protocol` "": any that may pass. `request` None: with protocol http, any request.
    """
    steps = [f"{who.key} is identity {who.identity}", f"{host or address} is outside the mesh"]
    if snapshot.mesh.egress:
        return Explanation(True, "enableEgress", steps=(*steps, "MeshConfig traffic.enableEgress is not false"))
    mine = [grant for grant in snapshot.egress if grant.source == who.identity]
    spoken: tuple[Protocol, ...] = (protocol,) if protocol else _SPOKEN
    answers = [_asked(snapshot, who, mine, Outgoing(address, port, one, host, request)) for one in spoken]
    found = next((one for one in answers if one.allowed or one.requests), None)
    if found is None:
        calls = [Outgoing(address, port, one, host, request) for one in spoken]
        closeness, rule, lacked = max(
            (_nearest(snapshot.egress, who, call) for call in calls), key=lambda candidate: candidate[0]
        )
        found = answers[0] if closeness <= _PORT else max(answers, key=lambda one: _ORDER.index(one.reason))
        found = Explanation(False, "", found.reason, rule, lacked, side="the caller's node")
    endpoint = (f"[{address}]:{port}" if ":" in address else f"{address}:{port}") if address else ""
    return Explanation(
        found.allowed,
        found.rule,
        found.reason,
        found.nearest,
        found.lacked,
        (*steps, *found.steps),
        endpoint=endpoint,
        side=found.side,
        requests=found.requests,
    )


_ORDER = (STAGES[0], "revoked", *STAGES[1:])
_SOURCE, _PORT, _PROTOCOL, _HOST, _ADDRESS, _REQUEST = range(6)


def _asked(snapshot: Snapshot, who: Workload, mine: list[EgressGrant], call: Outgoing) -> Explanation:
    """Judge one call. Where its address is not known, try those that the Egresses name."""
    places = [call.address] if call.address else ["", *(first for grant in mine for first in _firsts(grant))]
    verdict = Verdict(False, "", "outside")
    at = ""
    for at in places:
        tried = Outgoing(at, call.port, call.protocol, call.host, call.request)
        verdict = snapshot.lets_out(who.identity, tried, lambda host: True)
        if verdict.allowed or verdict.reason == "egress-no-match":
            break
    rules = [grant for grant in mine if grant.rule == verdict.rule]
    steps = [f"asked as {call.protocol}"]
    if verdict.allowed and any((call.port, "tcp") in grant.ports for grant in rules):
        steps = [f"any bytes to port {call.port}"]
    elif verdict.allowed and call.host and any(grant.hosts for grant in rules):
        where = call.address or "the address that is called"
        steps.append(f"{where} has to be one that DNS gave {who.key} for {call.host}")
    if verdict.allowed and not call.address and at:
        steps.append(f"the address has to be in {_some(network for grant in rules for network in grant.networks)}")
    requests: tuple[str, ...] = ()
    rule = ""
    if verdict.reason == "egress-no-match" and call.request is None:
        fit = [grant for grant in mine if (call.port, "http") in grant.ports and grant.http is not None]
        rule = fit[0].rule if fit else ""
        requests = tuple(
            f"{written(match)} (match {match.name} of {one.rule})" for one in fit for match in one.http or ()
        )
    return Explanation(
        verdict.allowed,
        verdict.rule,
        verdict.reason,
        rule,
        DENIALS.get(verdict.reason, ""),
        tuple(steps),
        requests=requests,
    )


def _firsts(grant: EgressGrant) -> list[str]:
    return [str(ipaddress.ip_network(network).network_address) for network in grant.networks]


def _nearest(grants: Iterable[EgressGrant], who: Workload, call: Outgoing) -> tuple[float, str, str]:
    """Return how close the nearest Egress is, its name, and what it lacks."""
    best: tuple[float, str, str] = (-1.0, "", f"no Egress has {who.identity} as a source")
    for grant in grants:
        candidate = _lack(grant, who, call)
        if candidate[0] > best[0]:
            best = candidate
    return best


def _lack(grant: EgressGrant, who: Workload, call: Outgoing) -> tuple[float, str, str]:
    rule = grant.rule
    if grant.source != who.identity:
        return _SOURCE, rule, f"{rule} names source {grant.source}, not {who.identity}"
    there = [protocol for number, protocol in grant.ports if number == call.port]
    if not there:
        listed = ", ".join(f"{number} ({protocol})" for number, protocol in grant.ports)
        return _PORT, rule, f"{rule} lists port {listed}, not {call.port}"
    if call.protocol not in there and "tcp" not in there:
        return _PROTOCOL, rule, f"{rule} lists port {call.port} with {' and '.join(there)}, this is {call.protocol}"
    name = named(call.host, call.port)
    if "tcp" not in there and grant.hosts and not set(grant.hosts) & set(fitting(name)):
        return _HOST, rule, f"{rule} lists host {_some(grant.hosts)}, {f'not {name}' if name else 'and none is named'}"
    if grant.networks and call.address:
        return _ADDRESS, rule, f"{rule} lists address {_some(grant.networks)}, not {call.address}"
    closest = (float(_REQUEST), f"{rule}: its HTTPRouteGroups have no match")
    for match in grant.http or ():
        if call.request is None:
            break
        missing, lacked = match_lack(match, call.request)
        closest = max(closest, (_REQUEST + 1 / (1 + missing), f"match {match.name} of {rule} {lacked}"))
    return closest[0], rule, closest[1]


def _some(values: Iterable[str]) -> str:
    every = list(dict.fromkeys(values))
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
