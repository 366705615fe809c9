"""translate/dry_run.py: a trial admits nothing, whatever it is written like, and a removal admits what it did."""

import pytest

from policy.build import build
from policy.explain import explain
from policy.model import Request, Where
from policy.resources import RawObject

MARK = "edgemesh.io/dry-run"
WEB, TILL = (
    {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"serviceAccount": name, "addresses": [address]},
    }
    for name, address in (("web", "10.0.0.1"), ("till", "10.0.0.2"))
)
GROUP = {
    "apiVersion": "specs.smi-spec.io/v1alpha4",
    "kind": "HTTPRouteGroup",
    "metadata": {"name": "r", "namespace": "shop"},
    "spec": {
        "matches": [
            {"name": "a", "pathRegex": "/a$", "methods": ["GET"]},
            {"name": "b", "pathRegex": "/b$", "headers": [{"x-b": "1"}]},
        ]
    },
}
TCP = {
    "apiVersion": "specs.smi-spec.io/v1alpha4",
    "kind": "TCPRoute",
    "metadata": {"name": "p", "namespace": "shop"},
    "spec": {"matches": {"ports": [9000]}},
}


def target(name="t", matches=("a",), kind="HTTPRouteGroup", labels=None, **annotations):
    rule = {"kind": kind, "name": "p"} if kind == "TCPRoute" else {"kind": kind, "name": "r", "matches": list(matches)}
    return {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations, "labels": labels or {}},
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": "web"},
            "rules": [rule],
            "sources": [{"kind": "ServiceAccount", "name": "till"}],
        },
    }


def trial(value="true", **more):
    return target(**more, **{MARK: value})


def made(*objects, previous=None, world=(WEB, TILL, GROUP, TCP)):
    raws = [RawObject(data, Where("x.yaml", number), {}) for number, data in enumerate((*world, *objects), 1)]
    return build(raws, previous)


def asked(built, path="/a", method="GET", port=80, **fields):
    snapshot = built.snapshot
    request = None
    if path is not None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        request = Request(method, path, named)
    web, till = snapshot.workload("shop/web"), snapshot.workload("shop/till")
    verdict = snapshot.authorize(till.identity, web, port, request)
    told = explain(snapshot, till, web, port, request)
    assert (told.allowed, told.rule, told.reason) == (verdict.allowed, verdict.rule, verdict.reason)
    return verdict, told.dry_run


def errors(built):
    return [problem for problem in built.problems if problem.severity == "error"]


def test_a_trial_admits_nothing_and_says_what_it_would_admit():
    built = made(trial())
    assert not errors(built)
    assert built.snapshot.grants == ()
    verdict, words = asked(built)
    assert (verdict.allowed, verdict.reason, verdict.trial) == (False, "no-rule", "TrafficTarget shop/t")
    assert words == "would be allowed by TrafficTarget shop/t (dry-run)"
    verdict, words = asked(built, "/other")
    assert (verdict.allowed, verdict.trial, words) == (False, "", "")
    assert asked(built, None)[0].trial == ""  # an opaque stream, which the target's routes admit none of


def test_what_a_grant_in_force_admits_is_none_of_a_trials():
    built = made(trial(), target("u"), trial(name="v", matches=["b"]))
    verdict, words = asked(built)
    assert (verdict.allowed, verdict.rule, verdict.trial, words) == (True, "TrafficTarget shop/u", "", "")
    verdict, _ = asked(built, "/b", x_b="1")
    assert (verdict.allowed, verdict.reason, verdict.trial) == (False, "no-http-match", "TrafficTarget shop/v")
    assert asked(built, "/b", x_b="2")[0].trial == ""


def test_a_removal_admits_and_names_the_calls_that_it_alone_admits():
    built = made(trial("removal"), target("u", ["b"]))
    assert not errors(built)
    verdict, words = asked(built)
    assert (verdict.allowed, verdict.rule, verdict.trial) == (True, *["TrafficTarget shop/t"] * 2)
    assert words == "would be denied without TrafficTarget shop/t (dry-run)"
    verdict, words = asked(built, "/b", x_b="1")
    assert (verdict.allowed, verdict.rule, verdict.trial, words) == (True, "TrafficTarget shop/u", "", "")
    assert not asked(built, "/c")[0].allowed
    both = made(trial("removal"), target("u", ["a", "b"]))
    assert asked(both)[0].rule == "TrafficTarget shop/u"  # whichever comes first by name, one that stays is named
    assert asked(both)[0].trial == ""


