"""docs/schemas/: a JSON schema (draft 2020-12) for each kind that is read strictly, for editors.

The schema of `spec` comes from msgspec; the fields around it are those of Kubernetes. What needs more than one object
(such as a name that does not exist) is checked by `edgemesh check` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.config.schema import API_VERSION, NodeConfig
from pages.fields import comments, doc, inside
from policy.registry import KINDS
from policy.resources import plain

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def pages() -> Mapping[str, str]:
    made = {
        name: _object(
            plain(name),
            [f"{group}/{version}" for group in (kind.group, *kind.also) for version in kind.versions],
            kind.spec,
        )
        for name, kind in KINDS.items()
        if kind.strict
    }
    made["NodeConfig"] = _object("NodeConfig", [API_VERSION], NodeConfig)
    every = {
        "$schema": DRAFT,
        "title": "every kind of edgemesh, SMI and OSM",
        "allOf": [
            {
                "if": _is(name, schema, [plain(one) for one in made].count(plain(name)) > 1),
                "then": {"$ref": f"{name.lower()}.json"},
            }
            for name, schema in made.items()
        ],
    }
    schemas = {f"schemas/{name.lower()}.json": schema for name, schema in made.items()}
    schemas["schemas/all.json"] = every
    return {path: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for path, schema in schemas.items()}


def _is(name: str, schema: Mapping[str, Any], shared: bool) -> dict[str, Any]:
    """Return what tells objects of a kind. `shared`: kinds of several groups have its name."""
    told: dict[str, Any] = {"kind": {"const": plain(name)}}
    if shared:
        told["apiVersion"] = schema["properties"]["apiVersion"]
    return {"properties": told, "required": list(told)}


def _object(kind: str, versions: list[str], spec: type[msgspec.Struct]) -> dict[str, Any]:
    (top,), definitions = msgspec.json.schema_components([spec], ref_template="#/$defs/{name}")
    _closed(definitions)
    _described(definitions, spec)
    text = {"type": ["string", "null"]}
    return {
        "$schema": DRAFT,
        "title": kind,
        "description": " ".join(doc(spec).split()),
        "type": "object",
        "properties": {
            "apiVersion": {"enum": versions},
            "kind": {"const": kind},
            "metadata": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "namespace": {"type": "string"},
                    "labels": {"type": ["object", "null"], "additionalProperties": text},
                    "annotations": {"type": ["object", "null"], "additionalProperties": text},
                },
                "required": ["name"],
            },
            "spec": top,
        },
        "required": ["apiVersion", "kind", "metadata"],
        "$defs": definitions,
    }


def _closed(definitions: dict[str, Any]) -> None:
    """Make unknown fields an error, as they are when an object is read.

    Some structures leave that to the reader of NodeConfigs.
    """
    for definition in definitions.values():
        definition["additionalProperties"] = False


def _described(definitions: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """Give each field the meaning from its source, which editors show."""
    said = comments(struct)
    properties = definitions[struct.__name__]["properties"]
    for field in msgspec.structs.fields(struct):
        if meaning := said.get(field.name):
            properties[field.encode_name] = {"description": meaning, **properties[field.encode_name]}
        nested = inside(field.type)
        if nested is not None:
            _described(definitions, nested)
