"""May this identity do this to that workload, and which rule says so. Grants are looked up by (destination, source), so that
policies that do not concern a request cost it nothing."""

from __future__ import annotations

from collections.abc import Iterable

from policy.match import Matcher
from policy.model import Grant, HttpMatch, Identity, Request, Verdict

DENIALS = {
    "no-identity": "the caller proved no identity",
    "revoked": "the identity of the caller or of the server is revoked, or the server's node",
    "no-rule": "no TrafficTarget lets this source reach this destination",
    "no-http-match": "no route of the TrafficTargets between these two fits this request",
    "port-not-allowed": "the TrafficTargets between these two do not list this port",
    "http-only": "the TrafficTargets between these two admit HTTP requests, not an opaque stream",
    "unknown-workload": "the endpoint is no workload that the mesh knows",
    "not-enrolled": "the workload is not in the mesh, and traffic.enableEgress is false",
}
_DENIED = {reason: Verdict(False, "", reason) for reason in DENIALS}
PERMISSIVE = Verdict(True, "permissive mode")
NO_IDENTITY = _DENIED["no-identity"]
REVOKED = _DENIED["revoked"]


def denied(reason: str) -> Verdict:
    return _DENIED[reason]


class _Scope:
    """The HTTP matches of all grants with the same ports: one matcher for all of them."""

    __slots__ = ("looks_at_headers", "matcher", "patterns", "ports", "verdicts")

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
        self.patterns = tuple(match.path_regex for match in matches if match.path_regex is not None)
        self.looks_at_headers = any(match.headers for match in matches)


class Pair:
    """What one source may do to one destination."""

    __slots__ = ("_routed", "_streams", "_udp", "grants")

    def __init__(self, grants: Iterable[Grant]) -> None:
        self.grants = tuple(grants)
        # N9: additive. A9: in one target, ports and routes both have to hold; targets are ORed.
        self._streams = [(frozenset(g.tcp), Verdict(True, g.rule)) for g in self.grants if g.tcp is not None and g.http is None]
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
        if verdict is not None:  # A10: whoever may send anything may send HTTP
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
            return _DENIED["no-http-match"]
        return _DENIED["port-not-allowed" if self._streams or self._routed else "no-rule"]

    def path_patterns(self, port: int) -> tuple[str, ...]:
        """Everything that a request's path is held against; () where it does not matter."""
        if self.stream(port) is not None:
            return ()
        found = [pattern for scope in self._routed if not scope.ports or port in scope.ports for pattern in scope.patterns]
        return tuple(dict.fromkeys(found))

    def looks_at_headers(self, port: int) -> bool:
        return any(scope.looks_at_headers for scope in self._routed if not scope.ports or port in scope.ports)

    def decide_udp(self, port: int) -> Verdict:
        for ports, verdict in self._udp:
            if not ports or port in ports:
                return verdict
        return _DENIED["port-not-allowed" if self._udp else "no-rule"]


class Authority:
    """All grants, by destination and source. A pair is made ready when it is first asked for."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._grants: dict[tuple[Identity, Identity], list[Grant]] = {}
        for grant in grants:
            self._grants.setdefault((grant.destination, grant.source), []).append(grant)
        self._pairs: dict[tuple[Identity, Identity], Pair] = {}

    def pair(self, destination: Identity, source: Identity) -> Pair | None:
        key = (destination, source)
        found = self._pairs.get(key)
        if found is None and key in self._grants:
            found = self._pairs[key] = Pair(self._grants[key])
        return found
