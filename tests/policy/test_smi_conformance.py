"""Runs smi_conformance.yaml: every statement of SMI that we rely on, and every answer of ours."""

from pathlib import Path

import pytest
import yaml

from policy.build import build
from policy.explain import explain
from policy.model import Request, Where
from policy.resources import RawObject, identify

FILE = yaml.safe_load((Path(__file__).parent / "smi_conformance.yaml").read_text())
STATEMENTS = [f"N{number}" for number in range(1, 28)] + [f"A{number}" for number in range(1, 24)]


def named(objects):
    raws = [RawObject(data, Where("row.yaml", number), {}) for number, data in enumerate(objects, 1)]
    return {f"{kind} {namespace}/{name}": raw for raw in raws for kind, namespace, name in [identify(raw)]}


def request(asked):
    if "path" not in asked:
        return None
    fields = []
    for name, value in asked.get("headers", {}).items():
        fields += [(name.lower().encode(), each.encode()) for each in (value if isinstance(value, list) else [value])]
    return Request(asked.get("method", "GET"), asked["path"], fields)


def call(snapshot, asked):
    target = snapshot.workload(asked["to"])
    who = snapshot.workload(asked["from"]) if asked["from"] else None
    source = who.identity if who else None
    port = asked.get("udp") or asked.get("tcp") or asked.get("port", 8080)
    udp = "udp" in asked
    verdict = snapshot.authorize_udp(source, target, port) if udp else snapshot.authorize(source, target, port, request(asked))
    assert ("allow" if verdict.allowed else "deny") == asked["want"], (asked, verdict)
    assert verdict.reason == asked.get("reason", verdict.reason), asked
    assert verdict.rule == asked.get("rule", verdict.rule), asked
    if who:
        told = explain(snapshot, who, target, port, request(asked), udp)
        assert (told.allowed, told.rule, told.reason) == (verdict.allowed, verdict.rule, verdict.reason)
        assert bool(told.lacked) == (not verdict.allowed), (asked, told)


def check(step, built):
    wanted = step.get("problems", [])
    for problem in wanted:
        found = [
            p
            for p in built.problems
            if p.object == problem["object"] and problem["says"] in p.message and problem.get("hint", "") in p.hint
        ]
        assert found, (problem, built.problems)
        assert found[0].severity == problem.get("severity", "error")
    unexpected = [
        p for p in built.problems if p.severity == "error" and not any(p.object == w["object"] and w["says"] in p.message for w in wanted)
    ]
    assert not unexpected
    snapshot = built.snapshot
    for asked in step.get("calls", []):
        call(snapshot, asked)
    for asked in step.get("splits", []):
        found = snapshot.backends(snapshot.service(asked["service"]), request(asked))
        assert ("own" if found is None else {b.service: b.weight for b in found}) == asked["want"], asked
    for asked in step.get("endpoints", []):
        ports = [p for p in snapshot.service(asked["service"]).ports if p.port == asked.get("port", 80)]
        assert [str(e) for p in ports for e in p.endpoints] == asked["want"], asked


def test_every_statement_has_a_row():
    assert [row["id"] for row in FILE["rows"]] == STATEMENTS


@pytest.mark.parametrize("row", FILE["rows"], ids=lambda row: row["id"])
def test_row(row):
    objects = named(FILE["world"]) | named(row.get("objects", []))
    assert any(key in row for key in ("calls", "splits", "endpoints", "problems"))
    built = build(list(objects.values()), {}, {}, "node")
    check(row, built)
    if then := row.get("then"):
        objects |= named(then.get("objects", []))
        for gone in then.get("remove", []):
            del objects[gone]
        check(then, build(list(objects.values()), built.accepted, built.snapshot.addresses, "node"))
