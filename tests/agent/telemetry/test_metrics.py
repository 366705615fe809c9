"""Metrics: what is counted, under which labels, and that there is an end to them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from prometheus_client.core import GaugeMetricFamily

from agent.telemetry.metrics import Metrics, Rising, row_key
from nodeproxy.telemetry.record import Record
from policy.model import Workload


def samples(metrics: Metrics) -> dict[str, float]:
    """`name{label="value",...}` without empty labels -> value, of our own families."""
    found = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name.startswith("edgemesh_"):
                labels = ",".join(f"{name}={value}" for name, value in sample.labels.items() if value)
                found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


PAIR = "direction=outbound,source_namespace=shop,source_workload=buyer,destination_namespace=shop,destination_workload=store-v1"


def test_a_request_is_counted(daemon: Any) -> None:
    daemon.record("shop/buyer", "shop/store-v1", status=200, bytes_in=10, bytes_out=20)
    daemon.record("shop/buyer", "shop/store-v1", status=204, duration=0.3)
    daemon.record("shop/buyer", "shop/store-v1", status=502, flag="upstream-broken")
    found = samples(daemon.metrics)
    assert found[f"edgemesh_requests_total{{{PAIR},code=2xx}}"] == 2
    assert found[f"edgemesh_requests_total{{{PAIR},code=5xx,flag=upstream-broken}}"] == 1
    assert found[f"edgemesh_request_duration_seconds_bucket{{{PAIR},le=0.01}}"] == 0
    assert found[f"edgemesh_request_duration_seconds_bucket{{{PAIR},le=0.025}}"] == 2
    assert found[f"edgemesh_request_duration_seconds_bucket{{{PAIR},le=+Inf}}"] == 3
    assert found[f"edgemesh_request_duration_seconds_count{{{PAIR}}}"] == 3
    assert round(found[f"edgemesh_request_duration_seconds_sum{{{PAIR}}}"], 6) == 0.34
    assert found[f"edgemesh_bytes_total{{{PAIR},flow=received}}"] == 10
    assert found[f"edgemesh_bytes_total{{{PAIR},flow=sent}}"] == 20
    assert not any("denials" in name for name in found)


def retries(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Name behind sidecar_cluster_upstream_ -> labels -> value."""
    found: dict[str, dict[str, float]] = {}
    for line in metrics.text().decode().splitlines():
        if line.startswith("sidecar_"):
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition("} ")
            found.setdefault(name.removeprefix("sidecar_cluster_upstream_"), {})[labels] = float(value)
    return found


def test_retries_have_the_names_of_osm(daemon: Any) -> None:
    about = {"service": "shop/store", "endpoint": "[fd00::1]:8080"}
    daemon.record("shop/buyer", "shop/store-v1", status=503, retries=5, retried="limit", **about)
    daemon.record("shop/buyer", "shop/store-v1", status=200, retries=2, retried="success", **about)
    daemon.record("shop/buyer", "shop/store-v1", status=503, retried="overflow", **about)
    daemon.record("shop/buyer", "shop/store-v1", status=200, **about)
    labels = 'sidecar_cluster_name="shop/store|8080",source_namespace="shop",source_pod_name="buyer"'
    assert retries(daemon.metrics) == {
        "rq_retry": {labels: 7},
        "rq_retry_backoff_exponential": {labels: 7},
        "rq_retry_success": {labels: 1},
        "rq_retry_limit_exceeded": {labels: 1},
        "rq_retry_overflow": {labels: 1},
    }


def test_there_is_an_end_to_rows_of_retries() -> None:
    metrics = Metrics(2)
    workloads = [Workload("shop", f"w{number}", "w", ("10.0.0.1",)) for number in range(4)]
    for workload in workloads:
        record = Record.of_connection("outbound", 0.0, workload, "10.0.0.1", None, "10.0.0.2:80")
        metrics(replace(record, kind="request", retries=1, service="shop/s", endpoint="10.0.0.2:80"))
    assert len(metrics.retries) == 3
    assert metrics.retries["other", "other", "other"][0] == 2


def test_a_duration_on_a_bound_belongs_below_it(daemon: Any) -> None:
    daemon.record("shop/buyer", "shop/store-v1", status=200, duration=0.001)
    daemon.record("shop/buyer", "shop/store-v1", status=200, duration=1000.0)
    found = samples(daemon.metrics)
    assert found[f"edgemesh_request_duration_seconds_bucket{{{PAIR},le=0.001}}"] == 1
    assert found[f"edgemesh_request_duration_seconds_bucket{{{PAIR},le=300.0}}"] == 1
    assert found[f"edgemesh_request_duration_seconds_bucket{{{PAIR},le=+Inf}}"] == 2


def test_denials_by_reason(daemon: Any) -> None:
    daemon.record("shop/thief", "shop/store-v1", status=403, flag="denied", detail="no-rule: no TrafficTarget")
    daemon.record("shop/thief", "shop/store-v1", kind="connection", protocol="tcp", flag="cut")
    daemon.record("shop/thief", "shop/store-v1", status=421, flag="misdirected", detail="anything: a caller may say")
    found = {
        name.partition(",reason=")[2]: value for name, value in samples(daemon.metrics).items() if "denials" in name
    }
    assert found == {"no-rule}": 1, "cut}": 1, "misdirected}": 1}


