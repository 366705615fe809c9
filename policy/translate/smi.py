"""SMI: TrafficTargets become grants, TrafficSplits become splits. The statements cited (N1, A9 ...) are rows of the conformance file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from typing import Any

from policy.draft import Draft, Input
from policy.match import bad_pattern
from policy.model import Backend, Grant, HttpMatch, Identity, Split
from policy.resources import Resource
from policy.shapes import HttpMatchSpec, TrafficSplit, TrafficTarget

Fault = tuple[str, str, str]  # path, message, hint
# The ends of a pattern that say what they mean: the end of the path, or anything. A backslash before "$" makes it a plain character.
_END = re.compile(r"(?<!\\)(?:\\\\)*(?:\$|\\z|\.[*+])\)*\Z")
_ROUTE_KINDS = ("HTTPRouteGroup", "TCPRoute", "UDPRoute")


# checks: what makes an object unusable. Each sees the objects in force that it may refer to.


def check_route_group(group: Resource[Any]) -> Iterable[Fault]:
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
            if len(item) != 1:  # A8: as SMI's own SDK has it
                yield f"{at}.headers", f"an item of headers has {len(item)} names", "write one name in each item of the list, or one map"
        for name, pattern in _headers(match):
            if fault := bad_pattern(pattern):
                yield (
                    f"{at}.headers",
                    f"header {name}: {pattern!r}: {fault}",
                    "patterns have RE2 syntax: no back-references, no look-around",
                )


def check_target(target: Resource[Any], resources: Input) -> Iterable[Fault]:
    spec: TrafficTarget = target.spec
    # N10: "at least one destination, one rule set and one source for the resource to be valid".
    if not spec.rules:
        yield "$.spec.rules", "no rules", "name at least one HTTPRouteGroup, TCPRoute or UDPRoute"
    if not spec.sources:
        yield "$.spec.sources", "no sources", "name at least one ServiceAccount"
    if spec.destination.kind != "ServiceAccount":
        yield "$.spec.destination.kind", f"destination kind {spec.destination.kind}", "only ServiceAccount is known"
    if spec.destination.namespace and spec.destination.namespace != target.namespace:  # A13
        message = f"the destination is in namespace {spec.destination.namespace}, the TrafficTarget in {target.namespace}"
        yield "$.spec.destination.namespace", message, "put the TrafficTarget into its destination's namespace"
    for number, source in enumerate(spec.sources):
        if source.kind != "ServiceAccount":
            yield f"$.spec.sources[{number}].kind", f"source kind {source.kind}", "only ServiceAccount is known"
    for number, rule in enumerate(spec.rules):
        at = f"$.spec.rules[{number}]"
        if rule.kind not in _ROUTE_KINDS:
            yield f"{at}.kind", f"rule kind {rule.kind}", f"known are {', '.join(_ROUTE_KINDS)}"
            continue
        route = resources.get(rule.kind, f"{target.namespace}/{rule.name}")  # A14: the target's own namespace
        if route is None:  # A12
            yield (
                f"{at}.name",
                f"there is no {rule.kind} {target.namespace}/{rule.name}",
                "a rule's route is in the TrafficTarget's namespace",
            )
        elif rule.kind == "HTTPRouteGroup":
            known = {match.name for match in route.spec.matches}
            for index, name in enumerate(rule.matches or ()):
                if name not in known:
                    message = f"{rule.kind} {route.key} has no match {name}"
                    yield f"{at}.matches[{index}]", message, f"it has {', '.join(sorted(known)) or 'none'}"


def check_split(split: Resource[Any], resources: Input) -> Iterable[Fault]:
    spec: TrafficSplit = split.spec
    root = root_of(split)
    if root is None:
        yield (
            "$.spec.service",
            f"{spec.service} is in another namespace than the TrafficSplit ({split.namespace})",
            "splits act in their own",
        )
        return
    if not spec.backends:
        yield "$.spec.backends", "no backends", "name at least one"
    names: list[str | None] = []
    for number, backend in enumerate(spec.backends):
        at = f"$.spec.backends[{number}].service"
        name = own_name(backend.service, split.namespace)
        if backend.namespace and backend.namespace != split.namespace:  # A21
            message = f"backend {backend.namespace}/{backend.service} is in another namespace"
            yield f"$.spec.backends[{number}].namespace", message, f"backends are in the split's own, {split.namespace}"
        elif name is None:  # A21
            yield at, f"backend {backend.service} is in another namespace", f"backends are in the split's own, {split.namespace}"
        elif name == root:  # N26
            yield at, f"backend {backend.service} is the root service itself", "name other services as backends"
        elif name in names:
            yield at, f"{name} is named twice", "add the weights up"
        names.append(name)
    for number, ref in enumerate(spec.matches or ()):
        at = f"$.spec.matches[{number}]"
        if ref.kind != "HTTPRouteGroup":
            yield f"{at}.kind", f"kind {ref.kind}", "only HTTPRouteGroup is known"
        elif resources.get("HTTPRouteGroup", f"{split.namespace}/{ref.name}") is None:
            yield f"{at}.name", f"there is no HTTPRouteGroup {split.namespace}/{ref.name}", "a split's groups are in its own namespace"


def root_of(split: Resource[Any]) -> str | None:
    """The name of the service that is split; None when it is in another namespace (N16: it may be written as an FQDN)."""
    return own_name(split.spec.service, split.namespace)


def own_name(service: str, namespace: str) -> str | None:
    """svc, svc.ns, svc.ns.svc, svc.ns.svc.<cluster domain> -> svc, when ns is this one; else None."""
    name, *rest = service.rstrip(".").split(".")
    return name if not rest or (rest[0] == namespace and rest[1:2] in ([], ["svc"])) else None


# translation: every object that comes here has passed its check


def translate(resources: Input, draft: Draft) -> None:
    for group in resources.all("HTTPRouteGroup"):
        _lint(group, draft)
    for target in resources.all("TrafficTarget"):
        _grant(target, resources, draft)
    _warn_of_unions(resources, draft)
    # A18: the oldest split of a service is in force.
    splits = sorted(resources.all("TrafficSplit"), key=lambda s: (s.metadata.creation_timestamp or "9", s.namespace, s.name))
    roots = {f"{split.namespace}/{root_of(split)}" for split in splits}
    for split in splits:
        _split(split, roots, resources, draft)


def _lint(group: Resource[Any], draft: Draft) -> None:
    """A1: a pathRegex is anchored to the beginning only, and people forget the end."""
    for number, match in enumerate(group.spec.matches):
        pattern = match.path_regex or ""
        if pattern and not _END.search(pattern):
            message = f"pathRegex {pattern!r} fits every path that begins so"
            draft.report(group, "notice", f"$.spec.matches[{number}].pathRegex", message, "end it with $ to mean that path alone")


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
    for source in dict.fromkeys(Identity(s.namespace or target.namespace, s.name) for s in spec.sources):
        draft.grants.append(
            Grant(
                target.title,
                source,
                destination,
                None if tcp is None else () if all_tcp else tuple(sorted(tcp)),
                None if udp is None else () if all_udp else tuple(sorted(udp)),
                None if http is None else tuple(http),
            )
        )


def _warn_of_unions(resources: Input, draft: Draft) -> None:
    """A10: grants add up, so a target that admits raw TCP admits HTTP on that port whatever another target's routes say."""
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
                    target, "warning", "$", message, "put the TCPRoute and the HTTPRouteGroup into one TrafficTarget to have both hold"
                )


