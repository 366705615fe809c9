"""translate/endpoints.py: which endpoints serve a Service, chosen as kube-proxy chooses them."""

import pytest
import yaml

from policy.build import build
from policy.model import Endpoint, Where
from policy.resources import RawObject

NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {openservicemesh.io/monitored-by: x}}}"
SERVICE = "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: n}}, spec: {{clusterIP: 10.43.0.1, {0} selector: {{app: a}}, ports: [{{port: 80, targetPort: 8080}}]}}}}"
NODE = "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: east}}}"


def pod(number, node="n1", more="", ready="True"):
    return (
        f"{{apiVersion: v1, kind: Pod, metadata: {{name: p{number}, namespace: n, labels: {{app: a}}{more}}}, spec: {{nodeName: {node}}},"
        f" status: {{podIP: 10.42.0.{number}, conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
    )


def entry(number, conditions="", node="n1", **hints):
    said = f", conditions: {{{conditions}}}" if conditions else ""
    for name, where in hints.items():
        said += f", hints: {{{name}: [{', '.join(f'{{name: {one}}}' for one in where.split())}]}}"
    return f"{{addresses: [10.42.0.{number}], nodeName: {node}{said}}}"


def slice_(*entries, name="s-1", version="v1"):
    return (
        f"{{apiVersion: discovery.k8s.io/{version}, kind: EndpointSlice, metadata: {{name: {name}, namespace: n, labels: {{kubernetes.io/service-name: s}}}},"
        f" addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{', '.join(entries)}]}}"
    )


def built(*texts, service="", node="n1"):
    objects = [yaml.safe_load(text) for text in (NAMESPACE, SERVICE.format(service), *texts)]
    return build([RawObject(data, Where("e.yaml", n), {}) for n, data in enumerate(objects, 1)], node=node)


def port(*texts, service="", node="n1"):
    return built(*texts, service=service, node=node).snapshot.service("n/s").ports[0]


def last(endpoints):
    return None if endpoints is None else [int(endpoint.address.rpartition(".")[2]) for endpoint in endpoints]


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ([entry(1), entry(2, "ready: false")], [1]),
        ([entry(1, "ready: true"), entry(2, "ready: false, serving: true, terminating: true")], [1]),
        ([entry(1, "ready: false"), entry(2, "ready: false, serving: true, terminating: true")], [2]),
        ([entry(1, "ready: false, serving: false, terminating: true")], []),
        ([entry(1, "ready: false, serving: true")], []),
        # a pod that is published although it is not ready, also while it ends
        ([entry(1, "ready: true, serving: false"), entry(2, "ready: true, serving: true, terminating: true")], [1, 2]),
        ([], []),
    ],
)
def test_ready_ones_and_where_there_is_none_those_that_serve_while_they_end(entries, chosen):
    assert last(port(slice_(*entries)).endpoints) == chosen


def test_an_endpoint_that_two_slices_name_is_ready_if_one_says_so():
    """For a moment a controller has moved it to another slice and not taken it from the first."""
    assert last(port(slice_(entry(1, "ready: false")), slice_(entry(1), name="s-2")).endpoints) == [1]


@pytest.mark.parametrize(("said", "chosen"), [("", [1]), ("publishNotReadyAddresses: true,", [1, 2, 3])])
def test_a_selector_selects_ready_pods_unless_the_others_are_published(said, chosen):
    ending = ', deletionTimestamp: "2026-01-01T00:00:00Z"'
    assert last(port(pod(1), pod(2, ready="False"), pod(3, more=ending), service=said).endpoints) == chosen


@pytest.mark.parametrize(
    ("entries", "near"),
    [
        ([entry(1), entry(2, node="n2")], [1]),
        ([entry(2, node="n2")], []),
        ([entry(1, "ready: false"), entry(2, node="n2")], []),
        ([entry(1, "ready: false, serving: true, terminating: true"), entry(2, node="n2")], [1]),
        # hints do not matter then
        ([entry(1, forZones="west"), entry(2, node="n2", forZones="east")], [1]),
    ],
)
def test_internal_traffic_policy_local(entries, near):
    found = port(NODE, slice_(*entries), service="internalTrafficPolicy: Local,")
    assert last(found.near) == near
    assert found.nearness == "internalTrafficPolicy Local of node n1"
    assert port(NODE, slice_(*entries)).nearness in ("", "hints for zone east")


