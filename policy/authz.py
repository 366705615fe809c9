"""Authorisation: may this identity send this to that workload, and which rule says so.

Grants are indexed by (destination, source), so policies that do not concern a request cost it nothing. The statements
cited (N9, A10) are rows of tests/policy/smi_conformance.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable

from policy.match import Look, Matcher, looks, path_patterns
from policy.model import Grant, Identity, Request, Verdict
from policy.route import HttpMatch

DENIALS = {
    "no-identity": "the caller proved no identity",
    "revoked": "the identity of the caller or of the server is revoked, or the server's node",
    "no-rule": "no TrafficTarget lets this source reach this destination",
    "no-http-match": "no route of the TrafficTargets between these two fits this request",
    "ambiguous-path": "the path holds %2F, and no route of the TrafficTargets between these two fits it both as a part of a name and as a slash",
    "port-not-allowed": "the TrafficTargets between these two do not list this port",
    "http-only": "the TrafficTargets between these two admit HTTP requests, not an opaque stream",
    "unknown-workload": "the endpoint is no workload that the mesh knows",
    "outside": "the endpoint is outside the mesh, and traffic.enableEgress is false",
    "isolated": "the caller or the server is at an address that an Isolation cuts off",
    "not-enrolled": "the workload is not in the mesh, and traffic.enableEgress is false",
    "egress-port": "no Egress of this source lists this port with this protocol",
    "egress-no-name": "an Egress admits this port by host, and the call names none that can be read, for this port",
    "egress-host": "no Egress of this source lists this host on this port",
    "egress-address": "the Egress that lists this host does not list this address",
    "egress-untied": "no resolver that counts said lately that this host has this address",
    "egress-no-match": "no match of the Egress that lists this host fits this request",
}
_DENIED = {reason: Verdict(False, "", reason) for reason in DENIALS}
PERMISSIVE = Verdict(True, "permissive mode")
EGRESS = Verdict(True, "enableEgress")
THROUGH = Verdict(True, "gateway")  # from a listener to a server that the mesh does not protect
NO_IDENTITY = _DENIED["no-identity"]
REVOKED = _DENIED["revoked"]
ISOLATED = _DENIED["isolated"]


def denied(reason: str) -> Verdict:
    return _DENIED[reason]


class _Scope:
    """The HTTP matches of all grants with the same ports, in one matcher."""

    __slots__ = ("matcher", "matches", "patterns", "ports", "verdicts")

    def __init__(self, ports: tuple[int, ...], grants: list[Grant]) -> None:
        self.ports = frozenset(ports)
        matches: list[HttpMatch] = []
        self.verdicts: list[Verdict] = []
        for grant in grants:
            verdict = Verdict(True, grant.rule)
            for match in grant.http or ():
                matches.append(match)
                self.verdicts.append(verdict)
        self.matcher = Matcher(matches)
        self.patterns = path_patterns(matches)
        self.matches = matches


class Pair:
    """What one source may send to one destination."""

    __slots__ = ("_routed", "_streams", "_udp", "grants")

    def __init__(self, grants: Iterable[Grant]) -> None:
        self.grants = tuple(grants)
        # N9: grants add up. A9: within one target, ports and routes both have to hold; targets are ORed.
        self._streams = [
            (frozenset(g.tcp), Verdict(True, g.rule)) for g in self.grants if g.tcp is not None and g.http is None
        ]
        self._udp = [(frozenset(g.udp), Verdict(True, g.rule)) for g in self.grants if g.udp is not None]
        routed: dict[tuple[int, ...], list[Grant]] = {}
        for grant in self.grants:
            if grant.http is not None:
                routed.setdefault(grant.tcp or (), []).append(grant)
        self._routed = [_Scope(ports, same) for ports, same in routed.items()]

    def stream(self, port: int) -> Verdict | None:
        for ports, verdict in self._streams:
            if not ports or port in ports:
                return verdict
        return None

    def decide(self, port: int, request: Request | None) -> Verdict:
        verdict = self.stream(port)
        if verdict is not None:  # A10: a source that may send any bytes may send HTTP
            return verdict
        if request is None:
            if any(not scope.ports or port in scope.ports for scope in self._routed):
                return _DENIED["http-only"]
            return _DENIED["port-not-allowed" if self._streams or self._routed else "no-rule"]
        on_port = False
        for scope in self._routed:
            if scope.ports and port not in scope.ports:
                continue
            on_port = True
            number = scope.matcher.first(request)
            if number >= 0:
                return scope.verdicts[number]
        if on_port:
            return _DENIED["ambiguous-path" if request.others and self._fits_one(port, request) else "no-http-match"]
        return _DENIED["port-not-allowed" if self._streams or self._routed else "no-rule"]

    def _fits_one(self, port: int, request: Request) -> bool:
        """Return whether one of the possible readings of the request's path would be admitted."""
        return any(self.decide(port, reading).allowed for reading in request.readings())

    def path_patterns(self, port: int) -> tuple[str, ...]:
        """Return all patterns that a request's path is matched against; () where the path does not matter."""
        if self.stream(port) is not None:
            return ()
        found = [
            pattern for scope in self._routed if not scope.ports or port in scope.ports for pattern in scope.patterns
        ]
        return tuple(dict.fromkeys(found))

    def looks(self, port: int) -> tuple[Look, ...]:
        """Return what a request is looked at for beside its method and path; () where that does not matter."""
        if self.stream(port) is not None:
            return ()
        on_port = (scope for scope in self._routed if not scope.ports or port in scope.ports)
        return looks(match for scope in on_port for match in scope.matches)

    def decide_udp(self, port: int) -> Verdict:
        for ports, verdict in self._udp:
            if not ports or port in ports:
                return verdict
        return _DENIED["port-not-allowed" if self._udp else "no-rule"]


