"""What a GRPCRoute's matches are in the route model: a gRPC call is a POST to /SERVICE/METHOD (gRPC over HTTP/2)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from policy.faults import Fault
from policy.kinds.gateway import GRPCRouteMatch, MethodMatch
from policy.match import bad_pattern
from policy.route import Exact, HttpMatch, Prefix, Regex
from policy.translate.http_matches import headers, shown

TYPES = ("Exact", "RegularExpression")
_SERVICE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ANY = "[^/]+"


def check(match: MethodMatch, at: str) -> Iterable[Fault]:
    """Yield what is wrong with a match of a known type."""
    if match.service is None and match.method is None:
        yield at, "neither a service nor a method", "name one of them, or leave method out to match every call"
    for what, name, shape in (("service", match.service, _SERVICE), ("method", match.method, _METHOD)):
        if name is None:
            continue
        if match.type == "RegularExpression":
            if fault := bad_pattern(name) or bad_pattern(f"(?:{name})$"):
                yield (
                    f"{at}.{what}",
                    f"pattern {name!r}: {fault}",
                    "patterns have RE2 syntax: no back-references, no look-around",
                )
        elif not shape.fullmatch(name):
            yield f"{at}.{what}", f"{name!r} is no {what} of gRPC", 'a service is "package.Service", a method "Method"'


def path(match: MethodMatch | None) -> Exact | Prefix | Regex | None:
    """Return the paths of the calls that a match is for; None: every path."""
    if match is None:
        return None
    if match.type == "Exact" and match.service is not None:
        return Exact(f"/{match.service}/{match.method}") if match.method else Prefix(f"/{match.service}")
    literal = match.type == "Exact"
    service, method = (
        (re.escape(name) if literal else f"(?:{name})") if name else _ANY for name in (match.service, match.method)
    )
    return Regex(f"/{service}/{method}$")


def closeness(match: GRPCRouteMatch) -> tuple[int, ...]:
    """Return the key of precedence: exact names first, the longest service, then method, then most metadata."""
    method = match.method or MethodMatch()
    return (
        int(method.type != "Exact"),
        -len(method.service or ""),
        -len(method.method or ""),
        -len({one.name.lower() for one in match.headers or ()}),
    )


def words(match: MethodMatch | None) -> str:
    """Return a match as people read it: "shop.Stock/Count", "shop.Stock/*"."""
    if match is None:
        return "*/*"
    shown = f"{match.service or '*'}/{match.method or '*'}"
    return f"~ {shown}" if match.type == "RegularExpression" else shown


def http_match(match: GRPCRouteMatch) -> HttpMatch:
    """Return the match of the route model."""
    named = [words(match.method), *(f"{one.name}: {shown(one)}" for one in match.headers or ())]
    return HttpMatch(", ".join(named), path(match.method), headers=headers(match))
