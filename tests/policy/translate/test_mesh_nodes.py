"""translate/mesh_nodes.py: workloads of other nodes, and how those are reached, from MeshNodes alone."""

import yaml

from policy.build import build
from policy.explain import explain
from policy.model import Node, Where
from policy.resources import RawObject

WORLD = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: edgemesh}}}
---
{apiVersion: v1, kind: Service, metadata: {name: stock, namespace: shop}, spec: {clusterIP: 10.43.0.9, selector: {app: stock}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: till-0, namespace: shop}, spec: {nodeName: n1, serviceAccountName: till}, status: {podIP: 10.42.0.5}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: stock-x, namespace: shop, labels: {kubernetes.io/service-name: stock}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.42.1.7]}]}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: t, namespace: shop}, spec: {destination: {kind: ServiceAccount, name: stock, namespace: shop}, sources: [{kind: ServiceAccount, name: till, namespace: shop}], rules: [{kind: TCPRoute, name: any}]}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {name: any, namespace: shop}}
"""
STOCK = "{namespace: shop, name: stock-0, serviceAccount: stock, addresses: [10.42.1.7, 'FD42::0007'], enrolled: true}"


def node(name="n2", workloads=STOCK, more="addresses: [192.168.7.2, 'fd07::2']"):
    return f"{{apiVersion: edgemesh.io/v1alpha1, kind: MeshNode, metadata: {{name: {name}}}, spec: {{{more}, workloads: [{workloads}]}}}}"


def made(*texts, at="n1", nodes=()):
    objects = [one for text in texts for one in yaml.safe_load_all(text)]
    return build([RawObject(data, Where("w.yaml", n), {}) for n, data in enumerate(objects, 1)], node=at, nodes=nodes)


def test_a_mesh_node_alone_tells_who_runs_there_and_where_its_tunnels_begin():
    built = made(WORLD, node())
    assert built.problems == ()
    snapshot = built.snapshot
    stock = snapshot.workload("shop/stock-0")
    assert (str(stock.identity), stock.node) == ("shop/stock", "n2")
    assert stock.addresses == ("10.42.1.7", "fd42::7")
    assert snapshot.nodes == (Node("n2", ("192.168.7.2", "fd07::2"), 15008),)
    assert str(snapshot.hop(stock, "10.42.1.7")) == "192.168.7.2:15008"
    assert str(snapshot.hop(stock, "fd42::7")) == "[fd07::2]:15008"
    assert snapshot.hop(stock, "10.42.1.7").spiffe == "spiffe://cluster.local/node/n2"


def test_a_call_to_it_is_explained_to_the_end():
    snapshot = made(WORLD, node()).snapshot
    found = explain(snapshot, snapshot.workload("shop/till-0"), snapshot.service("shop/stock"), 80)
    assert (found.allowed, found.node, found.way) == (True, "n2", "tunnel")


def test_a_pod_that_is_not_enrolled_is_known_and_outside_the_mesh():
    snapshot = made(WORLD, node(workloads=STOCK.replace("true", "false"))).snapshot
    assert snapshot.knows("10.42.1.7")
    assert snapshot.destination("10.42.1.7", 8080).kind == "external"


def test_a_node_looks_at_its_own_pods_instead():
    snapshot = made(WORLD, node(), node("n1", STOCK.replace("stock-0", "ghost").replace("1.7", "0.9"))).snapshot
    assert [workload.key for workload in snapshot.workloads] == ["shop/stock-0", "shop/till-0"]


def test_what_runs_here_cannot_be_elsewhere():
    """A pod of this node has the key of an entry, or an address of one: the entry is older."""
    stale = STOCK.replace("stock-0", "till-0").replace("stock,", "thief,")
    snapshot = made(WORLD, node(workloads=f"{stale}, {STOCK.replace('10.42.1.7', '10.42.0.5')}")).snapshot
    assert str(snapshot.workload("shop/till-0").identity) == "shop/till"
    assert snapshot.workload_at("10.42.0.5").key == "shop/till-0"
    assert snapshot.workload("shop/stock-0").addresses == ("fd42::7",)


def test_the_node_config_of_a_node_has_precedence():
    said = Node("n2", ("192.168.9.9",), 16008, True)
    assert made(WORLD, node(), nodes=(said,)).snapshot.nodes == (said,)
    quiet = Node("n2", (), 16008, True)
    assert made(WORLD, node(), nodes=(quiet,)).snapshot.nodes == (Node("n2", ("192.168.7.2", "fd07::2"), 16008, True),)


def test_what_is_no_address_is_reported_and_the_rest_is_used():
    built = made(WORLD, node(workloads=STOCK.replace("10.42.1.7", "nowhere"), more="addresses: [x, 192.168.7.2]"))
    (problem,) = [p for p in built.problems if p.object == "MeshNode n2"]
    assert "'x' is no IP address" in problem.message
    assert built.snapshot.workload("shop/stock-0").addresses == ("fd42::7",)
    assert built.snapshot.nodes[0].addresses == ("192.168.7.2",)


def test_a_field_of_a_later_version_is_ignored():
    assert made(node(more="zone: a, addresses: [192.168.7.2]")).problems == ()


def test_pods_that_share_their_nodes_address_are_told_apart_by_what_the_slice_names():
    sharing = STOCK.replace("10.42.1.7", "192.168.7.2")
    other = sharing.replace("stock", "other")
    one = WORLD.replace(
        "addresses: [10.42.1.7]", "addresses: [192.168.7.2], targetRef: {kind: Pod, namespace: shop, name: stock-0}"
    )
    snapshot = made(one, node(workloads=f"{other}, {sharing}")).snapshot
    assert [e.workload for e in snapshot.service("shop/stock").ports[0].endpoints] == ["shop/stock-0"]
    assert snapshot.workload_at("192.168.7.2", 8080).key == "shop/stock-0"


def test_a_slice_cannot_give_a_pod_an_address_that_it_has_not():
    one = WORLD.replace(
        "addresses: [10.42.1.7]", "addresses: [10.42.1.7], targetRef: {kind: Pod, namespace: shop, name: till-0}"
    )
    snapshot = made(one, node()).snapshot
    assert [e.workload for e in snapshot.service("shop/stock").ports[0].endpoints] == ["shop/stock-0"]


def test_only_a_port_tells_that_a_call_to_a_node_is_for_a_pod_on_its_network():
    """Whatever else listens on the node (its kubelet, the API server) is not that pod."""
    shared = STOCK.replace(
        "addresses: [10.42.1.7, 'FD42::0007']", "addresses: [192.168.7.2], ports: [8080], hostNetwork: true"
    )
    snapshot = made(WORLD, node(workloads=shared)).snapshot
    assert snapshot.destination("192.168.7.2", 8080).workload.key == "shop/stock-0"
    assert snapshot.destination("192.168.7.2", 10250).kind == "external"
    assert snapshot.workload_at("192.168.7.2") is None
