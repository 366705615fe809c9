"""The how-to on the command line of a cluster, typed against a cluster in memory. The real one is in tests/kube."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import trio

from agent.admin.api import handler
from agent.http.server import HttpRequest
from agent.kernel.condition import Condition
from tests.agent.conftest import ShownDaemon, publish
from tests.agent.kubernetes.fake import Asked
from tests.agent.kubernetes.objects import Cluster
from tests.readme.script import TREE, Command, read

MANIFESTS = """
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: till, namespace: shop}
spec: {serviceAccount: till, addresses: [10.42.0.7], netns: a}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: stock, namespace: shop}
spec: {serviceAccount: stock, addresses: [10.42.0.8], netns: b, ports: [{port: 8080}]}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: routes, namespace: shop}
spec: {matches: [{name: read, methods: [GET], pathRegex: "/items(/.*)?$"}]}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: reading, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: stock, namespace: shop}
  sources: [{kind: ServiceAccount, name: till, namespace: shop}]
  rules: [{kind: HTTPRouteGroup, name: routes, matches: [read]}]
"""


def answers() -> Any:
    """Return what the daemon of a node answers, by path and query."""
    daemon = ShownDaemon()
    daemon.published = publish(MANIFESTS)
    daemon.standings = {"shop/till": Condition(True, "/run/netns/a"), "shop/stock": Condition(True, "/run/netns/b")}
    questions = (
        "src=shop%2Ftill&dst=shop%2Fstock&method=GET&path=%2Fitems",
        "src=shop%2Ftill&dst=workload%3Ashop%2Fstock&port=8080",
    )
    found = {}
    for target in (
        "/status?",
        "/certs?",
        "/connections?",
        "/routes?",
        "/problems?",
        *(f"/explain?{q}" for q in questions),
    ):
        path, _, query = target.partition("?")
        asked = tuple(parse_qsl(query))
        found[path, asked] = json.loads(trio.run(handler(daemon), HttpRequest(path, asked)).body)

    def page(asked: Asked, path: str) -> tuple[int, Any]:
        return 200, found[path, tuple(asked.query.items())]

    return page


def site() -> Cluster:
    cluster, page = Cluster(), answers()
    for name in ("shop", "batch"):
        cluster.namespace(name)
    for node in ("n1", "n2"):
        cluster.add(f"/api/v1/nodes/{node}")
        cluster.daemon(node, page)
    cluster.add(
        "/apis/apps/v1/namespaces/edgemesh-system/daemonsets/edgemesh-agent",
        metadata={"labels": {"app.kubernetes.io/name": "edgemesh"}},
        spec={"template": {"spec": {"containers": [{"image": "edgemesh.io/edgemesh:0.1.0"}]}}},
        status={"desiredNumberScheduled": 2, "numberReady": 2},
    )
    for name, ports in (("till", []), ("stock", [{"containerPort": 8080}])):
        status = {"phase": "Running", "podIP": "10.42.0.7"}
        cluster.pod(f"shop/{name}", spec={"containers": [{"ports": ports}]}, status=status)
    access, specs = "/apis/access.smi-spec.io/v1alpha3", "/apis/specs.smi-spec.io/v1alpha4"
    cluster.serves(f"{access}/traffictargets", "TrafficTarget")
    cluster.serves(f"{specs}/httproutegroups", "HTTPRouteGroup")
    match = {"name": "read", "methods": ["GET"], "pathRegex": "/items(/.*)?$"}
    cluster.add(f"{specs}/namespaces/shop/httproutegroups/routes", spec={"matches": [match]})
    account = {"kind": "ServiceAccount", "namespace": "shop"}
    cluster.add(
        f"{access}/namespaces/shop/traffictargets/reading",
        spec={
            "destination": {**account, "name": "stock"},
            "sources": [{**account, "name": "till"}],
            "rules": [{"kind": "HTTPRouteGroup", "name": "routes", "matches": ["read"]}],
        },
    )
    return cluster


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    steps = [one for one in read((TREE / "docs/howto/k3s-cli.md").read_text("utf-8")) if isinstance(one, Command)]
    assert {step.where for step in steps} == {"admin"}
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig"), "HOME": str(tmp_path)}
    environment["PATH"] = f"{TREE / '.venv/bin'}:{TREE / '.venv/dev/bin'}:{environment['PATH']}"
    with site().running() as cluster:
        (tmp_path / "kubeconfig").write_text(cluster.kubeconfig)
        for step in steps:
            done = subprocess.run(
                ["bash", "-c", step.words],
                check=False,
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
            if "--all-nodes" not in step.words or "certs" not in step.words:  # these nodes have joined no mesh
                assert done.returncode == 0, (step, done)
            for line in step.prints:
                assert line in done.stdout, (step, done)
