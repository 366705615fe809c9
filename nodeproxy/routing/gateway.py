"""Where the calls of somebody outside the mesh go that come in by a listener of a Gateway.

The listener's address, its port and the Host field choose the virtual hosts; the first rule of theirs that fits decides.
A connection that nothing looks into is a stream: the listener and the server name of its TLS choose the one rule. A
server of the mesh has to admit the caller (snapshot.py, `lets_in`). One on another node is called with this node's own
certificate, and that node is told who calls: there the call is `Arrived`, and is judged once more (policy/entering.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec import structs

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Pick, Ruled, Spread
from nodeproxy.routing.route import Inward, Outward, denied, own_service, refuse_evasion
from nodeproxy.tls.gateway import Client
from policy.authz import REVOKED
from policy.candidates import Taker
from policy.doors import Came
from policy.entering import distrusts, judge, may_be_http
from policy.gateway import Listener, VirtualHost
from policy.inventory import Destination
from policy.model import Endpoint, Request, Service, Verdict, Workload
from policy.reachability import home
from policy.route import Timeouts
from policy.snapshot import Snapshot


class Entering(Outward):
    """A caller outside the mesh calls a virtual host of a listener."""

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        conn = self._conn
        context, snapshot = conn.context, conn.context.snapshot
        service = self._service(snapshot, request)
        destination = Destination("service", service, service.ports[0])
        endpoint, taker = self._balanced(snapshot, destination, request, tried, backend)
        self._refuse_ourselves(endpoint)
        workload = snapshot.workload(endpoint.workload)
        via = self._via(snapshot, service)
        local = workload is not None and workload.key in context.captured
        hop = None if local or workload is None or not workload.enrolled else self._hop(snapshot, workload, endpoint)
        if hop is not None and (why := distrusts(snapshot, snapshot.node, via)):
            raise Refused("not-a-gateway", f"{hop} would not believe this node: {why}", workload)
        verdict = self._verdict(snapshot, endpoint, request, via)
        if not verdict.allowed:
            raise denied(verdict, workload)
        own = taker.backend.key if taker.backend.filters else ""
        return Pick(
            endpoint,
            workload,
            taker.backend.service,
            verdict.rule,
            local,
            hop,
            taker.port.protocol,
            taker.filters,
            taker.timeouts,
            own,
            bounds=snapshot.bounds(endpoint) if local else (),
            upstream=taker.service.upstream,
            via=via,
            came=None if hop is None else self._came(via),
            retry=taker.retry,
        )

    def _balanced(
        self,
        snapshot: Snapshot,
        destination: Destination,
        request: Request | None,
        tried: Collection[Endpoint],
        backend: str,
    ) -> tuple[Endpoint, Taker]:
        """Return the endpoint whose turn it is. While this node has no certificate, pass over those of other nodes.

        Raise Refused.
        """
        tried = list(tried)
        far: Refused | None = None
        identities = self._conn.context.identities
        while True:
            try:
                endpoint, taker = self._balance(snapshot, destination, request, tried, backend)
            except Refused as refused:
                raise (
                    far if far is not None and refused.flag in ("no-endpoint", "connect-failed") else refused
                ) from None
            workload = snapshot.workload(endpoint.workload)
            local = workload is not None and workload.key in self._conn.context.captured
            joined = identities.trust() is not None and identities.node() is not None
            if joined or local or workload is None or not self.crosses(workload, endpoint):
                return endpoint, taker
            why = f"{workload.key} is on node {workload.node}, and this node has no certificate of a mesh to call there"
            far, backend = Refused("no-certificate", why, workload), taker.backend.key
            tried.append(endpoint)

    def _came(self, via: str) -> Came:
        """Return the caller as another node is told of it."""
        conn = self._conn
        client = self._client()
        if client is None:
            return Came(conn.peer[0], via, port=conn.peer[1])
        return Came(conn.peer[0], via, client.names, conn.peer[1], client.identity, client.node, client.serial)

    def _client(self) -> Client | None:
        """Return what the caller's certificate proves now."""
        conn = self._conn
        client = conn.edge.client if conn.edge is not None else None
        return None if client is None or client.ended(conn.context.identities.now()) else client

    def _service(self, snapshot: Snapshot, request: Request | None) -> Service:
        """Return what stands for the virtual host whose rule fits. Raise Refused("no-route")."""
        host = (request.header("host") or "") if request is not None else ""
        for virtual in self._virtual_hosts(snapshot, host):
            port = virtual.service.ports[0].port
            found = snapshot.candidates(virtual.service, port, request)
            if found.rule is not None:
                return virtual.service
            if request is not None and request.others:
                refuse_evasion(snapshot, found, request)
        raise Refused("no-route", f"no route of a Gateway at port {self._conn.dialled[1]} fits")

    def _virtual_hosts(self, snapshot: Snapshot, host: str) -> tuple[VirtualHost, ...]:
        """Return what takes a call of this Host, in the order to be asked in. Raise Refused("misdirected")."""
        edge, dialled = self._conn.edge, self._conn.dialled
        if edge is None or edge.sni is None:
            return snapshot.virtual_hosts(*dialled, host)
        its = snapshot.listeners_for(*dialled, edge.sni)
        if its and not any(map(edge.may_reach, its)):
            raise Refused(
                "misdirected", f"{its[0].key} asks for another certificate than this connection was asked for"
            )
        return snapshot.virtual_hosts(
            *dialled, host, edge.sni, lambda one: one.protocol == "HTTPS" and edge.may_reach(one)
        )

    def _via(self, snapshot: Snapshot, service: Service) -> str:
        return snapshot.gateway_of(service.key)

    def _refuse_ourselves(self, endpoint: Endpoint) -> None:
        """Raise Refused if a listener of edgemesh would be dialled: without end, if it is this one."""
        context, (address, port) = self._conn.context, (endpoint.address, endpoint.port)
        ours = port in context.ports or context.snapshot.listeners_at(address, port)
        if ours and (address in context.sockets.node_addresses() or address.startswith("127.") or address == "::1"):
            raise Refused("own-port", str(endpoint))

    def _verdict(self, snapshot: Snapshot, endpoint: Endpoint, request: Request | None, via: str) -> Verdict:
        workload, came = snapshot.workload(endpoint.workload), self._came(via)
        if (
            workload is not None
            and workload.key not in self._conn.context.captured
            and self.crosses(workload, endpoint)
        ):
            return judge(snapshot, came, workload, endpoint.port, request)
        if came.identity is not None and snapshot.refuses(came.identity, came.issued_to, came.serial):
            return REVOKED
        return snapshot.lets_in(came.address, workload, endpoint.port, request, via, came.names, came.identity)

    def spread(self) -> Spread | None:
        return None

    def ruled(self) -> Ruled | None:
        return None

    def rule(self, request: Request) -> int:
        return -1

    def crosses(self, workload: Workload, endpoint: Endpoint) -> bool:
        snapshot = self._conn.context.snapshot
        return (
            workload.enrolled
            and snapshot.mtls(workload.namespace) != "disabled"
            and home(snapshot, workload) != snapshot.node
        )

    def refuses(self, endpoint: Endpoint, request: Request, via: str = "") -> Refused | None:
        snapshot = self._conn.context.snapshot
        verdict = self._verdict(snapshot, endpoint, request, via)
        return None if verdict.allowed else denied(verdict, snapshot.workload(endpoint.workload))

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        snapshot = self._conn.context.snapshot
        if not snapshot.listeners_at(*self._conn.dialled):
            return False
        edge = self._conn.edge
        if edge is not None and edge.sni is not None:
            its = [one for one in snapshot.listeners_for(*self._conn.dialled, edge.sni) if one.gateway == pick.via]
            if its and not any(map(edge.may_reach, its)):
                return False
        return self._verdict(snapshot, pick.endpoint, request, pick.via).allowed

    def misdirected(self, host: str) -> bool:
        """Return whether TLS named another listener's host: what that one asks of callers was not asked of this one.

        A host that is no listener's is no reason: then nothing fits, and the answer is 404 (GEP-3567).
        """
        edge, snapshot = self._conn.edge, self._conn.context.snapshot
        if edge is None or edge.sni is None:
            return False
        fitting = snapshot.listeners_for(*self._conn.dialled, host)
        return bool(fitting) and fitting != snapshot.listeners_for(*self._conn.dialled, edge.sni)