def test_local_endpoints_of_a_selector():
    found = port(pod(1), pod(2, "n2"), service="internalTrafficPolicy: Local,")
    assert (last(found.endpoints), last(found.near)) == ([1, 2], [1])


def test_before_v1_a_slice_said_the_node_in_its_topology():
    old = entry(1).replace("nodeName: n1", "topology: {kubernetes.io/hostname: n1}")
    far = entry(2).replace("nodeName: n1", "topology: {kubernetes.io/hostname: n2}")
    found = port(slice_(old, far, version="v1beta1"), service="internalTrafficPolicy: Local,")
    assert last(found.near) == [1]


@pytest.mark.parametrize(
    ("entries", "near", "why"),
    [
        ([entry(1, forZones="east"), entry(2, forZones="west")], [1], "hints for zone east"),
        ([entry(1, forZones="east west"), entry(2, forZones="west east")], None, ""),
        ([entry(1, forZones="east"), entry(2)], None, ""),  # one without hints: none are followed
        ([entry(1, forZones="west"), entry(2, forZones="west")], None, ""),  # none for this zone
        ([entry(1, forZones="east"), entry(2, "ready: false")], None, ""),
        ([entry(1, "ready: false", forZones="east"), entry(2, forZones="west")], None, ""),
        ([entry(1, forNodes="n1"), entry(2, node="n2", forNodes="n2")], [1], "hints for node n1"),
    ],
)
def test_hints_are_followed_where_all_ready_endpoints_have_them(entries, near, why):
    found = port(NODE, slice_(*entries))
    assert (last(found.near), found.nearness) == (near, why)


def test_without_a_zone_of_its_own_a_node_follows_no_hints():
    entries = [entry(1, forZones="east"), entry(2, forZones="west")]
    assert port(slice_(*entries)).near is None
    old = NODE.replace("topology.kubernetes.io", "failure-domain.beta.kubernetes.io")
    assert last(port(old, slice_(*entries)).near) == [1]


def test_an_address_without_a_pod_is_outside_the_mesh():
    """As the API server's: Service default/kubernetes has its nodes' addresses."""
    snapshot = built(slice_("{addresses: [192.168.7.1]}")).snapshot
    (endpoint,) = snapshot.service("n/s").ports[0].endpoints
    assert endpoint == Endpoint("192.168.7.1", 8080, "", outside=True)


def test_a_pod_that_is_not_known_yet_is_not_outside():
    named = "{addresses: [10.42.9.9], targetRef: {kind: Pod, namespace: n, name: new}}"
    assert port(slice_(named)).endpoints == (Endpoint("10.42.9.9", 8080, ""),)


def test_named_ports_are_those_of_each_pod():
    """A rolling update that moves the port: each pod is called where it listens."""
    pods = [
        pod(n).replace(
            "nodeName: n1", f"nodeName: n1, containers: [{{ports: [{{name: web, containerPort: {where}}}]}}]"
        )
        for n, where in ((1, 8080), (2, 9090))
    ]
    service = SERVICE.format("").replace("targetPort: 8080", "targetPort: web")
    objects = [yaml.safe_load(text) for text in (NAMESPACE, service, *pods)]
    snapshot = build([RawObject(data, Where("e.yaml", n), {}) for n, data in enumerate(objects, 1)], node="n1").snapshot
    assert [str(e) for e in snapshot.service("n/s").ports[0].endpoints] == ["10.42.0.1:8080", "10.42.0.2:9090"]


def test_a_pod_behind_several_services_and_ports():
    other = SERVICE.format("").replace("name: s", "name: t").replace("10.43.0.1", "10.43.0.2")
    two = other.replace(
        "{port: 80, targetPort: 8080}", "{name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: 8081}"
    )
    snapshot = built(pod(1), two).snapshot
    assert [str(e) for p in snapshot.service("n/t").ports for e in p.endpoints] == ["10.42.0.1:8080", "10.42.0.1:8081"]
    assert [str(e) for e in snapshot.service("n/s").ports[0].endpoints] == ["10.42.0.1:8080"]
    assert snapshot.destination("10.43.0.2", 81).port.port == 81