class Watched(Pair):
    """A pair of which a grant is tried: its verdicts are those of its grants, and say what the trial would change."""

    __slots__ = ("_staying", "_tried", "_verdicts")

    def __init__(self, grants: Iterable[Grant], trials: Iterable[Grant]) -> None:
        super().__init__(grants)
        self._staying = Pair(grant for grant in self.grants if not grant.leaving)
        self._tried = Pair(trials)
        self._verdicts: dict[tuple[Verdict, str], Verdict] = {}

    def decide(self, port: int, request: Request | None) -> Verdict:
        without = self._staying.decide(port, request)  # asked first: mostly it admits, and then nothing else matters
        if without.allowed:
            return without
        verdict = super().decide(port, request) if len(self._staying.grants) < len(self.grants) else without
        if verdict.allowed:
            return self._told(verdict, verdict.rule)
        return self._told(verdict, self._tried.decide(port, request).rule)

    def path_patterns(self, port: int) -> tuple[str, ...]:
        if self._staying.stream(port) is not None:
            return ()
        parts = (self._staying, Pair(grant for grant in self.grants if grant.leaving), self._tried)
        return tuple(dict.fromkeys(pattern for part in parts for pattern in part.path_patterns(port)))

    def looks(self, port: int) -> tuple[Look, ...]:
        if self._staying.stream(port) is not None:
            return ()
        parts = (self._staying, Pair(grant for grant in self.grants if grant.leaving), self._tried)
        return tuple(dict.fromkeys(look for part in parts for look in part.looks(port)))

    def _told(self, verdict: Verdict, trial: str) -> Verdict:
        if not trial:
            return verdict
        key = (verdict, trial)
        found = self._verdicts.get(key)
        if found is None:
            found = self._verdicts[key] = Verdict(verdict.allowed, verdict.rule, verdict.reason, trial)
        return found


class Authority:
    """All grants, by destination and source. A pair is compiled at its first lookup.

    `trials`: grants that admit nothing; verdicts name them where they would.
    """

    def __init__(self, grants: Iterable[Grant], trials: Iterable[Grant] = ()) -> None:
        self._grants = _by_pair(grants)
        self._trials = _by_pair(trials)
        self._watched = self._trials.keys() | {
            key for key, of in self._grants.items() if any(grant.leaving for grant in of)
        }
        self._pairs: dict[tuple[Identity, Identity], Pair] = {}

    def pair(self, destination: Identity, source: Identity) -> Pair | None:
        key = (destination, source)
        found = self._pairs.get(key)
        if found is None and key in self._watched:
            found = self._pairs[key] = Watched(self._grants.get(key, ()), self._trials.get(key, ()))
        elif found is None and key in self._grants:
            found = self._pairs[key] = Pair(self._grants[key])
        return found


def _by_pair(grants: Iterable[Grant]) -> dict[tuple[Identity, Identity], list[Grant]]:
    found: dict[tuple[Identity, Identity], list[Grant]] = {}
    for grant in grants:
        found.setdefault((grant.destination, grant.source), []).append(grant)
    return found
