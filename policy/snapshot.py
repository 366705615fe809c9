"""Snapshot: everything that one node needs to decide, frozen and encodable. No decision takes longer with more
policies.

The encoded fields are plain data. The indexes are built on first use and cached beside it (`cached_property`), so two
snapshots of the same bytes decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from msgspec import field

from policy.authz import EGRESS, ISOLATED, NO_IDENTITY, PERMISSIVE, REVOKED, THROUGH, Authority, denied
from policy.candidates import Candidates, Router, Ruled, Transport, candidates, port_of
from policy.doors import Came, Doors
from policy.egress import Egress
from policy.gateway import (
    NOBODY,
    Attachment,
    Front,
    Gateways,
    Listener,
    Programmed,
    VirtualHost,
    fronts,
    host_of,
    programmed,
)
from policy.inventory import Inventory
from policy.match import Look
from policy.model import (
    CallerRetry,
    EgressGrant,
    Grant,
    Hop,
    Identity,
    Mtls,
    Names,
    Node,
    Outgoing,
    PlainGrant,
    Request,
    Revoked,
    Service,
    Verdict,
    Workload,
)
from policy.networks import Networks
from policy.revocations import Revocations
from policy.route import Retry, Route
from policy.upstream import ServiceBounds
from policy.zone import Zone

TUNNEL_PORT = 15008  # where tunnels to a workload are opened, unless it says otherwise (HBONE)


class Snapshot(Inventory, frozen=True, dict=True):
    """The known objects, and every decision of one node."""

    grants: tuple[Grant, ...] = ()  # which identities may send what to which
    # By service key: allotted addresses, to be kept
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    modes: dict[str, Mtls] = field(default_factory=dict)  # by namespace, where it sets one itself
    revoked: Revoked = Revoked()
    plain: tuple[PlainGrant, ...] = ()  # which networks may call in plain text
    names: Names = Names()
    listeners: tuple[Listener, ...] = ()  # of Gateways, that this node opens; the oldest Gateway first
    gateways: Gateways = Gateways()  # what is said of their objects
    isolated: tuple[tuple[str, str], ...] = ()  # ranges that are cut off, each with its Isolation
    trials: tuple[Grant, ...] = ()  # grants that admit nothing: what they would admit is counted
    egress: tuple[EgressGrant, ...] = ()  # what may leave the mesh where the MeshConfig forbids it
    outside: dict[str, ServiceBounds] = field(default_factory=dict)  # what bounds these calls, by title of the Egress
    retries: tuple[CallerRetry, ...] = ()  # whose requests are sent again, and when

    # indexes

    @cached_property
    def _authority(self) -> Authority:
        return Authority(self.grants, self.trials)

    @cached_property
    def _routers(self) -> Mapping[int, Router]:
        """Routers, by id of the Route."""
        return {id(route): Router(route) for service in (*self.services, *self._virtual) for route in service.routes}

    @cached_property
    def _virtual(self) -> tuple[Service, ...]:
        """What stands for the virtual hosts of listeners."""
        return tuple(host.service for listener in self.listeners for host in listener.hosts)

    @cached_property
    def _virtual_ids(self) -> frozenset[int]:
        return frozenset(map(id, self._virtual))

    @cached_property
    def _candidates(self) -> dict[tuple[int, int, Transport, int, int], Candidates]:
        """Cached candidates by id of the Service, port, id of the Route and number of the rule: filled by calls, for
        existing ports.
        """
        return {}

    @cached_property
    def _retries(self) -> Mapping[tuple[str, Identity], Retry]:
        return {(one.service, one.caller): one.retry for one in self.retries}

    @cached_property
    def _nodes(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _node_addresses(self) -> frozenset[str]:
        return frozenset(address for node in self.nodes for address in node.addresses)

    @cached_property
    def _revocations(self) -> Revocations:
        return Revocations(self.revoked)

    @cached_property
    def _isolated(self) -> Networks:
        return Networks(self.isolated)

    @cached_property
    def _barred(self) -> bool:
        """Whether any revocation concerns calls. Mostly none does."""
        return bool(self.revoked.nodes or self.revoked.identities)

    @cached_property
    def _doors(self) -> Doors:
        return Doors(self.plain)

    @cached_property
    def _egress(self) -> Egress:
        return Egress(self.egress)

    @cached_property
    def zone(self) -> Zone:
        """What DNS says."""
        return Zone(self, self.names)

    def warm(self) -> Snapshot:
        """Build every index now, so that no request has to wait for it. Return the snapshot itself."""
        for name in dir(type(self)):
            if isinstance(getattr(type(self), name), cached_property):
                getattr(self, name)
        return self

    # lookups

    def knows(self, address: str) -> bool:
        """Return whether this is the address of a workload or a node of the mesh."""
        return address in self._by_address or address in self._node_addresses

    def is_node_address(self, address: str) -> bool:
        """Return whether manifests give this address to a node."""
        return address in self._node_addresses

    def route(self, service: Service, port: int, caller: str) -> Route | None:
        """Return the Route that holds for calls to this port of a Service from the namespace `caller`."""
        for route in service.routes:
            if route.holds(port, caller):
                return route
        return None

    def retry(self, service: Service, caller: Identity) -> Retry | None:
        """Return when requests of this caller to a Service are sent again, if the Route's rule does not say it."""
        return self._retries.get((service.key, caller)) if self.retries else None

    def is_settled(self, service: Service, port: int, caller: str, identity: Identity | None = None) -> bool:
        """Return whether every request to this port from this namespace may be treated alike, whatever it contains.

        Then a decision can be reused. `identity`: of the caller; None: of any whose requests are not sent again.
        """
        if identity is not None and self.retry(service, identity) is not None:
            return False
        route = self.route(service, port, caller)
        return route is None or self._router(route).settled

    def candidates(
        self,
        service: Service,
        port: int,
        request: Request | None = None,
        transport: Transport = "tcp",
        caller: str = "",
    ) -> Candidates:
        """Return what may take a call to this port of a Service from the namespace `caller`.

        `request` None: a stream that is no HTTP request. If no rule applies, the Service's own endpoints take the call
        (SMI N20, N27).
        """
        route = self.route(service, port, caller) if service.routes else None
        number = -1 if route is None else self._router(route).rule(request)
        return self._for_rule(service, port, transport, route, number)

    def _for_rule(
        self, service: Service, port: int, transport: Transport, route: Route | None, number: int
    ) -> Candidates:
        # The cached value holds its Service, and so its Routes: no other gets one of their ids
        key = (id(service), port, transport, id(route), number)
        found = self._candidates.get(key)
        if found is None:
            found = candidates(self._services, service, route, number, port, transport)
            ours = self._services.get(service.key) is service or id(service) in self._virtual_ids
            if ours and port_of(service, port, transport) is not None:
                self._candidates[key] = found
        return found

    def ruled(self, service: Service, port: int, caller: str) -> Ruled | None:
        """Return what every rule does with calls to this port from this namespace; None without a Route."""
        route = self.route(service, port, caller)
        if route is None:
            return None
        router = self._router(route)
        patterns, looks = router.sight
        return Ruled(
            patterns, looks, tuple(self._for_rule(service, port, "tcp", route, number) for number in router.numbers)
        )

    def rule(self, service: Service, port: int, caller: str, request: Request) -> int:
        """Return the number of the rule that applies to a request, -1 for none."""
        route = self.route(service, port, caller)
        return -1 if route is None else self._router(route).rule(request)

    def evades(self, found: Candidates, request: Request, server: Workload | None = None) -> bool:
        """Return whether this server may read the path as one that another rule of the Route keeps back."""
        if found.route is None:
            return False
        read = request if server is None else self.as_read_by(server, request)
        return self._router(found.route).evades(found.number, read.readings())

    def _router(self, route: Route) -> Router:
        return self._routers.get(id(route)) or Router(route)

    @cached_property
    def _attachments(self) -> Mapping[str, tuple[Attachment, ...]]:
        found: dict[str, list[Attachment]] = {}
        for one in self.gateways.attachments:
            found.setdefault(one.route, []).append(one)
        return {title: tuple(ones) for title, ones in found.items()}

    def attachments_of(self, title: str) -> tuple[Attachment, ...]:
        """Return what became of each Gateway that a route of this title names as its parent."""
        return self._attachments.get(title, ())

    def listeners_at(self, address: str, port: int) -> tuple[Listener, ...]:
        """Return the Gateways' listeners that a caller of this address and port of the node reaches."""
        return self._front(address, port).listeners

    def listeners_for(self, address: str, port: int, host: str) -> tuple[Listener, ...]:
        """Return those of the listeners there that take calls for this host."""
        return self._front(address, port).named(host_of(host))

    def virtual_hosts(
        self,
        address: str,
        port: int,
        host: str,
        sni: str | None = None,
        reaches: Callable[[Listener], bool] = lambda listener: True,
    ) -> tuple[VirtualHost, ...]:
        """Return what takes a call of this Host at this address and port of the node, in the order to be asked in.

        `sni`: the host that the TLS handshake named: its listeners alone take the call. `reaches`: whether the caller
        may reach a listener.
        """
        front = self._front(address, port)
        return front.virtual_hosts(host_of(host if sni is None else sni), host_of(host), reaches)

    def _front(self, address: str, port: int) -> Front:
        return self._fronts.get((address, port)) or self._fronts.get(("", port), NOBODY)

    @cached_property
    def _fronts(self) -> Mapping[tuple[str, int], Front]:
        return fronts(self.listeners)

    @cached_property
    def _gateways(self) -> Mapping[str, str]:
        """Keys of Gateways, by key of what stands for a virtual host."""
        return {host.service.key: listener.gateway for listener in self.listeners for host in listener.hosts}

    @cached_property
    def programmed(self) -> Mapping[str, Programmed]:
        """Where the listeners of each Gateway are, by its key."""
        return programmed(self.listeners)

    @cached_property
    def node_names(self) -> frozenset[str]:
        """The nodes that manifests name."""
        return frozenset(self._nodes)

    @cached_property
    def spaces(self) -> frozenset[str]:
        """The namespaces that have workloads of the mesh."""
        return frozenset(one.namespace for one in self.workloads if one.enrolled)

    def addresses_at(self, node: str) -> tuple[str, ...]:
        """Return the addresses that manifests give to a node."""
        found = self._nodes.get(node)
        return () if found is None else found.addresses

    def gateway_of(self, service: str) -> str:
        """Return the key of the Gateway of a virtual host; "" for any other Service."""
        return self._gateways.get(service, "")

    def mtls(self, namespace: str) -> Mtls:
        """Return how workloads of a namespace are called: the namespace's mode, or that of the mesh."""
        return self.modes.get(namespace, self.mesh.mtls)

    def hop(self, workload: Workload, address: str) -> Hop | None:
        """Return where the tunnel to a workload of another node is opened; None: no tunnel, the caller dials `address`
        itself.

        A node that has `addresses` has one listener for all of its workloads. Otherwise each workload is dialled at its
        own.
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
        """Return why the holder of such a certificate is refused: "node till-3 is revoked"; "" if nothing refuses it.

        `identity` None, `node` and `serial` "": the certificate does not say.
        """
        return self._revocations.refuses(identity, node, serial)

    def isolates(self, address: str) -> str:
        """Return the Isolation that cuts this address off; "" for none."""
        return self._isolated.rule(address) if self.isolated else ""

    def plain_rule(self, address: str, workload: Workload, port: int, request: Request | None = None) -> str:
        """Return the AccessControl or IngressBackend that lets plain text from `address` reach this port; "" for none.

        In strict mode no AccessControl does. `request` None: an opaque stream.
        """
        if not self.plain or (self._barred and self._revocations.bars(workload)):
            return ""
        if workload.isolated or self.isolates(address):
            return ""
        if request is not None and request.others:
            request = self.as_read_by(workload, request)
        strict = self.mtls(workload.namespace) == "strict"
        return self._doors.rule(address, workload.key, port, strict, request)

    def plain_looks(self, workload: Workload, port: int) -> bool:
        """Return whether a caller without an identity may send some requests to this port and others not."""
        return bool(self.plain) and self._doors.looks_at_requests(workload.key, port)

    def lets_in(
        self,
        address: str,
        whom: Workload | None,
        port: int,
        request: Request | None = None,
        gateway: str = "",
        names: tuple[str, ...] = (),
        identity: Identity | None = None,
    ) -> Verdict:
        """Return whether a caller outside the mesh, at `address`, may come through a listener to an endpoint.

        `gateway`: key of the listener's Gateway. `names`: in the certificate that the caller has shown there.
        `identity`: of the mesh, that it proves; then it also comes in as any caller with that identity.

        The listener's Route is all that a server outside the mesh needs. To one of the mesh a Route alone opens nothing:
        an IngressBackend has to admit the Gateway, the certificate or the address, or where mTLS is not strict an
        AccessControl the address, or the mesh is permissive.
        """
        if self.isolates(address) or (whom is not None and whom.isolated):
            return ISOLATED
        if whom is None or not whom.enrolled:
            return THROUGH
        if self._barred and self._revocations.bars(whom):
            return REVOKED
        if identity is not None:
            verdict = self.authorize(identity, whom, port, request)
            if verdict.allowed or verdict.reason == "revoked":
                return verdict
        if rule := self.plain_rule(address, whom, port, request):
            return Verdict(True, rule)
        if request is not None and request.others:
            request = self.as_read_by(whom, request)
        if rule := self._doors.through(Came(address, gateway, names), whom.key, port, request):
            return Verdict(True, rule)
        return PERMISSIVE if self.mesh.permissive else NO_IDENTITY

    def admits(
        self,
        source: Identity | None,
        whom: Workload | None,
        port: int,
        request: Request | None = None,
        transport: Transport = "tcp",
        outside: bool = False,
        address: str = "",
    ) -> Verdict:
        """Return whether `source` may send this to an endpoint of a Service.

        `whom`: the workload there, None if the mesh knows none. `outside`: there is none to know. `address`: of the
        endpoint.
        """
        if whom is not None and whom.isolated:
            return ISOLATED
        if whom is None and outside:
            return self._beyond(source, address, port, "outside")
        if whom is None:  # grants are about identities, and it has none
            return PERMISSIVE if self.mesh.permissive else denied("unknown-workload")
        if not whom.enrolled:
            return self._beyond(source, address, port, "not-enrolled")
        return (
            self.authorize(source, whom, port, request)
            if transport == "tcp"
            else self.authorize_udp(source, whom, port)
        )

    def _beyond(self, source: Identity | None, address: str, port: int, reason: str) -> Verdict:
        """Return whether `source` may send anything to an endpoint of a Service that is not in the mesh."""
        verdict = self.lets_out(source, Outgoing(address, port))
        return verdict if verdict.allowed else denied(reason)

    def lets_out(
        self, source: Identity | None, call: Outgoing, tied: Callable[[str], bool] = lambda host: False
    ) -> Verdict:
        """Return whether `source` may send this out of the mesh: to an address that is no endpoint of it.

        `tied`: whether DNS said that a host has the dialled address.
        """
        if self.isolates(call.address):
            return ISOLATED
        if self.mesh.egress:
            return EGRESS
        if source is None:
            return NO_IDENTITY
        exits = self._egress.exits(source)
        if exits is None:
            return denied("outside")
        if self._barred and self._revocations.bars_identity(source):
            return REVOKED
        return exits.decide(call, tied)

    def looks_outside(self, source: Identity | None, address: str, port: int) -> bool:
        """Return whether it depends on what a connection says of itself, if it may leave the mesh to this address."""
        if self.mesh.egress or source is None:
            return False
        exits = self._egress.exits(source)
        return exits is not None and exits.stream(address, port) is None

    def goes_by_names(self, source: Identity) -> bool:
        """Return whether any host may be called outside the mesh, so that it counts what DNS says."""
        return not self.mesh.egress and self._egress.exits(source) is not None

    def authorize(
        self, source: Identity | None, destination: Workload, port: int, request: Request | None = None
    ) -> Verdict:
        """Return whether `source` may send this to `port` of `destination`. `request` None: an opaque stream.

        `source` None: it proved no identity.
        """
        if source is None:
            return NO_IDENTITY
        if destination.isolated:
            return ISOLATED
        if self._barred and (self._revocations.bars_identity(source) or self._revocations.bars(destination)):
            return REVOKED
        if self.mesh.permissive:
            return PERMISSIVE
        if request is not None and request.others:
            request = self.as_read_by(destination, request)
        pair = self._authority.pair(destination.identity, source)
        return denied("no-rule") if pair is None else pair.decide(port, request)

    @staticmethod
    def as_read_by(destination: Workload, request: Request) -> Request:
        """Return the request with only those readings of its path that this server may have."""
        return request.readings()[0] if destination.literal_slash else request

    def looks(self, source: Identity | None, destination: Workload, port: int) -> tuple[Look, ...]:
        """Return what the rules between these two look at beside a request's method and path."""
        if source is None or self.mesh.permissive:
            return ()
        pair = self._authority.pair(destination.identity, source)
        return () if pair is None else pair.looks(port)

    def path_patterns(self, source: Identity | None, destination: Workload, port: int) -> tuple[str, ...]:
        """Return the patterns that decide which paths may pass between these two.

        Paths that the same set of patterns fits get the same verdict.
        """
        if source is None or self.mesh.permissive:
            return ()
        pair = self._authority.pair(destination.identity, source)
        return () if pair is None else pair.path_patterns(port)

    def authorize_udp(self, source: Identity | None, destination: Workload, port: int) -> Verdict:
        """Return whether `source` may send datagrams to `port` of `destination` (UDPRoute)."""
        if source is None:
            return NO_IDENTITY
        if destination.isolated:
            return ISOLATED
        if self._barred and (self._revocations.bars_identity(source) or self._revocations.bars(destination)):
            return REVOKED
        if self.mesh.permissive:
            return PERMISSIVE
        pair = self._authority.pair(destination.identity, source)
        return denied("no-rule") if pair is None else pair.decide_udp(port)
