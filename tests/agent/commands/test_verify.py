"""verify connectivity: what a call needs, from the words on the command line to what is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli import main
from tests.agent.kubernetes.fake import Asked
from tests.agent.kubernetes.objects import Cluster

Captured = pytest.CaptureFixture[str]
LINE = ["verify", "connectivity", "--from-pod", "shop/till", "--to-pod", "shop/stock"]


class Daemon:
    """What a node's daemon answers; a test changes it."""

    def __init__(self, node: str, other: str, workload: str) -> None:
        self.status: dict[str, Any] = {
            "workloads": [{"workload": workload, "state": "captured", "place": "/run/netns/cni-1", "detail": ""}],
            "nodes": [{"node": other, "reachable": True, "addresses": ["10.0.0.2"], "flag": "", "error": ""}],
        }
        identity = {"identity": workload, "wanted": True, "expires_in_seconds": 7200.0, "error": "", "hint": ""}
        self.certs: dict[str, Any] = {"certificates": [identity]}
        verdict = {"allowed": True, "port": 8080, "rule": "permissive mode", "requests": []}
        self.explain: dict[str, Any] = {**verdict, "reason": "", "meaning": "", "nearest": "", "missing": ""}
        self.asked: list[Asked] = []

    def __call__(self, asked: Asked, path: str) -> tuple[int, Any]:
        self.asked.append(asked)
        return 200, {"/status": self.status, "/certs": self.certs, "/explain": self.explain}[path]


@pytest.fixture
def site(cluster: Cluster) -> tuple[Cluster, Daemon, Daemon]:
    cluster.namespace("shop", {"edgemesh.io/mesh": "enabled"})
    for key, node in (("shop/till", "n1"), ("shop/stock", "n2")):
        containers = [{"ports": [{"containerPort": 8080}]}]
        cluster.pod(key, node, spec={"containers": containers}, status={"phase": "Running", "podIP": "10.42.0.7"})
    path = "/apis/config.openservicemesh.io/v1alpha2"
    cluster.serves(f"{path}/meshconfigs", "MeshConfig")
    spec = {"traffic": {"enablePermissiveTrafficPolicyMode": True}}
    cluster.add(f"{path}/namespaces/edgemesh-system/meshconfigs/osm-mesh-config", spec=spec)
    first, second = Daemon("n1", "n2", "shop/till"), Daemon("n2", "n1", "shop/stock")
    cluster.daemon("n1", first)
    cluster.daemon("n2", second)
    return cluster, first, second


def checks(capsys: Captured) -> dict[str, str]:
    return {one["what"]: one["result"] for one in json.loads(capsys.readouterr().out)["checks"]}


def bad(capsys: Captured) -> dict[str, tuple[str, str, str]]:
    found = json.loads(capsys.readouterr().out)["checks"]
    return {one["what"]: (one["result"], one["detail"], one["do"]) for one in found if one["result"] != "yes"}


Site = tuple[Cluster, Daemon, Daemon]


def test_all_is_well(site: Site, capsys: Captured) -> None:
    assert main([*LINE, "-o", "json"]) == 0
    assert checks(capsys) == dict.fromkeys(
        (
            "shop/till runs",
            "shop/till is in the mesh",
            "shop/stock runs",
            "shop/stock is in the mesh",
            "shop/till is captured",
            "shop/till has a certificate on node n1",
            "node n1 reaches node n2",
            "shop/stock is captured",
            "shop/stock has a certificate on node n2",
            "node n2 reaches node n1",
            "the cluster's policy admits the call, port 8080",
            "node n1 lets the call pass, port 8080",
            "node n2 lets the call pass, port 8080",
        ),
        "yes",
    )
    assert main(LINE) == 0
    assert capsys.readouterr().out.endswith("shop/till can call shop/stock, as far as edgemesh is concerned\n")


def test_the_question_reaches_the_nodes(site: Site, capsys: Captured) -> None:
    main([*LINE, "--port", "9090", "--path", "/items"])
    asked = [one.query for one in site[1].asked if one.path.endswith("/explain")]
    assert asked == [{"src": "shop/till", "dst": "workload:shop/stock", "path": "/items", "port": "9090"}]


