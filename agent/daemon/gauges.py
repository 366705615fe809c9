"""Gauges of a daemon: the metrics that are computed at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.admin.daemon import Daemon, Document
from agent.daemon import readiness
from agent.identity.node.manager import CertificateManager
from agent.kernel.condition import Condition
from agent.telemetry.metrics import Rising


def gauges(daemon: Daemon, conditions: Mapping[str, Condition], gaps: Rising) -> Iterator[Metric]:
    """Yield the gauges of a daemon. `conditions`: of its workloads.

    `gaps`: keeps the counts of workloads that are gone.
    """
    published = daemon.published
    for name, value, meaning in (
        ("edgemesh_snapshot_build_seconds", published.took if published else 0.0, "Time that the newest build took."),
        ("edgemesh_connections_open", len(daemon.conns), "Captured connections that are open."),
        (
            "edgemesh_workloads_captured",
            sum(c.captured for c in conditions.values()),
            "Workloads whose traffic is captured.",
        ),
        ("edgemesh_circuits_open", len(daemon.circuits()), "Circuits of callers to Services that are not closed."),
        (
            "edgemesh_workloads_uncaptured",
            len(readiness.uncaptured(conditions)),
            "Workloads of this node that run and are not.",
        ),
    ):
        family = GaugeMetricFamily(name, meaning)
        family.add_metric([], value)
        yield family
    for name, value, meaning in (
        (
            "edgemesh_snapshot_builds",
            published.number if published else 0,
            "Builds of the policy snapshot since the start.",
        ),
        (
            "edgemesh_capture_gaps",
            gaps.total({key: c.gaps for key, c in conditions.items()}),
            "Times that our rules were taken away and put back.",
        ),
        (
            "edgemesh_access_log_suppressed_lines",
            daemon.access_log.suppressed_total,
            "Access-log lines that were not written.",
        ),
        (
            "edgemesh_mirror_dropped",
            daemon.copies_dropped,
            "Copies for a RequestMirror that were not sent: too many were under way, or the body was too large.",
        ),
    ):
        counter = CounterMetricFamily(name, meaning)
        counter.add_metric([], value)
        yield counter
    reached = GaugeMetricFamily(
        "edgemesh_node_reachable", "Whether another node could be reached when it was tried last.", labels=["node"]
    )
    for node in daemon.nodes():
        if node["reachable"] is not None:
            reached.add_metric([node["node"]], node["reachable"])
    yield reached
    problems = GaugeMetricFamily("edgemesh_problems", "Problems in the manifests and on the node.", labels=["severity"])
    for severity in ("error", "warning", "notice"):
        problems.add_metric([severity], sum(p.severity == severity for p in daemon.problems))
    yield problems
    if daemon.keeper is not None:
        yield from certificates(daemon.keeper)
    yield from of_names(daemon.names())
    for cluster in daemon.clusters():
        yield from of_cluster(cluster)
    info = GaugeMetricFamily("edgemesh_info", "Version and node.", labels=["version", "node"])
    info.add_metric([daemon.version, daemon.config.node], 1)
    yield info


def of_names(names: Document) -> Iterator[Metric]:
    """Yield what became of DNS questions."""
    questions = CounterMetricFamily(
        "edgemesh_dns_questions",
        "DNS questions of workloads; outcome: answered (by edgemesh), cached, stale (an old answer, for lack of a new"
        " one), forwarded (by the resolver), failed, dropped.",
        labels=["outcome"],
    )
    for outcome, number in names["questions"].items():
        questions.add_metric([outcome], number)
    yield questions
    for name, value, meaning in (
        ("edgemesh_dns_resolvers_down", len(names["down"]), "Resolvers that workloads asked and that do not answer."),
        ("edgemesh_dns_kept_answers", names["kept_answers"], "Answers of resolvers that are kept."),
        ("edgemesh_dns_kept_bytes", names["kept_bytes"], "Memory that they take."),
    ):
        family = GaugeMetricFamily(name, meaning)
        family.add_metric([], value)
        yield family


def of_cluster(cluster: Document) -> Iterator[Metric]:
    """Yield what was exchanged with an API server."""
    connected = GaugeMetricFamily("edgemesh_kubernetes_connected", "Whether the API server answers.")
    connected.add_metric([], cluster["connected"])
    yield connected
    for name, value, meaning in (
        (
            "edgemesh_kubernetes_requests",
            cluster["requests"],
            "Requests to the API server, watches and certificates included.",
        ),
        (
            "edgemesh_kubernetes_lead_requests",
            cluster["lead_requests"],
            "Requests that this server made for the whole cluster while it led.",
        ),
        ("edgemesh_kubernetes_failures", cluster["failures"], "Requests that it refused or did not answer."),
        (
            "edgemesh_kubernetes_delayed_seconds",
            cluster["delayed_seconds"],
            "Time that requests waited, to be few enough a second.",
        ),
    ):
        counter = CounterMetricFamily(name, meaning)
        counter.add_metric([], value)
        yield counter
    received = CounterMetricFamily(
        "edgemesh_kubernetes_received_bytes", "Bytes of lists and watches, for each kind.", labels=["kind"]
    )
    objects = GaugeMetricFamily("edgemesh_kubernetes_objects", "Objects that are known of a kind.", labels=["kind"])
    for kind, one in cluster["kinds"].items():
        received.add_metric([kind], one["received_bytes"])
        objects.add_metric([kind], one["objects"])
    yield received
    yield objects


def certificates(keeper: CertificateManager) -> Iterator[Metric]:
    """Yield what a node holds of the mesh's certificates, for `gauges`."""
    expiry = GaugeMetricFamily(
        "edgemesh_certificate_expiry_seconds",
        "Until a certificate that this node holds ends; negative afterwards",
        labels=["identity"],
    )
    now = keeper.clock.now()
    for identity, holding in keeper.holdings.items():
        if holding.credentials is not None:
            expiry.add_metric([keeper.spiffe(identity)], holding.credentials.not_after - now)
    yield expiry
    renewals = CounterMetricFamily(
        "edgemesh_certificate_renewals",
        "Certificates that were asked for: issued, refused, unreachable",
        labels=["identity", "result"],
    )
    for (spiffe, result), count in keeper.renewals.items():
        renewals.add_metric([spiffe, result], count)
    yield renewals
    if keeper.clock.ahead is not None:
        offset = GaugeMetricFamily(
            "edgemesh_clock_offset_seconds", "This node's clock minus the authority's, when that was last heard"
        )
        offset.add_metric([], keeper.clock.ahead)
        yield offset
