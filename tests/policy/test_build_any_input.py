"""build.py, whatever the objects are: it never raises, it never hangs on their order, and every Problem says where."""

import copy
import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.sources.manifest import read
from policy.build import build
from policy.model import Where
from policy.resources import KINDS, RawObject
from policy.snapshot import Snapshot

WORLD = b"""
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: m}, annotations: {openservicemesh.io/sidecar-injection: enabled, edgemesh.io/mtls: permissive}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: main, appProtocol: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web-2, namespace: shop}, spec: {clusterIP: 10.9.0.1, clusterIPs: [10.9.0.1, "fd00::1"], ports: [{port: 80}, {port: 53, protocol: UDP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: shop, labels: {kubernetes.io/service-name: web-2}}, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop, labels: {app: web}, annotations: {openservicemesh.io/outbound-port-exclusion-list: "25"}}
spec: {serviceAccountName: web, nodeName: n, containers: [{ports: [{name: main, containerPort: 8080}], livenessProbe: {httpGet: {path: /live, port: main}}, readinessProbe: {tcpSocket: {port: 8080}}}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: shop}, spec: {template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{ports: [{name: main, containerPort: 9000}]}]}}}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: shop}, spec: {template: d, labels: {v: "1"}, addresses: [10.0.0.2], netns: w, ports: [{name: main, port: 8080, protocol: TCP}], tunnelPort: 15009}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: r, namespace: shop}, spec: {matches: [{name: a, pathRegex: /a, methods: [GET], headers: [{x: y}]}]}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {name: t, namespace: shop}, spec: {matches: {ports: [80]}}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: UDPRoute, metadata: {name: u, namespace: shop}, spec: {matches: {ports: [53]}}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: t, namespace: shop}, spec: {destination: {kind: ServiceAccount, name: web}, rules: [{kind: HTTPRouteGroup, name: r, matches: [a]}, {kind: TCPRoute, name: t}, {kind: UDPRoute, name: u}], sources: [{kind: ServiceAccount, name: b, namespace: x}]}}
---
{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: s, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {service: web, matches: [{kind: HTTPRouteGroup, name: r}], backends: [{service: web-2, weight: 1}]}}
---
{apiVersion: config.openservicemesh.io/v1alpha2, kind: MeshConfig, metadata: {name: c, namespace: o}, spec: {traffic: {enableEgress: true, outboundIPRangeExclusionList: [10.0.0.0/8], outboundPortExclusionList: [25]}}}
---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: AccessControl, metadata: {name: a, namespace: shop}, spec: {backends: [{name: web, port: {number: 8080, protocol: http}}], sources: [{kind: IPRange, name: 10.0.0.0/24}, {kind: Service, namespace: shop, name: web-2}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Revocation, metadata: {name: stolen}, spec: {nodes: [till-3, till-4], identities: [{namespace: shop, serviceAccount: thief}], serials: ["0A:1B"]}}
"""
OBJECTS = read(WORLD, "w.yaml").objects
GOOD = build(OBJECTS)

