"""mesh list, from the words on the command line to what is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli import main
from tests.agent.kubernetes.objects import Cluster

Captured = pytest.CaptureFixture[str]
LIST = ["mesh", "list"]


def daemonset(cluster: Cluster, component: str, ready: int, desired: int, tag: str = "0.1.0") -> None:
    cluster.add(
        f"/apis/apps/v1/namespaces/edgemesh-system/daemonsets/edgemesh-{component}",
        metadata={"labels": {"app.kubernetes.io/name": "edgemesh", "app.kubernetes.io/component": component}},
        spec={"template": {"spec": {"containers": [{"image": f"edgemesh.io:5000/edgemesh:{tag}@sha256:12"}]}}},
        status={"desiredNumberScheduled": desired, "numberReady": ready, "updatedNumberScheduled": ready},
    )


def lines(capsys: Captured) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_list(cluster: Cluster, capsys: Captured) -> None:
    for node in ("n1", "n2"):
        cluster.add(f"/api/v1/nodes/{node}")
    cluster.namespace("shop", {"openservicemesh.io/monitored-by": "edgemesh"})
    cluster.namespace("quiet", {"openservicemesh.io/ignore": "true", "openservicemesh.io/monitored-by": "edgemesh"})
    daemonset(cluster, "server", 1, 1)
    daemonset(cluster, "agent", 1, 1)
    cluster.daemon("n1", component="server")
    cluster.daemon("n2")
    workloads: list[dict[str, Any]] = [{"name": "till", "enrolled": True}, {"name": "dns", "enrolled": False}]
    cluster.add("/apis/edgemesh.io/v1alpha1/meshnodes/n1", spec={"addresses": ["10.0.0.1"], "workloads": workloads})
    assert main(LIST) == 0
    assert lines(capsys) == [
        ["MESH", "NAMESPACE", "VERSIONS", "DAEMONS", "READY", "NAMESPACES", "IN", "THE", "MESH"],
        ["edgemesh", "edgemesh-system", "0.1.0", "2", "of", "2", "shop"],
        [],
        ["NODE", "DAEMON", "READY", "VERSION", "RESTARTS", "ADDRESSES", "WORKLOADS"],
        ["n1", "server", "yes", "0.1.0", "0", "10.0.0.1", "1"],
        ["n2", "agent", "yes", "0.1.0", "0"],
    ]


def test_what_is_not_ready(cluster: Cluster, capsys: Captured) -> None:
    for node in ("n1", "n2", "n3"):
        cluster.add(f"/api/v1/nodes/{node}")
    daemonset(cluster, "agent", 0, 2, "0.2.0")
    daemonset(cluster, "server", 0, 1)
    cluster.daemon("n1", ready=False)
    cluster.daemon("n2", ready=False)
    pod = cluster.objects["/api/v1/namespaces/edgemesh-system/pods/edgemesh-agent-n2"]
    waiting = {"waiting": {"reason": "ErrImageNeverPull", "message": "it is not on this node"}}
    pod["status"]["containerStatuses"] = [{"name": "edgemesh", "restartCount": 7, "state": waiting}]
    assert main([*LIST, "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert main(LIST) == 1
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "",
        "n1: it is Running, and not ready",
        "n2: ErrImageNeverPull: it is not on this node",
        "n3: no pod of edgemesh runs there: its DaemonSet selects other nodes, or does not tolerate this one",
    ]
    assert document["meshes"][0]["versions"] == ["0.1.0", "0.2.0"]
    assert [(one["node"], one["ready"], one["restarts"], one["why"]) for one in document["nodes"]] == [
        ("n1", False, 0, "it is Running, and not ready"),
        ("n2", False, 7, "ErrImageNeverPull: it is not on this node"),
        (
            "n3",
            False,
            0,
            "no pod of edgemesh runs there: its DaemonSet selects other nodes, or does not tolerate this one",
        ),
    ]


def test_nodes_with_the_same_reason_are_one_line(cluster: Cluster, capsys: Captured) -> None:
    daemonset(cluster, "agent", 0, 7)
    for number in range(7):
        cluster.add(f"/api/v1/nodes/n{number}")
    assert main(LIST) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("n0, n1, n2, n3, n4 and 2 more: no pod of edgemesh runs")


def test_a_daemon_that_runs_and_is_not_ready(cluster: Cluster, capsys: Captured) -> None:
    daemonset(cluster, "agent", 0, 1)
    cluster.daemon("n1", ready=False)
    pod = cluster.objects["/api/v1/namespaces/edgemesh-system/pods/edgemesh-agent-n1"]
    pod["status"]["containerStatuses"] = [{"name": "edgemesh", "ready": False, "state": {"running": {}}}]
    assert main(LIST) == 1
    why = "it runs and is not ready: kubectl logs --namespace edgemesh-system edgemesh-agent-n1 tells more"
    assert capsys.readouterr().out.splitlines()[-1] == f"n1: {why}"


def test_no_mesh(cluster: Cluster, capsys: Captured) -> None:
    cluster.add("/api/v1/nodes/n1")
    assert main(LIST) == 1
    # No DaemonSet selects other nodes: nothing is said about nodes.
    assert capsys.readouterr().out == "no mesh is installed in this cluster: edgemesh install\n"
    assert main(["mesh"]) == 2


def test_what_one_may_not_see_is_said(cluster: Cluster, capsys: Captured) -> None:
    daemonset(cluster, "agent", 1, 1)
    cluster.daemon("n1")
    cluster.forbidden = {("list", "nodes"), ("list", "meshnodes")}
    assert main(LIST) == 0
    out = capsys.readouterr().out
    assert "not shown: ann may not list nodes in the whole cluster" in out
    assert "not shown: ann may not list meshnodes.edgemesh.io in the whole cluster" in out
    assert "n1" in out
    cluster.forbidden = {("list", "daemonsets")}
    assert main(LIST) == 1
    assert "ann may not list daemonsets.apps in the whole cluster" in capsys.readouterr().err
