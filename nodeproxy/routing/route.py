"""Where one connection's bytes may go. Every decision uses the newest snapshot; nothing is remembered between requests.

Outward: a local workload calls a Service, a workload, or a destination outside the mesh. Inward: a caller calls a local
workload. Beside: a filter calls a Service as the caller. Probed: the node's own health checks. Forwarded: callers under
the node's address, which proves nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping

import trio
from msgspec import structs

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Pick, Ruled, Share, Spread, Unserved, Way
from nodeproxy.routing.outside import Outside
from nodeproxy.upstream.balance import Turns
from policy.authz import DENIALS, ISOLATED
from policy.candidates import Candidates, Taker, answered_here, port_of, repeatable
from policy.inventory import Destination
from policy.model import Endpoint, Hop, Request, Service, ServicePort, Verdict, Workload
from policy.reachability import home
from policy.route import Rule, Timeouts
from policy.snapshot import Snapshot
from policy.upstream import ServiceBounds

_ANY = Request("GET", "/")  # where every request is decided alike


class Outward:
    """A local workload calls a Service (by its Route, balanced), another workload's address, or one outside
    the mesh.
    """

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        self._outside = Outside(conn)

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        conn = self._conn
        context = conn.context
        snapshot = context.snapshot
        destination = self._destination(snapshot)
        if destination.kind == "service":
            endpoint, taker = self._balance(snapshot, destination, request, tried, backend)
            service, protocol = taker.backend.service, taker.port.protocol
            filters, timeouts, retry = taker.filters, taker.timeouts, taker.retry
            own = taker.backend.key if taker.backend.filters else ""
            upstream = taker.service.upstream
        elif destination.kind == "workload":
            assert destination.endpoint is not None
            if destination.endpoint in tried:
                raise Refused("connect-failed", str(destination.endpoint))
            endpoint, protocol, own = destination.endpoint, destination.protocol, ""
            filters, timeouts, retry = (), None, None
            service = destination.service.key if destination.service else ""
            upstream = _bounds_of(destination)
        elif destination.kind == "no-port":
            raise _no_port(destination, conn)
        else:
            return self._pass(request, tried)
        if retry is None and snapshot.retries and destination.service is not None:
            retry = snapshot.retry(destination.service, conn.workload.identity)
        workload = snapshot.workload(endpoint.workload)
        verdict = _verdict(snapshot, self._conn, endpoint, workload, request)
        if not verdict.allowed:
            raise denied(verdict, workload)
        local = workload is not None and workload.key in context.captured
        hop = None if local or workload is None or not workload.enrolled else self._hop(snapshot, workload, endpoint)
        bounds = snapshot.bounds(endpoint) if local else ()
        return Pick(
            endpoint,
            workload,
            service,
            verdict.rule,
            local,
            hop,
            protocol,
            filters,
            timeouts,
            own,
            verdict.trial,
            bounds,
            upstream,
            retry,
        )

    def _destination(self, snapshot: Snapshot) -> Destination:
        return snapshot.destination(*self._conn.dialled)

    def _balance(
        self,
        snapshot: Snapshot,
        destination: Destination,
        request: Request | None,
        tried: Collection[Endpoint],
        backend: str,
    ) -> tuple[Endpoint, Taker]:
        service, port, caller = destination.service, destination.port, self._conn.workload
        assert service is not None
        assert port is not None
        live = self._conn.context.live
        found = snapshot.candidates(service, port.port, request, caller=caller.namespace)
        if found.rule is not None and found.rule.refuses:
            raise _refusal(found.rule)
        if found.rule is not None and found.rule.filters and request is not None and answered_here(found.rule, request):
            raise Unserved(found.rule)
        takers, backends = found.takers, found.backends
        if (tried or backend) and found.rule is not None:  # a backend that has no endpoint left takes no turns either
            takers = tuple(
                taker
                for taker in takers
                if backend in ("", taker.backend.key) and any(endpoint not in tried for endpoint in taker.endpoints)
            )
            backends = tuple(taker.backend for taker in takers)
        if not backends:
            raise _nobody(service, port, found)
        key = backends[0].key
        if len(backends) > 1:
            key = live.turn(caller.key, service.key, port.port, request is None, backends, found.number)
        taker = next((one for one in takers if one.backend.key == key), None)
        if taker is None:
            raise _lacking(found, key)
        if taker.filters and request is None:
            raise Refused("filter-failed", "filters act on HTTP requests, and this is an opaque stream")
        port, now = taker.port, trio.current_time()
        if (how := taker.service.balancing) is not None:
            hashed = how.key(None if request is None else request.fields, self._conn.peer[0]) if how.hashes else None
            endpoint = live.balanced(caller.key, taker, how, hashed, tried, now)
        elif taker.service.affinity:
            endpoint = live.affine(caller.key, taker, tried, now)
        else:
            endpoint = live.least_loaded(taker.endpoints, tried, now)
        if endpoint is None:
            raise Refused("connect-failed", f"every endpoint of {taker.backend.service}:{port.port} was tried")
        if request is not None and request.others:
            refuse_evasion(snapshot, found, request, snapshot.workload(endpoint.workload))
        return endpoint, taker

    def _hop(self, snapshot: Snapshot, workload: Workload, endpoint: Endpoint) -> Hop | None:
        """Return where the tunnel to a workload of another node is opened.

        None: the workload is on this node, though not captured (yet), or is called in plain text.
        """
        if home(snapshot, workload) == snapshot.node:
            return None
        if self._conn.context.identities.trust() is None:
            if workload.node and snapshot.mtls(workload.namespace) != "disabled":
                raise Refused(
                    "no-certificate",
                    f"{workload.key} is on node {workload.node}, and this node has no roots of a mesh yet",
                    workload,
                )
            return None
        return snapshot.hop(workload, endpoint.address)

    def crosses(self, workload: Workload, endpoint: Endpoint) -> bool:
        try:
            return workload.enrolled and self._hop(self._conn.context.snapshot, workload, endpoint) is not None
        except Refused:
            return False

    def _pass(self, request: Request | None, tried: Collection[Endpoint]) -> Pick:
        endpoint = Endpoint(*self._conn.dialled)
        rule = self._outside.rule(request)
        if endpoint in tried:
            raise Refused("connect-failed", str(endpoint))
        return Pick(endpoint, None, "", rule, False, upstream=self._conn.context.snapshot.outside.get(rule))

    def spread(self) -> Spread | None:
        context = self._conn.context
        snapshot = context.snapshot
        destination = snapshot.destination(*self._conn.dialled)
        if destination.kind == "workload" and destination.endpoint is not None:
            called = destination.service
            if called is not None and snapshot.retry(called, self._conn.workload.identity) is not None:
                return None
            if (bounds := _bounds_of(destination)) is not None and bounds.counts_calls:
                return None
            return self._repeatable(None, {"": (destination.endpoint,)})
        if destination.kind != "service" or destination.service is None or destination.port is None:
            return None
        service, port, caller = destination.service, destination.port, self._conn.workload
        if not snapshot.is_settled(service, port.port, caller.namespace, caller.identity):
            return None
        found = snapshot.candidates(service, port.port, _ANY, caller=caller.namespace)
        if len(found.backends) != len(found.takers):
            return None  # some of the calls are refused
        groups: dict[str, tuple[Endpoint, ...]] = {}
        for taker in found.takers:
            if (endpoints := self._endpoints(taker)) is None:
                return None
            groups[taker.backend.key] = endpoints
        if any(one.service.upstream is not None and one.service.upstream.counts_calls for one in found.takers):
            return None
        if len(groups) < 2:
            return self._repeatable(None, groups) if groups else None
        turns = context.live.turns(caller.key, service.key, port.port, False, found.backends, found.number)
        return self._repeatable(turns, groups)

    def _repeatable(self, turns: Turns | None, groups: Mapping[str, tuple[Endpoint, ...]]) -> Spread | None:
        """Return a spread, or None where a rate counts requests here: each has to take its token."""
        if self._rated(itertools.chain.from_iterable(groups.values())):
            return None
        return Spread(turns, groups)

    def _rated(self, endpoints: Iterable[Endpoint]) -> bool:
        """Return whether a rate counts requests to any of these here."""
        context = self._conn.context
        return any(
            endpoint.workload in context.captured and counts_requests(context.snapshot.bounds(endpoint))
            for endpoint in endpoints
        )

    def ruled(self) -> Ruled | None:
        snapshot = self._conn.context.snapshot
        destination = snapshot.destination(*self._conn.dialled)
        service, port, caller = destination.service, destination.port, self._conn.workload
        if destination.kind != "service" or service is None or port is None:
            return None
        if snapshot.retry(service, caller.identity) is not None:
            return None
        found = snapshot.ruled(service, port.port, caller.namespace)
        if found is None:
            return None
        shares = {rule.number: share for rule in found.rules if (share := self._share(rule, port)) is not None}
        return Ruled(found.patterns, found.looks, shares, len(found.rules) == 1) if shares else None

    def _share(self, found: Candidates, port: ServicePort) -> Share | None:
        """Return where the calls of a rule go; None where that is decided for each one."""
        if found.rule is not None and not repeatable(found.rule):
            return None
        if not found.takers or len(found.backends) != len(found.takers):
            return None  # some of the calls are refused
        if any(one.service.upstream is not None and one.service.upstream.counts_calls for one in found.takers):
            return None
        if self._rated(endpoint for taker in found.takers for endpoint in taker.endpoints):
            return None
        ways: dict[str, Way] = {}
        for taker in found.takers:
            if (endpoints := self._endpoints(taker)) is None:
                return None
            ways[taker.backend.key] = Way(taker.backend.service, taker.filters, endpoints)
        turns = None
        if len(ways) > 1:
            caller, live = self._conn.workload, self._conn.context.live
            turns = live.turns(caller.key, found.service.key, port.port, False, found.backends, found.number)
        return Share(turns, ways)

    def rule(self, request: Request) -> int:
        snapshot = self._conn.context.snapshot
        destination = snapshot.destination(*self._conn.dialled)
        if destination.service is None or destination.port is None:
            return -1
        return snapshot.rule(destination.service, destination.port.port, self._conn.workload.namespace, request)

    def _endpoints(self, taker: Taker) -> tuple[Endpoint, ...] | None:
        """Return the endpoints of which any takes a call, by its load; None where each call is chosen for itself."""
        live = self._conn.context.live
        if (how := taker.service.balancing) is not None and len(taker.endpoints) > 1:
            key = how.key(None, self._conn.peer[0]) if how.settled else None
            first = next(live.tables.of(taker, how).order(key)) if key is not None else None
            # While that one fails, calls go elsewhere, and have to come back when it no longer does.
            return None if first is None or first in live.breakers else (first,)
        if how is not None or not taker.service.affinity:
            return taker.endpoints
        one = live.affine(self._conn.workload.key, taker, (), trio.current_time())
        return taker.endpoints if one is None else (one,)

    def refuses(self, endpoint: Endpoint, request: Request, via: str = "") -> Refused | None:
        snapshot = self._conn.context.snapshot
        workload = snapshot.workload(endpoint.workload)
        verdict = _verdict(snapshot, self._conn, endpoint, workload, request)
        return None if verdict.allowed else denied(verdict, workload)

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        snapshot = self._conn.context.snapshot
        workload = snapshot.workload(pick.endpoint.workload)
        if pick.workload is None and not pick.service:
            destination = snapshot.destination(*self._conn.dialled)
            return destination.kind == "external" and self._outside.verdict(request).allowed
        return _verdict(snapshot, self._conn, pick.endpoint, workload, request).allowed

    def misdirected(self, host: str) -> bool:
        conn = self._conn
        if not conn.context.refuse_other_hosts:
            return False
        snapshot = conn.context.snapshot
        named = snapshot.named(host, conn.workload.namespace)
        if named is None or conn.dialled[0] in named.addresses:
            return False
        destination = snapshot.destination(*conn.dialled)
        if destination.kind == "workload":
            # A workload was dialled by its own address: Host may name any Service that it serves, or the root of their
            # splits.
            return destination.workload is None or not snapshot.serves(named, destination.workload)
        return destination.kind in ("service", "no-port")


class Beside(Outward):
    """A request that a filter makes as the caller: to a Service's own endpoints, whatever its Routes say."""

    def __init__(self, conn: Conn, service: str, port: int, seconds: float) -> None:
        super().__init__(conn)
        self._service = service  # key
        self._port = port
        self._timeouts = Timeouts(request=seconds)

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        return structs.replace(super().pick(request, tried, backend), timeouts=self._timeouts, retry=None)

    def _destination(self, snapshot: Snapshot) -> Destination:
        service = own_service(snapshot, self._service, self._port)
        return Destination("service", service, service.ports[0])

    def spread(self) -> Spread | None:
        return None

    def ruled(self) -> Ruled | None:
        return None

    def misdirected(self, host: str) -> bool:
        return False  # Host is that of the caller's own call


