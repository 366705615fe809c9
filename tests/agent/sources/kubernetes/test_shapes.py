"""shapes.py: only what policy reads is kept, of each kind that it reads, and what is odd is left for policy to see."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agent.sources.kubernetes.shapes import decoder
from policy.decode import decode
from policy.model import Where
from policy.registry import KINDS
from policy.resources import RawObject, Resource

META = {
    "name": "store",
    "namespace": "shop",
    "resourceVersion": "7",
    "labels": {"app": "store"},
    "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": "{...}",
        "edgemesh.io/mesh": "enabled",
        "x": "y" * 200_000,
    },
    "managedFields": [{"manager": "kubectl"}],
    "ownerReferences": [{"kind": "ReplicaSet"}],
    "selfLink": "/x",
    "uid": "u-1",
}
KEPT = {
    "name": "store",
    "namespace": "shop",
    "labels": {"app": "store"},
    "annotations": {"edgemesh.io/mesh": "enabled"},
}


def kept(kind: str, data: dict[str, Any], version: str = "v1") -> dict[str, Any]:
    return decoder(kind, version, KINDS.get(kind))(json.dumps(data).encode()).data


def test_of_a_pod() -> None:
    pod = {
        "metadata": META,
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "store",
            "volumes": [{"name": "token"}],
            "tolerations": [{"key": "x"}],
            "containers": [
                {
                    "image": "store:1",
                    "env": [{"name": "SECRET", "value": "s3cret"}],
                    "ports": [{"containerPort": 80, "x": 1}],
                }
            ],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.1"}], "hostIP": "10.0.0.1", "startTime": "x"},
    }
    found = kept("Pod", pod)
    assert found["metadata"] == {**KEPT, "uid": "u-1"}
    assert found["spec"]["serviceAccountName"] == "store"
    assert found["spec"]["containers"][0]["ports"] == [{"containerPort": 80}]
    assert found["status"] == {"phase": "Running", "podIPs": [{"ip": "10.1.0.1"}]}
    text = json.dumps(found)
    assert not any(word in text for word in ("s3cret", "store:1", "volumes", "tolerations", "hostIP", "managedFields"))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_policy_decodes_is_the_same(kind: str) -> None:
    """Whatever a shape names is kept: what is decoded of the whole and of what is kept are equal."""
    row = KINDS[kind]
    spec: dict[str, Any] = {"ports": [{"port": 80, "name": "http"}], "selector": {"app": "x"}, "containers": []}
    version = f"{row.group}/{row.versions[-1]}".removeprefix("/")
    data = {"apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": "b", "labels": {"c": "d"}}}
    data |= spec if row.whole else {"spec": spec}
    whole, part = (decode(RawObject(one, Where("x"), {})) for one in (data, kept(kind, data, version)))
    if isinstance(whole, Resource):
        assert isinstance(part, Resource)
        assert (part.spec, part.metadata, part.status) == (whole.spec, whole.metadata, whole.status)
    else:
        assert whole == part


def test_an_unknown_field_of_a_strict_kind_is_left_for_policy_to_report() -> None:
    spec = {"sourcs": [], "rules": []}
    found = kept("TrafficTarget", {"metadata": META, "spec": spec, "status": {"conditions": []}, "more": 1})
    of_it = {**KEPT, "uid": "u-1"}
    assert found == {"apiVersion": "v1", "kind": "TrafficTarget", "metadata": of_it, "spec": spec, "more": 1}


def test_of_a_gateways_status_only_its_addresses_are_kept() -> None:
    said = {"addresses": [{"type": "IPAddress", "value": "192.0.2.1"}], "conditions": [{"type": "Accepted"}]}
    data = {"metadata": META | {"generation": 3}, "spec": {"gatewayClassName": "edgemesh"}, "status": said}
    found = kept("Gateway", data, "gateway.networking.k8s.io/v1")
    assert found["status"] == {"addresses": said["addresses"]}
    assert found["metadata"]["generation"] == 3
    assert kept("TrafficTarget", data, "access.smi-spec.io/v1alpha3")["metadata"]["generation"] == 3


def test_items_of_lists_get_their_kind_and_lose_a_wrong_one() -> None:
    found = kept("Namespace", {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": META})
    assert found == {"apiVersion": "v1", "kind": "Namespace", "metadata": KEPT}


@pytest.mark.parametrize(
    "data",
    [{"metadata": META, "spec": {"containers": 7}}, {"metadata": META, "spec": 7}, {"metadata": META, "status": []}],
)
def test_another_shape_than_the_declared_one_is_kept_for_policy_to_report(data: dict[str, Any]) -> None:
    found = kept("Pod", data)
    assert {name: found[name] for name in data if name != "metadata"} == {
        name: value for name, value in data.items() if name != "metadata"
    }


def test_what_is_no_object_is_an_error() -> None:
    for data in (b"7", b"{", b"[]"):
        for kind in ("Pod", "TrafficTarget"):
            with pytest.raises(msgspec.MsgspecError):
                decoder(kind, "v1", KINDS[kind])(data)


def test_an_endpoint_slice_that_only_its_trigger_changed_is_the_same() -> None:
    one, two = (
        {"metadata": {"name": "a", "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": time}}}
        for time in ("1", "2")
    )
    assert kept("EndpointSlice", one) == kept("EndpointSlice", two)


@pytest.mark.parametrize("kind", [*sorted(KINDS), "NodeConfig"])
def test_what_kubectl_applied_last_is_kept_of_no_kind(kind: str) -> None:
    """Each object that was applied carries itself once more, as an annotation."""
    notes = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1000, "edgemesh.io/idle-timeout": "60"}
    made = decoder(kind, "v1", KINDS.get(kind))(msgspec.json.encode({"metadata": {"name": "a", "annotations": notes}}))
    assert made.data["metadata"]["annotations"] == {"edgemesh.io/idle-timeout": "60"}


def test_a_misspelt_dry_run_reaches_policy() -> None:
    """Were its annotation left out, a TrafficTarget that a person wanted to try would be in force."""
    notes = {"edgemesh.io/dry-run": "true", "edgmesh.io/dry-run": "true", "dry_run": "true", "other.org/x": "1"}
    raw = msgspec.json.encode({"metadata": {"name": "a", "annotations": notes}, "spec": {}})
    made = decoder("TrafficTarget", "access.smi-spec.io/v1alpha3", KINDS["TrafficTarget"])(raw)
    assert sorted(made.data["metadata"]["annotations"]) == ["dry_run", "edgemesh.io/dry-run", "edgmesh.io/dry-run"]
