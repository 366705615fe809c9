"""uninstall: the daemons go, then the rules of every node, then the objects."""

from __future__ import annotations

import pytest

from agent.cli import main
from agent.commands import install, uninstall
from agent.install import addon, rollout
from tests.agent.commands.test_install import SETS, controllers
from tests.agent.kubernetes.objects import Cluster

CLEANER = f"{SETS}/{rollout.CLEANER}"

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def installed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Cluster:
    """Two nodes with a daemon each; whoever deletes a DaemonSet deletes its pods, and the cleaner is ready where it may run."""
    for module in (install, uninstall):
        monkeypatch.setattr(module, "_LOOK", 0.01)
    controllers(cluster)
    cluster.namespace("edgemesh-system")
    assert main(["install"]) == 0
    cluster.daemon("n1", component="server")
    cluster.daemon("n2")
    cluster.add("/apis/edgemesh.io/v1alpha1/meshnodes/n1")
    cluster.clean = True  # type: ignore[attr-defined]

    def changed(verb: str, path: str) -> None:
        if verb == "delete" and path.startswith(f"{SETS}/edgemesh-"):
            component = path.rpartition("-")[2]
            for pod in [one for one in cluster.objects if f"/pods/edgemesh-{component}-" in one]:
                del cluster.objects[pod]
        if path == CLEANER and path in cluster.objects:
            one = cluster.objects[path]
            one["metadata"]["generation"] = one["metadata"].get("generation", 0) + 1
            held = one["spec"]["template"]["spec"].get("nodeSelector")
            number = 0 if held else 2
            done = number if cluster.clean else 1  # type: ignore[attr-defined]
            one["status"] = {
                "desiredNumberScheduled": number,
                "updatedNumberScheduled": number,
                "numberAvailable": done,
                "observedGeneration": one["metadata"]["generation"],
            }

    cluster.changed = changed
    cluster.asked.clear()
    capsys.readouterr()
    return cluster


def ours(cluster: Cluster, kind: str) -> list[str]:
    return [one["metadata"]["name"] for one in cluster.objects.values() if one.get("kind") == kind]


def test_rules_go_when_no_daemon_writes_them_any_more_and_objects_last(installed: Cluster, capsys: Captured) -> None:
    assert main(["uninstall", "mesh", "--force"]) == 0
    steps = [
        (one.method, one.path.rpartition("/")[2])
        for one in installed.asked
        if one.method != "GET" and one.path.startswith(SETS)
    ]
    assert steps[:4] == [
        ("PATCH", rollout.CLEANER),  # held: it has the image of the daemons, so it is made before they go
        ("DELETE", addon.AGENT),
        ("DELETE", addon.SERVER),
        ("PATCH", rollout.CLEANER),
    ]
    removed = [one.path for one in installed.asked if one.method == "DELETE"]
    assert removed.index(CLEANER) < removed.index("/apis/rbac.authorization.k8s.io/v1/clusterroles/edgemesh-agent")
    assert removed[-1] == "/api/v1/namespaces/edgemesh-system"
    assert not ours(installed, "DaemonSet")
    assert not ours(installed, "ClusterRole")
    assert "/apis/edgemesh.io/v1alpha1/meshnodes/n1" not in installed.objects
    assert len(ours(installed, "CustomResourceDefinition")) == len(addon.definitions())  # and policy with them
    said = capsys.readouterr().out
    assert "no rule of edgemesh is left on 2 nodes" in said
    assert "definitions of kinds stay" in said


def test_kinds_go_when_it_is_asked_for(installed: Cluster) -> None:
    assert main(["uninstall", "mesh", "-f", "-a"]) == 0
    assert not ours(installed, "CustomResourceDefinition")


def test_a_node_that_does_not_answer_keeps_it_from_going_on(installed: Cluster, capsys: Captured) -> None:
    installed.clean = False  # type: ignore[attr-defined]
    assert main(["uninstall", "mesh", "--timeout", "0.3"]) == 1  # nobody to ask
    assert "nobody to ask" in capsys.readouterr().err
    assert not [one for one in installed.asked if one.method != "GET"]


def test_without_force_it_stops_at_such_a_node_and_goes_on_later(
    installed: Cluster, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uninstall, "_confirmed", lambda *_: True)
    installed.clean = False  # type: ignore[attr-defined]
    assert main(["uninstall", "mesh", "--timeout", "0.3"]) == 1
    assert "nothing more was deleted" in capsys.readouterr().err
    assert CLEANER in installed.objects  # it cleans that node when it is back
    assert ours(installed, "ClusterRole")
    installed.clean = True  # type: ignore[attr-defined]
    assert main(["uninstall", "mesh"]) == 0
    assert not ours(installed, "ClusterRole")


def test_force_goes_on_and_says_what_stays_closed(installed: Cluster, capsys: Captured) -> None:
    installed.clean = False  # type: ignore[attr-defined]
    assert main(["uninstall", "mesh", "-f", "--timeout", "0.3"]) == 0
    assert "stay closed" in capsys.readouterr().err


def test_where_nothing_is_it_is_done(cluster: Cluster, capsys: Captured) -> None:
    assert main(["uninstall", "mesh", "-f"]) == 0
    told = capsys.readouterr()
    assert told.out == "nothing of edgemesh is in the cluster\n"


def test_only_what_went_and_what_stays_is_told(installed: Cluster, capsys: Captured) -> None:
    assert main(["uninstall", "mesh", "-f"]) == 0
    assert "went the authority's key" in capsys.readouterr().out
    assert main(["uninstall", "mesh", "-f"]) == 0
    kinds = len(addon.definitions())
    assert capsys.readouterr().out == (
        "nothing else of edgemesh is in the cluster\n"
        f"{kinds} definitions of kinds stay, and the policy that you wrote (-a deletes them too)\n"
    )
    assert main(["uninstall", "mesh", "-f", "-a"]) == 0
    told = capsys.readouterr().out
    assert f"removed {kinds} objects\n" in told
    assert "stay" not in told.partition("\n")[0]
    assert "0 definitions" not in told


def test_daemons_that_were_deleted_by_hand_have_left_rules_behind(installed: Cluster, capsys: Captured) -> None:
    for name in (addon.AGENT, addon.SERVER):
        del installed.objects[f"{SETS}/{name}"]
    assert main(["uninstall", "mesh", "-f"]) == 0
    told = capsys.readouterr()
    assert "pods of the mesh stay closed" in told.err
    assert "edgemesh install, then uninstall, opens them" in told.err
    assert "no rule of edgemesh is left" not in told.out


def test_it_has_to_be_said_what(capsys: Captured) -> None:
    assert main(["uninstall"]) == 2
    assert "edgemesh uninstall mesh" in capsys.readouterr().err
