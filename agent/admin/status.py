"""The documents of `edgemesh status` and the admin API: one function for each, from the daemon's state to plain data.

A document holds dictionaries, lists, text and numbers; agent/commands/tables.py makes tables of them. What the mesh
cannot see or stop is counted and reported ("holes"), not left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from agent.admin.daemon import Daemon, Document
from nodeproxy.context import Conn
from nodeproxy.interfaces import NO_FAST_PATH, FastPath
from policy.balancing import balancing_words
from policy.entering import shown
from policy.explain import bounding, filtering, limiting, retrying, timing
from policy.model import Endpoint, PlainGrant, Problem, Service, ServicePort, Workload
from policy.snapshot import Snapshot

if TYPE_CHECKING:  # `edgemesh check` should not load the whole daemon
    from agent.identity.node.manager import CertificateManager
    from agent.kernel.condition import Condition
    from agent.telemetry.metrics import Metrics


class Traffic(Struct):
    """The traffic of one workload in both directions, since the daemon started."""

    requests_out: int = 0
    requests_in: int = 0
    streams_out: int = 0  # connections that carried no HTTP
    streams_in: int = 0
    denied_out: int = 0
    denied_in: int = 0
    open: int = 0


def status(daemon: Daemon, now: float) -> Document:
    """Return the node, its workloads, and what is wrong or unreachable."""
    published = daemon.published
    snapshot = published.snapshot if published else None
    conditions = daemon.conditions()
    daemon.metrics.collected()
    traffic = traffic_of(daemon.metrics, daemon.conns.values())
    document: Document = {
        "node": daemon.config.node,
        "version": daemon.version,
        "pid": os.getpid(),
        "started": daemon.started,
        "uptime_seconds": round(now - daemon.started, 3),
        "state": daemon.state,
        "enforcing": daemon.state == "enforcing",
        "mode": mode(snapshot),
        "egress": snapshot.mesh.egress if snapshot else None,
        "on_stop": daemon.config.on_stop,
        "directory": daemon.directory,
        "snapshot": None,
        "workloads": [],
        "holes": holes(daemon, conditions),
        "problems": problems(daemon.problems),
        "certificates": certificates(daemon.keeper),
        "lane": lane(daemon.fast),
        "nodes": daemon.nodes(),
        "clusters": daemon.clusters(),
        "names": daemon.names(),
        "circuits": daemon.circuits(),
        "listeners": daemon.gateway_listeners(),
    }
    if published and snapshot:
        document["snapshot"] = {
            "number": published.number,
            "built": published.built,
            "took_seconds": round(published.took, 4),
            "workloads": len(snapshot.workloads),
            "services": len(snapshot.services),
            "rules": len(snapshot.grants),
        }
        document["workloads"] = [
            workload(item, conditions.get(item.key), traffic.get(item.key, Traffic())) for item in snapshot.workloads
        ]
    return document


def lane(fast: FastPath[Conn]) -> Document:
    """Return what serves HTTP: the compiled fast path, and how much of it; or Python alone."""
    stats = fast.stats()
    return {"native": stats.compiled, "served": stats.served, "left_to_python": stats.missed}


def mode(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "starting"
    return "permissive" if snapshot.mesh.permissive else "SMI"


def workload(item: Workload, condition: Condition | None, traffic: Traffic) -> Document:
    if not item.enrolled:
        state, place, detail = "not enrolled", "", item.left_out
    elif condition is None:
        state, place, detail = "elsewhere", item.node, ""
    else:
        state = "captured" if condition.captured else "not running" if condition.waiting else "not captured"
        place, detail = condition.where, condition.error
    return {
        "workload": item.key,
        "identity": str(item.identity),
        "addresses": list(item.addresses),
        "state": state,
        "place": place,
        "detail": detail,
        "traffic": {name: getattr(traffic, name) for name in Traffic.__struct_fields__},
    }


def holes(daemon: Daemon, conditions: Mapping[str, Condition]) -> list[Document]:
    """Return the traffic that passes this node unseen or unstopped: the workload, a count and what it means.

    Workloads that are not captured at all are Problems; see agent.daemon.readiness.
    """
    found: list[Document] = []

    def hole(kind: str, key: str, count: int, meaning: str) -> None:
        found.append({"kind": kind, "workload": key, "count": count, "meaning": meaning})

    for key, condition in sorted(conditions.items()):
        if condition.waiting:
            continue
        if condition.captured and condition.error:
            hole("partly-captured", key, 1, condition.error)
        if condition.captured and condition.late:
            hole(
                "late",
                key,
                1,
                "not captured at start: what it did before is unknown; edgemesh setup makes the unit wait, from its next start on",
            )
        if condition.powers:
            held = " and ".join(condition.powers)
            hole(
                "powers",
                key,
                len(condition.powers),
                f"holds {held}: it can get its own calls around the mesh, not past its servers'",
            )
        if condition.udp_packets:
            hole("udp", key, condition.udp_packets, "UDP packets passed: UDP is not captured")
        if condition.older_connections:
            hole(
                "older",
                key,
                condition.older_connections,
                "connections are older than the capture: calls into it that connection tracking knew pass until they end, others are reset",
            )
        if condition.gaps:
            hole(
                "gap",
                key,
                condition.gaps,
                "times our rules were taken away; what connected until we put them back passed",
            )
    if daemon.access_log.suppressed_total:
        hole(
            "log",
            "",
            daemon.access_log.suppressed_total,
            "access-log lines were not written: too many, or nobody read them",
        )
    return found


def certificates(keeper: CertificateManager | None) -> Document | None:
    """Return a summary of `edgemesh certs`; None for a node that stands alone."""
    if keeper is None:
        return None
    wanted = [holding for holding in keeper.holdings.values() if holding.unwanted is None]
    ends = [holding.standing.not_after for holding in wanted if holding.standing.not_after]
    return {
        "trust_domain": keeper.roots.bundle.trust_domain if keeper.roots.bundle else "",
        "wanted": len(wanted),
        "states": dict(Counter(holding.standing.state.value for holding in wanted)),
        "first_ends_in_seconds": round(min(ends) - keeper.clock.now(), 1) if ends else None,
    }


_SEVERITIES = ("error", "warning", "notice")


def problems(found: Iterable[Problem]) -> list[Document]:
    """Return problems, the worst first; of the same severity, each file from its beginning."""
    return [problem(item) for item in sorted(found, key=lambda item: (_SEVERITIES.index(item.severity), item))]


def problem(item: Problem) -> Document:
    return {
        "severity": item.severity,
        "file": item.where.file,
        "line": item.where.line,
        "object": item.object,
        "message": item.message,
        "hint": item.hint,
        "unmet": item.unmet,
    }


def traffic_of(metrics: Metrics, conns: Iterable[Conn]) -> dict[str, Traffic]:
    """Return traffic by workload. A call between two workloads of this node is one record, which counts for both."""
    found: dict[str, Traffic] = {}
    for key, row in metrics.rows.items():
        source, destination = f"{key[1]}/{key[2]}", f"{key[3]}/{key[4]}"
        requests = sum(row.requests.values())
        caller, called = found.setdefault(source, Traffic()), found.setdefault(destination, Traffic())
        caller.requests_out += requests
        caller.streams_out += row.streams
        caller.denied_out += row.denied
        called.requests_in += requests
        called.streams_in += row.streams
        called.denied_in += row.denied
    for conn in conns:
        found.setdefault(conn.workload.key, Traffic()).open += 1
    return found


def connections(conns: Iterable[Conn], now: float, fast: FastPath[Conn] = NO_FAST_PATH) -> list[Document]:
    """Return the open connections through this node's listeners, oldest first, on the fast path or not."""
    found = []
    carried = {conn.id: (pick, request) for conn, pick, request in fast.calls()}
    for conn in conns:
        record = conn.report.record
        pick, request = carried.get(conn.id, (conn.pick, conn.request))
        found.append(
            {
                "id": conn.id,
                "direction": conn.direction,
                "source": conn.source.key if conn.source else "",
                "source_address": f"{conn.peer[0]} {conn.peer[1]}",
                "dialled": record.dialled,
                "service": record.service or (pick.service if pick else ""),
                "destination": pick.workload.key if pick and pick.workload else "",
                "endpoint": str(pick.endpoint) if pick else "",
                "rule": pick.rule if pick else "",
                "protocol": record.protocol,
                "active": conn.active or conn.id in carried,
                "request": f"{request.method} {request.path}" if request else "",
                "age_seconds": round(now - conn.started, 3),
                "bytes_in": record.bytes_in,
                "bytes_out": record.bytes_out,
            }
        )
    return sorted(found, key=lambda document: document["id"])


