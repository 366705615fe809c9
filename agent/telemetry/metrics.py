"""Metrics: a sink that counts records by caller and callee, and the Prometheus text of the counts.

Theory of operation. The proxy calls `Metrics` in its loop once for each finished request and connection, so counting is
a few plain additions on a row found by one dictionary look-up; prometheus-client sees the rows only at a scrape. A row
is one pair of workloads as seen from one side. There are at most `rows` of them: later pairs are counted in one row
named "other", so that neither a scanner nor years of pod names can grow the daemon or the scrape.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from agent.config.schema import NodeConfig
from agent.telemetry.access_log import DENIALS as DENIAL_FLAGS
from agent.telemetry.sink import Figures, Sink
from nodeproxy.protocols.table import BY_REQUEST
from nodeproxy.telemetry.counts import BUCKETS, Counts, Pair
from nodeproxy.telemetry.record import Record
from policy.authz import DENIALS as DENIAL_REASONS

if TYPE_CHECKING:  # imported at the first scrape
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

ROWS = 1000
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN = "unknown"  # a caller that proved no identity, or no chosen workload
EXTERNAL = "external"  # not a destination of the mesh
OTHER = "other"

_LABELS = ["direction", "source_namespace", "source_workload", "destination_namespace", "destination_workload"]
# Place of each count of retries in its row, and of what became of a request that may be retried (Record.retried)
_RETRIES, _SUCCESS, _LIMIT, _OVERFLOW = range(4)
_OUTCOMES = {"success": _SUCCESS, "limit": _LIMIT, "overflow": _OVERFLOW}
_OF_SIDECAR = ["source_namespace", "source_pod_name", "sidecar_cluster_name"]  # the last: NAMESPACE/SERVICE|TARGETPORT

Key = tuple[str, str, str, str, str]
_OTHER: Key = (OTHER, OTHER, OTHER, OTHER, OTHER)


class Row:
    """The counts of one pair of workloads."""

    __slots__ = ("buckets", "bytes_in", "bytes_out", "connections", "denials", "duration", "requests", "streams")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}  # by class of status ("2xx") and flag
        self.connections: dict[str, int] = {}  # by flag
        self.streams = 0  # connections that carried no HTTP: the calls that are not in `requests`
        self.denials: dict[str, int] = {}  # by reason
        self.buckets = [0] * (len(BUCKETS) + 1)  # not cumulative
        self.duration = 0.0
        self.bytes_in = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Row {sum(self.requests.values())} requests, {sum(self.connections.values())} connections, {self.denied} denied>"

    @property
    def denied(self) -> int:
        return sum(self.denials.values())

    def add(self, other: Row) -> None:
        """Add the counts of a row that goes, so that sums never fall."""
        for mine, theirs in ((self.connections, other.connections), (self.denials, other.denials)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        for outcome, count in other.requests.items():
            self.requests[outcome] = self.requests.get(outcome, 0) + count
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        self.duration += other.duration
        self.streams += other.streams
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


class Metrics(Sink):
    """A sink, and what it has counted. `figures.gauges` yields at each scrape what is true at that moment."""

    def __init__(self, rows: int = ROWS, figures: Figures = Figures()) -> None:  # noqa: B008 - frozen
        self.rows: dict[Key, Row] = {}
        # By direction, TrafficTarget and effect: calls whose verdict a dry run would change
        self.trials: dict[tuple[str, str, str], int] = {}
        self.gauges = figures.gauges
        self.collected = figures.collect  # adds what was counted elsewhere; called before each scrape
        self.retries: dict[
            tuple[str, str, str], list[int]
        ] = {}  # by caller and Service: counts in the order of _RETRIES and _OUTCOMES
        self._most = rows

    def __repr__(self) -> str:
        return f"<Metrics {len(self.rows)}/{self._most} rows>"

    @classmethod
    def of(cls, config: NodeConfig, figures: Figures) -> Metrics:
        return cls(config.metrics_rows, figures)

    def follow(self, config: NodeConfig, workloads: Collection[str]) -> None:
        self.retain(workloads)

    def __call__(self, record: Record) -> None:
        row = self._row(row_key(record))
        if record.kind == "request":
            outcome = (f"{record.status // 100}xx" if record.status else "", record.flag)
            row.requests[outcome] = row.requests.get(outcome, 0) + 1
            row.buckets[bisect_left(BUCKETS, record.duration)] += 1
            row.duration += record.duration
        else:
            row.connections[record.flag] = row.connections.get(record.flag, 0) + 1
            if record.protocol in BY_REQUEST:
                return  # its requests were counted, with their bytes and denials
            row.streams += 1
        row.bytes_in += record.bytes_in
        row.bytes_out += record.bytes_out
        if record.trial:
            self._tried(record)
        if record.retries or record.retried:
            self._retried(record)
        if record.flag in DENIAL_FLAGS:
            # The detail of a denial begins with policy's word for it (see nodeproxy/routing/route.py).
            word = record.detail.partition(":")[0]
            reason = word if word in DENIAL_REASONS else record.flag
            row.denials[reason] = row.denials.get(reason, 0) + 1

    def _retried(self, record: Record) -> None:
        source, port = record.source, record.endpoint.rpartition(":")[2]
        key = (source.namespace if source else "", source.name if source else UNKNOWN, f"{record.service}|{port}")
        if key not in self.retries and len(self.retries) >= self._most:
            key = (OTHER, OTHER, OTHER)
        counts = self.retries.setdefault(key, [0, 0, 0, 0])
        counts[_RETRIES] += record.retries
        if record.retried:
            counts[_OUTCOMES[record.retried]] += 1

    def _tried(self, record: Record) -> None:
        effect = "would-deny" if record.rule == record.trial else "would-allow"
        key: tuple[str, str, str] = (record.direction, record.trial, effect)
        if key not in self.trials and len(self.trials) >= self._most:
            key = (OTHER, OTHER, OTHER)
        self.trials[key] = self.trials.get(key, 0) + 1

    def counted(self, counts: Counts) -> None:
        """Add sums of successful requests."""
        pair = counts.pair
        row = self._row(row_key(pair))
        for number, count in enumerate(counts.answered):
            if count:
                outcome = (f"{number}xx" if number else "", "")
                row.requests[outcome] = row.requests.get(outcome, 0) + count
        row.buckets = [a + b for a, b in zip(row.buckets, counts.buckets, strict=True)]
        row.duration += counts.seconds
        row.bytes_in += counts.bytes_in
        row.bytes_out += counts.bytes_out

    def retain(self, workloads: Collection[str]) -> None:
        """Fold the rows of workloads that no longer exist into "other". `workloads`: the keys of those that do.

        Only when rows run short, because a row that goes is an ended counter for Prometheus.
        """
        if len(self.rows) < self._most:
            return
        for key in [key for key in self.rows if key != _OTHER and not self._known(key, workloads)]:
            self._fold(self.rows.pop(key))

    @cached_property
    def registry(self) -> CollectorRegistry:
        """The registry of prometheus-client, with this process's own figures.

        The library brings an HTTP server and client with it: 2.5 MiB, which a node that nobody scrapes does without. Its
        import takes tens of milliseconds, so the first use is in a thread.
        """
        from prometheus_client.process_collector import ProcessCollector
        from prometheus_client.registry import CollectorRegistry

        made = CollectorRegistry(auto_describe=False)
        made.register(self)
        ProcessCollector(registry=made)
        return made

    def text(self) -> bytes:
        """Return the Prometheus text format, version 0.0.4."""
        from prometheus_client.exposition import generate_latest

        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield metrics, as prometheus-client's registry asks of a collector."""
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, UnknownMetricFamily

        self.collected()
        requests = CounterMetricFamily("edgemesh_requests", "HTTP requests answered", labels=[*_LABELS, "code", "flag"])
        durations = HistogramMetricFamily(
            "edgemesh_request_duration_seconds", "From a request's head to its response's end", labels=_LABELS
        )
        denials = CounterMetricFamily(
            "edgemesh_denials", "Requests and connections that policy refused", labels=[*_LABELS, "reason"]
        )
        connections = CounterMetricFamily("edgemesh_connections", "Connections that ended", labels=[*_LABELS, "flag"])
        volumes = CounterMetricFamily(
            "edgemesh_bytes",
            "Bytes moved; flow: received (from the caller) or sent (to the caller)",
            labels=[*_LABELS, "flow"],
        )
        trials = CounterMetricFamily(
            "edgemesh_dry_run",
            "Calls whose verdict would be another one, if the annotation edgemesh.io/dry-run of this TrafficTarget came true",
            labels=["direction", "rule", "effect"],
        )
        for tried, count in self.trials.items():
            trials.add_metric([*tried], count)
        for key, row in self.rows.items():
            for (code, flag), count in row.requests.items():
                requests.add_metric([*key, code, flag], count)
            if row.requests:
                durations.add_metric(key, _cumulative(row.buckets), row.duration)
            for reason, count in row.denials.items():
                denials.add_metric([*key, reason], count)
            for flag, count in row.connections.items():
                connections.add_metric([*key, flag], count)
            volumes.add_metric([*key, "received"], row.bytes_in)
            volumes.add_metric([*key, "sent"], row.bytes_out)
        yield from (requests, durations, denials, connections, volumes, trials)
        # OSM's names, which have no "_total": so Prometheus is not told that they are counters.
        for name, place, meaning in (
            ("sidecar_cluster_upstream_rq_retry", _RETRIES, "Requests that were sent again, each time"),
            (
                "sidecar_cluster_upstream_rq_retry_backoff_exponential",
                _RETRIES,
                "The same: each after a wait that grows",
            ),
            ("sidecar_cluster_upstream_rq_retry_success", _SUCCESS, "Requests that had a final response after a retry"),
            ("sidecar_cluster_upstream_rq_retry_limit_exceeded", _LIMIT, "Requests whose last retry failed too"),
            (
                "sidecar_cluster_upstream_rq_retry_overflow",
                _OVERFLOW,
                "Requests that were not sent again, because too many were under way to the Service",
            ),
        ):
            retries = UnknownMetricFamily(name, meaning, labels=_OF_SIDECAR)
            for whose, counts in self.retries.items():
                retries.add_metric([*whose], counts[place])
            yield retries
        yield from self.gauges()

    def _row(self, key: Key) -> Row:
        row = self.rows.get(key)
        if row is None:
            if len(self.rows) >= self._most:
                key = _OTHER
                row = self.rows.get(key)
            if row is None:
                row = self.rows[key] = Row()
        return row

    def _fold(self, row: Row) -> None:
        self.rows.setdefault(_OTHER, Row()).add(row)

    @staticmethod
    def _known(key: Key, workloads: Collection[str]) -> bool:
        _, source_namespace, source, destination_namespace, destination = key
        return all(
            name in (UNKNOWN, EXTERNAL) or f"{namespace}/{name}" in workloads
            for namespace, name in ((source_namespace, source), (destination_namespace, destination))
        )


class Rising:
    """A sum of counts of workloads that never falls, though workloads and their counts go."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._total = 0

    def __repr__(self) -> str:
        return f"<Rising {self._total}>"

    def total(self, counts: Mapping[str, int]) -> int:
        """Add what the counts have grown by since the last call. Return the total. A smaller count began anew."""
        for key, count in counts.items():
            before = self._seen.get(key, 0)
            self._total += count - before if count >= before else count
        self._seen = dict(counts)
        return self._total


def row_key(record: Record | Pair) -> Key:
    """Return caller and callee as labels.

    A service that was called without reaching a workload still gives its namespace.
    """
    source, destination = record.source, record.destination
    source_namespace, source_name = (source.namespace, source.name) if source else ("", UNKNOWN)
    if destination:
        return record.direction, source_namespace, source_name, destination.namespace, destination.name
    if record.service:
        return record.direction, source_namespace, source_name, record.service.partition("/")[0], UNKNOWN
    return record.direction, source_namespace, source_name, "", EXTERNAL


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    names = [str(bound) for bound in BUCKETS] + ["+Inf"]
    return list(zip(names, itertools.accumulate(counts), strict=True))
