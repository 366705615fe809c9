"""Where one connection's bytes may go: every question is put to the newest snapshot, nothing is remembered between requests.

Outward: what a local workload dialled. Inward: the local workload that somebody dialled. Probed: the node's own health checks.
Passing: destinations that are no business of the mesh.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import trio

from nodeproxy.context import Conn, Pick
from nodeproxy.errors import Refused
from policy.authz import DENIALS
from policy.model import Endpoint, Hop, Protocol, Request, Service, ServicePort, Verdict, Workload
from policy.snapshot import Destination, Snapshot


class Outward:
    """A local workload calls out: to a service (TrafficSplit, balancing), or straight to a workload's address."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def pick(self, request: Request | None, tried: Collection[Endpoint] = ()) -> Pick:
        conn = self._conn
        context = conn.context
        snapshot = context.snapshot
        destination = snapshot.destination(*conn.dialled)
        if destination.kind == "service":
            endpoint, service, protocol = self._balance(snapshot, destination, request, tried)
        elif destination.kind == "workload":
            assert destination.endpoint is not None
            if destination.endpoint in tried:
                raise Refused("connect-failed", str(destination.endpoint))
            endpoint, protocol = destination.endpoint, destination.protocol
            service = destination.service.key if destination.service else ""
        elif destination.kind == "no-port":
            raise _no_port(destination, conn)
        else:
            return self._pass(snapshot, tried)
        workload = snapshot.workload(endpoint.workload)
        verdict = _verdict(snapshot, conn, endpoint, workload, request)
        if not verdict.allowed:
            raise denied(verdict, workload)
        local = workload is not None and workload.key in context.captured
        hop = None if local or workload is None or not workload.enrolled else self._hop(snapshot, workload, endpoint)
        return Pick(endpoint, workload, service, verdict.rule, local, hop, protocol)

    def _balance(
        self, snapshot: Snapshot, destination: Destination, request: Request | None, tried: Collection[Endpoint]
    ) -> tuple[Endpoint, str, Protocol]:
        service, port = destination.service, destination.port
        assert service is not None
        assert port is not None
        live = self._conn.context.live
        backends = snapshot.backends(service, request)
        if backends is not None:
            if backends and not any(b.weight for b in backends):
                raise Refused("all-weights-zero", f"TrafficSplit of {service.key}")
            # A backend that does not exist, lacks the port, or has no endpoint left takes no turns (SMI N22, N24; answer A16).
            ready = []
            for backend in backends:
                chosen = snapshot.service(backend.service)
                chosen_port = _port_of(chosen, port.port)
                if backend.weight and chosen_port and any(e not in tried for e in chosen_port.endpoints):
                    ready.append(backend)
            if not ready:
                raise Refused("no-endpoint", f"no backend of {service.key} has an endpoint for port {port.port}")
            caller = self._conn.workload.key
            key = ready[0].service if len(ready) == 1 else live.turn(caller, service.key, port.port, request is None, ready)
            found = snapshot.service(key)
            assert found is not None
            service = found
            found_port = _port_of(service, port.port)
            assert found_port is not None
            port = found_port
        if not port.endpoints:
            raise Refused("no-endpoint", f"{service.key}:{port.port}")
        endpoint = live.least_loaded(port.endpoints, tried, trio.current_time())
        if endpoint is None:
            raise Refused("connect-failed", f"every endpoint of {service.key}:{port.port} was tried")
        return endpoint, service.key, port.protocol

    def _hop(self, snapshot: Snapshot, workload: Workload, endpoint: Endpoint) -> Hop | None:
        """The way to a workload of another node. None: it is of this one, though not captured (yet), or is called in plain."""
        if workload.node == snapshot.node or (not workload.node and (workload.netns or workload.unit)):
            return None
        if self._conn.context.identities.trust() is None:
            if workload.node and snapshot.mtls(workload.namespace) != "disabled":
                raise Refused("no-certificate", f"{workload.key} is on node {workload.node}, and this node has joined no mesh", workload)
            return None
        return snapshot.hop(workload, endpoint.address)

    def crosses(self, workload: Workload, endpoint: Endpoint) -> bool:
        """Is it reached through a connection to its node?"""
        try:
            return workload.enrolled and self._hop(self._conn.context.snapshot, workload, endpoint) is not None
        except Refused:
            return False

    def _pass(self, snapshot: Snapshot, tried: Collection[Endpoint]) -> Pick:
        endpoint = Endpoint(*self._conn.dialled)
        if not snapshot.mesh.egress:
            raise Refused("egress-denied", str(endpoint))
        if endpoint in tried:
            raise Refused("connect-failed", str(endpoint))
        return Pick(endpoint, None, "", "enableEgress", False)

    def refuses(self, endpoint: Endpoint, request: Request) -> Refused | None:
        """What a request that goes to this endpoint is refused with."""
        snapshot = self._conn.context.snapshot
        workload = snapshot.workload(endpoint.workload)
        verdict = _verdict(snapshot, self._conn, endpoint, workload, request)
        return None if verdict.allowed else denied(verdict, workload)

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        snapshot = self._conn.context.snapshot
        workload = snapshot.workload(pick.endpoint.workload)
        if pick.workload is None and not pick.service:
            destination = snapshot.destination(*self._conn.dialled)
            return destination.kind == "external" and snapshot.mesh.egress
        return _verdict(snapshot, self._conn, pick.endpoint, workload, request).allowed

    def misdirected(self, host: str) -> bool:
        conn = self._conn
        snapshot = conn.context.snapshot
        named = snapshot.named(host, conn.workload.namespace)
        if named is None or conn.dialled[0] in named.addresses:
            return False
        destination = snapshot.destination(*conn.dialled)
        if destination.kind == "workload":
            # A workload was dialled by its own address: any service that it serves may be named, and the root of their splits.
            return not any(e.address == conn.dialled[0] for e in _endpoints(snapshot, named))
        return destination.kind in ("service", "no-port")


