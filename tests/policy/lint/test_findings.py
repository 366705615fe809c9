"""lint/findings.py beyond the folder of mistakes: what is no mistake is not told as one, and many of them are looked at in time."""

import yaml

from policy.build import build
from policy.lint.findings import lint
from policy.model import Where
from policy.resources import RawObject


def found(text):
    built = build([RawObject(data, Where("x.yaml", n), {}) for n, data in enumerate(yaml.safe_load_all(text), 1)])
    return [f"{problem.object}: {problem.message}" for problem in lint(built)]


SERVICE = """
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: n}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: main}]}}
---
"""
TARGET = """
{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {name: r, namespace: n}, spec: {}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: t, namespace: n}, spec: {destination: {kind: ServiceAccount, name: web}, sources: [{kind: ServiceAccount, name: web}], rules: [{kind: TCPRoute, name: r}]}}
---
"""
TEMPLATE = "{metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{ports: [{name: main, containerPort: 8080}]}]}}"


def test_of_thousands_of_mistakes_not_all_are_guessed_at(monkeypatch):
    lines = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"s{n}", "namespace": "n"},
            "spec": {"selector": {"app": f"a{n}"}, "ports": [{"port": 80}]},
        }
        for n in range(2000)
    ]
    for n in range(2000):
        spec = {
            "serviceAccount": f"w{n}",
            "labels": {"app": f"b{n}"},
            "addresses": [f"10.1.{n // 250}.{n % 250}"],
            "netns": f"w{n}",
        }
        lines.append(
            {
                "apiVersion": "edgemesh.io/v1alpha1",
                "kind": "Workload",
                "metadata": {"name": f"w{n}", "namespace": "n"},
                "spec": spec,
            }
        )
    built = build([RawObject(data, Where("x.yaml", n), {}) for n, data in enumerate(lines, 1)])
    guesses = []
    monkeypatch.setattr("policy.draft.did_you_mean", lambda word, known: guesses.append(len(list(known))) or "")
    assert len(lint(built)) == 2000
    assert (len(guesses), max(guesses)) == (100, 500)
