"""OSM's bookstore as a cluster has it: manifests that know nothing of edgemesh mean here what they mean there.

OSM's end-to-end tests, by their names, and which test of ours has what policy decides of each.
"""

from pathlib import Path

import pytest
import yaml

from policy.build import build
from policy.explain import explain
from policy.lint.findings import lint
from policy.model import Request, Where
from policy.resources import RawObject

FOLDER = Path(__file__).parent
BOOKSTORE = list(yaml.safe_load_all((FOLDER / "osm_bookstore.yaml").read_text("utf-8")))
# namespace, app, version, service account, node, address, port
PODS = (
    ("bookbuyer", "bookbuyer", "v1", "bookbuyer", "n1", "10.42.0.11", 14001),
    ("bookthief", "bookthief", "v1", "bookthief", "n1", "10.42.0.12", 14001),
    ("bookstore", "bookstore", "v1", "bookstore", "n1", "10.42.0.13", 14001),
    ("bookstore", "bookstore", "v2", "bookstore", "n2", "10.42.1.14", 14001),
    ("bookwarehouse", "bookwarehouse", "v1", "bookwarehouse", "n2", "10.42.1.15", 14001),
    ("bookwarehouse", "mysql", "v1", "mysql", "n2", "10.42.1.16", 3306),
)
ASK = {"user-agent": "Go-http-client/1.1", "client-app": "bookbuyer"}


def key(pod):
    return f"{pod[0]}/{pod[1]}-{pod[2]}"


def cluster(node, leave_out=()):
    """What an agent of that node reads: its own Pods, a MeshNode of each node, the slices of every Service."""
    for namespace, app, version, account, where, address, port in PODS:
        if where == node and f"{app}-{version}" not in leave_out:
            yield {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": f"{app}-{version}", "namespace": namespace, "labels": {"app": app, "version": version}},
                "spec": {"nodeName": where, "serviceAccountName": account, "containers": [{"ports": [{"containerPort": port, "name": "web"}], "livenessProbe": {"httpGet": {"path": "/liveness", "port": port}}}]},
                "status": {"phase": "Running", "podIP": address},
            }  # fmt: skip
    for where, at in (("n1", "192.168.7.1"), ("n2", "192.168.7.2")):
        there = [
            {"namespace": p[0], "name": f"{p[1]}-{p[2]}", "serviceAccount": p[3], "addresses": [p[5]], "enrolled": True}
            for p in PODS
            if p[4] == where
        ]
        yield {
            "apiVersion": "edgemesh.io/v1alpha1",
            "kind": "MeshNode",
            "metadata": {"name": where},
            "spec": {"addresses": [at], "workloads": there},
        }
    for service in (one for one in BOOKSTORE if one["kind"] == "Service"):
        metadata, spec = service["metadata"], service["spec"]
        chosen = [
            p
            for p in PODS
            if p[0] == metadata["namespace"] and {"app": p[1], "version": p[2]}.items() >= spec["selector"].items()
        ]
        yield {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": f"{metadata['name']}-x", "namespace": metadata["namespace"], "labels": {"kubernetes.io/service-name": metadata["name"]}},
            "ports": [{"name": p["name"], "port": p["port"], "protocol": "TCP"} for p in spec["ports"]],
            "endpoints": [{"addresses": [p[5]], "nodeName": p[4], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "namespace": p[0], "name": f"{p[1]}-{p[2]}"}} for p in chosen],
        }  # fmt: skip


def built(node="n1", more=(), without=()):
    objects = [one for one in BOOKSTORE if one["kind"] not in without]
    return build(
        [RawObject(data, Where("kubernetes:", n), {}) for n, data in enumerate([*objects, *cluster(node), *more], 1)],
        node=node,
    )