class EnteringStream(Entering):
    """A caller outside the mesh whose connection is routed whole. `sni`: the host that its TLS names, "" for none."""

    def __init__(self, conn: Conn, takes: Callable[[Listener], bool], sni: str = "") -> None:
        """`takes`: whether a listener takes connections of this kind."""
        super().__init__(conn)
        self._takes = takes
        self._sni = sni

    def _service(self, snapshot: Snapshot, request: Request | None) -> Service:
        service = self._named(snapshot)
        if service is None:
            what = f"{self._sni} (the server name of TLS)" if self._sni else "connections that name no host"
            raise Refused("no-route", f"no route of a Gateway at port {self._conn.dialled[1]} is for {what}")
        return service

    def _named(self, snapshot: Snapshot) -> Service | None:
        dialled = self._conn.dialled
        its = snapshot.virtual_hosts(*dialled, self._sni, self._sni, self._takes)
        return its[0].service if its else None

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        """The route is what opens a server outside the mesh: its connections end with the backend that it named."""
        snapshot = self._conn.context.snapshot
        service = self._named(snapshot)
        if service is None or self._via(snapshot, service) != pick.via:
            return False
        rule = snapshot.candidates(service, service.ports[0].port, None).rule
        if rule is None or rule.refuses or pick.service not in {one.service for one in rule.backends}:
            return False
        return self._verdict(snapshot, pick.endpoint, None, pick.via).allowed