def own_service(snapshot: Snapshot, key: str, number: int) -> Service:
    """Return a Service with this port alone and without its Routes. Raise Refused if there is none."""
    service = snapshot.service(key)
    if service is None:
        raise Refused("bad-route", f"there is no Service {key}")
    port = port_of(service, number, "tcp")
    if port is None:
        raise Refused("no-port", f"{key} has no port {number}")
    return structs.replace(service, ports=(port,), routes=())


class Inward:
    """A caller calls a local workload. The listener knows the caller's identity, if it proved one."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        # A unit's workload shares its address with others: the listener, not the address, tells which one is called.
        self.endpoint = Endpoint(conn.dialled[0], conn.dialled[1], conn.workload.key)

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        conn = self._conn
        workload = conn.context.snapshot.workload(conn.workload.key) or conn.workload
        verdict = self._verdict(conn.context.snapshot, workload, conn.dialled[1], request)
        rule = verdict.rule
        if not verdict.allowed:
            # An AccessControl admits addresses, where mTLS is not strict. A caller with an identity is judged by its
            # identity.
            rule = (
                ""
                if conn.identity
                else conn.context.snapshot.plain_rule(conn.peer[0], workload, conn.dialled[1], request)
            )
            if not rule:
                raise denied(verdict, workload)
        if self.endpoint in tried:
            raise Refused("connect-failed", str(self.endpoint))
        snapshot = conn.context.snapshot
        return Pick(
            self.endpoint,
            workload,
            "",
            rule,
            True,
            None,
            snapshot.destination(*conn.dialled).protocol,
            trial=verdict.trial if verdict.allowed else "",
            bounds=snapshot.bounds(self.endpoint),
        )

    def opaque(self) -> bool:
        """Return whether this caller may send any bytes."""
        conn = self._conn
        return conn.context.snapshot.authorize(conn.identity, conn.workload, conn.dialled[1]).allowed

    def _verdict(self, snapshot: Snapshot, workload: Workload, port: int, request: Request | None) -> Verdict:
        conn = self._conn
        if snapshot.isolated and conn.identity is not None:
            caller = snapshot.workload(conn.source.key) if conn.source is not None else None
            if (caller is not None and caller.isolated) or snapshot.isolates(conn.peer[0]):
                return ISOLATED
        return snapshot.authorize(conn.identity, workload, port, request)

    def spread(self) -> Spread | None:
        conn = self._conn
        if conn.identity is None and conn.context.snapshot.plain_looks(conn.workload, conn.dialled[1]):
            return None  # what such a caller may send is decided request by request
        if counts_requests(conn.context.snapshot.bounds(self.endpoint)):
            return None
        return Spread(None, {"": (self.endpoint,)})

    def ruled(self) -> Ruled | None:
        return None  # routes are the caller's

    def rule(self, request: Request) -> int:
        return -1

    def crosses(self, workload: Workload, endpoint: Endpoint) -> bool:
        return False

    def refuses(self, endpoint: Endpoint, request: Request, via: str = "") -> Refused | None:
        conn = self._conn
        snapshot = conn.context.snapshot
        workload = snapshot.workload(conn.workload.key) or conn.workload
        verdict = self._verdict(snapshot, workload, endpoint.port, request)
        if verdict.allowed or (
            not conn.identity and snapshot.plain_rule(conn.peer[0], workload, endpoint.port, request)
        ):
            return None
        return denied(verdict, workload)

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        conn = self._conn
        snapshot = conn.context.snapshot
        workload = snapshot.workload(conn.workload.key)
        if workload is None:
            return False
        if self._verdict(snapshot, workload, conn.dialled[1], request).allowed:
            return True
        return not conn.identity and snapshot.plain_rule(conn.peer[0], workload, conn.dialled[1], request) != ""

    def misdirected(self, host: str) -> bool:
        if not self._conn.context.refuse_other_hosts:
            return False
        snapshot = self._conn.context.snapshot
        named = snapshot.named(host, self._conn.workload.namespace)
        return named is not None and not snapshot.serves(named, self._conn.workload)


class Probed(Inward):
    """A call of the node's own prober, which has no identity: only probes that the workload declares are admitted."""

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        if self.endpoint in tried:
            raise Refused("connect-failed", str(self.endpoint))
        if not self._declared(request):
            raise Refused("no-identity", "the node's prober has no identity; only declared probes are admitted from it")
        return Pick(self.endpoint, self._conn.workload, "", "declared probe", True)

    def spread(self) -> Spread | None:
        return None  # probes are few

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        return self._declared(request)

    def _declared(self, request: Request | None) -> bool:
        workload = self._conn.context.snapshot.workload(self._conn.workload.key) or self._conn.workload
        for probe in workload.probes:
            if probe.kind != "http" or probe.port != self._conn.dialled[1] or request is None:
                continue
            if probe.method == request.method and probe.path.partition("?")[0] == request.path:
                return True
        return False