def asked(snapshot, who, service, method="GET", path="/books-bought", port=14001, headers=ASK):
    request = (
        Request(method, path, [(name.encode(), value.encode()) for name, value in headers.items()]) if method else None
    )
    return explain(snapshot, snapshot.workload(who), snapshot.service(service), port, request)


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_nothing_is_wrong_with_it(node):
    found = built(node)
    assert [p for p in (*found.problems, *lint(found)) if p.severity != "notice"] == []
    assert {w.key for w in found.snapshot.workloads if w.enrolled} == set(map(key, PODS))
    assert {w.key: w.node for w in found.snapshot.workloads} == {key(p): p[4] for p in PODS}


CALLS = [
    ("bookbuyer/bookbuyer-v1", "bookstore/bookstore", "GET", "/books-bought", True),
    ("bookbuyer/bookbuyer-v1", "bookstore/bookstore", "GET", "/buy-a-book/new", True),
    ("bookbuyer/bookbuyer-v1", "bookstore/bookstore", "POST", "/books-bought", False),
    ("bookbuyer/bookbuyer-v1", "bookstore/bookstore", "GET", "/", False),
    ("bookthief/bookthief-v1", "bookstore/bookstore", "GET", "/books-bought", False),
    ("bookthief/bookthief-v1", "bookstore/bookstore-v1", "GET", "/buy-a-book/new", False),
    ("bookthief/bookthief-v1", "bookwarehouse/bookwarehouse", "POST", "/", False),
    ("bookstore/bookstore-v1", "bookwarehouse/bookwarehouse", "POST", "/restock-books", True),
    ("bookstore/bookstore-v1", "bookwarehouse/bookwarehouse", "GET", "/restock-books", False),
    ("bookbuyer/bookbuyer-v1", "bookwarehouse/bookwarehouse", "POST", "/restock-books", False),
]


@pytest.mark.parametrize("node", ["n1", "n2"])
@pytest.mark.parametrize(("who", "service", "method", "path", "allowed"), CALLS)
def test_who_may_call_whom_is_the_same_on_each_node(node, who, service, method, path, allowed):
    found = asked(built(node).snapshot, who, service, method, path)
    assert [one.allowed for one in found.choices or (found,)] == [allowed] * len(found.choices or (found,))


def test_a_server_that_speaks_first_on_a_headless_service():
    snapshot = built().snapshot
    mysql = snapshot.service("bookwarehouse/mysql")
    assert snapshot.addresses_of(mysql) == ("10.42.1.16",)
    assert snapshot.destination("10.42.1.16", 3306).protocol == "tcp-server-first"
    assert asked(snapshot, "bookwarehouse/bookwarehouse-v1", "bookwarehouse/mysql", None, port=3306).allowed
    assert not asked(snapshot, "bookbuyer/bookbuyer-v1", "bookwarehouse/mysql", None, port=3306).allowed


def test_the_split_and_where_its_halves_are():
    found = asked(built().snapshot, "bookbuyer/bookbuyer-v1", "bookstore/bookstore")
    assert (
        "TrafficSplit bookstore/bookstore-split splits bookstore/bookstore: bookstore/bookstore-v1 50, bookstore/bookstore-v2 50"
        in found.steps
    )
    assert {(one.node, one.way) for one in found.choices} == {("n1", "direct"), ("n2", "tunnel")}


def test_without_the_split_all_versions_serve():
    (port,) = built(without=("TrafficSplit",)).snapshot.service("bookstore/bookstore").ports
    assert len(port.endpoints) == 2


def mesh(**traffic):
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config", "namespace": "osm-system"},
        "spec": {"traffic": traffic},
    }


def test_permissive_mode_switched_on_and_off():
    on = built(without=("MeshConfig",), more=[mesh(enablePermissiveTrafficPolicyMode=True)]).snapshot
    assert all(one.allowed for one in asked(on, "bookthief/bookthief-v1", "bookstore/bookstore").choices)
    off = built(without=("MeshConfig",), more=[mesh(enablePermissiveTrafficPolicyMode=False)]).snapshot
    assert not asked(off, "bookthief/bookthief-v1", "bookstore/bookstore").allowed


