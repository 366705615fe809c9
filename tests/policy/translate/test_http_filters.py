"""translate/http_filters.py: what an HTTPFilter becomes, what is wrong with one, and a route that names one."""

import json

import pytest

from policy.explain import explain
from policy.route import Degrade, ExternalAuth, Fault, Sign, Signature, User, Verify
from tests.policy.translate.test_gateway import ONE, chosen, get, made, route, rules, told


def http_filter(spec, name="f", namespace="shop"):
    data = {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "HTTPFilter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    return "\n---\n" + json.dumps(data, indent=1)


def named(name="f", group="edgemesh.io", kind="HTTPFilter"):
    return {"type": "ExtensionRef", "extensionRef": {"group": group, "kind": kind, "name": name}}


USES = route({"filters": [named()], "backendRefs": [ONE]})


@pytest.mark.parametrize(
    ("spec", "becomes", "words"),
    [
        (
            {"fault": {"delay": {"duration": "1m"}, "abort": {"status": 503, "percent": 5}}},
            Fault(60.0, 100, 503, 5),
            "fault: 100 % of the calls wait 60 s; 5 % are answered 503",
        ),
        ({"fault": {"abort": {"status": 418}}}, Fault(0.0, 100, 418, 100), "fault: 100 % are answered 418"),
        (
            {"degrade": {"status": 200, "body": "a", "headers": [{"name": "X-A", "value": "1"}]}},
            Degrade(200, "a", (("x-a", "1"),)),
            "answer: 200, without a server",
        ),
        (
            {"sign": {"key": "till", "fields": ["Date", "date"], "body": True, "header": "X-Sig", "maxAge": "1m"}},
            Sign(Signature("shop/till", ("date",), True, "x-sig", 60.0)),
            "request: signed with key shop/till, in x-sig",
        ),
        (
            {"verify": {"key": "till"}},
            Verify(Signature("shop/till")),
            "request: answered 401 without a signature with key shop/till, in x-signature",
        ),
        ({"user": "mine"}, User("mine"), "request: filter mine of the NodeConfig of the caller's node"),
        (
            {"extAuth": {"service": "one", "port": 80}},
            ExternalAuth("shop/one", 80),
            "request: shop/one port 80 is asked, where the caller has to be allowed too; without an answer in 5 s it is"
            " answered 503",
        ),
        (
            {
                "extAuth": {
                    "service": "far",
                    "namespace": "front",
                    "port": 81,
                    "path": "/check",
                    "timeout": "200ms",
                    "onFailure": "failOpen",
                    "headers": {"send": ["Cookie"], "take": ["X-User"]},
                }
            },
            ExternalAuth("front/far", 81, "/check", 0.2, True, ("cookie",), ("x-user",)),
            "request: front/far port 81 is asked, where the caller has to be allowed too; without an answer in 0.2 s it"
            " passes",
        ),
    ],
)
def test_what_it_says_becomes_a_filter_of_the_rule(spec, becomes, words):
    built = made(USES, http_filter(spec))
    assert told(built) == told(built, "error") == []
    assert rules(built)[0].filters == (becomes,)
    who = built.snapshot.workload("shop/one")
    assert words in explain(built.snapshot, who, built.snapshot.service("shop/web"), 80, get("/")).steps
    assert not built.snapshot.is_settled(built.snapshot.service("shop/web"), 80, "shop"), "Python asks it each time"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "it says nothing, and not exactly one thing"),
        ({"degrade": {}, "fault": {}}, "it says fault, degrade, and not exactly one thing"),
        ({"fault": {}}, "a fault without delay and abort"),
        ({"fault": {"delay": {"duration": "soon"}}}, "'soon' is no time"),
        ({"fault": {"delay": {"duration": "0s"}}}, "'0s' is no time"),
        ({"fault": {"delay": {"duration": "61s"}}}, "61s is longer than 60 s"),
        ({"degrade": {"status": 204, "body": "a"}}, "an answer of status 204 has no body"),
        (
            {"degrade": {"headers": [{"name": "Host", "value": "a"}]}},
            "the field 'Host' is not a filter's to set",
        ),
        ({"sign": {"key": "a", "header": "host"}}, "the field 'host' is not a filter's to set"),
        (
            {"sign": {"key": "a", "fields": ["X-Signature"]}},
            "x-signature is to hold the signature, and cannot be signed",
        ),
        ({"verify": {"key": "a", "maxAge": "x"}}, "'x' is no time"),
        ({"extAuth": {"service": "a", "port": 80, "timeout": "2m"}}, "2m is longer than 60 s"),
        ({"extAuth": {"service": "a", "port": 80, "path": "check"}}, "'check' is no path to be sent"),
        (
            {"extAuth": {"service": "a", "port": 80, "headers": {"take": ["x-forwarded-for"]}}},
            "the field 'x-forwarded-for' is not a filter's to set",
        ),
    ],
)
def test_a_mistake_keeps_the_last_good_version_and_without_one_the_rule_answers_500(spec, message):
    good = made(USES, http_filter({"fault": {"abort": {"status": 418}}}))
    built = made(USES, http_filter(spec), previous=good.accepted)
    assert [one for one, _ in told(built, "error")] == [message]
    assert rules(built)[0].filters == (Fault(0.0, 100, 418, 100),)
    assert chosen(made(USES, http_filter(spec)), get("/")) == "bad-route"


@pytest.mark.parametrize("key", ["../other/key", "a/b", "", ".hidden"])
def test_a_key_is_a_name_and_no_path(key):
    assert told(made(USES, http_filter({"sign": {"key": key}})), "error")


@pytest.mark.parametrize(
    ("uses", "more", "why", "unresolved"),
    [
        (named("g"), http_filter({"degrade": {}}), "no HTTPFilter shop/g is in force", "FilterNotFound"),
        (
            named(),
            http_filter({"degrade": {}}, namespace="front"),
            "no HTTPFilter shop/f is in force",
            "FilterNotFound",
        ),
        (named(group="a.b"), "", "HTTPFilter.a.b f is no filter here", "InvalidKind"),
        (named(kind="Banana"), "", "Banana.edgemesh.io f is no filter here", "InvalidKind"),
    ],
)
def test_a_filter_that_is_not_there_refuses_the_calls_of_its_rule(uses, more, why, unresolved):
    good = {"matches": [{"path": {"value": "/good"}}], "backendRefs": [ONE]}
    for said in ({"filters": [uses], "backendRefs": [ONE]}, {"backendRefs": [ONE | {"filters": [uses]}]}):
        built = made(route(said, good), more)
        assert [message for message, _ in told(built)] == [f"rule 1: {why}: its calls are answered 500"]
        assert chosen(built, get("/")) == "bad-route"
        assert chosen(built, get("/good")) == ["shop/one"]
        assert [one.unresolved for one in rules(built) if one.refuses == "bad-route"] == [unresolved]


def test_an_answer_needs_no_backend():
    built = made(route({"filters": [named()]}), http_filter({"degrade": {}}))
    assert told(built) == []
    assert chosen(built, get("/")) == []