class Forwarded(Inward):
    """A caller under an address of a node: it has no identity, and no AccessControl admits it.

    NAT lends such an address to everything that the node forwards.
    """

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        raise self._nobody()

    def spread(self) -> Spread | None:
        return None

    def refuses(self, endpoint: Endpoint, request: Request, via: str = "") -> Refused | None:
        return self._nobody()

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        return False

    def _nobody(self) -> Refused:
        own = self._conn.peer[0] in self._conn.context.sockets.node_addresses()
        whose = "the node's address" if own else f"{self._conn.peer[0]}, the address of a node or router,"
        return Refused("no-identity", f"{whose} is no identity: NAT lends it to whom the node forwards")


def _bounds_of(destination: Destination) -> ServiceBounds | None:
    """Return what bounds the calls to a workload's own address: a Service of its namespace that leads there."""
    service, workload = destination.service, destination.workload
    if service is None or workload is None or service.namespace != workload.namespace:
        return None
    return service.upstream


def counts_requests(bounds: tuple[ServiceBounds, ...]) -> bool:
    """Return whether requests have to be counted for any of these at the server's node."""
    return any(one.request_rates or one.max_per_connection is not None for one in bounds)


def tcp_probe(workload: Workload, port: int) -> bool:
    return any(probe.kind == "tcp" and probe.port == port for probe in workload.probes)


