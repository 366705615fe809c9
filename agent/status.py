"""What `edgemesh status` and the admin API tell: one function for each document, from the daemon's own state to plain data.

A document holds dictionaries, lists, text and numbers; tables made of them are in agent/commands/tables.py. What the mesh cannot
see or stop is counted and said here ("holes"), not left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from policy.model import Problem, Service, Workload
from policy.snapshot import Snapshot

if TYPE_CHECKING:  # `edgemesh check` should not wait for all of the daemon
    from agent.accesslog import AccessLog
    from agent.config import NodeConfig
    from agent.identity.keeper import Keeper
    from agent.kernel.condition import Condition
    from agent.metrics import Metrics
    from agent.refusals import Refusals
    from agent.store import Published
    from nodeproxy.context import Conn
    from nodeproxy.lane import FastLane

Document = dict[str, Any]


class Daemon(Protocol):
    """What the running daemon shows of itself."""

    @property
    def version(self) -> str: ...
    @property
    def directory(self) -> str: ...  # of the manifests
    @property
    def started(self) -> float: ...  # seconds since the epoch
    @property
    def config(self) -> NodeConfig: ...  # the settings in force
    @property
    def published(self) -> Published | None: ...  # the newest build
    @property
    def problems(self) -> Sequence[Problem]: ...
    @property
    def conns(self) -> Mapping[int, Conn]: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def access_log(self) -> AccessLog: ...
    @property
    def refusals(self) -> Refusals: ...
    @property
    def keeper(self) -> Keeper | None: ...  # None: a node that stands alone
    @property
    def lane(self) -> FastLane | None: ...  # None: everything is done in Python

    @property
    def enforcing(self) -> bool:
        """Policy is known and every local workload that can be captured is."""
        ...

    def conditions(self) -> Mapping[str, Condition]:
        """By key, of every workload of this node."""
        ...

    def unit(self, name: str, cgroup: int) -> tuple[bool, bool, str]:
        """Is a systemd unit a workload of this node, is its cgroup captured, and what is wrong; see agent.kernel.ground.Ground."""
        ...

    async def hand_over(self, command: Sequence[str], commit: Callable[[str], None]) -> str:
        """Let `command` take over from us; see agent.app.Node."""
        ...


class Traffic(Struct):
    """What one workload did and had done to it, since the daemon started."""

    requests_out: int = 0
    requests_in: int = 0
    streams_out: int = 0  # connections that carried no HTTP
    streams_in: int = 0
    denied_out: int = 0
    denied_in: int = 0
    open: int = 0


def status(daemon: Daemon, now: float) -> Document:
    """The node, its workloads, and what is wrong or out of reach."""
    published = daemon.published
    snapshot = published.snapshot if published else None
    conditions = daemon.conditions()
    daemon.metrics.before()
    traffic = traffic_of(daemon.metrics, daemon.conns.values())
    document: Document = {
        "node": daemon.config.node,
        "version": daemon.version,
        "pid": os.getpid(),
        "started": daemon.started,
        "uptime_seconds": round(now - daemon.started, 3),
        "enforcing": daemon.enforcing,
        "mode": mode(snapshot),
        "egress": snapshot.mesh.egress if snapshot else None,
        "on_stop": daemon.config.on_stop,
        "directory": daemon.directory,
        "snapshot": None,
        "workloads": [],
        "holes": holes(daemon, conditions),
        "problems": [problem(item) for item in sorted(daemon.problems)],
        "certificates": certificates(daemon.keeper),
        "lane": lane(daemon.lane),
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
        document["workloads"] = [workload(item, conditions.get(item.key), traffic.get(item.key, Traffic())) for item in snapshot.workloads]
    return document


def lane(fast: FastLane | None) -> Document:
    """Who serves HTTP: the compiled lane, and how much of it; or Python alone."""
    stats = fast.lane.stats if fast else None
    return {"native": stats is not None, "served": stats["served"] if stats else 0, "left_to_python": stats["missed"] if stats else 0}


def mode(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "starting"
    return "permissive" if snapshot.mesh.permissive else "SMI"


def workload(item: Workload, condition: Condition | None, traffic: Traffic) -> Document:
    if not item.enrolled:
        state, place, detail = "not enrolled", "", "its namespace or annotation leaves it out of the mesh"
    elif condition is None:
        state, place, detail = "elsewhere", item.node, ""
    else:
        state = "captured" if condition.captured else "not captured"
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
    """What passes this node unseen or unstopped, each with the workload, a count and what it means."""
    found: list[Document] = []

    def hole(kind: str, key: str, count: int, meaning: str) -> None:
        found.append({"kind": kind, "workload": key, "count": count, "meaning": meaning})

    for key, condition in sorted(conditions.items()):
        if not condition.captured:
            why = f" ({condition.error})" if condition.error else ""
            hole("not-captured", key, 1, f"not captured{why}: no policy holds for its calls")
        elif condition.error:
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
            hole("powers", key, len(condition.powers), f"holds {held}: it can get its own calls around the mesh, not past its servers'")
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
            hole("gap", key, condition.gaps, "times our rules were taken away; what connected until we put them back passed")
    if daemon.access_log.suppressed_total:
        hole("log", "", daemon.access_log.suppressed_total, "access-log lines were not written: too many, or nobody read them")
    return found


def certificates(keeper: Keeper | None) -> Document | None:
    """In short what `edgemesh certs` tells; None for a node that stands alone."""
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


def problem(item: Problem) -> Document:
    return {
        "severity": item.severity,
        "file": item.where.file,
        "line": item.where.line,
        "object": item.object,
        "message": item.message,
        "hint": item.hint,
    }


def traffic_of(metrics: Metrics, conns: Iterable[Conn]) -> dict[str, Traffic]:
    """By workload. A call between two workloads of this node is one record, which counts for both."""
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


def connections(conns: Iterable[Conn], now: float, fast: FastLane | None = None) -> list[Document]:
    """What is open through the doors of this node, oldest first, whichever lane has it."""
    found = []
    carried = {conn.id: (pick, request) for conn, pick, request in fast.calls()} if fast else {}
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
    """Every service: its addresses, ports, endpoints, split, and who may call what runs behind it."""
    callers: dict[str, Counter[tuple[str, str]]] = {}
    for grant in snapshot.grants:
        callers.setdefault(str(grant.destination), Counter())[str(grant.source), grant.rule] += 1
    return [_route(snapshot, service, callers) for service in snapshot.services]


def _route(snapshot: Snapshot, service: Service, callers: Mapping[str, Counter[tuple[str, str]]]) -> Document:
    behind = {endpoint.workload for port in service.ports for endpoint in port.endpoints}
    served = {str(found.identity) for key in behind if (found := snapshot.workload(key)) is not None}
    split = service.split
    return {
        "service": service.key,
        "addresses": list(service.addresses),
        "ports": [
            {
                "port": port.port,
                "name": port.name,
                "transport": port.transport,
                "protocol": port.protocol or "detected",
                "endpoints": [{"endpoint": str(endpoint), "workload": endpoint.workload} for endpoint in port.endpoints],
            }
            for port in service.ports
        ],
        "split": split
        and {
            "name": split.name,
            "matches": None if split.matches is None else [match.name for match in split.matches],
            "backends": [{"service": backend.service, "weight": backend.weight} for backend in split.backends],
        },
        "callers": [
            {"source": source, "rule": rule} for source, rule in sorted({pair for identity in served for pair in callers.get(identity, ())})
        ],
    }