def test_on_one_node_no_certificate_is_needed(site: Site, capsys: Captured) -> None:
    cluster, first, _ = site
    cluster.objects["/api/v1/namespaces/shop/pods/stock"]["spec"]["nodeName"] = "n1"
    first.status["workloads"] += site[2].status["workloads"]
    assert main([*LINE, "-o", "json"]) == 0
    assert not any("certificate" in what or "reaches" in what for what in checks(capsys))


@pytest.mark.parametrize("word", ["edgemesh.io/mesh", "namespace"])
def test_a_pod_outside_the_mesh(site: Site, capsys: Captured, word: str) -> None:
    cluster, _, _ = site
    if word == "namespace":
        cluster.objects["/api/v1/namespaces/shop"]["metadata"]["labels"] = {}
    else:
        cluster.objects["/api/v1/namespaces/shop/pods/till"]["metadata"]["labels"] = {word: "disabled"}
    assert main([*LINE, "-o", "json"]) == 1
    found = bad(capsys)
    result, detail, do = found["shop/till is in the mesh"]
    assert result == "NO"
    assert do.startswith("edgemesh namespace add shop")
    assert "has neither label" in detail or "says edgemesh.io/mesh: disabled" in detail
    assert found["the cluster's policy admits the call"][0] == "NO"


def test_what_is_missing_on_the_nodes(site: Site, capsys: Captured) -> None:
    _, first, second = site
    first.status["workloads"][0].update(state="not captured", detail="no namespace was found")
    first.status["nodes"][0].update(reachable=False, flag="peer-unreachable", error="timed out")
    first.certs["certificates"] = []
    second.status["workloads"] = []
    second.status["nodes"] = []
    second.certs["certificates"][0].update(expires_in_seconds=None, error="refused: no such pod", hint="look there")
    second.explain.update(allowed=False, reason="no-grant", meaning="no rule", nearest="TrafficTarget a/b", missing="x")
    assert main([*LINE, "-o", "json"]) == 1
    assert bad(capsys) == {
        "shop/till is captured": ("NO", "not captured: no namespace was found", "edgemesh status --node n1"),
        "shop/till has a certificate on node n1": ("NO", "the node has not asked for one", "edgemesh certs --node n1"),
        "node n1 reaches node n2": (
            "NO",
            "peer-unreachable: timed out",
            "let it dial 10.0.0.2, TCP port 15008 (NodeConfig ports.tunnel)",
        ),
        "shop/stock is captured": ("NO", "node n2 does not know it", "edgemesh status --node n2"),
        "shop/stock has a certificate on node n2": ("NO", "refused: no such pod", "look there"),
        "node n2 reaches node n1": (
            "NO",
            "it does not know how: there is no MeshNode n1",
            "edgemesh mesh list",
        ),
        "node n2 lets the call pass, port 8080": (
            "NO",
            "no-grant: no rule",
            "nearest is TrafficTarget a/b, which lacks: x",
        ),
    }


def test_a_pod_that_does_not_run_and_a_node_without_a_daemon(site: Site, capsys: Captured) -> None:
    cluster, _, _ = site
    cluster.objects["/api/v1/namespaces/shop/pods/till"]["status"] = {"phase": "Pending"}
    cluster.objects["/api/v1/namespaces/shop/pods/stock"]["spec"]["nodeName"] = "n9"
    assert main([*LINE, "-o", "json"]) == 1
    found = bad(capsys)
    assert found["shop/till runs"] == ("NO", "it is Pending", "kubectl describe pod --namespace shop till")
    assert found["the daemon of node n9 answers"][:2] == ("NO", "no daemon of edgemesh runs on a node 'n9'")


def test_what_one_may_not_see_is_unknown_and_not_well(site: Site, capsys: Captured) -> None:
    cluster, _, _ = site
    cluster.forbidden = {("create", "serviceaccounts/token"), ("list", "meshconfigs")}
    assert main([*LINE, "-o", "json"]) == 1
    found = bad(capsys)
    assert found["the daemon of node n1 answers"][0] == "unknown"
    assert found["the cluster's policy admits the call"][:2] == (
        "unknown",
        "ann may not list meshconfigs.config.openservicemesh.io in the whole cluster",
    )
    assert main(LINE) == 1
    assert "checks are not as they should be" in capsys.readouterr().out


def test_usage(site: Site, capsys: Captured) -> None:
    assert main(["verify"]) == 2
    with pytest.raises(SystemExit):
        main(["verify", "connectivity", "--from-pod", "shop/till"])
    assert "--to-pod" in capsys.readouterr().err
