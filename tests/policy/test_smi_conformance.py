"""Runs smi_conformance.yaml: every statement of SMI that we rely on, every answer of ours; and proves that each row can fail.

What a proxy does with a decision (endpoints in turn, raw request targets, connections that are open when the policy changes) is asked
of nodeproxy's own route and request parser, without a socket.
"""

import copy
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from agent.sources.manifest import read
from nodeproxy.codec.message import split_target
from nodeproxy.errors import FLAGS, Refused
from nodeproxy.routing.route import Inward, Outward
from nodeproxy.tls.credentials import NoIdentities
from nodeproxy.upstream.balance import Live
from policy.build import build
from policy.decode import identify
from policy.explain import explain
from policy.model import Request

FILE = yaml.safe_load((Path(__file__).parent / "smi_conformance.yaml").read_text())
STATEMENTS = [f"N{number}" for number in range(1, 28)] + [f"A{number}" for number in range(1, 27)]
QUESTIONS = ("calls", "splits", "endpoints", "reaches", "open", "problems")


def named(objects):
    """The objects as a source hands them over, by title."""
    change = read("\n---\n".join(json.dumps(data) for data in objects).encode(), "row.yaml")
    assert not change.problems, change.problems
    return {
        f"{kind} {namespace}/{name}": raw for raw in change.objects or () for kind, namespace, name in [identify(raw)]
    }


def request(asked):
    """The Request that policy sees; None for an opaque stream. Raises Refused for a target that the proxy does not pass on."""
    if "path" not in asked and "target" not in asked:
        return None
    fields = []
    for name, value in asked.get("headers", {}).items():
        fields += [(name.lower().encode(), each.encode()) for each in (value if isinstance(value, list) else [value])]
    method = asked.get("method", "GET")
    if "path" in asked:
        return Request(method, asked["path"], fields)
    target = split_target(asked["target"].encode(), method.encode())
    return Request(method, target.path, fields, target.others)


def connection(snapshot, who, dialled, door=None, live=None):
    """What a route asks of a connection: outwards through the door of `who`, or inwards through `door`."""
    context = SimpleNamespace(snapshot=snapshot, live=live or Live(1), captured=set(), identities=NoIdentities())
    identity, peer = (who.identity if who else None), ("192.0.2.9", 40000)
    return SimpleNamespace(context=context, workload=door or who, identity=identity, peer=peer, dialled=dialled)


def call(snapshot, asked):
    target = snapshot.workload(asked["to"])
    who = snapshot.workload(asked["from"]) if asked["from"] else None
    port = asked.get("udp") or asked.get("tcp") or asked.get("port", 8080)
    udp = "udp" in asked
    try:
        wanted = request(asked)
    except Refused as refused:
        return {"want": refused.status, "reason": refused.flag}
    source = who.identity if who else None
    verdict = snapshot.authorize_udp(source, target, port) if udp else snapshot.authorize(source, target, port, wanted)
    if who:
        told = explain(snapshot, who, target, port, wanted, udp)
        assert (told.allowed, told.rule, told.reason) == (verdict.allowed, verdict.rule, verdict.reason)
        assert bool(told.lacked) == (not verdict.allowed), (asked, told)
    if not udp:
        at_the_server = through(Inward(connection(snapshot, who, (target.addresses[0], port), door=target)), wanted)
        assert at_the_server.keys().isdisjoint(("denied", "no-identity", "bad-path")) == verdict.allowed, (
            asked,
            at_the_server,
        )
        if "bad-path" in at_the_server:
            return {"want": FLAGS["bad-path"].status, "reason": verdict.reason}
    return {"want": "allow" if verdict.allowed else "deny", "reason": verdict.reason, "rule": verdict.rule}


def through(route, wanted, calls=1):
    """How often each service's endpoints, or each refusal, came out."""
    found = Counter()
    for _ in range(calls):
        try:
            pick = route.pick(wanted)
        except Refused as refused:
            found[refused.flag] += 1
        else:
            found[f"{pick.service} {pick.endpoint}".strip()] += 1
    return dict(found)


def reach(snapshot, asked):
    """The endpoints that calls through a service come to. Several callers take turns; each is counted apart and all must agree."""
    service = snapshot.service(asked["service"])
    live = Live(1)
    counted = []
    for caller in asked.get("callers", [asked.get("from")]):
        conn = connection(snapshot, snapshot.workload(caller), (service.addresses[0], asked.get("port", 80)), live=live)
        counted.append(through(Outward(conn), request(asked), asked.get("times", sum(asked["want"].values()))))
    return counted[0] if all(one == counted[0] for one in counted) else counted


