"""translate/retries.py: what a Retry and the `retry` of an HTTPRoute's rule mean, and what is wrong with them."""

import json

import pytest

from agent.sources.manifest import read
from policy.build import build
from policy.explain import explain
from policy.model import CallerRetry, Identity, Request
from policy.route import FAILURES, Retry
from policy.translate.retries import MOST

WORLD = """
{apiVersion: v1, kind: Service, metadata: {name: httpbin, namespace: httpbin}, spec: {selector: {app: httpbin}, ports: [{name: http, port: 14001}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: httpbin, namespace: httpbin}, spec: {serviceAccount: httpbin, labels: {app: httpbin}, addresses: [10.0.0.9], ports: [{port: 14001}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: curl, namespace: curl}, spec: {serviceAccount: curl, addresses: [10.0.0.8]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: other, namespace: curl}, spec: {serviceAccount: other, addresses: [10.0.0.7]}}
"""
CURL = Identity("curl", "curl")
# The manifest of OSM's demo "Retry policy"
POLICY = {"retryOn": "5xx", "perTryTimeout": "1s", "numRetries": 5, "retryBackoffBaseInterval": "1s"}
SOURCE = {"kind": "ServiceAccount", "name": "curl", "namespace": "curl"}
HTTPBIN = {"kind": "Service", "name": "httpbin", "namespace": "httpbin"}
ALL_5XX = tuple(range(500, 600))


ON = {"enableRetryPolicy": True}


def mesh(flags=ON, name="osm-mesh-config", namespace="osm-system"):
    spec = {"traffic": {"enablePermissiveTrafficPolicyMode": True}, **({"featureFlags": flags} if flags else {})}
    metadata = {"name": name, "namespace": namespace}
    return _text(
        {"apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig", "metadata": metadata, "spec": spec}
    )


def retry(policy=POLICY, name="retry", namespace=None, api="policy.openservicemesh.io/v1alpha1", **more):
    spec = {"source": SOURCE, "destinations": [HTTPBIN], "retryPolicy": policy, **more}
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return _text({"apiVersion": api, "kind": "Retry", "metadata": metadata, "spec": spec})


def route(said, *, namespace="httpbin", **more):
    rule = {"retry": said, "backendRefs": [{"name": "httpbin", "namespace": "httpbin", "port": 14001}], **more}
    parent = {"group": "", "kind": "Service", "name": "httpbin", "namespace": "httpbin"}
    spec = {"parentRefs": [parent], "rules": [rule]}
    metadata = {"name": "r", "namespace": namespace}
    api = "gateway.networking.k8s.io/v1"
    return _text({"apiVersion": api, "kind": "HTTPRoute", "metadata": metadata, "spec": spec})


def _text(data):
    return "\n---\n" + json.dumps(data, indent=1)


def made(*texts, previous=None):
    change = read((WORLD + "".join(texts)).encode(), "r.yaml")
    assert not change.problems
    return build(change.objects, previous.accepted if previous else {})


def told(built, *texts, kind="Retry"):
    """Severity and message of each Problem, and the line that it is about."""
    lines = (WORLD + "".join(texts)).splitlines()
    problems = [one for one in built.problems if one.object.startswith(f"{kind} ")]
    return [(one.severity, one.message, lines[one.where.line - 1].strip() if texts else "") for one in problems]


def rules(built):
    return {(one.service, one.caller): one.retry for one in built.snapshot.retries}


# Retry


def test_osms_manifest_means_what_its_page_says():
    built = made(mesh(), retry())
    assert told(built) == []
    rule = Retry(5, ALL_5XX, 1.0, most=10.0, any_method=True, timeout=1.0, name="Retry default/retry")
    assert built.snapshot.retries == (CallerRetry("httpbin/httpbin", CURL, rule),)
    service = built.snapshot.service("httpbin/httpbin")
    assert built.snapshot.retry(service, CURL) == rule
    assert built.snapshot.retry(service, Identity("curl", "other")) is None


def test_fsms_kind_is_the_same():
    assert rules(made(mesh(), retry(api="policy.flomesh.io/v1alpha1"))) == rules(made(mesh(), retry()))


@pytest.mark.parametrize("flags", [None, {}, {"enableRetryPolicy": False}, {"enableRetryPolicy": "true"}, [], "x"])
def test_it_needs_osms_switch(flags):
    built = made(mesh(flags), retry())
    assert built.snapshot.retries == ()
    message = "no request is sent again because of it: MeshConfig featureFlags.enableRetryPolicy is not true"
    assert told(built) == [("warning", message, "")]


def test_without_a_mesh_config_it_is_not_switched_on():
    assert made(retry()).snapshot.retries == ()


