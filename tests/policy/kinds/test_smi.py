"""kinds/smi.py: in SMI a list left out means everything; one that is empty is a mistake, and must not open what nobody meant to."""

import pytest

from policy.build import build
from policy.model import Identity, Request, Where
from policy.resources import RawObject

SPECS, ACCESS = "specs.smi-spec.io/v1alpha4", "access.smi-spec.io/v1alpha3"


def made(match, ports, rule):
    objects = [
        ("edgemesh.io/v1alpha1", "Workload", {"serviceAccount": "a", "addresses": ["10.0.0.1"]}),
        (SPECS, "HTTPRouteGroup", {"matches": [{"name": "m", **match}]}),
        (SPECS, "TCPRoute", {"matches": ports}),
        (
            ACCESS,
            "TrafficTarget",
            {
                "destination": {"kind": "ServiceAccount", "name": "a"},
                "rules": [{"name": "x", **rule}],
                "sources": [{"kind": "ServiceAccount", "name": "b"}],
            },
        ),
    ]
    raws = [
        RawObject(
            {"apiVersion": api, "kind": kind, "metadata": {"name": "x", "namespace": "n"}, "spec": spec},
            Where("x.yaml", n),
            {},
        )
        for n, (api, kind, spec) in enumerate(objects, 1)
    ]
    built = build(raws)
    snapshot = built.snapshot
    request = Request("DELETE", "/a") if rule["kind"] == "HTTPRouteGroup" else None
    return snapshot.authorize(Identity("n", "b"), snapshot.workload("n/x"), 9999, request).allowed, built.problems


HTTP, TCP = {"kind": "HTTPRouteGroup"}, {"kind": "TCPRoute"}


@pytest.mark.parametrize(
    ("match", "ports", "rule", "place"),
    [
        ({}, {"ports": []}, TCP, "spec.matches.ports"),
        ({"pathRegex": "/a", "methods": []}, {}, HTTP, "spec.matches[0].methods"),
        ({"headers": []}, {}, HTTP, "spec.matches[0].headers"),
        ({"headers": {}}, {}, HTTP, "spec.matches[0].headers"),
        ({"headers": {"x": None}}, {}, HTTP, "spec.matches[0].headers"),
        ({}, {}, HTTP | {"matches": []}, "spec.rules[0].matches"),
    ],
)
def test_an_empty_list_opens_nothing(match, ports, rule, place):
    allowed, problems = made(match, ports, rule)
    assert not allowed
    assert any(p.severity == "error" and place in p.message for p in problems), problems


@pytest.mark.parametrize("rule", [HTTP, TCP])
def test_one_that_is_left_out_means_everything(rule):
    allowed, problems = made({}, {}, rule)
    assert allowed
    assert not problems
