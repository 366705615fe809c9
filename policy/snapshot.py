"""Snapshot: all that one node needs to decide, frozen and encodable, with its lookups. No lookup grows with the number of policies.

What is encoded is plain data; the indexes are made on first use and live beside it (`cached_property`), so that two snapshots
of the same bytes answer alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from msgspec import Struct

from policy.authz import NO_IDENTITY, PERMISSIVE, REVOKED, Authority, denied
from policy.match import Matcher
from policy.model import (
    Backend,
    Endpoint,
    Grant,
    Hop,
    Identity,
    Mesh,
    Mtls,
    Node,
    PlainGrant,
    Protocol,
    Request,
    Revoked,
    Service,
    ServicePort,
    Verdict,
    Workload,
    canonical_serial,
)
from policy.networks import Networks


class Destination(Struct, frozen=True):
    """What an address and port mean to the mesh.

    "service": an address of a Service. "no-port": likewise, but it has no such port. "workload": an enrolled workload's own
    address; `protocol` is what a Service declares of that port, if one does. "external": not the mesh's.
    """

    kind: Literal["service", "workload", "external", "no-port"]
    service: Service | None = None
    port: ServicePort | None = None
    workload: Workload | None = None
    endpoint: Endpoint | None = None
    protocol: Protocol = ""


_EXTERNAL = Destination("external")
TUNNEL_PORT = 15008  # where a workload's own tunnel door is, unless it says otherwise (HBONE)


class Snapshot(Struct, frozen=True, dict=True):
    node: str
    mesh: Mesh = Mesh()
    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()
    grants: tuple[Grant, ...] = ()
    addresses: dict[str, tuple[str, ...]] = {}  # by service key: what was allotted from our ranges, to be kept
    nodes: tuple[Node, ...] = ()
    modes: dict[str, Mtls] = {}  # by namespace, where it says one itself
    revoked: Revoked = Revoked()
    plain: tuple[PlainGrant, ...] = ()

    # indexes

    @cached_property
    def _workloads(self) -> Mapping[str, Workload]:
        return {workload.key: workload for workload in self.workloads}

    @cached_property
    def _services(self) -> Mapping[str, Service]:
        return {service.key: service for service in self.services}

    @cached_property
    def _by_address(self) -> Mapping[str, tuple[Workload, ...]]:
        found: dict[str, tuple[Workload, ...]] = {}
        for workload in self.workloads:
            for address in workload.addresses:
                found[address] = (*found.get(address, ()), workload)
        return found

    @cached_property
    def _service_by_address(self) -> Mapping[str, Service]:
        found: dict[str, Service] = {}
        for service in self.services:
            for address in service.addresses:
                found.setdefault(address, service)
        return found

    @cached_property
    def _dialled(self) -> Mapping[tuple[str, int], Destination]:
        found: dict[tuple[str, int], Destination] = {}
        for service in self.services:
            for port in service.ports:
                if port.transport == "tcp":
                    destination = Destination("service", service, port, None, None, port.protocol)
                    for address in service.addresses:
                        found.setdefault((address, port.port), destination)
        return found

    @cached_property
    def _served(self) -> Mapping[tuple[str, int], tuple[Service, ServicePort]]:
        """Which Service sends to an endpoint; one that declares the protocol is preferred."""
        found: dict[tuple[str, int], tuple[Service, ServicePort]] = {}
        for service in self.services:
            for port in service.ports:
                if port.transport != "tcp":
                    continue
                for endpoint in port.endpoints:
                    key = (endpoint.address, endpoint.port)
                    if key not in found or (port.protocol and not found[key][1].protocol):
                        found[key] = (service, port)
        return found

    @cached_property
    def _authority(self) -> Authority:
        return Authority(self.grants)

    @cached_property
    def _split_matchers(self) -> Mapping[str, Matcher]:
        return {s.key: Matcher(s.split.matches) for s in self.services if s.split is not None and s.split.matches is not None}

    @cached_property
    def _nodes(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _revoked_nodes(self) -> frozenset[str]:
        return frozenset(self.revoked.nodes)

    @cached_property
    def _revoked_identities(self) -> frozenset[Identity]:
        return frozenset(self.revoked.identities)

    @cached_property
    def _barred(self) -> bool:
        """Is there any revocation that concerns calls? Mostly not."""
        return bool(self._revoked_nodes or self._revoked_identities)

    @cached_property
    def _revoked_serials(self) -> frozenset[str]:
        return frozenset(map(canonical_serial, self.revoked.serials))

    @cached_property
    def _plain(self) -> Mapping[tuple[str, int], Networks]:
        """By workload and port: who may call it in plain text."""
        found: dict[tuple[str, int], list[tuple[str, str]]] = {}
        for grant in self.plain:
            for port in grant.ports:
                found.setdefault((grant.destination, port), []).extend((network, grant.rule) for network in grant.networks)
        return {key: Networks(rules) for key, rules in found.items()}

    def warm(self) -> Snapshot:
        """Make every index now, so that no request has to wait for it. Answers itself."""
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                getattr(self, name)
        return self

    # lookups

    def workload(self, key: str) -> Workload | None:
        return self._workloads.get(key)

    def service(self, key: str) -> Service | None:
        return self._services.get(key)

    def workload_at(self, address: str, port: int = 0) -> Workload | None:
        """Whose address this is. Workloads that share one (systemd units) are told apart by the port; None when it tells nothing."""
        found = self._by_address.get(address, ())
        if len(found) < 2:
            return found[0] if found else None
        return next((workload for workload in found if port in workload.ports), None)

    def workloads_at(self, address: str) -> tuple[Workload, ...]:
        """Everybody with this address: systemd units share their node's."""
        return self._by_address.get(address, ())

    def has_address(self, address: str) -> bool:
        """Is this the address of a workload or a Service of the mesh?"""
        return address in self._by_address or address in self._service_by_address

    def destination(self, address: str, port: int) -> Destination:
        """What was dialled."""
        found = self._dialled.get((address, port))
        if found is not None:
            return found
        service = self._service_by_address.get(address)
        if service is not None:
            return Destination("no-port", service)
        workload = self.workload_at(address, port)
        if workload is None or not workload.enrolled:
            return _EXTERNAL
        served, served_port = self._served.get((address, port), (None, None))
        protocol = served_port.protocol if served_port else ""
        return Destination("workload", served, served_port, workload, Endpoint(address, port, workload.key), protocol)

    def named(self, host: str, namespace: str) -> Service | None:
        """The Service that a Host field or a DNS name means, asked from `namespace`.

        svc, svc.ns, svc.ns.svc and svc.ns.svc.<cluster domain>, any case, with or without a port and a final dot.
        """
        if host.startswith("["):
            return None
        name, _, _ = host.partition(":")
        name = name.rstrip(".").lower()
        first, _, rest = name.partition(".")
        if not first:
            return None
        if not rest:
            return self._services.get(f"{namespace}/{first}")
        second, _, suffix = rest.partition(".")
        # Any whole beginning of svc.<cluster domain> that a resolver's search list may leave.
        if suffix and not f"svc.{self.mesh.cluster_domain}.".startswith(f"{suffix}."):
            return None
        return self._services.get(f"{second}/{first}")

    def backends(self, service: Service, request: Request | None) -> tuple[Backend, ...] | None:
        """What the TrafficSplit of a service says of this request. None: no split applies, its own endpoints take it (N20, N27).

        A connection that is no HTTP request fits no `matches`.
        """
        split = service.split
        if split is None:
            return None
        if split.matches is not None and (request is None or self._split_matchers[service.key].first(request) < 0):
            return None
        return split.backends

    def mtls(self, namespace: str) -> Mtls:
        """What workloads of a namespace are called over: what it says itself, else what the mesh says."""
        return self.modes.get(namespace, self.mesh.mtls)

    def hop(self, workload: Workload, address: str) -> Hop | None:
        """Where the tunnel to a workload of another node is opened; None: no tunnel, it is dialled at `address` itself.

        A node that says where it is reached has one door for all of its workloads; otherwise each is dialled at its own.
        """
        if self.mtls(workload.namespace) == "disabled":
            return None
        domain = self.mesh.trust_domain
        node = self._nodes.get(workload.node)
        if node is not None and node.addresses:
            like = ":" in address
            at = next((one for one in node.addresses if (":" in one) == like), node.addresses[0])
            return Hop(at, node.tunnel_port, node.spiffe(domain), node.name, node.metered)
        metered = node is not None and node.metered
        return Hop(address, workload.tunnel_port or TUNNEL_PORT, workload.identity.spiffe(domain), "", metered)

    def refuses(self, identity: Identity | None, node: str, serial: str = "") -> str:
        """Why whoever holds such a certificate is refused ("node till-3 is revoked"); "" when he is not. "" for what it does not say."""
        if node and node in self._revoked_nodes:
            return f"node {node} is revoked"
        if identity is not None and identity in self._revoked_identities:
            return f"identity {identity} is revoked"
        if serial and canonical_serial(serial) in self._revoked_serials:
            return f"certificate {canonical_serial(serial)} is revoked"
        return ""

    def plain_rule(self, address: str, workload: Workload, port: int) -> str:
        """The AccessControl that lets plain text from `address` reach this port; "" for none, and always in strict mode."""
        if self.mtls(workload.namespace) == "strict" or (self._barred and self._is_barred(workload)):
            return ""
        networks = self._plain.get((workload.key, port))
        return "" if networks is None else networks.rule(address)

    def _is_barred(self, workload: Workload) -> bool:
        """Nobody is to be served by it: its key is in the wrong hands."""
        return workload.identity in self._revoked_identities or workload.node in self._revoked_nodes

    def authorize(self, source: Identity | None, destination: Workload, port: int, request: Request | None = None) -> Verdict:
        """May `source` send this to `port` of `destination`? `request` None: an opaque stream. `source` None: nobody that we know."""
        if source is None:
            return NO_IDENTITY
        if self._barred and (source in self._revoked_identities or self._is_barred(destination)):
            return REVOKED
        if self.mesh.permissive:
            return PERMISSIVE
        pair = self._authority.pair(destination.identity, source)
        return denied("no-rule") if pair is None else pair.decide(port, request)

    def looks_at_headers(self, source: Identity | None, destination: Workload, port: int) -> bool:
        """Does any rule between these two look at more of a request than its method and path?"""
        if source is None or self.mesh.permissive:
            return False
        pair = self._authority.pair(destination.identity, source)
        return pair is not None and pair.looks_at_headers(port)

    def path_patterns(self, source: Identity | None, destination: Workload, port: int) -> tuple[str, ...]:
        """The patterns that alone decide which paths may pass between these two: paths that the same of them fit are judged alike."""
        if source is None or self.mesh.permissive:
            return ()
        pair = self._authority.pair(destination.identity, source)
        return () if pair is None else pair.path_patterns(port)

    def authorize_udp(self, source: Identity | None, destination: Workload, port: int) -> Verdict:
        """The same for datagrams (UDPRoute)."""
        if source is None:
            return NO_IDENTITY
        if self._barred and (source in self._revoked_identities or self._is_barred(destination)):
            return REVOKED
        if self.mesh.permissive:
            return PERMISSIVE
        pair = self._authority.pair(destination.identity, source)
        return denied("no-rule") if pair is None else pair.decide_udp(port)