def denied(verdict: Verdict, protected: Workload | None) -> Refused:
    """Return the refusal of a verdict.

    The reason word comes first in the detail, so that an HTTP response can carry it alone.
    """
    if verdict.reason == "ambiguous-path":
        return Refused("bad-path", DENIALS[verdict.reason], protected, trial=verdict.trial)
    if verdict.reason == "no-identity":  # the flag says it already
        return Refused("no-identity", "nothing lets callers without one in", protected, trial=verdict.trial)
    return Refused("denied", f"{verdict.reason}: {DENIALS.get(verdict.reason, '')}", protected, trial=verdict.trial)


def _verdict(
    snapshot: Snapshot, conn: Conn, endpoint: Endpoint, workload: Workload | None, request: Request | None
) -> Verdict:
    caller = snapshot.workload(conn.workload.key)
    if caller is not None and caller.isolated:
        return ISOLATED
    identity = caller.identity if caller else None
    return snapshot.admits(
        identity, workload, endpoint.port, request, outside=endpoint.outside, address=endpoint.address
    )


def _nobody(service: Service, port: ServicePort, found: Candidates) -> Refused:
    """Return why no backend may take a call to this port."""
    if found.rule is None or found.route is None:
        few = f", {port.nearness}" if port.near == () else ""
        return Refused("no-endpoint", f"{service.key}:{port.port}{few}")
    if found.reason == "all-weights-zero":
        return Refused("all-weights-zero", f"{found.route.name}, of {service.key}")
    return Refused("no-endpoint", f"no backend of {service.key} has an endpoint for port {port.port}")