def stays_open(before, after, asked):
    who, target = before.workload(asked["from"]), before.workload(asked["to"])
    conn = connection(before, who, (target.addresses[0], asked.get("tcp") or asked.get("port", 8080)), door=target)
    route = Inward(conn)
    pick = route.pick(request(asked))
    conn.context.snapshot = after
    return "kept" if route.still_allows(pick, request(asked)) else "cut"


def mismatches(step, built, before=None):
    """What of a step does not hold."""
    snapshot = built.snapshot
    for problem in (wanted := step.get("problems", [])):
        severity = problem.get("severity", "error")
        if not any(
            p.object == problem["object"]
            and problem["says"] in p.message
            and problem.get("hint", "") in p.hint
            and p.severity == severity
            for p in built.problems
        ):
            yield f"{problem} is not in {built.problems}"
    for p in built.problems:
        if not p.where.line or p.where.file != "row.yaml":
            yield f"{p} does not say where"
        if p.severity == "error" and not any(p.object == w["object"] and w["says"] in p.message for w in wanted):
            yield f"unexpected: {p}"
    for asked in step.get("calls", []):
        found = call(snapshot, asked)
        if any(asked[name] != found.get(name) for name in ("want", "reason", "rule") if name in asked):
            yield f"{asked} came out as {found}"
    for asked in step.get("splits", []):
        rule = snapshot.candidates(snapshot.service(asked["service"]), 80, request(asked)).rule
        found = "own" if rule is None else {b.service: b.weight for b in rule.backends}
        if found != asked["want"]:
            yield f"{asked} came out as {found}"
    for asked in step.get("endpoints", []):
        ports = [p for p in snapshot.service(asked["service"]).ports if p.port == asked.get("port", 80)]
        if (found := [str(e) for p in ports for e in p.endpoints]) != asked["want"]:
            yield f"{asked} came out as {found}"
    for asked in step.get("reaches", []):
        if (found := reach(snapshot, asked)) != asked["want"]:
            yield f"{asked} came out as {found}"
    for asked in step.get("open", []):
        if (found := stays_open(before, snapshot, asked)) != asked["want"]:
            yield f"{asked} came out as {found}"


def run(row):
    objects = named([*FILE["world"], *row.get("objects", [])])
    built = build(list(objects.values()), {}, {}, "node")
    found = list(mismatches(row, built))
    if then := row.get("then"):
        objects |= named(then.get("objects", []))
        for gone in then.get("remove", []):
            del objects[gone]
        again = build(list(objects.values()), built.accepted, built.snapshot.addresses, "node")
        found += mismatches(then, again, built.snapshot)
    return found


def turned(row):
    """The row as often as it expects something, each time with one expectation turned into its opposite."""
    for stage in ("", "then"):
        for question in QUESTIONS:
            for number in range(len((row.get(stage, {}) if stage else row).get(question, []))):
                other = copy.deepcopy(row)
                asked = (other[stage] if stage else other)[question][number]
                if question == "problems":
                    asked["says"] += " or not"
                elif isinstance(asked["want"], dict):
                    asked["want"] = {"shop/nobody": 1} if question == "splits" else {**asked["want"], "nobody": 1}
                elif isinstance(asked["want"], list):
                    asked["want"] = [*asked["want"], "10.9.9.9:9"]
                else:
                    asked["want"] = {
                        "allow": "deny",
                        "deny": "allow",
                        400: "allow",
                        "own": {},
                        "cut": "kept",
                        "kept": "cut",
                    }[asked["want"]]
                yield other
                if "reason" in asked or "rule" in asked:
                    other = copy.deepcopy(row)
                    asked = (other[stage] if stage else other)[question][number]
                    asked["reason" if "reason" in asked else "rule"] = "something else"
                    yield other


def test_every_statement_has_a_row():
    assert [row["id"] for row in FILE["rows"]] == STATEMENTS


@pytest.mark.parametrize("row", FILE["rows"], ids=lambda row: row["id"])
async def test_row(row):
    assert any(question in row for question in QUESTIONS)
    assert run(row) == []


@pytest.mark.parametrize("row", FILE["rows"], ids=lambda row: row["id"])
async def test_every_expectation_of_a_row_can_fail(row):
    others = list(turned(row))
    assert others
    for other in others:
        assert run(other), other
