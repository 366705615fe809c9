"""policy check-pods, from the words on the command line to the verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli import main
from tests.agent.kubernetes.objects import Cluster

Captured = pytest.CaptureFixture[str]
CHECK = ["policy", "check-pods"]
MESH = {"edgemesh.io/mesh": "enabled"}
ACCESS, SPECS = "/apis/access.smi-spec.io/v1alpha3", "/apis/specs.smi-spec.io/v1alpha4"
CONFIG = "/apis/config.openservicemesh.io/v1alpha2"


def pod(cluster: Cluster, key: str, *ports: int) -> dict[str, Any]:
    containers = [{"name": "app", "ports": [{"containerPort": port} for port in ports]}]
    return cluster.pod(key, spec={"containers": containers}, status={"phase": "Running", "podIP": f"10.0.1.{len(key)}"})


@pytest.fixture
def shop(cluster: Cluster) -> Cluster:
    cluster.namespace("shop", MESH)
    cluster.namespace("outside")
    pod(cluster, "shop/till")
    pod(cluster, "shop/stock", 8080)
    pod(cluster, "shop/thief")
    pod(cluster, "outside/stranger")
    cluster.serves(f"{ACCESS}/traffictargets", "TrafficTarget")
    cluster.serves(f"{SPECS}/httproutegroups", "HTTPRouteGroup")
    cluster.serves(f"{CONFIG}/meshconfigs", "MeshConfig")
    cluster.add(
        f"{SPECS}/namespaces/shop/httproutegroups/routes",
        spec={"matches": [{"name": "read", "methods": ["GET"], "pathRegex": "/items(/.*)?$"}]},
    )
    cluster.add(
        f"{ACCESS}/namespaces/shop/traffictargets/reading",
        spec={
            "destination": {"kind": "ServiceAccount", "name": "stock", "namespace": "shop"},
            "sources": [{"kind": "ServiceAccount", "name": "till", "namespace": "shop"}],
            "rules": [{"kind": "HTTPRouteGroup", "name": "routes", "matches": ["read"]}],
        },
    )
    return cluster


def test_allowed_and_denied(shop: Cluster, capsys: Captured) -> None:
    assert main([*CHECK, "shop/till", "shop/stock"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("allowed for some requests: shop/till -> shop/stock port 8080")
    assert "TrafficTarget shop/reading" in out
    assert main([*CHECK, "shop/thief", "shop/stock"]) == 1
    assert capsys.readouterr().out.startswith("denied: shop/thief -> shop/stock port 8080")
    assert main([*CHECK, "shop/till", "shop/stock", "--path", "/items"]) == 0
    assert main([*CHECK, "shop/till", "shop/stock", "--path", "/items", "--method", "delete"]) == 1
    assert main([*CHECK, "shop/till", "shop/stock", "--path", "/other", "-o", "json"]) == 1
    capsys.readouterr()
    assert main([*CHECK, "shop/till", "shop/stock", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["allowed"], document["mode"], len(document["ports"])) == (True, "SMI", 1)


def test_each_port_has_its_verdict(shop: Cluster, capsys: Captured) -> None:
    pod(shop, "shop/stock", 8080, 9090)
    assert main([*CHECK, "shop/thief", "shop/stock"]) == 1
    out = capsys.readouterr().out
    assert "shop/stock port 8080" in out
    assert "shop/stock port 9090" in out
    assert main([*CHECK, "shop/till", "shop/stock", "--port", "9090"]) == 0
    assert "port 8080" not in capsys.readouterr().out


def test_a_pod_that_declares_no_port(shop: Cluster, capsys: Captured) -> None:
    assert main([*CHECK, "shop/till", "shop/thief"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("denied: shop/till -> shop/thief port 80")
    assert "shop/thief declares none; --port asks about another" in out
    main([*CHECK, "shop/till", "shop/thief", "--port", "9000"])
    assert "declares none" not in capsys.readouterr().out


def test_permissive_mode(shop: Cluster, capsys: Captured) -> None:
    spec = {"traffic": {"enablePermissiveTrafficPolicyMode": True}}
    shop.add(f"{CONFIG}/namespaces/edgemesh-system/meshconfigs/osm-mesh-config", spec=spec)
    assert main([*CHECK, "shop/thief", "shop/stock"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("allowed: shop/thief -> shop/stock")
    assert "permissive: TrafficTargets are not asked" in out
    assert main([*CHECK, "outside/stranger", "shop/stock"]) == 1  # it has no identity


def test_pods_outside_the_mesh(shop: Cluster, capsys: Captured) -> None:
    assert main([*CHECK, "outside/stranger", "shop/stock"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(
        "denied: outside/stranger -> shop/stock: the caller is not in the mesh, so it has no identity\n"
    )
    assert "Namespace outside has neither label" in out
    main([*CHECK, "shop/till", "outside/stranger"])
    assert "not guarded: outside/stranger is not in the mesh" in capsys.readouterr().out


def test_mistakes(shop: Cluster, capsys: Captured) -> None:
    for words, said in (
        (["shpo/till", "shop/stock"], "there is no namespace 'shpo'\n  did you mean shop?"),
        (["shop/tlil", "shop/stock"], "there is no pod 'tlil' in namespace shop\n  did you mean till?"),
        (["till", "shop/stock"], "there is no namespace 'default'"),
    ):
        assert main([*CHECK, *words]) == 1
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*CHECK, "shop/till/x", "shop/stock"])
    assert ended.value.code == 2
    assert "'shop/till/x' is no pod: write NAMESPACE/NAME" in capsys.readouterr().err
    assert main(["policy"]) == 2


def test_rights_that_are_missing(shop: Cluster, capsys: Captured) -> None:
    for verb, resource in (("get", "pods"), ("get", "namespaces"), ("list", "traffictargets"), ("list", "meshconfigs")):
        shop.forbidden = {(verb, resource)}
        assert main([*CHECK, "shop/till", "shop/stock"]) == 1  # a guess would be worse than no answer
        out, error = capsys.readouterr()
        assert out == ""
        assert f"ann may not {verb} {resource}" in error


def test_the_tunnel_is_that_of_the_other_node(shop: Cluster, capsys: Captured) -> None:
    shop.serves("/apis/edgemesh.io/v1alpha1/meshnodes", "MeshNode")
    workload = {"namespace": "shop", "name": "stock", "serviceAccount": "stock", "addresses": ["10.0.1.10"]}
    shop.add("/apis/edgemesh.io/v1alpha1/meshnodes/n2", spec={"addresses": ["192.168.7.2"], "workloads": [workload]})
    for key, node in (("shop/till", "n1"), ("shop/stock", "n2")):
        shop.pod(
            key,
            spec={"nodeName": node, "containers": [{"name": "a", "ports": [{"containerPort": 8080}]}]},
            status={"phase": "Running", "podIP": f"10.0.1.{len(key)}"},
        )
    assert main([*CHECK, "shop/till", "shop/stock"]) == 0
    assert "192.168.7.2:15008" in capsys.readouterr().out
