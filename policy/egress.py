"""Which calls out of the mesh are let out where the MeshConfig forbids them in general (kind Egress).

A call by host is let out only to an address that DNS said to be that host's: the caller chooses what Host and the
server name of TLS say, so neither proves where the call goes. Whether DNS said so is the business of whoever asks
(`tied`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence

from policy.authz import denied
from policy.match import Matcher
from policy.model import EgressGrant, Identity, Outgoing, Request, Verdict
from policy.networks import Networks

# How far a call came before it was denied; the furthest is the reason.
STAGES = (
    "outside",
    "egress-port",
    "egress-no-name",
    "egress-host",
    "egress-address",
    "egress-untied",
    "egress-no-match",
)


class _Exit:
    """One Egress for one source."""

    __slots__ = ("grant", "matcher", "networks", "verdict")

    def __init__(self, grant: EgressGrant) -> None:
        self.grant = grant
        self.verdict = Verdict(True, grant.rule)
        self.networks = Networks((network, grant.rule) for network in grant.networks) if grant.networks else None
        self.matcher = None if grant.http is None else Matcher(grant.http)

    def leads_to(self, address: str) -> bool:
        return self.networks is None or bool(self.networks.rule(address))


class Exits:
    """All that one source may call outside the mesh. More Egresses for other ports and hosts cost a call nothing."""

    def __init__(self, grants: Iterable[EgressGrant]) -> None:
        self._streams: dict[int, list[_Exit]] = {}
        # by port, protocol and host; "" for those without hosts
        self._named: dict[tuple[int, str, str], list[_Exit]] = {}
        self._ports: set[tuple[int, str]] = set()
        for grant in grants:
            one = _Exit(grant)
            for port, protocol in grant.ports:
                self._ports.add((port, protocol))
                if protocol == "tcp":
                    self._streams.setdefault(port, []).append(one)
                else:
                    for host in grant.hosts or ("",):
                        self._named.setdefault((port, protocol, host), []).append(one)

    def stream(self, address: str, port: int) -> Verdict | None:
        """Return the verdict that lets any bytes out to this address; None if no rule does."""
        return next((one.verdict for one in self._streams.get(port, ()) if one.leads_to(address)), None)

    def decide(self, call: Outgoing, tied: Callable[[str], bool]) -> Verdict:
        """Return whether this may leave the mesh. `tied`: whether DNS said that this host has the dialled address."""
        found = self.stream(call.address, call.port)  # whoever may send any bytes may send HTTP and TLS
        if found is not None:
            return found
        if call.protocol == "tcp" or (call.port, call.protocol) not in self._ports:
            return denied("egress-port")
        stage = 0
        name = named(call.host, call.port)
        for host in fitting(name):
            for one in self._named.get((call.port, call.protocol, host), ()):
                reached, verdict = _judge(one, call, name, tied)
                if verdict is not None:
                    return verdict
                stage = max(stage, reached)
        return denied(STAGES[stage or (STAGES.index("egress-host" if name else "egress-no-name"))])


def _judge(one: _Exit, call: Outgoing, name: str, tied: Callable[[str], bool]) -> tuple[int, Verdict | None]:
    """Return how far a call comes by one Egress whose port and hosts fit; and the verdict, if it is let out."""
    if not one.leads_to(call.address):
        return STAGES.index("egress-address"), None
    if one.grant.hosts and not tied(name):
        return STAGES.index("egress-untied"), None
    if call.protocol == "http" and one.matcher is not None and not _fits(one.matcher, call.request):
        return STAGES.index("egress-no-match"), None
    return len(STAGES), one.verdict


def _fits(matcher: Matcher, request: Request | None) -> bool:
    return request is not None and matcher.first(request) >= 0


class Egress:
    """All Egresses, by source. A source is compiled at its first call."""

    def __init__(self, grants: Sequence[EgressGrant]) -> None:
        self._grants: dict[Identity, list[EgressGrant]] = {}
        for grant in grants:
            self._grants.setdefault(grant.source, []).append(grant)
        self._exits: dict[Identity, Exits] = {}

    def exits(self, source: Identity) -> Exits | None:
        """Return what a source may call outside the mesh; None: no Egress names it."""
        found = self._exits.get(source)
        if found is None and source in self._grants:
            found = self._exits[source] = Exits(self._grants[source])
        return found


def named(host: str, port: int) -> str:
    """Return the host of a Host field or of a server name without port, in lower case.

    Return "" if it names none, or another port than the dialled one: then it is not about this call.
    """
    name, colon, number = host.rpartition(":")
    if host.startswith("["):
        name, bracket, number = host[1:].partition("]")
        if not bracket or number not in ("", f":{port}"):
            return ""
        return name.lower()
    if not colon:
        name = host
    elif number != str(port):
        return ""
    return name.lower().removesuffix(".")


def fitting(name: str) -> list[str]:
    """Return the `hosts` of an Egress that fit a name, the nearest first, and "" for an Egress without hosts."""
    if not name:
        return [""]
    labels = name.split(".")
    above = [] if _is_address(name) else [f"*.{'.'.join(labels[at:])}" for at in range(1, len(labels))]
    return [name, *above, "*", ""]


def _is_address(name: str) -> bool:
    if ":" not in name and not name[-1:].isdigit():
        return False  # as most names, which the parser takes longer for
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