class Inward:
    """Somebody calls a local workload. Who it is was proved by the door, or was not."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        # A unit's workload shares its address with others: the door, not the address, says whose this is.
        self.endpoint = Endpoint(conn.dialled[0], conn.dialled[1], conn.workload.key)

    def pick(self, request: Request | None, tried: Collection[Endpoint] = ()) -> Pick:
        conn = self._conn
        workload = conn.context.snapshot.workload(conn.workload.key) or conn.workload
        verdict = conn.context.snapshot.authorize(conn.identity, workload, conn.dialled[1], request)
        rule = verdict.rule
        if not verdict.allowed:
            # An AccessControl names addresses, where mTLS is not strict; whoever has proved an identity is judged by that.
            rule = "" if conn.identity else conn.context.snapshot.plain_rule(conn.peer[0], workload, conn.dialled[1])
            if not rule:
                raise denied(verdict, workload)
        if self.endpoint in tried:
            raise Refused("connect-failed", str(self.endpoint))
        return Pick(self.endpoint, workload, "", rule, True, None, conn.context.snapshot.destination(*conn.dialled).protocol)

    def refuses(self, endpoint: Endpoint, request: Request) -> Refused | None:
        """What a request is refused with. `endpoint`: the only one that there is."""
        conn = self._conn
        snapshot = conn.context.snapshot
        workload = snapshot.workload(conn.workload.key) or conn.workload
        verdict = snapshot.authorize(conn.identity, workload, endpoint.port, request)
        if verdict.allowed or (not conn.identity and snapshot.plain_rule(conn.peer[0], workload, endpoint.port)):
            return None
        return denied(verdict, workload)

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        conn = self._conn
        snapshot = conn.context.snapshot
        workload = snapshot.workload(conn.workload.key)
        if workload is None:
            return False
        if snapshot.authorize(conn.identity, workload, conn.dialled[1], request).allowed:
            return True
        return not conn.identity and snapshot.plain_rule(conn.peer[0], workload, conn.dialled[1]) != ""

    def misdirected(self, host: str) -> bool:
        named = self._conn.context.snapshot.named(host, self._conn.workload.namespace)
        return named is not None and not any(e.workload == self._conn.workload.key for e in _endpoints(self._conn.context.snapshot, named))


class Probed(Inward):
    """The node's own address is no identity: from it only what the workload declares as a probe is admitted."""

    def pick(self, request: Request | None, tried: Collection[Endpoint] = ()) -> Pick:
        if self.endpoint in tried:
            raise Refused("connect-failed", str(self.endpoint))
        if not self._declared(request):
            raise Refused("no-identity", "the node's address is no identity; only declared probes are admitted from it")
        return Pick(self.endpoint, self._conn.workload, "", "declared probe", True)

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


def tcp_probe(workload: Workload, port: int) -> bool:
    return any(probe.kind == "tcp" and probe.port == port for probe in workload.probes)


def denied(verdict: Verdict, protected: Workload | None) -> Refused:
    """The refusal of a verdict: its reason word comes first in the detail, so that an HTTP answer can carry it alone."""
    flag = "no-identity" if verdict.reason == "no-identity" else "denied"
    return Refused(flag, f"{verdict.reason}: {DENIALS.get(verdict.reason, '')}", protected)


def _verdict(snapshot: Snapshot, conn: Conn, endpoint: Endpoint, workload: Workload | None, request: Request | None) -> Verdict:
    if workload is None:
        # A mesh service whose endpoint is no workload that we know: nobody to ask a rule about.
        return Verdict(True, "permissive mode") if snapshot.mesh.permissive else Verdict(False, "", "unknown-workload")
    if not workload.enrolled:
        return Verdict(True, "enableEgress") if snapshot.mesh.egress else Verdict(False, "", "not-enrolled")
    caller = snapshot.workload(conn.workload.key)
    return snapshot.authorize(caller.identity if caller else None, workload, endpoint.port, request)


def _endpoints(snapshot: Snapshot, service: Service) -> Iterator[Endpoint]:
    """Everything that a call to a service may reach."""
    backends = [snapshot.service(backend.service) for backend in service.split.backends] if service.split else []
    for one in (service, *backends):
        if one is not None:
            for port in one.ports:
                yield from port.endpoints


def _port_of(service: Service | None, number: int) -> ServicePort | None:
    if service is None:
        return None
    for port in service.ports:
        if port.port == number and port.transport == "tcp":
            return port
    return None


def _no_port(destination: Destination, conn: Conn) -> Refused:
    service = destination.service
    ports = ", ".join(str(port.port) for port in service.ports) if service else ""
    return Refused("no-port", f"{service.key if service else conn.dialled[0]} has {ports or 'no ports'}, not {conn.dialled[1]}")