class EnteringBeside(Entering):
    """A request that a filter makes for a caller outside the mesh: to a Service's own endpoints, which have to admit it."""

    def __init__(self, conn: Conn, service: str, port: int, seconds: float, via: str) -> None:
        """`via`: the Gateway that the caller's own call came in by."""
        super().__init__(conn)
        self._called = (service, port)
        self._gateway = via
        self._timeouts = Timeouts(request=seconds)

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        return structs.replace(super().pick(request, tried, backend), timeouts=self._timeouts)

    def _service(self, snapshot: Snapshot, request: Request | None) -> Service:
        return own_service(snapshot, *self._called)

    def _via(self, snapshot: Snapshot, service: Service) -> str:
        return self._gateway

    def misdirected(self, host: str) -> bool:
        return False  # Host is that of the caller's own call


class Arrived(Inward):
    """A caller outside the mesh calls a local workload, by a listener of another node."""

    def __init__(self, conn: Conn, came: Came, node: str) -> None:
        """`came`: as `node` tells of the caller. `node` has proved only that it is a node."""
        super().__init__(conn)
        self._came = came
        self._node = node

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        conn = self._conn
        snapshot = conn.context.snapshot
        workload = snapshot.workload(conn.workload.key) or conn.workload
        refused, rule = self._decide(snapshot, workload, request)
        if refused is not None:
            raise refused
        if self.endpoint in tried:
            raise Refused("connect-failed", str(self.endpoint))
        protocol = snapshot.destination(*conn.dialled).protocol
        bounds = snapshot.bounds(self.endpoint)
        return Pick(self.endpoint, workload, "", rule, True, None, protocol, bounds=bounds, via=self._came.gateway)

    def check(self, requests: bool) -> None:
        """Raise Refused where nothing of this caller may come in. `requests`: HTTP may be spoken at the port."""
        snapshot, whom = self._conn.context.snapshot, self._conn.workload
        refused, _ = self._decide(snapshot, whom, None)
        if refused is None or (
            refused.flag != "not-a-gateway"
            and requests
            and may_be_http(snapshot, self._came, whom, self._conn.dialled[1])
        ):
            return
        raise refused

    def opaque(self) -> bool:
        return self._decide(self._conn.context.snapshot, self._conn.workload, None)[0] is None

    def _decide(self, snapshot: Snapshot, workload: Workload, request: Request | None) -> tuple[Refused | None, str]:
        """Return the refusal, or the rule that admits it."""
        if why := distrusts(snapshot, self._node, self._came.gateway):
            return Refused("not-a-gateway", why, workload), ""
        verdict = judge(snapshot, self._came, workload, self._conn.dialled[1], request)
        return (None, verdict.rule) if verdict.allowed else (denied(verdict, workload), "")

    def spread(self) -> Spread | None:
        return None  # streams of one connection are of many callers

    def refuses(self, endpoint: Endpoint, request: Request, via: str = "") -> Refused | None:
        snapshot = self._conn.context.snapshot
        return self._decide(snapshot, snapshot.workload(self._conn.workload.key) or self._conn.workload, request)[0]

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        snapshot = self._conn.context.snapshot
        workload = snapshot.workload(self._conn.workload.key)
        return workload is not None and self._decide(snapshot, workload, request)[0] is None

    def misdirected(self, host: str) -> bool:
        return False  # Host is what the Gateway's listener was asked for
