"""faults.py: every fault of an object at once, each with its place, and what was probably meant."""

from policy.decode import wrong_with
from policy.faults import MOST
from policy.model import Where
from policy.registry import KINDS
from policy.resources import RawObject


def told(kind, spec, **more):
    of = KINDS[kind]
    data = {
        "apiVersion": f"{of.group}/{of.versions[-1]}",
        "kind": kind,
        "metadata": {"name": "x", "namespace": "n"},
        "spec": spec,
        **more,
    }
    return [
        f"{problem.message} ({problem.hint})".removesuffix(" ()")
        for problem in wrong_with(RawObject(data, Where("x.yaml", 1), {}))
    ]


def test_all_faults_of_an_object_at_once():
    spec = {
        "destination": {"kind": "ServiceAccount", "nam": "a"},
        "rules": [{"kind": "TCPRoute"}, {"kind": 3, "name": ""}],
        "sourcs": [],
    }
    assert told("TrafficTarget", spec, metadata={"name": "x", "namespace": 7, "labels": {"a": True}}, specs={}) == [
        "metadata.namespace: expected text, got 7 (write it in quotes)",
        "metadata.labels.a: expected text, got true (write it in quotes)",
        "unknown field specs (did you mean spec?)",
        "unknown field spec.destination.nam (did you mean name?)",
        "spec.rules[0].name is missing",
        "spec.rules[1].kind: expected text, got 3 (write it in quotes)",
        "spec.rules[1].name is empty",
        "unknown field spec.sourcs (did you mean sources?)",
    ]


def test_words_for_what_is_wrong_with_a_value():
    assert told(
        "Workload",
        {"ports": [{"port": 70000}, {"port": "80"}, {"port": 1, "protocol": "UPD"}], "labels": [], "node": None},
    ) == [
        "spec.ports[0].port: expected a whole number <= 65535, got 70000",
        "spec.ports[1].port: expected a whole number, got '80'",
        "spec.ports[2].protocol: 'UPD' is not known (did you mean UDP?)",
        "spec.labels: expected a mapping, got a list",
        "spec.node: expected text, got nothing",
    ]
    assert told("TCPRoute", {"matches": {"ports": []}}) == [
        "spec.matches.ports is an empty list (name at least one, or leave it out)"
    ]
    assert told("TrafficSplit", []) == ["spec.service is missing", "spec.backends is missing"]
    assert told("TrafficSplit", "all") == ["spec: expected a mapping, got 'all'"]


def test_what_a_kind_of_kubernetes_has_beside_is_left_alone_and_what_we_read_is_not():
    assert told("Service", {"ports": [{"port": "http", "x": 1}, {}], "selector": {"a": 1}, "other": 1}) == [
        "spec.ports[0].port: expected a whole number, got 'http'",
        "spec.ports[1].port is missing",
        "spec.selector.a: expected text, got 1 (write it in quotes)",
    ]


def test_a_field_that_belongs_elsewhere():
    assert told("HTTPRouteGroup", {"matches": []}, matches=[]) == [
        "unknown field matches (write it under spec: spec.matches)"
    ]
    assert told("Workload", {"unit": "x"})[0].startswith(
        "unknown field spec.unit (known here: serviceAccount, labels, "
    )


def test_there_is_an_end():
    many = told("Workload", {f"field-{number}": 1 for number in range(10_000)})
    assert len(many) == MOST + 1
    assert many[-1] == f"spec has more faults than these {MOST}"
    (long,) = told("Workload", {"n" * 100_000: 1})
    assert len(long) < 1000
    assert len(told("Workload", {}, **{f"field-{number}": 1 for number in range(10_000)})) == MOST


def test_whose_it_is_is_said_as_far_as_it_can_be():
    (problem,) = wrong_with(
        RawObject({"kind": "Workload", "metadata": {"name": "till", "namespace": "shop"}}, Where("x.yaml", 3), {})
    )
    assert (problem.object, problem.message) == ("Workload shop/till", "an object without apiVersion")
    (problem,) = wrong_with(RawObject({"metadata": {"name": "till", "namespace": "shop"}}, Where("x.yaml", 3), {}))
    assert (problem.object, problem.message) == ("shop/till", "an object without apiVersion and kind")