def routes(snapshot: Snapshot) -> list[Document]:
    """Return every service: its addresses, ports, endpoints, split, and the permitted callers of its workloads.

    Then the hosts of Gateways' listeners, as services without endpoints of their own.
    """
    callers: dict[str, Counter[tuple[str, str]]] = {}
    for grant in snapshot.grants:
        callers.setdefault(str(grant.destination), Counter())[str(grant.source), grant.rule] += 1
    return [
        *(_route(snapshot, service, callers) for service in snapshot.services),
        *(
            _route(snapshot, host.service, callers) | {"listener": listener.key, "host": host.hostname}
            for listener in snapshot.listeners
            for host in listener.hosts
        ),
    ]


def _route(snapshot: Snapshot, service: Service, callers: Mapping[str, Counter[tuple[str, str]]]) -> Document:
    behind = {endpoint.workload for port in service.ports for endpoint in port.endpoints}
    served = {str(found.identity) for key in behind if (found := snapshot.workload(key)) is not None}
    return {
        "service": service.key,
        "listener": "",
        "host": "",
        "addresses": list(service.addresses),
        "ports": [
            {
                "port": port.port,
                "name": port.name,
                "transport": port.transport,
                "protocol": port.protocol or "detected",
                "endpoints": [_endpoint(snapshot, port, endpoint) for endpoint in port.endpoints],
                "restricted": port.nearness if port.near is not None else "",
            }
            for port in service.ports
        ],
        "splits": [
            {
                "name": rule.name or route.name,
                "port": route.port,
                "callers": route.callers,
                "matches": None if rule.matches is None else [match.name for match in rule.matches],
                "backends": [{"service": backend.service, "weight": backend.weight} for backend in rule.backends],
                "filters": [
                    *map(filtering, rule.filters),
                    *((timing(rule.timeouts),) if rule.timeouts is not None else ()),
                    *((retrying(rule.retry),) if rule.retry is not None else ()),
                    *(f"{one.service}: {filtering(each)}" for one in rule.backends for each in one.filters),
                ],
                "refuses": rule.refuses,
            }
            for route in service.routes
            for rule in route.rules
        ],
        "bounds": [] if service.upstream is None else [*bounding(service.upstream), *limiting(service.upstream)],
        "callers": [
            {"source": source, "rule": rule}
            for source, rule in sorted({pair for identity in served for pair in callers.get(identity, ())})
        ],
        "plain_callers": [
            {"source": network, "rule": rule}
            for network, rule in sorted(
                {
                    (network, grant.rule)
                    for grant in snapshot.plain
                    if _admits(snapshot, grant, service)
                    for network in grant.networks
                }
            )
        ],
        "gateway_callers": [
            {"source": source, "rule": rule}
            for source, rule in sorted(
                {
                    (source, grant.rule)
                    for grant in snapshot.plain
                    if _admits(snapshot, grant, service)
                    for source in (*map(shown, grant.gateways), *(f"certificate {name}" for name in grant.principals))
                }
            )
        ],
        "affinity_seconds": service.affinity if service.balancing is None else 0.0,
        "balancing": "" if service.balancing is None else balancing_words(service.balancing),
    }


def _endpoint(snapshot: Snapshot, port: ServicePort, endpoint: Endpoint) -> Document:
    workload = snapshot.workload(endpoint.workload)
    if workload is None:
        place = "outside" if endpoint.outside else "unknown"
    else:
        place = "mesh" if workload.enrolled else "left out"
    return {
        "endpoint": str(endpoint),
        "workload": endpoint.workload,
        "node": workload.node if workload is not None else "",
        "place": place,
        "used": port.near is None or endpoint in port.near,
    }


def _admits(snapshot: Snapshot, grant: PlainGrant, service: Service) -> bool:
    """Return whether plain text that a grant lets in reaches an endpoint of the Service."""
    if not grant.strict and snapshot.mtls(grant.destination.partition("/")[0]) == "strict":
        return False
    return any(
        endpoint.workload == grant.destination and endpoint.port in grant.ports
        for port in service.ports
        for endpoint in port.endpoints
    )
