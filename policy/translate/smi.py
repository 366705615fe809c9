"""SMI: TrafficTargets become grants.

The statements cited (N1, A9 ...) are rows of tests/policy/smi_conformance.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.smi import HttpMatchSpec, TrafficTarget
from policy.match import bad_pattern
from policy.model import Grant, Identity
from policy.resources import Resource, key_of
from policy.route import HttpMatch, Regex
from policy.translate import dry_run

# Ends of a pattern that show that its author considered the end of the path: "$", or anything. "\\$" is a plain
# character.
_END = re.compile(r"(?<!\\)(?:\\\\)*(?:\$|\\z|\.[*+])\)*\Z")
_ROUTE_KINDS = ("HTTPRouteGroup", "TCPRoute", "UDPRoute")


# checks: what makes an object unusable. Each sees the objects in force that it may refer to.


def check_route_group(group: Resource[Any], _: Input) -> Iterable[Fault]:
    seen: set[str] = set()
    for number, match in enumerate(group.spec.matches):
        at = f"$.spec.matches[{number}]"
        if match.name in seen:  # N1: the name is the key
            yield f"{at}.name", f"a second match named {match.name}", "names of matches are unique in a group"
        seen.add(match.name)
        if match.path_regex and (fault := bad_pattern(match.path_regex)):
            yield (
                f"{at}.pathRegex",
                f"pathRegex {match.path_regex!r}: {fault}",
                "patterns have RE2 syntax: no back-references, no look-around",
            )
        for item in match.headers if isinstance(match.headers, tuple) else ():
            if len(item) != 1:  # A8: as in SMI's own SDK
                yield (
                    f"{at}.headers",
                    f"an item of headers has {len(item)} names",
                    "write one name in each item of the list, or one map",
                )
        for name, pattern in _headers(match):
            if fault := bad_pattern(pattern):
                yield (
                    f"{at}.headers",
                    f"header {name}: {pattern!r}: {fault}",
                    "patterns have RE2 syntax: no back-references, no look-around",
                )


def check_target(target: Resource[Any], resources: Input) -> Iterable[Fault]:
    spec: TrafficTarget = target.spec
    yield from dry_run.check(target)
    # N10: "at least one destination, one rule set and one source for the resource to be valid".
    if not spec.rules:
        yield "$.spec.rules", "no rules", "name at least one HTTPRouteGroup, TCPRoute or UDPRoute"
    if not spec.sources:
        yield "$.spec.sources", "no sources", "name at least one ServiceAccount"
    if spec.destination.kind != "ServiceAccount":
        yield (
            "$.spec.destination.kind",
            f"destination kind {spec.destination.kind!r} is not known",
            "only ServiceAccount is",
        )
    if spec.destination.namespace and spec.destination.namespace != target.namespace:  # A13
        message = (
            f"the destination is in namespace {spec.destination.namespace}, the TrafficTarget in {target.namespace}"
        )
        yield "$.spec.destination.namespace", message, "put the TrafficTarget into its destination's namespace"
    for number, source in enumerate(spec.sources):
        if source.kind != "ServiceAccount":
            yield (
                f"$.spec.sources[{number}].kind",
                f"source kind {source.kind!r} is not known",
                "only ServiceAccount is",
            )
    for number, rule in enumerate(spec.rules):
        at = f"$.spec.rules[{number}]"
        if rule.kind not in _ROUTE_KINDS:
            hint = resources.near(rule.kind, _ROUTE_KINDS) or f"known are {', '.join(_ROUTE_KINDS)}"
            yield f"{at}.kind", f"rule kind {rule.kind!r} is not known", hint
            continue
        route = resources.get(rule.kind, f"{target.namespace}/{rule.name}")  # A14: the target's own namespace
        if route is None:  # A12
            own = "a rule's route is in the TrafficTarget's namespace"
            near = resources.missing(rule.kind, target.namespace, rule.name)
            hint = f"{near}; {own}" if near.startswith("there") else near or own
            yield f"{at}.name", f"there is no {rule.kind} {target.namespace}/{rule.name}", hint
        elif rule.kind == "HTTPRouteGroup":
            known = {match.name for match in route.spec.matches}
            for index, name in enumerate(rule.matches or ()):
                if name not in known:
                    message = f"{rule.kind} {route.key} has no match {name}"
                    has = f"it has {', '.join(sorted(known)) or 'none'}"
                    near = resources.near(name, sorted(known))
                    yield f"{at}.matches[{index}]", message, f"{near} {has}" if near else has


def routes_of(target: Resource[Any]) -> Mapping[str, str]:
    """Return the objects that a TrafficTarget refers to: path of the reference -> key of the object."""
    return {
        f"$.spec.rules[{n}].name": key_of(one.kind, target.namespace, one.name)
        for n, one in enumerate(target.spec.rules)
    }


# translation: every object here has passed its check


def translate(resources: Input, draft: Draft) -> None:
    for group in resources.all("HTTPRouteGroup"):
        _lint(group, draft)
    for target in resources.all("TrafficTarget"):
        _grant(target, resources, draft)
    _warn_of_unions(resources, draft)


def _lint(group: Resource[Any], draft: Draft) -> None:
    """Note patterns without an end. A1: a pathRegex is anchored only at the beginning, and people forget the end."""
    for number, match in enumerate(group.spec.matches):
        pattern = match.path_regex or ""
        # A glob is reported by policy/lint/matches.py
        if pattern and not _END.search(pattern) and not pattern.endswith("/*"):
            message = f"pathRegex {pattern!r} fits every path that begins so"
            draft.report(
                group, "notice", f"$.spec.matches[{number}].pathRegex", message, "end it with $ to mean that path alone"
            )


def _grant(target: Resource[Any], resources: Input, draft: Draft) -> None:
    spec: TrafficTarget = target.spec
    tcp: set[int] | None = None
    udp: set[int] | None = None
    all_tcp = all_udp = False
    http: list[HttpMatch] | None = None
    for rule in spec.rules:
        route = resources.get(rule.kind, f"{target.namespace}/{rule.name}")
        assert route is not None, "checked"
        if rule.kind == "HTTPRouteGroup":
            http = http or []
            for match in route.spec.matches:
                if rule.matches is None or match.name in rule.matches:  # N11: omitted = all of them, ORed
                    http.append(http_match(match))
        else:
            ports = route.spec.matches.ports if route.spec.matches else None
            # N8, A22: no list = all ports of the destination.
            if rule.kind == "TCPRoute":
                tcp = (tcp or set()) | set(ports or ())
                all_tcp = all_tcp or not ports
            else:
                udp = (udp or set()) | set(ports or ())
                all_udp = all_udp or not ports
    destination = Identity(target.namespace, spec.destination.name)
    mode = dry_run.mode(target)
    for source in dict.fromkeys(Identity(s.namespace or target.namespace, s.name) for s in spec.sources):
        (draft.trials if mode == "true" else draft.grants).append(
            Grant(
                target.title,
                source,
                destination,
                None if tcp is None else () if all_tcp else tuple(sorted(tcp)),
                None if udp is None else () if all_udp else tuple(sorted(udp)),
                None if http is None else tuple(http),
                mode == "removal",
            )
        )


def _warn_of_unions(resources: Input, draft: Draft) -> None:
    """Warn if a target that admits TCP admits HTTP requests that another target's routes do not. A10: grants add up."""
    routed: dict[tuple[Identity, Identity], str] = {}
    for grant in draft.grants:
        if grant.http is not None:
            routed.setdefault((grant.source, grant.destination), grant.rule)
    for grant in draft.grants:
        other = routed.get((grant.source, grant.destination))
        if grant.http is None and grant.tcp is not None and other is not None:
            target = resources.get("TrafficTarget", grant.rule.partition(" ")[2])
            if target is not None:
                message = f"admits any HTTP from {grant.source} on its ports, beside the routes of {other}"
                draft.report(
                    target,
                    "warning",
                    "$",
                    message,
                    "put the TCPRoute and the HTTPRouteGroup into one TrafficTarget to have both hold",
                )


def http_match(match: HttpMatchSpec) -> HttpMatch:
    methods = tuple(sorted(set(match.methods or ())))
    headers = tuple(
        (name, Regex(pattern)) for name, pattern in sorted((name.lower(), pattern) for name, pattern in _headers(match))
    )
    path = Regex(match.path_regex) if match.path_regex else None
    return HttpMatch(match.name, path, () if "*" in methods else methods, headers)  # N3, A6, A7


def _headers(match: HttpMatchSpec) -> Iterable[tuple[str, str]]:
    """Yield (name, pattern) of each header. A8: headers are one map, or a list of maps."""
    maps = (match.headers,) if isinstance(match.headers, dict) else match.headers or ()
    for one in maps:
        yield from one.items()
