"""namespace, from the words on the command line to what is in the cluster."""

from __future__ import annotations

import json

import pytest

from agent.cli import main
from tests.agent.kubernetes.objects import Cluster

MONITORED, INJECTION = "openservicemesh.io/monitored-by", "openservicemesh.io/sidecar-injection"

Captured = pytest.CaptureFixture[str]


def test_add(cluster: Cluster, capsys: Captured) -> None:
    shop, bank = cluster.namespace("shop", {"team": "a"}), cluster.namespace("bank")
    assert main(["namespace", "add", "shop", "bank"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: in mesh edgemesh, with all of its pods; a pod that says {INJECTION}: disabled stays out"
        for name in ("shop", "bank")
    ]
    for found, labels in ((shop, {"team": "a"}), (bank, {})):
        assert found["metadata"]["labels"] == {**labels, MONITORED: "edgemesh"}
        assert found["metadata"]["annotations"] == {INJECTION: "enabled"}


def test_add_in_osm_s_words(cluster: Cluster, capsys: Captured) -> None:
    shop = cluster.namespace("shop", {MONITORED: "osm"})
    assert main(["namespace", "add", "shop", "--mesh-name", "other", "--disable-sidecar-injection"]) == 0
    assert shop["metadata"]["labels"] == {MONITORED: "other"}
    assert shop["metadata"]["annotations"] == {INJECTION: "disabled"}
    assert capsys.readouterr().out == (
        f"shop: in mesh other (it was of mesh osm), and of its pods those that say {INJECTION}: enabled\n"
    )
    assert main(["namespace", "add", "shop", "--mesh-name", "a b"]) == 1
    assert "'a b' is no value of a label" in capsys.readouterr().err
    assert shop["metadata"]["labels"] == {MONITORED: "other"}


def test_what_is_never_in_the_mesh(cluster: Cluster, capsys: Captured) -> None:
    for name in ("kube-system", "edgemesh-system"):
        cluster.namespace(name)
    cluster.namespace("quiet", {"openservicemesh.io/ignore": "true"})
    assert main(["namespace", "add", "kube-system", "edgemesh-system", "quiet"]) == 1
    error = capsys.readouterr().err
    assert error.count("it is never in the mesh") == 2
    assert (
        "quiet: it is ignored, so its pods stay out\n  kubectl label namespace quiet openservicemesh.io/ignore-"
        in error
    )
    assert not any(MONITORED in item["metadata"]["labels"] for item in cluster.objects.values())


def test_a_mistake_in_one_name_keeps_no_other_from_being_added(cluster: Cluster, capsys: Captured) -> None:
    shop = cluster.namespace("shop")
    cluster.namespace("bank")
    assert main(["namespace", "add", "shpo", "shop", "-o", "json"]) == 1
    out, error = capsys.readouterr()
    assert error == "edgemesh: shpo: there is no namespace 'shpo'\n  did you mean shop? there is bank, shop\n"
    assert list(json.loads(out)) == ["shop"]
    assert shop["metadata"]["labels"] == {MONITORED: "edgemesh"}


def test_remove(cluster: Cluster, capsys: Captured) -> None:
    shop = cluster.namespace(
        "shop",
        {MONITORED: "edgemesh", "edgemesh.io/mesh": "enabled", "team": "a"},
        **{INJECTION: "enabled", "note": "x"},
    )
    osm, plain = cluster.namespace("osm", {MONITORED: "osm"}), cluster.namespace("plain")
    assert main(["namespace", "remove", "osm", "plain", "shop"]) == 1
    out, error = capsys.readouterr()
    assert out == "shop: out of the mesh: its pods are not captured any more, and everybody may call them\n"
    assert "osm: it is in mesh osm, not edgemesh\n  say so: --mesh-name osm\n" in error
    assert "plain: it is in no mesh" in error
    assert shop["metadata"]["labels"] == {"team": "a"}
    assert shop["metadata"]["annotations"] == {"note": "x"}
    assert osm["metadata"]["labels"] == {MONITORED: "osm"}
    assert plain["metadata"]["labels"] == {}
    assert main(["namespace", "remove", "osm", "--mesh-name", "osm"]) == 0
    assert osm["metadata"]["labels"] == {}


def test_ignore_and_list(cluster: Cluster, capsys: Captured) -> None:
    assert main(["namespace", "list"]) == 0
    assert capsys.readouterr().out == "no namespace is in the mesh: edgemesh namespace add NS\n"
    cluster.namespace("shop", {MONITORED: "osm"})
    cluster.namespace("bank", {"edgemesh.io/mesh": "enabled"}, **{INJECTION: "disabled"})
    cluster.namespace("other", {"edgemesh.io/mesh": "disabled"})
    quiet = cluster.namespace("quiet")
    assert main(["namespace", "ignore", "quiet"]) == 0
    assert quiet["metadata"]["labels"] == {"openservicemesh.io/ignore": "true"}
    capsys.readouterr()
    assert main(["namespace", "list"]) == 0
    assert [line.rstrip().split(maxsplit=2) for line in capsys.readouterr().out.splitlines()] == [
        ["NAMESPACE", "MESH", "PODS IN THE MESH"],
        [
            "bank",
            "edgemesh",
            f"those that ask for it: Namespace bank says {INJECTION}: disabled",
        ],
        ["quiet", "none:", "Namespace quiet has label openservicemesh.io/ignore"],
        ["shop", "osm", "all but those that opt out"],
    ]
    assert main(["namespace", "list", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        "namespace": "quiet",
        "mesh": "",
        "pods": "none",
        "why": "Namespace quiet has label openservicemesh.io/ignore",
    }


def test_a_namespace_that_was_kept_out_is_added(cluster: Cluster, capsys: Captured) -> None:
    shop = cluster.namespace("shop", {"edgemesh.io/mesh": "disabled"})
    assert main(["namespace", "add", "shop"]) == 0
    assert shop["metadata"]["labels"] == {MONITORED: "edgemesh"}


def test_a_verb_is_needed(cluster: Cluster, capsys: Captured) -> None:
    assert main(["namespace"]) == 2
    assert "namespace needs a verb" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["namespace", "ad", "shop"])
    assert "did you mean add?" in capsys.readouterr().err
