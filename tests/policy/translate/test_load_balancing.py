"""translate/load_balancing.py: LoadBalancing, field by field, good and bad."""

import pytest
import yaml

from policy.balancing import Balancing
from policy.build import build
from policy.explain import explain
from policy.model import Where
from policy.resources import RawObject

WORLD = """
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: kept, namespace: shop}, spec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: away}, spec: {ports: [{port: 80}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: web, namespace: shop}, spec: {serviceAccount: web, labels: {app: web}, addresses: [10.0.0.2], ports: [{port: 8080}]}}
"""
TITLE = "LoadBalancing shop/u"


def made(*specs, created=("2024", "2025"), last=None):
    objects = list(yaml.safe_load_all(WORLD))
    for name, at, text in zip("uv", created, specs, strict=False):
        metadata = {"name": name, "namespace": "shop", "creationTimestamp": at}
        spec = yaml.safe_load(f"{{{text}}}")
        objects.append(
            {"apiVersion": "edgemesh.io/v1alpha1", "kind": "LoadBalancing", "metadata": metadata, "spec": spec}
        )
    return build([RawObject(data, Where("b.yaml", n), {}) for n, data in enumerate(objects, 1)], last, node="n1")


def told(built):
    return [(p.severity, p.message) for p in built.problems if p.object.startswith("LoadBalancing")]


def balancing(built, name="web"):
    return built.snapshot.service(f"shop/{name}").balancing


@pytest.mark.parametrize(
    ("said", "algorithm", "more"),
    [
        ("algorithm: LeastRequest", "least-request", {}),
        ("algorithm: RoundRobin", "round-robin", {}),
        ("algorithm: RingHash, hash: {header: X-User}", "ring-hash", {"header": "x-user"}),
        ("algorithm: Maglev, hash: {cookie: Sid}", "maglev", {"cookie": "Sid"}),
        ("algorithm: Maglev, hash: {sourceAddress: true}", "maglev", {"address": True}),
    ],
)
def test_what_is_said_is_in_force(said, algorithm, more):
    built = made(f"targetRef: {{kind: Service, name: web}}, {said}")
    assert told(built) == []
    assert balancing(built) == Balancing(TITLE, algorithm, **more)
    assert balancing(built, "kept") is None


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("algorithm: RingHash", "RingHash hashes something of each call, and nothing says what"),
        ("algorithm: Maglev, hash: {}", "0 things to hash"),
        ("algorithm: Maglev, hash: {header: x, cookie: y}", "2 things to hash"),
        ("algorithm: Maglev, hash: {header: x, cookie: y, sourceAddress: true}", "3 things to hash"),
        ("algorithm: Maglev, hash: {sourceAddress: false}", "0 things to hash"),
        ("algorithm: RoundRobin, hash: {header: x}", "RoundRobin hashes nothing"),
        ("algorithm: Maglev, hash: {header: 'x user'}", "'x user' is no name of a header"),
        ("algorithm: Maglev, hash: {header: 'ü'}", "'ü' is no name of a header"),
        ("algorithm: Maglev, hash: {cookie: 'a;b'}", "'a;b' is no name of a cookie"),
        ('algorithm: Maglev, hash: {cookie: "a\\n"}', "'a\\n' is no name of a cookie"),
    ],
)
def test_what_cannot_be_meant_is_an_error_and_leaves_the_last_good_meaning(said, fault):
    good = made("targetRef: {name: web}, algorithm: RoundRobin")
    bad = made(f"targetRef: {{name: web}}, {said}", last=good.accepted)
    assert told(bad)[0] == ("error", fault)
    assert balancing(bad) == Balancing(TITLE, "round-robin")
    assert balancing(made(f"targetRef: {{name: web}}, {said}")) is None


@pytest.mark.parametrize(
    "said",
    [
        "algorithm: Random",
        "algorithm: RoundRobin, warmup: 1s",
        "targetRef: {kind: Deployment, name: web}, algorithm: RoundRobin",
        "targetRef: {group: apps, name: web}, algorithm: RoundRobin",
        "targetRef: {name: ''}, algorithm: RoundRobin",
        "targetRef: {name: web}",
    ],
)
def test_what_is_unknown_is_an_error(said):
    built = made(said if "targetRef" in said else f"targetRef: {{name: web}}, {said}")
    assert [severity for severity, _ in told(built)] == ["error"]
    assert balancing(built) is None


def test_a_service_that_is_not_there_or_elsewhere_is_a_warning():
    for name in ("webb", "other"):
        built = made(f"targetRef: {{name: {name}}}, algorithm: RoundRobin")
        assert told(built) == [("warning", f"there is no Service shop/{name}: nothing is balanced by it")]
    assert built.snapshot.service("away/other").balancing is None, "nobody balances another namespace's Service"


@pytest.mark.parametrize(("created", "wins"), [(("2024", "2025"), "u"), (("2025", "2024"), "v"), ((None, None), "u")])
def test_of_two_the_older_one_is_in_force(created, wins):
    first, second = (f"targetRef: {{name: web}}, algorithm: {one}" for one in ("RoundRobin", "LeastRequest"))
    built = made(first, second, created=created)
    assert balancing(built).name == f"LoadBalancing shop/{wins}"
    assert told(built) == [("warning", f"LoadBalancing shop/{wins} balances shop/web too, and is in force")]


def test_it_has_precedence_over_session_affinity_and_says_so():
    built = made("targetRef: {name: kept}, algorithm: RoundRobin")
    assert told(built) == [("warning", "sessionAffinity of Service shop/kept has no effect beside it")]
    service, who = built.snapshot.service("shop/kept"), built.snapshot.workload("shop/web")
    steps = explain(built.snapshot, who, service, 80).steps
    assert f"{TITLE}: each call goes to the next endpoint in turn" in steps
    assert not any("sessionAffinity" in one for one in steps)