def _split(split: Resource[Any], roots: Set[str], resources: Input, draft: Draft) -> None:
    spec: TrafficSplit = split.spec
    key = f"{split.namespace}/{root_of(split)}"
    root = draft.services.get(key)
    if root is None:
        draft.report(split, "warning", "$.spec.service", f"there is no Service {key} to split", "")
        return
    if key in draft.splits:
        draft.report(split, "warning", "$", f"Conflict: {draft.splits[key].name} is older and in force", "keep one split for a service")
        return
    backends = tuple(Backend(f"{split.namespace}/{own_name(b.service, split.namespace)}", b.weight) for b in spec.backends)
    if not any(b.weight for b in backends):  # A15
        draft.report(split, "warning", "$.spec.backends", "every weight is 0: calls are answered 503", "give a backend a weight")
    for number, backend in enumerate(backends):
        service = draft.services.get(backend.service)
        at = f"$.spec.backends[{number}].service"
        if backend.service in roots:  # N25
            message = f"splits do not nest: {backend.service} is split too, which does not hold for calls to {key}"
            draft.report(split, "warning", at, message)
        if service is None:  # N24
            draft.report(split, "notice", at, f"there is no Service {backend.service} yet; it gets nothing")
        else:  # N22
            missing = {(p.port, p.transport) for p in root.ports} - {(p.port, p.transport) for p in service.ports}
            if missing:
                named = ", ".join(str(port) if transport == "tcp" else f"{port}/{transport}" for port, transport in sorted(missing))
                draft.report(split, "warning", at, f"{backend.service} has no port {named} and gets nothing there")
    matches: tuple[HttpMatch, ...] | None = None
    if spec.matches:
        found: list[HttpMatch] = []
        for ref in spec.matches:  # N21: several groups are one
            group = resources.get("HTTPRouteGroup", f"{split.namespace}/{ref.name}")
            assert group is not None, "checked"
            found += [http_match(match) for match in group.spec.matches]
        matches = tuple(found)
    draft.splits[key] = Split(split.title, backends, matches)


def http_match(match: HttpMatchSpec) -> HttpMatch:
    methods = tuple(sorted(set(match.methods or ())))
    headers = tuple(sorted((name.lower(), pattern) for name, pattern in _headers(match)))
    return HttpMatch(match.name, match.path_regex or None, () if "*" in methods else methods, headers)  # N3, A6, A7


def _headers(match: HttpMatchSpec) -> Iterable[tuple[str, str]]:
    """A8: one map, or a list of maps."""
    maps = (match.headers,) if isinstance(match.headers, dict) else match.headers or ()
    for one in maps:
        yield from one.items()