def test_egress_is_the_mesh_configs_word():
    for said in (True, False):
        snapshot = built(without=("MeshConfig",), more=[mesh(enableEgress=said)]).snapshot
        assert snapshot.destination("93.184.216.34", 443).kind == "external"
        assert snapshot.mesh.egress is said


def test_a_namespace_that_is_ignored_is_not_in_the_mesh():
    label = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "extra",
            "labels": {"openservicemesh.io/monitored-by": "osm", "openservicemesh.io/ignore": "true"},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "namespace": "extra"},
        "spec": {"nodeName": "n1"},
        "status": {"podIP": "10.42.0.99"},
    }
    workload = built(more=[label, pod]).snapshot.workload("extra/x")
    assert (workload.enrolled, workload.left_out) == (False, "Namespace extra has label openservicemesh.io/ignore")


def test_a_traffic_target_whose_routes_are_missing_admits_nothing():
    found = built(without=("HTTPRouteGroup",))
    assert not asked(found.snapshot, "bookbuyer/bookbuyer-v1", "bookstore/bookstore").allowed
    assert "error" in {p.severity for p in found.problems if p.object == "TrafficTarget bookstore/bookstore"}


HERE = "tests/policy/test_osm_bookstore.py"
OSM = {  # name of a test of OSM (tests/e2e/e2e_NAME_test.go) -> where we have what policy decides of it
    "client_server_connectivity": f"{HERE}::test_who_may_call_whom_is_the_same_on_each_node",
    "deployment_client_headless_server": f"{HERE}::test_a_server_that_speaks_first_on_a_headless_service",
    "deployment_client_server": f"{HERE}::test_nothing_is_wrong_with_it",
    "egress": f"{HERE}::test_egress_is_the_mesh_configs_word",
    "garbage_collector": "tests/policy/test_lasting.py::test_a_cluster_tells_of_every_deletion",
    "grpc_insecure_origination": "tests/policy/translate/test_services.py::test_the_protocol_that_a_service_declares",
    "health_probe": "tests/policy/translate/test_containers.py::test_what_the_kubelet_asks",
    "ignore_namespace": f"{HERE}::test_a_namespace_that_is_ignored_is_not_in_the_mesh",
    "ingressbackend": "tests/policy/translate/test_ingress.py::test_the_pods_of_an_ingress_controller_may_call_in_plain_text_in_strict_mode",
    "ip_exclusion": "tests/policy/translate/test_osm.py::test_the_meshs_lists_and_the_workloads_are_one",
    "multiple_ports_per_service": "tests/policy/translate/test_endpoints.py::test_a_pod_behind_several_services_and_ports",
    "multiple_services_per_pod": "tests/policy/translate/test_endpoints.py::test_a_pod_behind_several_services_and_ports",
    "permissive": f"{HERE}::test_permissive_mode_switched_on_and_off",
    "permissive_smi_switching": f"{HERE}::test_permissive_mode_switched_on_and_off",
    "port_exclusion": "tests/policy/translate/test_osm.py::test_the_meshs_lists_and_the_workloads_are_one",
    "smi_traffic_target": f"{HERE}::test_who_may_call_whom_is_the_same_on_each_node",
    "statefulsets": "tests/policy/translate/test_endpoints.py::test_a_selector_selects_ready_pods_unless_the_others_are_published",
    "tcp_client_server": f"{HERE}::test_a_server_that_speaks_first_on_a_headless_service",
    "tcp_server_first": f"{HERE}::test_a_server_that_speaks_first_on_a_headless_service",
    "trafficsplit": f"{HERE}::test_the_split_and_where_its_halves_are",
    "trafficsplit_same_sa": f"{HERE}::test_the_split_and_where_its_halves_are",
    "validate_smi_traffic_target": f"{HERE}::test_a_traffic_target_whose_routes_are_missing_admits_nothing",
}


@pytest.mark.parametrize("name", OSM)
def test_what_the_table_names_is_there(name):
    file, _, function = OSM[name].partition("::")
    assert f"def {function}(" in (FOLDER.parents[1] / file).read_text("utf-8")