def test_connections_are_not_requests(daemon: Any) -> None:
    daemon.record("shop/buyer", "shop/store-v1", kind="connection", protocol="tcp", bytes_in=5)
    found = samples(daemon.metrics)
    assert found[f"edgemesh_connections_total{{{PAIR}}}"] == 1
    assert found[f"edgemesh_bytes_total{{{PAIR},flow=received}}"] == 5
    assert not any("request" in name for name in found)


def test_an_http_connection_does_not_count_again_what_its_requests_did(daemon: Any) -> None:
    daemon.record("shop/buyer", "shop/store-v1", status=403, flag="cut", bytes_in=5)
    daemon.record("shop/buyer", "shop/store-v1", kind="connection", flag="cut", bytes_in=5)
    found = samples(daemon.metrics)
    assert found[f"edgemesh_connections_total{{{PAIR},flag=cut}}"] == 1
    assert found[f"edgemesh_denials_total{{{PAIR},reason=cut}}"] == 1
    assert found[f"edgemesh_bytes_total{{{PAIR},flow=received}}"] == 5


def test_who_is_not_known_is_said(daemon: Any) -> None:
    keys = [
        row_key(daemon.record("", "shop/store-v1", direction="inbound")),
        row_key(daemon.record("shop/buyer", "")),
        row_key(daemon.record("shop/buyer", "", service="shop/store")),
    ]
    assert keys == [
        ("inbound", "", "unknown", "shop", "store-v1"),
        ("outbound", "shop", "buyer", "", "external"),
        ("outbound", "shop", "buyer", "shop", "unknown"),
    ]


def test_rows_have_an_end_and_sums_never_fall(daemon: Any) -> None:
    daemon.metrics = Metrics(rows=2)
    for source in ("shop/buyer", "shop/thief", "shop/far"):
        for _ in range(2):
            daemon.record(source, "shop/store-v1", status=200)
            daemon.record(source, "shop/store-v1", kind="connection", protocol="tcp", flag="cut")
    assert [key[2] for key in daemon.metrics.rows] == ["buyer", "thief", "other"]

    def total() -> float:
        return sum(value for name, value in samples(daemon.metrics).items() if "duration" not in name)

    before = total()
    daemon.metrics.retain(["shop/buyer", "shop/store-v1"])
    assert [key[2] for key in daemon.metrics.rows] == ["buyer", "other"]
    assert total() == before
    assert sum(sum(row.buckets) for row in daemon.metrics.rows.values()) == 6
    daemon.record("shop/far", "shop/store-v1", status=200)
    assert [key[2] for key in daemon.metrics.rows] == ["buyer", "other"]
    assert repr(daemon.metrics) == "<Metrics 2/2 rows>"
    assert repr(daemon.metrics.rows[next(iter(daemon.metrics.rows))]) == "<Row 2 requests, 2 connections, 2 denied>"


def test_rows_stay_while_there_is_room(daemon: Any) -> None:
    daemon.record("shop/buyer", "shop/store-v1", status=200)
    daemon.metrics.retain([])
    assert len(daemon.metrics.rows) == 1


def test_the_text_has_gauges_and_the_process(daemon: Any) -> None:
    def gauges() -> list[GaugeMetricFamily]:
        return [GaugeMetricFamily("edgemesh_connections_open", "Open.", value=3)]

    daemon.metrics.gauges = gauges
    daemon.record("shop/buyer", "shop/store-v1", status=200)
    text = daemon.metrics.text().decode()
    assert "\nedgemesh_connections_open 3.0\n" in text
    assert "# TYPE edgemesh_requests_total counter\n" in text
    assert "# TYPE edgemesh_request_duration_seconds histogram\n" in text
    assert "process_resident_memory_bytes" in text


def test_what_workloads_counted_never_falls_though_they_go() -> None:
    rising = Rising()
    assert [
        rising.total(counts) for counts in ({"a": 2}, {"a": 3, "b": 1}, {"b": 1}, {}, {"b": 1}, {"b": 0}, {"b": 2})
    ] == [
        2,
        4,
        4,
        4,
        5,
        5,
        7,
    ]


def test_what_a_dry_run_would_change_is_counted_by_rule_and_has_an_end(daemon: Any) -> None:
    target = "TrafficTarget shop/t"
    for _ in range(2):
        daemon.record("shop/buyer", "shop/store-v1", status=403, flag="denied", detail="no-rule: x", trial=target)
    daemon.record("shop/buyer", "shop/store-v1", status=200, rule="TrafficTarget shop/u", trial="TrafficTarget shop/u")
    daemon.record(
        "shop/buyer", "shop/store-v1", kind="connection", protocol="http", trial=target
    )  # its requests are counted
    found = {name: value for name, value in samples(daemon.metrics).items() if "dry_run" in name}
    assert found == {
        f"edgemesh_dry_run_total{{direction=outbound,rule={target},effect=would-allow}}": 2,
        "edgemesh_dry_run_total{direction=outbound,rule=TrafficTarget shop/u,effect=would-deny}": 1,
    }
    few = Metrics(2)
    for number in range(5):
        few(daemon.record("shop/buyer", "shop/store-v1", flag="denied", trial=f"TrafficTarget shop/{number}"))
    assert sum(few.trials.values()) == 5
    assert len(few.trials) == 3