def test_the_switch_of_a_mesh_config_that_is_not_in_force_does_not_count():
    assert made(mesh({}), mesh(name="another", namespace="zoo"), retry()).snapshot.retries == ()


def test_the_switch_is_no_longer_told_as_unheeded():
    assert [p for p in made(mesh()).problems if "enableRetryPolicy" in p.message] == []


@pytest.mark.parametrize(
    ("words", "statuses", "failures", "grpc"),
    [
        ("5xx", ALL_5XX, FAILURES, ()),
        ("gateway-error", (502, 503, 504), FAILURES, ()),
        ("reset", (), FAILURES, ()),
        ("reset-before-request", (), ("connect", "refused"), ()),
        ("connect-failure", (), ("connect",), ()),
        ("refused-stream", (), ("refused",), ()),
        ("retriable-4xx", (409,), (), ()),
        ("503", (503,), (), ()),
        ("5xx,retriable-4xx", (409, *ALL_5XX), FAILURES, ()),
        (" 429 , 503,,connect-failure ", (429, 503), ("connect",), ()),
        ("cancelled,deadline-exceeded,internal,resource-exhausted,unavailable", (), (), (1, 4, 8, 13, 14)),
    ],
)
def test_each_word_of_retry_on(words, statuses, failures, grpc):
    built = made(mesh(), retry({"retryOn": words}))
    assert told(built) == []
    (rule,) = rules(built).values()
    assert (rule.statuses, rule.failures, rule.grpc) == (statuses, failures, grpc)


@pytest.mark.parametrize(
    "word", ["retriable-status-codes", "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure"]
)
def test_a_word_that_can_mean_nothing_here_is_told(word):
    texts = mesh(), retry({"retryOn": f"reset,{word}"})
    built = made(*texts)
    ((severity, message, line),) = told(built, *texts)
    assert (severity, line) == ("warning", f'"retryOn": "reset,{word}"')
    assert f"{word} is not heeded" in message
    assert len(rules(built)) == 1


def test_what_is_left_out_is_as_in_envoy():
    (rule,) = rules(made(mesh(), retry({"retryOn": "reset"}))).values()
    assert (rule.attempts, rule.backoff, rule.most, rule.timeout) == (1, 0.025, 0.25, None)
    (rule,) = rules(made(mesh(), retry({"retryOn": "reset", "perTryTimeout": "0s"}))).values()
    assert rule.timeout is None


def test_more_retries_than_are_made_are_told():
    texts = mesh(), retry(POLICY | {"numRetries": 1000})
    built = made(*texts)
    assert [one.attempts for one in rules(built).values()] == [MOST]
    message = f"no request is sent again more than {MOST} times"
    assert told(built, *texts) == [("warning", message, '"numRetries": 1000,')]


@pytest.mark.parametrize(
    ("policy", "more", "line", "message"),
    [
        (POLICY | {"retryOn": "5XX"}, {}, "retryOn", "'5XX' is nothing to retry on"),
        (POLICY | {"retryOn": "600"}, {}, "retryOn", "'600' is nothing to retry on"),
        (POLICY | {"retryOn": " , "}, {}, "retryOn", "retryOn names nothing"),
        (POLICY | {"perTryTimeout": "1"}, {}, "perTryTimeout", "'1' is no time"),
        (
            POLICY | {"retryBackoffBaseInterval": "-1s"},
            {},
            "retryBackoffBaseInterval",
            "'-1s' is no time",
        ),
        (POLICY | {"numRetries": -1}, {}, "numRetries", None),
        (POLICY | {"numRetries": "5"}, {}, "numRetries", None),
        ({"numRetries": 5}, {}, "retryPolicy", None),
        (POLICY | {"retries": 5}, {}, "retries", None),
        (POLICY, {"destinations": []}, "destinations", "no destinations"),
        (POLICY, {"source": SOURCE | {"kind": "Pod"}}, "kind", "source kind 'Pod' is not known"),
        (
            POLICY,
            {"destinations": [HTTPBIN, HTTPBIN | {"kind": "Pod"}]},
            "kind",
            "destination kind 'Pod' is not known",
        ),
    ],
)
def test_a_bad_field_is_told_with_its_line_and_the_last_good_meaning_stays(policy, more, line, message):
    good = made(mesh(), retry())
    texts = mesh(), retry(policy, **more)
    built = made(*texts, previous=good)
    ((severity, said, where),) = told(built, *texts)
    assert severity == "error"
    assert f'"{line}"' in where
    assert message is None or said == message
    assert built.snapshot.retries == good.snapshot.retries
    assert made(*texts).snapshot.retries == ()


