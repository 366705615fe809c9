"""translate/plugins.py: each object of fsm's plugins is told once, with what does its job here."""

import pytest

from agent.sources.manifest import read
from policy.build import build


def told(*objects):
    text = "".join(
        f"\n---\n{{apiVersion: plugin.flomesh.io/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}"
        for kind, name, spec in objects
    )
    return build(read(text.encode(), "p.yaml").objects).problems


@pytest.mark.parametrize(
    ("kind", "name", "spec", "hint"),
    [
        ("Plugin", "cors-policy", "{priority: 165, pipyscript: '(config => pipy())'}", "filter CORS of an HTTPRoute"),
        ("Plugin", "faults-injection", "{}", "an HTTPFilter with fault"),
        ("Plugin", "iam", "{}", "an HTTPFilter with extAuth"),
        ("PluginChain", "traffic-mirror-chain", "{chains: [], selectors: {}}", "filter RequestMirror of an HTTPRoute"),
        (
            "PluginConfig",
            "of-the-shop",
            "{plugin: token-verifier, config: {a: 1}}",
            "an HTTPFilter with extAuth or an HTTPFilter with verify",
        ),
        ("PluginConfig", "till", "{plugin: sign-config}", "an HTTPFilter with sign"),
    ],
)
def test_what_does_its_job_is_named(kind, name, spec, hint):
    (problem,) = told((kind, name, spec))
    assert (problem.severity, problem.unmet, problem.hint) == ("warning", True, f"{hint} does its job")
    assert problem.object.startswith(f"{kind} ")


def test_each_object_is_told_once_and_one_of_an_unknown_job_too():
    found = told(("Plugin", "banana", "{}"), ("PluginChain", "banana", "{}"), ("PluginConfig", "banana", "{}"))
    assert [problem.object for problem in found] == [
        "Plugin banana",
        "PluginChain shop/banana",
        "PluginConfig shop/banana",
    ]
    assert {problem.hint for problem in found} == {"a filter of an HTTPRoute or an HTTPFilter may do its job"}
    assert {problem.message for problem in found} == {
        "its script is not run",
        "no plugin runs where it says",
        "no plugin takes these settings",
    }
