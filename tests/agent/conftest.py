"""A small mesh from manifests, and a daemon that shows it without running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agent.config.schema import NodeConfig
from agent.config.settings import Settings
from agent.kernel.condition import Condition
from agent.sources import manifest
from agent.store.store import Published, Store
from agent.telemetry.access_log import AccessLog
from agent.telemetry.metrics import Metrics
from agent.telemetry.recent_denials import RecentDenials
from nodeproxy.interfaces import NO_FAST_PATH
from nodeproxy.telemetry.record import Record
from policy.model import Problem, Where
from policy.snapshot import Snapshot

MANIFESTS = """
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: buyer, namespace: shop}
spec: {serviceAccount: buyer, addresses: [10.1.0.1], netns: em-buyer, labels: {app: buyer}}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: thief, namespace: shop}
spec: {serviceAccount: thief, addresses: [10.1.0.2], netns: em-thief, labels: {app: thief}}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: store-v1, namespace: shop}
spec: {serviceAccount: store, addresses: [10.1.0.3], netns: em-store, labels: {app: store, version: v1}, ports: [{port: 8080}]}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: far, namespace: shop}
spec: {serviceAccount: far, addresses: [10.2.0.1], node: elsewhere, labels: {app: store, version: far}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: shop}
spec: {selector: {app: store}, ports: [{port: 80, targetPort: 8080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: store-v1, namespace: shop}
spec: {selector: {version: v1}, ports: [{port: 80, targetPort: 8080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: store-far, namespace: shop}
spec: {selector: {version: far}, ports: [{port: 80, targetPort: 8080, name: http}, {port: 53, targetPort: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: halves, namespace: shop}
spec: {service: store, backends: [{service: store-v1, weight: 3}, {service: store-far, weight: 1}]}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: routes, namespace: shop}
spec: {matches: [{name: buy, pathRegex: /buy$, methods: [GET]}]}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: buying, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: store, namespace: shop}
  sources: [{kind: ServiceAccount, name: buyer, namespace: shop}]
  rules: [{kind: HTTPRouteGroup, name: routes, matches: [buy]}]
"""


def publish(text: str = MANIFESTS) -> Published:
    store = Store(Settings(host="edge-1"), None)
    store.apply([manifest.read(text.encode(), "/etc/edgemesh/shop.yaml")], whole=True)
    published = store.make()
    assert published is not None
    return published


class ShownDaemon:
    """What agent.admin.daemon.Daemon wants, with attributes that tests set."""

    def __init__(self) -> None:
        self.version = "0.1.0"
        self.directory = "/etc/edgemesh"
        self.started = 1000.0
        self.config = NodeConfig(node="edge-1")
        self.published: Published | None = publish()
        self.problems: tuple[Problem, ...] = ()
        self.conns: Mapping[int, Any] = {}
        self.metrics = Metrics()
        self.access_log = AccessLog("off", len)
        self.keeper: Any = None
        self.api: Any = None
        self.fast = NO_FAST_PATH
        self.refusals = RecentDenials("edge-1")
        self.settled = True
        self.others: list[dict[str, Any]] = []
        self.api_servers: list[dict[str, Any]] = []
        self.dns: dict[str, Any] = {
            "questions": dict.fromkeys(("answered", "cached", "stale", "forwarded", "failed", "dropped"), 0),
            "kept_answers": 0,
            "kept_bytes": 0,
            "down": [],
        }
        self.open_circuits: list[dict[str, Any]] = []
        self.listeners: list[dict[str, Any]] = []
        self.state = "enforcing"
        self.standings: dict[str, Condition] = {
            "shop/buyer": Condition(True, "/run/netns/em-buyer"),
            "shop/thief": Condition(True, "/run/netns/em-thief", powers=("NET_RAW",), udp_packets=7),
            "shop/store-v1": Condition(False, "/run/netns/em-store", "there is no such network namespace"),
        }

    def unit(self, name: str, cgroup: int) -> tuple[bool, bool, str]:
        return name == "till.service", cgroup == 7, ""

    def conditions(self) -> Mapping[str, Condition]:
        return self.standings

    def nodes(self) -> list[dict[str, Any]]:
        return self.others

    def clusters(self) -> list[dict[str, Any]]:
        return self.api_servers

    copies_dropped = 0

    def gateway_listeners(self) -> list[dict[str, Any]]:
        return self.listeners

    def circuits(self) -> list[dict[str, Any]]:
        return self.open_circuits

    def names(self) -> dict[str, Any]:
        return self.dns

    @property
    def snapshot(self) -> Snapshot:
        assert self.published is not None
        return self.published.snapshot

    def record(self, source: str, destination: str, **fields: Any) -> Record:
        """Count a request (or what `fields` say) between two workloads, by key; "" for none."""
        values: dict[str, Any] = {
            "kind": "request",
            "direction": "outbound",
            "started": 1700000000.25,
            "duration": 0.02,
            "source": self.snapshot.workload(source) if source else None,
            "source_address": "10.1.0.1",
            "destination": self.snapshot.workload(destination) if destination else None,
            "service": "",
            "dialled": "10.1.0.3:8080",
            "endpoint": "10.1.0.3:8080",
            "protocol": "http",
        }
        record = Record(**(values | fields))
        self.metrics(record)
        return record


@pytest.fixture
def daemon() -> ShownDaemon:
    return ShownDaemon()


@pytest.fixture
def problem() -> Problem:
    where = Where("/etc/edgemesh/shop.yaml", 12)
    return Problem("error", where, "TrafficTarget shop/buying", "unknown field spec.sourcs", "did you mean sources?")
