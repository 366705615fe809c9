"""What the metrics of a daemon say of the moment."""

from __future__ import annotations

from collections import Counter
from typing import Any

from agent.daemon.gauges import of_cluster
from tests.agent.daemon.conftest import BROKEN, busy

OUTCOMES = ("answered", "cached", "stale", "forwarded", "failed", "dropped")


async def test_gauges(start: Any) -> None:
    daemon = start()
    daemon.make()
    assert daemon.gauges()["edgemesh_snapshot_builds_total"] == 0
    await daemon.start()
    node = daemon.node
    (daemon.manifests / "broken.yaml").write_text(BROKEN)
    await daemon.until(lambda: node.published.number == 2)
    busy(daemon)
    gauges = daemon.gauges()
    assert gauges.pop("edgemesh_snapshot_build_seconds") > 0
    severities = Counter(problem.severity for problem in node.problems)
    assert severities["error"] >= 1
    assert gauges == {
        "edgemesh_snapshot_builds_total": 2,
        "edgemesh_connections_open": 1,
        "edgemesh_workloads_captured": 3,
        "edgemesh_workloads_uncaptured": 0,
        "edgemesh_capture_gaps_total": 3,
        "edgemesh_mirror_dropped_total": 0,
        "edgemesh_circuits_open": 0,
        **{f"edgemesh_dns_questions_total{{'outcome': '{outcome}'}}": 0 for outcome in OUTCOMES},
        "edgemesh_dns_resolvers_down": 0,
        "edgemesh_dns_kept_answers": 0,
        "edgemesh_dns_kept_bytes": 0,
        "edgemesh_access_log_suppressed_lines_total": 0,
        "edgemesh_problems{'severity': 'error'}": severities["error"],
        "edgemesh_problems{'severity': 'warning'}": severities["warning"],
        "edgemesh_problems{'severity': 'notice'}": severities["notice"],
        f"edgemesh_info{{'version': '{node.version}', 'node': 'edge-1'}}": 1,
    }
    node.proxy.context.conns.clear()


def test_gauges_of_a_cluster() -> None:
    kinds = {"Pod": {"objects": 3, "received_bytes": 700, "error": ""}}
    cluster = {
        "connected": True,
        "requests": 9,
        "lead_requests": 4,
        "failures": 2,
        "delayed_seconds": 0.5,
        "kinds": kinds,
    }
    rows = {
        f"{sample.name}{sample.labels or ''}": sample.value
        for family in of_cluster(cluster)
        for sample in family.samples
    }
    assert rows == {
        "edgemesh_kubernetes_connected": 1,
        "edgemesh_kubernetes_requests_total": 9,
        "edgemesh_kubernetes_lead_requests_total": 4,
        "edgemesh_kubernetes_failures_total": 2,
        "edgemesh_kubernetes_delayed_seconds_total": 0.5,
        "edgemesh_kubernetes_received_bytes_total{'kind': 'Pod'}": 700,
        "edgemesh_kubernetes_objects{'kind': 'Pod'}": 3,
    }
