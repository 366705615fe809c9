"""Metrics: a sink that counts records by who called whom, and the Prometheus text made of the counts.

Theory of operation. The proxy calls `Metrics` once for each finished request and connection, in its loop, so counting is a few
plain additions on a row found by one dictionary look-up; prometheus-client sees the rows only when somebody scrapes. A row is one
pair of workloads as seen from one side. There are at most `rows` of them: who comes later is counted in one row named "other",
so that neither a scanner nor years of pod names can grow the daemon or the scrape.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from agent.accesslog import DENIALS as DENIAL_FLAGS
from agent.identity.keeper import Keeper
from nodeproxy.telemetry.counts import BUCKETS, Counts, Pair
from nodeproxy.telemetry.report import Record
from policy.authz import DENIALS as DENIAL_REASONS

ROWS = 1000
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN = "unknown"  # a caller that proved no identity, or no workload was chosen
EXTERNAL = "external"  # not a destination of the mesh
OTHER = "other"

_LABELS = ["direction", "source_namespace", "source_workload", "destination_namespace", "destination_workload"]

Key = tuple[str, str, str, str, str]
_OTHER: Key = (OTHER, OTHER, OTHER, OTHER, OTHER)


class Row:
    """The counts of one pair of workloads."""

    __slots__ = ("buckets", "bytes_in", "bytes_out", "connections", "denials", "duration", "requests", "streams")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}  # by class of status ("2xx") and flag
        self.connections: dict[str, int] = {}  # by flag
        self.streams = 0  # of these, those that carried no HTTP: the calls that are not in `requests`
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
        """Take over the counts of a row that goes, so that sums never fall."""
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


class Metrics:
    """A sink, and what it has counted. `gauges` is asked at each scrape for what is true just then."""

    def __init__(self, rows: int = ROWS, gauges: Callable[[], Iterable[Metric]] = tuple) -> None:
        self.rows: dict[Key, Row] = {}
        self.gauges = gauges
        self.before: Callable[[], None] = lambda: None  # called before each scrape: what was counted elsewhere comes in
        self._most = rows
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def __repr__(self) -> str:
        return f"<Metrics {len(self.rows)}/{self._most} rows>"

    def __call__(self, record: Record) -> None:
        row = self._row(row_key(record))
        if record.kind == "request":
            outcome = (f"{record.status // 100}xx" if record.status else "", record.flag)
            row.requests[outcome] = row.requests.get(outcome, 0) + 1
            row.buckets[bisect_left(BUCKETS, record.duration)] += 1
            row.duration += record.duration
        else:
            row.connections[record.flag] = row.connections.get(record.flag, 0) + 1
            if record.protocol == "http":
                return  # its requests were counted, with their bytes and denials
            row.streams += 1
        row.bytes_in += record.bytes_in
        row.bytes_out += record.bytes_out
        if record.flag in DENIAL_FLAGS:
            # The detail of a denial begins with policy's word for it (see nodeproxy/upstream/route.py).
            word = record.detail.partition(":")[0]
            reason = word if word in DENIAL_REASONS else record.flag
            row.denials[reason] = row.denials.get(reason, 0) + 1

    def counted(self, counts: Counts) -> None:
        """Requests that went well, in sums."""
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
        """Fold the rows of workloads that are no more into "other". `workloads`: the keys of those that are.

        Only when rows run short, because for who scrapes, a row that goes is a counter that ends.
        """
        if len(self.rows) < self._most:
            return
        for key in [key for key in self.rows if key != _OTHER and not self._known(key, workloads)]:
            self._fold(self.rows.pop(key))

    def text(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client's registry asks of a collector."""
        self.before()
        requests = CounterMetricFamily("edgemesh_requests", "HTTP requests answered", labels=[*_LABELS, "code", "flag"])
        durations = HistogramMetricFamily(
            "edgemesh_request_duration_seconds", "From a request's head to its response's end", labels=_LABELS
        )
        denials = CounterMetricFamily("edgemesh_denials", "Requests and connections that policy refused", labels=[*_LABELS, "reason"])
        connections = CounterMetricFamily("edgemesh_connections", "Connections that ended", labels=[*_LABELS, "flag"])
        volumes = CounterMetricFamily("edgemesh_bytes", "Bytes moved: from the caller, to the caller", labels=[*_LABELS, "flow"])
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
        yield from (requests, durations, denials, connections, volumes)
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


def certificates(keeper: Keeper) -> Iterator[Metric]:
    """What a node holds of the mesh's certificates, for `gauges`."""
    expiry = GaugeMetricFamily(
        "edgemesh_certificate_expiry_seconds", "Until a certificate that this node holds ends; negative afterwards", labels=["identity"]
    )
    now = keeper.clock.now()
    for identity, holding in keeper.holdings.items():
        if holding.credentials is not None:
            expiry.add_metric([keeper.spiffe(identity)], holding.credentials.not_after - now)
    yield expiry
    renewals = CounterMetricFamily(
        "edgemesh_certificate_renewals", "Certificates that were asked for: issued, refused, unreachable", labels=["identity", "result"]
    )
    for (spiffe, result), count in keeper.renewals.items():
        renewals.add_metric([spiffe, result], count)
    yield renewals
    if keeper.clock.ahead is not None:
        offset = GaugeMetricFamily("edgemesh_clock_offset_seconds", "This node's clock minus the authority's, when that was last heard")
        offset.add_metric([], keeper.clock.ahead)
        yield offset


def row_key(record: Record | Pair) -> Key:
    """Who called whom, as labels. A service that was called without reaching a workload still tells its namespace."""
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
