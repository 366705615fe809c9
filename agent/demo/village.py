"""The village of the chapters: one client and two servers in the mesh, and one host outside it."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.demo import certificate, documents
from agent.demo.network import Network
from agent.demo.plan import PREFIX, VILLAGE
from agent.demo.servers import ask
from agent.demo.stage import Stage

SERVERS = ("web-v1", "web-v2", "outside")


class Village(Stage):
    inside = True  # so that `outside` reaches its gateway

    def __init__(self, folder: Path, private: bool, prefix: str = PREFIX, say: Callable[[str], None] = lambda _: None):
        super().__init__(folder, Network(VILLAGE, prefix, not private), say)

    @property
    def certificates(self) -> Path:
        """Return the folder that has the certificates of Gateways."""
        return self.folder / "certificates"

    def apply(self, files: Sequence[str]) -> float:
        """Make the watched folder say what these files of manifests/ say. Return the time of the last change (epoch)."""
        (site,) = self.network.sites
        texts = {name: documents.fixed(name) for name in files}
        for host in self.network.hosts:
            if host.name in documents.MEMBERS:
                texts[f"workload-{host.name}.yaml"] = documents.workload(host, self.network)
        node = json.loads(documents.node_config(site, self.network, self.folder))
        node["spec"]["gateway"] = {"certificates": str(self.certificates)}
        texts["node.yaml"] = json.dumps(node)
        return time.time() if self.config.hold_exactly(texts) else 0.0

    def asked(self) -> dict[str, int]:
        """Return how many requests each server has had, read over Unix sockets."""
        found: dict[str, int] = {}
        for name in SERVERS:
            with contextlib.suppress(OSError, http.client.HTTPException):
                found[name] = int(ask(self.control(name), "/raw")["asked"])
        return found

    def _start_applications(self) -> None:
        certificate.write(self.certificates / "shop" / "front", "web.example")
        self.say("starting the servers")
        for name in SERVERS:
            self._application(name, "web", f"identity={name}")
        for name in SERVERS:
            self._wait(name, lambda name=name: self._answers(name))  # type: ignore[misc]
