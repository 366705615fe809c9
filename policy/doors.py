"""Who comes in from outside the mesh: by address, through a Gateway, or by the name in a certificate.

A grant that names requests admits only HTTP, and only those. The name of a certificate that is no identity of the mesh
says something only to who chose its CA: so it counts at Gateways of the destination's own namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from policy.match import Matcher
from policy.model import Identity, PlainGrant, Request
from policy.networks import Networks


class Came(Struct, frozen=True):
    """How a caller outside the mesh came to a listener of a Gateway."""

    address: str
    gateway: str = ""  # key of the Gateway
    names: tuple[str, ...] = ()  # in its certificate, which the listener has checked
    port: int = 0  # of the caller
    identity: Identity | None = None  # of the mesh, that its certificate proves
    issued_to: str = ""  # the node that this certificate names, "" for none
    serial: str = ""


class _Named(Struct, frozen=True):
    """One grant that looks at more than the address."""

    grant: PlainGrant
    networks: Networks
    matcher: Matcher | None

    def fits(self, request: Request | None) -> bool:
        return self.matcher is None or (request is not None and self.matcher.first(request) >= 0)

    def knows(self, came: Came) -> bool:
        grant = self.grant
        if came.gateway and came.gateway in grant.gateways:
            return True
        namespace = grant.destination.partition("/")[0]
        return came.gateway.startswith(f"{namespace}/") and not set(grant.principals).isdisjoint(came.names)


class Doors:
    """All plain grants. `networks`: of those without requests, which cost one lookup."""

    __slots__ = ("_named", "_networks")

    def __init__(self, grants: Iterable[PlainGrant]) -> None:
        networks: dict[tuple[str, int, bool], list[tuple[str, str]]] = {}
        self._named: dict[tuple[str, int], list[_Named]] = {}
        for grant in grants:
            known = [(network, grant.rule) for network in grant.networks]
            matcher = None if grant.http is None else Matcher(grant.http)
            for port in grant.ports:
                if grant.http is None:
                    for strict in (True, False) if grant.strict else (False,):
                        networks.setdefault((grant.destination, port, strict), []).extend(known)
                if grant.http is not None or grant.gateways or grant.principals:
                    named = _Named(grant, Networks(known), matcher)
                    self._named.setdefault((grant.destination, port), []).append(named)
        self._networks = {key: Networks(known) for key, known in networks.items()}

    def __repr__(self) -> str:
        return f"<Doors: {len(self._networks)} by address alone, {len(self._named)} by more>"

    def rule(self, address: str, workload: str, port: int, strict: bool, request: Request | None) -> str:
        """Return the grant that lets this in by its address; "" for none. `request` None: an opaque stream."""
        networks = self._networks.get((workload, port, strict))
        found = "" if networks is None else networks.rule(address)
        if found or not self._named:
            return found
        for one in self._named.get((workload, port), ()):
            if one.grant.http is not None and (one.grant.strict or not strict):
                found = one.networks.rule(address)
                if found and one.fits(request):
                    return found
        return ""

    def through(self, came: Came, workload: str, port: int, request: Request | None) -> str:
        """Return the grant that lets this in by the Gateway or the certificate; "" for none."""
        for one in self._named.get((workload, port), ()):
            if one.knows(came) and one.fits(request):
                return one.grant.rule
        return ""

    def looks_at_requests(self, workload: str, port: int) -> bool:
        """Return whether any grant admits some requests of a caller and others not."""
        named: Sequence[_Named] = self._named.get((workload, port), ())
        return any(one.matcher is not None for one in named)
