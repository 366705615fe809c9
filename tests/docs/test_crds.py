"""The definitions of kinds for a cluster (build/pages/crds.py): structural, and they refuse what decoding refuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

TREE = Path(__file__).parents[2]
sys.path.insert(0, str(TREE / "build"))

from pages import crds  # noqa: E402

from policy.registry import KINDS  # noqa: E402

DEFINITIONS = {one["spec"]["names"]["kind"]: one for one in crds.definitions()}
KINDS_OF_OTHERS = {
    "",
    "apps",
    "discovery.k8s.io",
    "gateway.networking.k8s.io",
    "networking.k8s.io",
    "plugin.flomesh.io",
}


def schemas(kind: str) -> dict[str, Any]:
    return {
        version["name"]: version["schema"]["openAPIV3Schema"]
        for version in DEFINITIONS[kind]["spec"]["versions"]
        if version["served"]
    }


def plain(schema: Any) -> Any:
    """The same in JSON Schema's words, for a library that checks: Kubernetes' own ones are `nullable` and int-or-string."""
    if isinstance(schema, list):
        return [plain(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {name: plain(value) for name, value in schema.items() if not name.startswith("x-kubernetes")}
    if made.pop("nullable", False) is True and "type" in made:
        made["type"] = [made["type"], "null"]
    if made.pop("exclusiveMinimum", False) is True:
        made["exclusiveMinimum"] = made.pop("minimum")
    return made


def nodes(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, schema
    for name, one in schema.get("properties", {}).items():
        yield from nodes(one, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield from nodes(schema[inner], f"{path}[]")


def test_each_kind_of_ours_osm_s_and_smi_s_has_one() -> None:
    assert DEFINITIONS.keys() == {name for name, kind in KINDS.items() if kind.group not in KINDS_OF_OTHERS} | {
        "NodeConfig"
    }


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_it_is_structural(kind: str) -> None:
    """What an API server asks of a schema: a type at each place, fields or a map, no reference, a pattern of RE2's."""
    for version, schema in schemas(kind).items():
        for path, one in nodes(schema):
            free = one.get("x-kubernetes-preserve-unknown-fields") or one.get("x-kubernetes-int-or-string")
            assert "type" in one or free, f"{version}{path}"
            assert not ("properties" in one and "additionalProperties" in one), f"{version}{path}"
            assert "$ref" not in one
            assert "\\Z" not in one.get("pattern", ""), f"{version}{path}"
            if one.get("type") == "array":
                assert "items" in one, f"{version}{path}"


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_every_version_that_is_read_is_served_and_one_is_stored(kind: str) -> None:
    versions = DEFINITIONS[kind]["spec"]["versions"]
    read = KINDS[kind].versions if kind in KINDS else ("v1alpha1",)
    assert {one["name"] for one in versions if one["served"]} == set(read)
    (stored,) = (one for one in versions if one["storage"])
    assert stored["served"]
    assert DEFINITIONS[kind]["spec"]["conversion"] == {"strategy": "None", "webhook": None}  # OSM's is gone with OSM


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_the_example_of_a_kind_passes(kind: str) -> None:
    found = list(yaml.safe_load_all((TREE / f"examples/kinds/{kind.lower()}.yaml").read_text("utf-8")))
    assert any(one["kind"] == kind for one in found)
    for one in found:
        for schema in schemas(one["kind"]).values() if one["kind"] in DEFINITIONS else ():
            jsonschema.validate(one, plain(schema))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("TrafficSplit", {"service": "store"}),
        ("TrafficSplit", {"service": "store", "backends": [{"service": "v1", "weight": -1}]}),
        ("TrafficSplit", {"service": "store", "backends": [{"service": "v1", "weight": 1}], "matches": []}),
        ("HTTPRouteGroup", {"matches": [{"name": "m", "methods": []}]}),
        ("HTTPRouteGroup", {"matches": [{"pathRegex": "/"}]}),
        ("TCPRoute", {"matches": {"ports": [0]}}),
        ("TrafficTarget", {"sources": []}),
        ("Workload", {"ports": [{"port": 80, "protocol": "SCTP"}]}),
        ("Workload", {"addresses": "10.0.0.1"}),
        ("Revocation", {"serials": ["xyz"]}),
        ("NodeConfig", {"peers": {"idleTimeout": 0}}),
    ],
)
def test_what_decoding_refuses_is_refused(kind: str, spec: dict[str, Any]) -> None:
    for schema in schemas(kind).values():
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"spec": spec}, plain(schema))


def test_a_list_that_a_chart_writes_as_null_passes() -> None:
    spec = {"traffic": {"networkInterfaceExclusionList": None, "enableEgress": True}, "sidecar": {"logLevel": "error"}}
    for schema in schemas("MeshConfig").values():
        jsonschema.validate({"spec": spec}, plain(schema))
