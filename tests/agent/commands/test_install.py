"""install, from the words on the command line to what is in the cluster."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from agent import __version__
from agent.cli import main
from agent.commands import install
from agent.install import addon
from tests.agent.kubernetes.objects import Cluster

SETS = "/apis/apps/v1/namespaces/edgemesh-system/daemonsets"
FLOW = "flowcontrol.apiserver.k8s.io"

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_LOOK", 0.01)


def controllers(cluster: Cluster, servers: int = 1, agents: int = 1, ready: bool = True) -> None:
    """As many daemons as there are nodes, which are ready."""
    wanted = {f"{SETS}/{addon.SERVER}": servers, f"{SETS}/{addon.AGENT}": agents}
    cluster.groups[FLOW] = {"v1": []}

    def changed(verb: str, path: str) -> None:
        if verb == "apply" and path in wanted:
            number = wanted[path]
            counts = {"desiredNumberScheduled": number, "updatedNumberScheduled": number, "observedGeneration": 1}
            one = cluster.objects[path]
            one["metadata"]["generation"] = 1
            one["status"] = {**counts, "numberAvailable": number if ready else 0}

    cluster.changed = changed


def test_it_applies_everything_and_waits(cluster: Cluster, capsys: Captured) -> None:
    controllers(cluster)
    assert main(["install", "--image", "registry.shop/edgemesh:1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == f"edgemesh {__version__} runs on 2 nodes"
    shipped = [one for one in yaml.safe_load_all(addon.manifest(addon.settings({}), "---\n")) if one]
    names = {(one["kind"], one["metadata"]["name"]) for one in [*shipped, *addon.definitions()]}
    there = {(one["kind"], one["metadata"]["name"]) for one in cluster.objects.values()}
    assert there == names
    (container,) = cluster.objects[f"{SETS}/{addon.AGENT}"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.shop/edgemesh:1"
    paths = [one.path for one in cluster.asked if one.method == "PATCH"]
    assert paths[0] == "/api/v1/namespaces/edgemesh-system"
    assert paths[-2:] == [f"{SETS}/{addon.SERVER}", f"{SETS}/{addon.AGENT}"]


def test_nodes_are_counted_by_the_cluster_first(cluster: Cluster, capsys: Captured) -> None:
    cluster.groups[FLOW] = {"v1": []}
    cluster.add("/api/v1/nodes/n1")
    assert main(["install", "--timeout", "0.3"]) == 1
    told = capsys.readouterr().out
    assert "waiting until the cluster has counted its nodes\n" in told
    assert "0 of 0" not in told


@pytest.mark.parametrize("seconds", ["nan", "-1", "soon", "1e9", "inf"])
def test_a_time_that_cannot_be(cluster: Cluster, capsys: Captured, seconds: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["install", f"--timeout={seconds}"])
    assert caught.value.code == 2
    assert f"{seconds!r} is no number of seconds from 0 to" in capsys.readouterr().err
    assert not cluster.asked


def test_an_older_kubernetes_gets_no_queues(cluster: Cluster, capsys: Captured) -> None:
    controllers(cluster)
    del cluster.groups[FLOW]
    assert main(["install"]) == 0
    assert "left out" in capsys.readouterr().out
    assert not any(one["kind"] == "FlowSchema" for one in cluster.objects.values())


def test_a_dry_run_prints_what_is_shipped_and_asks_nobody(cluster: Cluster, capsys: Captured) -> None:
    assert main(["install", "--dry-run", "--set", "memoryLimit=1Gi,cpuRequest=50m"]) == 0
    found: list[Any] = [one for one in yaml.safe_load_all(capsys.readouterr().out) if one]
    assert len(found) == len([one for one in install.documents(addon.settings({})) if one])
    limits = [
        one["spec"]["template"]["spec"]["containers"][0]["resources"] for one in found if one["kind"] == "DaemonSet"
    ]
    assert limits == [{"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}] * 2
    assert not cluster.asked


@pytest.mark.parametrize("words", [["--set", "memory"], ["--set", "colour=red"], ["--image", "a b"]])
def test_a_value_that_cannot_be_changes_nothing(cluster: Cluster, capsys: Captured, words: list[str]) -> None:
    assert main(["install", *words]) == 2
    assert words[1] in capsys.readouterr().err.replace("'", "") or "colour" in words[1]
    assert not cluster.asked


def test_a_daemon_that_is_not_ready_is_told_with_its_reason(cluster: Cluster, capsys: Captured) -> None:
    controllers(cluster, ready=False)
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}}
    state = {"containerStatuses": [{"name": "edgemesh", "image": "x:1", "ready": False, "state": waiting}]}
    labels = {"app.kubernetes.io/name": "edgemesh", "app.kubernetes.io/component": "agent"}
    cluster.pod("edgemesh-system/edgemesh-agent-1", "n2", metadata={"labels": labels}, status=state)
    assert main(["install", "--timeout", "0.3"]) == 1
    said = capsys.readouterr()
    assert "0 of 2 nodes ready; n2 has no image x:1" in said.out
    assert "edgemesh: n2: has no image x:1\n" in said.err
    assert "agent/images" in said.err


def test_a_daemon_that_handed_over_and_has_connections_is_told(cluster: Cluster, capsys: Captured) -> None:
    """Until it ends, its node does not count as updated, and holds the place of the next one."""
    controllers(cluster, ready=False)
    labels = {"app.kubernetes.io/name": "edgemesh", "app.kubernetes.io/component": "agent"}
    going = {"labels": labels, "deletionTimestamp": "2026-11-30T20:00:00Z"}
    cluster.pod("edgemesh-system/edgemesh-agent-1", "n2", metadata=going)
    assert main(["install", "--timeout", "0.3"]) == 1
    said = capsys.readouterr()
    assert "0 of 2 nodes ready; n2: the daemon before has not ended" in said.out
    assert "edgemesh: n2: connections of the daemon before go on\n" in said.err
    assert "update.drainTimeout" in said.err


def test_a_cluster_without_servers_is_no_success(cluster: Cluster, capsys: Captured) -> None:
    controllers(cluster, servers=0)
    assert main(["install"]) == 1
    assert "kubectl label node NAME node-role.kubernetes.io/control-plane=true" in capsys.readouterr().err


def test_a_namespace_that_goes_is_waited_for_by_the_person(cluster: Cluster, capsys: Captured) -> None:
    controllers(cluster)
    cluster.namespace("edgemesh-system")["metadata"]["deletionTimestamp"] = "2026-11-30T20:00:00Z"
    assert main(["install"]) == 1
    assert "is being deleted" in capsys.readouterr().err
    assert not any(one.method == "PATCH" for one in cluster.asked)


def test_what_is_refused_is_named(cluster: Cluster, capsys: Captured) -> None:
    controllers(cluster)
    cluster.forbidden.add(("patch", "clusterroles"))
    assert main(["install"]) == 1
    assert "ClusterRole edgemesh-agent: ann may not patch clusterroles" in capsys.readouterr().err
    assert f"{SETS}/{addon.AGENT}" not in cluster.objects  # no daemon without its rights
