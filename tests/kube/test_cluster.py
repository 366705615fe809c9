"""The cluster itself: what the other tests stand on. Without edgemesh, pods of both nodes, their Services and the outside reach each other."""

from __future__ import annotations

import json
import time

import pytest

from tests.kube import clusters
from tests.kube.clusters import pod, service, until


@pytest.fixture
def web(cluster, namespaces):
    """A server on each node behind a Service with a node port, and a client on the first node."""
    name = namespaces("cluster-web")
    servers = [pod(f"web-{node}", name, ["probe", "serve"], node, labels={"app": "web"}) for node in cluster.nodes]
    for server in servers:
        server["spec"]["containers"][0] |= {
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
        }
    door = service("web", name, {"http": 8080}, type="NodePort")
    cluster.apply(*servers, door, pod("client", name, node=cluster.nodes[0]))
    cluster.kubectl("-n", name, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
    until("kube-proxy knows the Service", lambda: cluster.exec(name, "client", "probe", "get", "http://web:8080/", "9"))
    return name


def test_pods_reach_pods_of_all_nodes_by_address_name_and_service(cluster, web):
    for server in cluster.list("pods", web, "app=web"):
        answer = cluster.exec(web, "client", "probe", "get", f"http://{server['status']['podIP']}:8080/here")
        assert answer.startswith(f"200 hello from {server['metadata']['name']} ")
    for name in ("web", f"web.{web}.svc.cluster.local"):
        heard = cluster.exec(web, "client", "probe", "get", f"http://{name}:8080/", "20")
        assert {line.split()[3] for line in heard.splitlines()} == {f"web-{node}" for node in cluster.nodes}


def test_the_outside_reaches_a_node_port_of_each_node(own, web):
    port = own.get("service", "web", web)["spec"]["ports"][0]["nodePort"]
    for node in own.nodes:
        call = [str(clusters.PROGRAMS / "probe"), "get", f"http://{own.address(node)}:{port}/"]
        until(f"kube-proxy of {node} knows the port", lambda call=call: own.outside(*call).returncode == 0)


def test_load_says_what_became_of_each_call(cluster, web):
    said = json.loads(cluster.exec(web, "client", "probe", "load", "http://web:8080/", "1", "10ms"))
    assert said["calls"] == said["answers"]["200"] > 5
    assert [one["answer"] for one in said["changes"]] == ["200"]


def test_the_api_server_comes_again_after_a_kill(own):
    own.restart(own.nodes[0], "apiserver")
    assert not own.api_answers()
    began = time.monotonic()
    until("the API server answers", own.api_answers)
    assert time.monotonic() - began < 60


def test_a_rebooted_node_is_ready_again_and_keeps_what_is_on_its_disk(own, namespaces):
    """The last node, which is no server. Its pods run again, and what is mounted from hostPath is as it was."""
    node, name = own.nodes[-1], namespaces("cluster-reboot")
    own.inside(node, "touch", "/var/lib/edgemesh/kept", "/run/lost")
    own.apply(pod("again", name, node=node))
    own.kubectl("-n", name, "wait", "--for=condition=Ready", "pod/again", "--timeout=120s")
    own.reboot(node)
    assert own.inside_tried(node, "ls", "/run/lost").returncode != 0
    assert own.inside_tried(node, "ls", "/var/lib/edgemesh/kept").returncode == 0

    def runs_again():
        status = own.get("pod", "again", name)["status"]
        return status["containerStatuses"][0]["restartCount"] == 1 and status["containerStatuses"][0]["ready"]

    until("the pod runs again", runs_again, 120)
    own.inside(node, "rm", "/var/lib/edgemesh/kept")


@pytest.mark.parametrize("missing", ["kubernetes", "coredns"])
def test_what_is_not_built_is_named(missing, tmp_path, monkeypatch):
    for name in clusters.NEEDED:
        if name != missing:
            (tmp_path / name).touch()
    monkeypatch.setattr(clusters, "PROGRAMS", tmp_path)
    assert clusters.lacking() == f"not in {tmp_path}: {missing}; make kube-programs builds them"