def test_streams_are_tried_too():
    built = made(trial(kind="TCPRoute"))
    verdict, words = asked(built, None, port=9000)
    assert (verdict.allowed, verdict.trial) == (False, "TrafficTarget shop/t")
    assert "would be allowed" in words
    assert asked(built, "/any", port=9000)[0].trial == "TrafficTarget shop/t"
    assert asked(built, None, port=9001)[0].trial == ""
    built = made(trial("removal", kind="TCPRoute"), target("u"))
    assert asked(built, None, port=9000)[0].trial == "TrafficTarget shop/t"
    assert asked(built, "/a", port=9000)[0].trial == ""
    assert asked(built, "/z", port=9000)[0].trial == "TrafficTarget shop/t"


def test_the_fast_path_tells_paths_apart_that_only_a_trial_tells_apart():
    snapshot = made(trial(matches=["a"]), trial("removal", name="u", kind="TCPRoute"), target("v", ["b"])).snapshot
    web, till = snapshot.workload("shop/web"), snapshot.workload("shop/till")
    assert set(snapshot.path_patterns(till.identity, web, 80)) == {"/a$", "/b$"}
    assert set(snapshot.path_patterns(till.identity, web, 9000)) == {"/a$", "/b$"}
    snapshot = made(trial(matches=["b"])).snapshot
    assert snapshot.looks(till.identity, web, 80)


@pytest.mark.parametrize("value", ["", "ture", "True", "yes", "false", "remove", " true"])
def test_another_value_is_an_error_and_opens_nothing(value):
    built = made(trial(value))
    (problem,) = errors(built)
    assert problem.object == "TrafficTarget shop/t"
    assert repr(value) in problem.message
    assert not asked(built)[0].allowed


@pytest.mark.parametrize(
    "name",
    [
        "edgemesh.io/dryrun",
        "edgemesh.io/dry_run",
        "edgemesh.io/dry-rum",
        "edgemesh.io/trial",
        "edgemsh.io/dry-run",
        "edgemesh.io.dry-run",
        "dry-run",
        "edgemehs.io/try",
        "openservicemesh.io/dry-run",
        "Edgemesh.io/Dry-Run",
    ],
)
def test_a_name_that_may_mean_it_is_an_error_and_opens_nothing(name):
    built = made(target(**{name: "true"}))
    (problem,) = errors(built)
    assert name in problem.message
    assert "did you mean the annotation edgemesh.io/dry-run?" in problem.hint
    assert not asked(built)[0].allowed


def test_a_label_is_no_annotation():
    built = made(target(labels={MARK: "true"}))
    assert "the label edgemesh.io/dry-run" in errors(built)[0].message
    assert not asked(built)[0].allowed


def test_other_names_are_others_business():
    names = {
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "app.kubernetes.io/managed-by": "Helm",
        "meta.helm.sh/release-name": "x",
        "argocd.argoproj.io/sync-wave": "1",
        "owner": "shop",
        "openservicemesh.io/anything": "x",
    }
    built = made(target(labels=names, **names))
    assert not errors(built)
    assert asked(built)[0].allowed


def test_a_misspelt_edit_leaves_what_was_in_force():
    """Of a trial the trial, of a grant the grant: an edit that cannot be read changes nothing."""
    first = made(trial())
    again = made(trial("ture"), previous=first.accepted)
    assert errors(again)
    assert (asked(again)[0].allowed, asked(again)[0].trial) == (False, "TrafficTarget shop/t")
    granted = made(target())
    again = made(trial("ture"), previous=granted.accepted)
    assert asked(again)[0].allowed
    assert asked(again)[0].trial == ""


def test_a_permissive_mesh_asks_no_target():
    config = {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config", "namespace": "osm-system"},
        "spec": {"traffic": {"enablePermissiveTrafficPolicyMode": True}},
    }
    verdict, words = asked(made(trial(), config))
    assert (verdict.allowed, verdict.trial, words) == (True, "", "")
