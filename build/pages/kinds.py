"""docs/reference/kinds/: every kind of object that is read, with an example and all of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.config.schema import LIVE, NodeConfig
from pages import HEAD
from pages.fields import cell, doc, table
from policy.kinds.base import Metadata
from policy.mesh_fields import FIELDS
from policy.registry import KINDS, Kind
from policy.resources import plain

TREE = Path(__file__).resolve().parents[2]
KUBERNETES = ("", "apps", "discovery.k8s.io")
PROJECTS = {"access.smi-spec.io": "SMI", "specs.smi-spec.io": "SMI", "split.smi-spec.io": "SMI"}
NODE = """Settings of a node. The object named `default` speaks for every node; one that has a node's name is laid over it, field by field.
A field that cannot be used is reported with its line and keeps the value that was in force. Fields marked *live* take effect at once,
the others at the next start; `edgemesh status` says that they wait. Times are seconds, sizes are bytes.
"""
WORKLOAD = """
Namespace and name are in its `metadata`. Its identity is `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
One of `netns`, `systemdUnit`, or `addresses` with `node` says where it runs.
"""


HERE = {"done": "done", "always": "always so", "missed": "not done", "none": "no meaning here"}
MESH = """
## OSM's fields

What becomes of each field that OSM's and fsm's MeshConfigs have, in v1alpha1 and v1alpha2. *always so*: what it asks for is so,
whatever it says. *not done*: a warning of `edgemesh check` and `status` where it asks for something. *no meaning here*: one notice for
all of them. A row stands for all fields below it.

| field | here | |
|---|---|---|
"""


def pages() -> Mapping[str, str]:
    """Return the text of each page, by its path in docs."""
    found = {
        f"reference/kinds/{name.lower()}.md": _page(name, kind)
        for name, kind in KINDS.items()
        if kind.group not in KUBERNETES
    }
    found["reference/kinds/nodeconfig.md"] = _node_config()
    found["reference/kinds/kubernetes.md"] = _kubernetes()
    return found


def example(name: str) -> str:
    text = (TREE / "examples/kinds" / f"{name.lower()}.yaml").read_text("utf-8")
    return f"```yaml\n{text.rstrip()}\n```\n"


def versions(kind: Kind) -> str:
    *older, newest = kind.versions
    also = [f"`{version}`" for version in older] + [f"group `{group}`" for group in kind.also]
    read = f" (also read: {', '.join(also)})" if also else ""
    return f"`apiVersion: {kind.group}{'/' if kind.group else ''}{newest}`{read}"


def _fields(kind: Kind) -> str:
    text = table(kind.spec, "" if kind.whole else "spec.")
    if kind.status is not None:
        text += "".join(f"{line}\n" for line in table(kind.status, "status.").splitlines()[2:])
    return text


def _page(name: str, kind: Kind) -> str:
    more = WORKLOAD if name == "Workload" else ""
    scope = "It belongs to a namespace." if kind.namespaced else "It belongs to no namespace."
    schema = f"[JSON schema](../../schemas/{name.lower()}.json) for [editors](../../howto/editor.md)"
    return (
        f"{HEAD}# {plain(name)}\n\n{versions(kind)}. {scope}\n\n{doc(kind.spec)}\n{more}\n{example(name)}\n"
        f"Every field may be left out unless its default says *required*. {schema}.\n\n{_fields(kind)}{_mesh_fields() if name == 'MeshConfig' else ''}"
    )


def _mesh_fields() -> str:
    return MESH + "".join(
        f"| `spec.{row.path}` | {HERE[row.here]} | {cell(row.words)}{f' ({cell(row.hint)})' if row.hint else ''} |\n"
        for row in FIELDS
    )


def _node_config() -> str:
    schema = "[JSON schema](../../schemas/nodeconfig.json) for [editors](../../howto/editor.md)"
    return (
        f"{HEAD}# NodeConfig\n\n`apiVersion: edgemesh.io/v1alpha1`. It belongs to no namespace.\n\n{NODE}\n{example('NodeConfig')}\n"
        f"Every field may be left out. {schema}.\n\n{table(NodeConfig, 'spec.', LIVE)}"
    )


def _kubernetes() -> str:
    text = (
        f"{HEAD}# Kubernetes' own kinds\n\nThey are read as they are in real manifests. The fields below are those that edgemesh looks at;"
        " all others are left alone. A kind that is not in this reference is named once and left alone too.\n\n"
        f"## metadata\n\nThe same for every kind, Kubernetes' or not.\n\n{table(Metadata, 'metadata.')}"
    )
    for name, kind in KINDS.items():
        if kind.group not in KUBERNETES:
            continue
        fields = _fields(kind)
        listed = fields if fields.count("\n") > 3 else ""
        text += f"\n## {name}\n\n{versions(kind)}. {doc(kind.spec)}\n\n{example(name)}\n{listed}"
    return text
