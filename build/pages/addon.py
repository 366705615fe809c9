"""k3s-addon/: the one file, and the Helm chart, from agent/install/manifests and the definitions of kinds.

The chart's templates are the same text with its values open. A chart's `crds/` are laid once by Helm, and neither
changed nor deleted with a release: policy must not go with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from agent.install import addon
from pages.crds import definitions

DEFINITIONS = "../agent/install/manifests/definitions.json"
CHART = """\
# Made by `make reference`: do not edit.
apiVersion: v2
name: edgemesh
description: "A service mesh for edge clusters: one daemon on each node, no sidecars"
type: application
version: {version}
appVersion: {version}
kubeVersion: ">=1.25.0-0"
"""


def pages() -> Mapping[str, str]:
    found = definitions()
    values = addon.settings({})
    return {
        DEFINITIONS: json.dumps(found, separators=(",", ":"), ensure_ascii=False) + "\n",
        "../k3s-addon/edgemesh.yaml": addon.manifest(values, stream(found)),
        "../k3s-addon/chart/Chart.yaml": CHART.format(**values),
        "../k3s-addon/chart/values.yaml": _values(values),
        "../k3s-addon/chart/values.schema.json": _schema(values),
        "../k3s-addon/chart/crds/definitions.yaml": stream(found),
        **{f"../k3s-addon/chart/templates/{part}.yaml": addon.template(part) for part in addon.PARTS},
    }


def stream(documents: list[dict[str, Any]]) -> str:
    """Return documents as YAML, mappings without another inside on one line."""
    style = {"sort_keys": False, "default_flow_style": None, "width": 160, "allow_unicode": True}
    return "---\n".join(yaml.safe_dump(document, **style) for document in documents)


def _schema(values: Mapping[str, str]) -> str:
    """Return what Helm holds values to: what `edgemesh install --set` holds them to."""
    properties: dict[str, Any] = {}
    for name, value in addon.VALUES.items():
        if values[name] in ("true", "false"):
            form: dict[str, Any] = {"type": "boolean"}
        elif re.fullmatch(value.form.pattern, "1") and re.fullmatch(value.form.pattern, "0.5"):
            # YAML and `helm --set` make a number of it; a pattern is asked of strings only.
            form = {"type": ["string", "number"], "exclusiveMinimum": 0, "pattern": f"^({value.form.pattern})$"}
        else:
            form = {"type": "string", "pattern": f"^({value.form.pattern})$"}
        properties[name] = {"description": f"{value.meaning}: {value.form.words}", **form}
    properties["version"] = {"const": values["version"]}
    properties["global"] = {"description": "Helm's own, of a chart that has this one as a part."}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return json.dumps(schema, indent=2) + "\n"


def _values(values: Mapping[str, str]) -> str:
    lines = [f"# {value.meaning}: {value.form.words}\n{name}: {values[name]}\n" for name, value in addon.VALUES.items()]
    version = f"# what this chart is of: do not change\nversion: {values['version']}\n"
    return (
        "# Made by `make reference`: do not edit; give helm what differs, by --set or a file of your own.\n"
        + "".join([*lines, version])
    )