def test_a_destination_that_is_not_there_is_told_and_counts_when_it_comes():
    texts = mesh(), retry(destinations=[HTTPBIN | {"name": "httpbim"}])
    built = made(*texts)
    assert told(built, *texts) == [("warning", "there is no Service httpbin/httpbim", '"name": "httpbim",')]
    assert list(rules(built)) == [("httpbin/httpbim", CURL)]


def test_names_without_a_namespace_are_of_its_own():
    source, destination = ({"kind": one["kind"], "name": one["name"]} for one in (SOURCE, HTTPBIN))
    built = made(mesh(), retry(source=source, destinations=[destination], namespace="curl"))
    assert list(rules(built)) == [("curl/httpbin", CURL)]


def test_of_two_that_of_the_callers_namespace_is_in_force():
    first = retry(POLICY | {"numRetries": 1}, name="a", namespace="aaa")
    own = retry(POLICY | {"numRetries": 2}, name="z", namespace="curl")
    built = made(mesh(), first, own)
    assert [one.attempts for one in rules(built).values()] == [2]
    message = "Retry curl/z is in force for calls of curl/curl to httpbin/httpbin"
    assert told(built) == [("warning", message, "")]


# `retry` of an HTTPRoute


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({}, Retry(1, (), 0.025, 0.0, 0.25)),
        ({"attempts": 3}, Retry(3, (), 0.025, 0.0, 0.25)),
        ({"codes": [503, 500, 503]}, Retry(1, (500, 503), 0.025, 0.0, 0.25)),
        ({"attempts": 2, "backoff": "100ms"}, Retry(2, (), 0.1, 0.1, 1.0)),
        ({"attempts": 4294967295}, Retry(MOST, (), 0.025, 0.0, 0.25)),
        ({"attempts": 0}, None),
    ],
)
def test_what_an_http_route_says(said, rule):
    built = made(route(said))
    assert [one for one in told(built, kind="HTTPRoute") if one[0] != "notice"] == []
    service = built.snapshot.service("httpbin/httpbin")
    (first, *_) = service.routes[0].rules
    assert first.retry == rule
    assert not first.refuses
    assert built.snapshot.is_settled(service, 14001, "curl") == (rule is None)


@pytest.mark.parametrize(
    ("said", "line", "message"),
    [
        ({"codes": [399]}, "399", "399 is no status of a failure"),
        ({"codes": [500, 600]}, "600", "600 is no status of a failure"),
        ({"codes": ["500"]}, "500", None),
        ({"attempts": -1}, "attempts", None),
        ({"backoff": "1.5s"}, "backoff", "'1.5s' is no time"),
        ({"backof": "1s"}, "backof", None),
    ],
)
def test_a_bad_field_of_an_http_route_is_told_with_its_line(said, line, message):
    good = made(route({"attempts": 1}))
    text = route(said)
    built = made(text, previous=good)
    (found,) = (one for one in told(built, text, kind="HTTPRoute") if one[0] == "error")
    assert line in found[2]
    assert message is None or found[1] == message
    assert built.snapshot.service("httpbin/httpbin").routes == good.snapshot.service("httpbin/httpbin").routes


# together, and in words


def steps(built, who="curl/curl"):
    snapshot = built.snapshot
    found = explain(snapshot, snapshot.workload(who), snapshot.service("httpbin/httpbin"), 14001, Request("GET", "/"))
    assert found.allowed
    return [one for one in found.steps if "more attempt" in one]


def test_explain_tells_a_retry_to_its_caller_alone():
    built = made(mesh(), retry())
    assert steps(built) == [
        "Retry default/retry: up to 5 more attempts on 500-599, no connection, a request that the server did not take,"
        " a broken connection, an attempt that takes too long; waits up to 1 s first, 10 s at most; each attempt 1 s"
    ]
    assert steps(built, "curl/other") == []


def test_a_rule_of_an_http_route_goes_by_its_own():
    built = made(mesh(), retry(), route({"codes": [409, 503], "backoff": "100ms"}))
    assert steps(built) == [
        "up to 1 more attempt on 409, 503, no connection, a request that the server did not take, a broken connection,"
        " an attempt that takes too long; waits 0.1 to 0.2 s first, 1 s at most; what may have had an effect only by"
        " idempotent methods"
    ]
    (told_once,) = steps(made(mesh(), retry(), route(None)))
    assert told_once.startswith("Retry default/retry: ")


def test_calls_of_others_to_the_service_are_still_treated_alike():
    built = made(mesh(), retry())
    service = built.snapshot.service("httpbin/httpbin")
    assert not built.snapshot.is_settled(service, 14001, "curl", CURL)
    assert built.snapshot.is_settled(service, 14001, "curl", Identity("curl", "other"))
