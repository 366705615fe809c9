"""What an HTTPRoute's matches are in the route model, and which of them comes first."""

from __future__ import annotations

from policy.kinds.gateway import GRPCRouteMatch, PathMatch, RouteMatch, ValueMatch
from policy.route import Exact, HttpMatch, Prefix, Regex

# The Gateway API leaves the place of patterns open: as most meshes, before prefixes, which are looser.
_RANK = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}


def closeness(match: RouteMatch) -> tuple[int, ...]:
    """Return the key of precedence: the smallest comes first."""
    path = match.path or PathMatch()
    return (
        _RANK[path.type],
        -len(path.value),
        match.method is None,
        -len({one.name.lower() for one in match.headers or ()}),
        -len({one.name for one in match.query_params or ()}),
    )


def http_match(match: RouteMatch) -> HttpMatch:
    """Return the match of the route model."""
    path = match.path or PathMatch()
    fits: Exact | Prefix | Regex | None = None
    if path.type == "RegularExpression":
        fits = Regex(whole(path.value))
    elif path.type == "Exact":
        fits = Exact(path.value)
    elif path.value.rstrip("/"):
        fits = Prefix(path.value)
    query: dict[str, Exact | Regex] = {}
    for one in match.query_params or ():
        query.setdefault(one.name, _value(one))
    methods = () if match.method is None else (match.method,)
    return HttpMatch(_words(match), fits, methods, headers(match), tuple(query.items()))


def headers(match: RouteMatch | GRPCRouteMatch) -> tuple[tuple[str, Exact | Regex], ...]:
    """Return the matches of header fields, by their names in lower case."""
    found: dict[str, Exact | Regex] = {}
    for one in match.headers or ():
        found.setdefault(one.name.lower(), _value(one))  # of a name that is said twice the first counts
    return tuple(found.items())


def _value(match: ValueMatch) -> Exact | Regex:
    return Regex(f"^{whole(match.value)}") if match.type == "RegularExpression" else Exact(match.value)


def whole(pattern: str) -> str:
    """Return a pattern that fits only what this one fits from end to end."""
    return f"(?:{pattern})$"


def _words(match: RouteMatch) -> str:
    """Return a match as people read it: "GET /items/*, x-canary: yes, ?lang=de"."""
    path = match.path or PathMatch()
    fits = path.value
    if path.type == "PathPrefix":
        fits = f"{path.value.rstrip('/')}/*"
    elif path.type == "RegularExpression":
        fits = f"~ {path.value}"
    words = [f"{match.method} {fits}" if match.method else fits]
    words += [f"{one.name}: {shown(one)}" for one in match.headers or ()]
    words += [f"?{one.name}={shown(one)}" for one in match.query_params or ()]
    return ", ".join(words)


def shown(match: ValueMatch) -> str:
    """Return the value of a match as people read it."""
    return f"~ {match.value}" if match.type == "RegularExpression" else match.value
