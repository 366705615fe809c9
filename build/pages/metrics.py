"""docs/reference/metrics.md: every metric, found where the code makes it.

The code makes a metric with a `...MetricFamily` of prometheus-client: with the name there, or in a loop over rows of
name, value and meaning. The program ends when a metric's name is written in a form that is not understood here.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from nodeproxy.telemetry.counts import BUCKETS
from pages import HEAD

TREE = Path(__file__).resolve().parents[2]
TYPES = {
    "CounterMetricFamily": "counter",
    "GaugeMetricFamily": "gauge",
    "HistogramMetricFamily": "histogram",
    "UnknownMetricFamily": "untyped",
}
INTRODUCTION = """# Metrics

Prometheus' text format, at `/metrics` on the [admin socket](admin.md) and, for whoever shows the token, at `metricsAddress` of the
[NodeConfig](kinds/nodeconfig.md). Metrics name who calls whom, so the socket is root's and the address wants a token.

    box# curl -s --unix-socket /run/edgemesh/edgemesh.sock http://edgemesh/metrics

Each pair of workloads is a row of its own, up to `metricsRows` of the NodeConfig; pairs beyond that are counted together, with every label
`other`. A caller without an identity is `unknown`. A destination outside the mesh is `external`. The process's own metrics
(`process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds` and their like) are there too.

"""


class Found(Struct, frozen=True):
    name: str
    type: str
    meaning: str
    labels: tuple[str, ...]


def pages() -> Mapping[str, str]:
    text = [f"{HEAD}{INTRODUCTION}| metric | type | labels | meaning |\n|---|---|---|---|"]
    for one in sorted(found(), key=lambda metric: metric.name):
        name = f"{one.name}_total" if one.type == "counter" else one.name
        labels = ", ".join(f"`{label}`" for label in one.labels)
        text.append(f"| `{name}` | {one.type} | {labels} | {one.meaning.rstrip('.')} |")
    bounds = ", ".join(f"{bound:g}" for bound in BUCKETS)
    text.append(f"\nBuckets of durations, in seconds: {bounds}.")
    text.append(
        "\nThe label `flag` is one of the [flags](flags.md), empty when all went well; `code` is the class of the status (`2xx`)."
    )
    return {"reference/metrics.md": "\n".join(text) + "\n"}


def found() -> list[Found]:
    metrics: list[Found] = []
    # The rulesets have tables whose names look like metrics.
    for path in sorted(set((TREE / "agent").rglob("*.py")) - {TREE / "agent/kernel/ruleset.py"}):
        source = path.read_text("utf-8")
        if "MetricFamily" not in source and '"edgemesh_' not in source:
            continue
        tree = ast.parse(source)
        module = ".".join(path.relative_to(TREE).with_suffix("").parts)
        here = list(_made(tree, module))
        written = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch("edgemesh_[a-z_]+", node.value)
        }
        if missing := written - {one.name for one in here}:
            sys.exit(f"build/reference: {path}: nothing says what {', '.join(sorted(missing))} is")
        metrics += here
    return metrics


def _made(tree: ast.Module, module: str) -> Iterator[Found]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _family(node) and isinstance(node.args[0], ast.Constant):
            labels = next((keyword.value for keyword in node.keywords if keyword.arg == "labels"), None)
            yield Found(_text(node.args[0]), TYPES[_family(node)], _text(node.args[1]), _labels(labels, module))
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            call = next((one for one in ast.walk(node) if isinstance(one, ast.Call) and _family(one)), None)
            for row in node.iter.elts:
                if call is not None and isinstance(row, ast.Tuple):
                    labels = next((keyword.value for keyword in call.keywords if keyword.arg == "labels"), None)
                    of = _labels(labels, module)
                    yield Found(_text(row.elts[0]), TYPES[_family(call)], _text(row.elts[-1]), of)


def _family(call: ast.Call) -> str:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return name if name in TYPES else ""


def _text(node: ast.expr) -> str:
    return str(ast.literal_eval(node))


def _labels(node: ast.expr | None, module: str) -> tuple[str, ...]:
    if node is None:
        return ()
    code = compile(ast.Expression(node), module, "eval")
    return tuple(eval(code, dict(vars(importlib.import_module(module)))))  # noqa: S307 - our own source
