"""The manifests of the demo: fixed ones from the folder `manifests`, and those that depend on the network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from agent.demo.plan import Host, Site

if TYPE_CHECKING:
    from agent.demo.network import Network

# host -> (namespace, service account, labels). em-outsider and em-outside are missing on purpose: they are not in the mesh.
MEMBERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "bookbuyer": ("bookbuyer", "bookbuyer", {"app": "bookbuyer"}),
    "bookthief": ("bookthief", "bookthief", {"app": "bookthief"}),
    "bookstore-v1": ("bookstore", "bookstore", {"app": "bookstore", "version": "v1"}),
    "bookstore-v2": ("bookstore", "bookstore-v2", {"app": "bookstore", "version": "v2"}),
    "bookwarehouse": ("bookwarehouse", "bookwarehouse", {"app": "bookwarehouse"}),
    "mysql": ("bookwarehouse", "mysql", {"app": "mysql"}),
    "client": ("shop", "client", {"app": "client"}),
    "web-v1": ("shop", "web", {"app": "web", "version": "v1"}),
    "web-v2": ("shop", "web", {"app": "web", "version": "v2"}),
}


def fixed(name: str) -> str:
    """Return the text of manifests/NAME, unchanged."""
    return (resources.files("agent.demo") / "manifests" / name).read_text()


def workload(host: Host, network: Network) -> str:
    """Return the Workload of one host. JSON is YAML."""
    namespace, account, labels = MEMBERS[host.name]
    return _document(
        "edgemesh.io/v1alpha1",
        "Workload",
        {"name": host.name, "namespace": namespace},
        {
            "serviceAccount": account,
            "labels": labels,
            "addresses": [host.address4, *([host.address6] if network.ipv6 else [])],
            "netns": network.name(host.name),
            **({"node": Site(host.site).node} if host.site else {}),
        },
    )


def node_config(site: Site, network: Network, folder: Path) -> str:
    """Return settings that keep a daemon of the demo apart from one that the machine may already run."""
    spec: dict[str, object] = {"adminSocket": str(folder / "admin.sock"), "stateDir": str(folder / "state")}
    if not site.number:
        return _document("edgemesh.io/v1alpha1", "NodeConfig", {"name": "default"}, {"node": site.node, **spec})
    addresses = [site.link4, *([site.link6] if network.ipv6 else [])]
    return _document("edgemesh.io/v1alpha1", "NodeConfig", {"name": site.node}, {**spec, "addresses": addresses})


class Folder:
    """The directory that `edgemesh run --config` watches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, text: str) -> None:
        """Write a file whole or not at all: under another name, then renamed."""
        temporary = self.path / f".{name}.new"
        temporary.write_text(text)
        os.replace(temporary, self.path / name)

    def hold_exactly(self, files: dict[str, str]) -> bool:
        """Make the folder hold these files (name -> text) and no others. Return whether anything changed.

        New files come first, so that none is missing in between.
        """
        changed = False
        for name, text in files.items():
            path = self.path / name
            if not path.exists() or path.read_text() != text:
                self.put(name, text)
                changed = True
        for path in self.path.glob("*.yaml"):
            if path.name not in files:
                path.unlink()
                changed = True
        return changed


def _document(version: str, kind: str, metadata: Mapping[str, str], spec: Mapping[str, object]) -> str:
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}, indent=2) + "\n"