TEXT = st.text("a1.*/:-{[ \x00é", max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(["", "*", "(", "::1", "10.0.0.1", "shop", "web", "web.other", "80", "None", "2024", "ServiceAccount", "\x00"])


def parts(value, path=()):
    """The path of every value inside."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from parts(inner, (*path, key))


PLACES = [(number, path) for number, raw in enumerate(OBJECTS) for path in parts(raw.data) if path]


def replaced(number, path, value):
    data = copy.deepcopy(OBJECTS[number].data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return RawObject(data, Where("changed.yaml", 5), {})


def revoked(built):
    found = built.snapshot.revoked
    return {*found.nodes, *found.identities, *found.serials}


def answer(built):
    return built.snapshot, built.problems, built.accepted


def test_the_world_has_no_problem():
    assert [p for p in GOOD.problems if p.severity != "notice"] == []
    assert {raw.data["kind"] for raw in OBJECTS} == set(KINDS) - {"ServiceAccount"}
    assert len(revoked(GOOD)) == 4
    assert [(g.destination, g.ports, g.networks) for g in GOOD.snapshot.plain] == [
        ("shop/p", (8080,), ("10.0.0.0/24", "10.0.0.1/32")),
        ("shop/w", (8080,), ("10.0.0.0/24", "10.0.0.1/32")),
    ]


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_the_world_from_its_bytes_is_the_same(codec):
    data = codec.encode(GOOD.snapshot)
    copy = codec.decode(data, type=Snapshot)
    assert (copy, codec.encode(copy)) == (GOOD.snapshot, data)


@given(st.permutations(range(len(OBJECTS))))
def test_the_order_of_objects_changes_nothing(order):
    assert answer(build([OBJECTS[i] for i in order])) == answer(GOOD)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(TEXT | st.sampled_from(["kind", "apiVersion", "metadata", "spec", "items"]), JSON), max_size=4))
def test_any_data_makes_problems_and_nothing_else(objects):
    raws = [RawObject(data, Where("any.yaml", 1), {}) for data in objects]
    built = build([*OBJECTS, *raws])
    assert built.snapshot.grants == GOOD.snapshot.grants


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), st.just(...) | WORDS | JSON)
def test_any_change_to_a_good_object_makes_problems_at_most(place, value):
    number, path = place
    good = GOOD
    changed = replaced(number, path, value)
    raws = [changed if i == number else raw for i, raw in enumerate(OBJECTS)]
    built = build(raws, good.accepted, good.snapshot.addresses)
    assert all(p.where.file in ("w.yaml", "changed.yaml") and p.where.line for p in built.problems)
    assert len(built.snapshot.grants) <= len(good.snapshot.grants), "nothing is granted by accident"
    assert sum(len(g.ports) for g in built.snapshot.plain) <= sum(len(g.ports) for g in good.snapshot.plain)
    if any(p.severity == "error" for p in built.problems):
        assert revoked(good) <= revoked(built), "what cannot be read lifts no revocation"
    # The same objects again, now with what was accepted as the previous ones: nothing drifts.
    again = build(raws, built.accepted, built.snapshot.addresses)
    assert (again.snapshot, again.accepted) == (built.snapshot, built.accepted)


@given(st.randoms(use_true_random=False))
def test_the_order_of_broken_objects_changes_nothing(chance):
    broken = [replaced(number, path, chance.choice(["", "(", 3, None, []])) for number, path in chance.sample(PLACES, 5)]
    raws = [*OBJECTS, *(RawObject(raw.data, Where("b.yaml", line), {}) for line, raw in enumerate(broken, 1))]
    first = answer(build(raws))
    random.Random(chance.random()).shuffle(raws)
    assert answer(build(raws)) == first


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("kind: TrafficTarget\nmetadata: {name: t}\n", 1, "without apiVersion"),
        ("apiVersion: access.smi-spec.io/v1alpha1\nkind: TrafficTarget\nmetadata: {name: t}\n", 1, "version v1alpha1"),
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\nspec:\n  ports:\n    - port: 80\n    - port: many\n",
            8,
            "spec.ports[1].port",
        ),
        (
            "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\nmetadata: {name: r}\nspec:\n  matches:\n    - name: a\n      pathRegex: '('\n",
            7,
            "pathRegex",
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: specs.smi-spec.io/v1alpha4\n  kind: TCPRoute\n  metadata: {name: r}\n  spec:\n    matches:\n      portz: [1]\n",
            9,
            "unknown field spec.matches.portz",
        ),
    ],
)
def test_a_problem_has_the_line_of_what_is_wrong(text, line, says):
    (problem,) = build(read(text.encode(), "f.yaml").objects).problems
    assert (str(problem.where), problem.severity) == (f"f.yaml:{line}", "error")
    assert says in problem.message
