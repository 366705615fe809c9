"""metrics, from the words on the command line to what is in the cluster."""

from __future__ import annotations

import json

import pytest

from agent.cli import main
from tests.agent.kubernetes.objects import Cluster

MARK = {"openservicemesh.io/metrics": "enabled"}
Captured = pytest.CaptureFixture[str]


def test_enable_and_disable(cluster: Cluster, capsys: Captured) -> None:
    shop, bank = cluster.namespace("shop"), cluster.namespace("bank", note="x")
    pod = cluster.pod("shop/till")
    assert main(["metrics", "enable", "--namespace", "shop,bank"]) == 0
    out = capsys.readouterr().out
    assert "shop: marked with the annotation openservicemesh.io/metrics\nbank: marked" in out
    assert "counts the calls of all its workloads" in out
    assert "No NodeConfig sets metricsAddress and metricsTokenFile, so no scraper can read them yet." in out
    assert shop["metadata"]["annotations"] == MARK
    assert bank["metadata"]["annotations"] == {**MARK, "note": "x"}
    assert "annotations" not in pod["metadata"]  # nothing is to be scraped there
    assert main(["metrics", "disable", "--namespace", "shop", "--namespace", "bank"]) == 0
    assert "no longer marked" in capsys.readouterr().out
    assert shop["metadata"]["annotations"] == {}
    assert bank["metadata"]["annotations"] == {"note": "x"}


def test_where_metrics_are(cluster: Cluster, capsys: Captured) -> None:
    cluster.namespace("shop")
    spec = {"metricsAddress": "0.0.0.0:15020", "metricsTokenFile": "/etc/edgemesh/token"}
    cluster.add("/apis/edgemesh.io/v1alpha1/nodeconfigs/default", spec=spec)
    cluster.add("/apis/edgemesh.io/v1alpha1/nodeconfigs/n2", spec={"metricsAddress": "0.0.0.0:1"})
    assert main(["metrics", "enable", "--namespace", "shop"]) == 0
    assert "It serves them at 0.0.0.0:15020 of each node, to who shows the bearer token." in capsys.readouterr().out
    assert main(["metrics", "enable", "--namespace", "shop", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "namespaces": ["shop"],
        "metrics": True,
        "addresses": ["0.0.0.0:15020"],
    }


def test_mistakes(cluster: Cluster, capsys: Captured) -> None:
    shop = cluster.namespace("shop")
    assert main(["metrics", "enable", "--namespace", "shpo,shop"]) == 1
    assert "shpo: there is no namespace 'shpo'\n  did you mean shop?" in capsys.readouterr().err
    assert shop["metadata"]["annotations"] == MARK
    cluster.forbidden = {("patch", "namespaces")}
    assert main(["metrics", "disable", "--namespace", "shop"]) == 1
    assert "shop: ann may not patch namespaces in the whole cluster" in capsys.readouterr().err
    assert main(["metrics"]) == 2