def _lacking(found: Candidates, key: str) -> Refused:
    """Return why a strict backend whose turn it is cannot take the call."""
    one = next(one for one in found.idle if one.backend.key == key)
    where = f"{found.rule.name}: " if found.rule is not None and found.rule.name else ""
    if one.lack in ("no-endpoint", "no-near-endpoint"):
        return Refused("no-endpoint", f"{where}{one.backend.service}")
    lacks = "does not exist" if one.service is None else f"has no port {one.backend.port}"
    return Refused("bad-route", f"{where}the backend {one.backend.service} {lacks}")


def refuse_evasion(snapshot: Snapshot, found: Candidates, request: Request, server: Workload | None = None) -> None:
    """Raise Refused if a server may read a path of several readings as one that another rule keeps from it."""
    if snapshot.evades(found, request, server):
        raise Refused("bad-path", "the path holds %2F, and as a slash it is one that another rule keeps back")


def _refusal(rule: Rule) -> Refused:
    """Return the refusal of calls that a rule refuses."""
    detail = ": ".join(filter(None, (rule.name, rule.detail)))
    return Refused("no-route", detail) if rule.refuses == "no-route" else Refused("bad-route", detail)


def _no_port(destination: Destination, conn: Conn) -> Refused:
    service = destination.service
    ports = ", ".join(str(port.port) for port in service.ports) if service else ""
    return Refused(
        "no-port", f"{service.key if service else conn.dialled[0]} has {ports or 'no ports'}, not {conn.dialled[1]}"
    )
