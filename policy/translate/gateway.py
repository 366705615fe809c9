"""HTTPRoute and GRPCRoute (Gateway API) with a Service as their parent: they become Routes of that Service.

The Gateway API calls this use GAMMA (GEP-1426). A producer route, of the Service's own namespace, holds for all callers.
A consumer route holds for callers of its own namespace, in the place of producer routes. Routes of the same parent, port
and callers are merged: their matches are put in the order of precedence that their kind defines. Where both kinds are for
one port, the GRPCRoutes are in force (GEP-1426).

A backend of another namespace needs no ReferenceGrant here, as GEP-1426 says: a Route opens nothing, since each call has
to be admitted by the identity of the endpoint that it comes to.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, structs

from policy.draft import Draft, Input
from policy.kinds import gateway
from policy.kinds.gateway import (
    BackendRef,
    GRPCRoute,
    GRPCRouteMatch,
    GRPCRouteRule,
    HeaderModifier,
    HeaderValue,
    HTTPRoute,
    MirrorRef,
    PathMatch,
    PathModifier,
    RouteFilter,
    RouteMatch,
    RouteRule,
)
from policy.kinds.gateway_streams import StreamBackend
from policy.model import Service
from policy.resources import Resource, plain
from policy.route import (
    AnyFilter,
    Backend,
    Cors,
    ExternalAuth,
    Fields,
    HttpMatch,
    PathChange,
    Redirect,
    RequestFields,
    RequestMirror,
    ResponseFields,
    Rewrite,
    Route,
    Rule,
    Timeouts,
)
from policy.translate import grpc_matches, http_filters, http_matches
from policy.translate.gateway_checks import seconds_of
from policy.translate.gateway_parents import attached, parents, service_of, warn_of_groups
from policy.translate.gateway_references import granted
from policy.translate.retries import of_route

_EVERY = HttpMatch("every request")
NO_BACKEND = "it names no backend"
UNGRANTED = "ungranted Service"  # begins the key of a backend that a route may not refer to
_NO_GRANT = "no ReferenceGrant of its namespace lets the route use it"


class Item(Struct, frozen=True):
    """One match of a rule, with the key of its precedence."""

    order: tuple[Any, ...]
    match: HttpMatch
    rule: Rule


class _Wrong(Struct, frozen=True):
    """Why a rule cannot be followed. `unresolved`: the word for an object that is not there, for the route's status."""

    at: str  # path
    why: str
    unresolved: str = ""
    hint: str = ""


def translate(resources: Input, draft: Draft) -> None:
    # By Service, namespace of the callers ("": all) and port (0: all): the matches of all routes
    found: dict[tuple[str, str], dict[int, list[Item]]] = {}
    titles: dict[tuple[str, str], list[str]] = {}
    grpc: set[tuple[str, str, int]] = set()
    for route in (*resources.all("GRPCRoute"), *resources.all("HTTPRoute")):
        warn_of_groups(route, draft)
        places: dict[tuple[str, str, int], None] = {}
        for number, parent in parents(route):
            key = service_of(route, parent)
            callers = "" if key.startswith(f"{route.namespace}/") else route.namespace
            for port in attached(route, number, parent, draft):
                places[key, callers, port] = None
        if route.kind == "GRPCRoute":
            grpc.update(places)
        else:
            for place in [place for place in places if place in grpc]:
                del places[place]
                key, _, port = place
                where = f"port {port} of Service {key}" if port else f"Service {key}"
                message = f"a GRPCRoute is for {where} too, and in force there"
                draft.report(route, "warning", "$.spec.parentRefs", message, "keep one of them")
        if not places:
            continue
        if route.spec.hostnames:
            draft.report(route, "notice", "$.spec.hostnames", "hostnames do not narrow a route of a Service")
        its = items(route, resources, draft)
        for key, callers, port in places:
            found.setdefault((key, callers), {}).setdefault(port, []).extend(its)
            named = titles.setdefault((key, callers), [])
            if route.title not in named:
                named.append(route.title)
    for (key, callers), by_port in sorted(found.items(), key=lambda one: (one[0][0], one[0][1] == "", one[0])):
        # A route for one port is merged with those of its kind for all ports, and holds in the place of the other kind's.
        for port in by_port:
            if port and ((key, callers, port) in grpc) == ((key, callers, 0) in grpc):
                by_port[port].extend(by_port.get(0, ()))
        name = ", ".join(titles[key, callers])
        routes = tuple(
            structs.replace(_merged(name, by_port[port]), port=port, callers=callers)
            for port in sorted(by_port, reverse=True)
        )
        before = draft.routes.get(key, ())
        # A TrafficSplit comes last: it holds for the calls that no HTTPRoute is for.
        split = tuple(one for one in before if one.name.startswith("TrafficSplit "))
        draft.routes[key] = (*(one for one in before if one not in split), *routes, *split)
        if split:
            for title in titles[key, callers]:
                kind, _, of = title.partition(" ")
                message = f"{split[0].name} splits {key} too; the {kind} is in force for its calls"
                resource = resources.get(kind, of)
                assert resource is not None
                draft.report(resource, "warning", "$.spec.parentRefs", message, "keep one of them")


def _merged(name: str, matches: list[Item]) -> Route:
    """Return a Route of these matches. What fits none of them gets 404."""
    return Route(name, (*ordered(matches), Rule((), (_EVERY,), refuses="no-route", detail=name)))


def ordered(matches: list[Item]) -> tuple[Rule, ...]:
    """Return one rule for each match, in the order of precedence."""
    rules: list[Rule] = []
    for item in sorted(matches, key=lambda one: one.order):
        before = rules[-1] if rules else None
        if before is not None and structs.replace(before, matches=None) == item.rule:
            rules[-1] = structs.replace(before, matches=(*(before.matches or ()), item.match))
        else:
            rules.append(structs.replace(item.rule, matches=(item.match,)))
    return tuple(rules)


def items(route: Resource[Any], resources: Input, draft: Draft, needs_grants: bool = False) -> list[Item]:
    """Return the matches of a route, each with its rule.

    `needs_grants`: whatever Services of other namespaces it uses need a ReferenceGrant (routes of Gateways).
    """
    spec: HTTPRoute | GRPCRoute = route.spec
    age = (route.metadata.creation_timestamp or "9", route.namespace, route.name)
    found = []
    calls_grpc = isinstance(spec, GRPCRoute)
    rules: tuple[RouteRule | GRPCRouteRule, ...] = spec.rules or (RouteRule(),)
    for number, said in enumerate(rules):
        asked = _as_http(said) if isinstance(said, GRPCRouteRule) else said
        rule = _rule(route, number, asked, resources, draft, needs_grants)
        for index, match in enumerate(said.matches or (GRPCRouteMatch() if calls_grpc else RouteMatch(),)):
            if isinstance(match, GRPCRouteMatch):
                closeness, fits = grpc_matches.closeness(match), grpc_matches.http_match(match)
            else:
                closeness, fits = http_matches.closeness(match), http_matches.http_match(match)
            path = match.path if isinstance(match, RouteMatch) and match.path else PathMatch()
            prefix = path.value if path.type == "PathPrefix" else ""
            found.append(Item((*closeness, *age, number, index), fits, _bound(rule, prefix)))
    return found


def _as_http(rule: GRPCRouteRule) -> RouteRule:
    """Return what a rule does to the calls that it is for, which is said as HTTPRoute says it."""
    return RouteRule(rule.name, None, rule.filters, rule.backend_refs, session_persistence=rule.session_persistence)


def _bound(rule: Rule, prefix: str) -> Rule:
    """Return the rule for a match of this prefix, which its filters may replace."""
    backends = tuple(structs.replace(one, filters=_replacing(one.filters, prefix)) for one in rule.backends)
    return structs.replace(rule, filters=_replacing(rule.filters, prefix), backends=backends)


def _replacing(filters: tuple[AnyFilter, ...], prefix: str) -> tuple[AnyFilter, ...]:
    return tuple(
        structs.replace(one, path=structs.replace(one.path, prefix=prefix))
        if isinstance(one, Rewrite | Redirect) and one.path is not None and one.path.prefix is not None
        else one
        for one in filters
    )


def _rule(
    route: Resource[Any], number: int, said: RouteRule, resources: Input, draft: Draft, needs_grants: bool
) -> Rule:
    """Return a rule without its matches. One that asks for what is not done here refuses its calls."""
    at = f"$.spec.rules[{number}]"
    name = f"{route.title}, rule {said.name or number + 1}"
    if said.session_persistence is not None:
        return _refused(route, name, _Wrong(f"{at}.sessionPersistence", "sessionPersistence is not done here"), draft)
    filters, wrong = _filters(route, said.filters, f"{at}.filters", resources, draft, needs_grants)
    if wrong is not None:
        return _refused(route, name, wrong, draft)
    backends = []
    for index, one in enumerate(said.backend_refs or ()):
        own, wrong = _filters(
            route, one.filters, f"{at}.backendRefs[{index}].filters", resources, draft, needs_grants, of_backend=True
        )
        if wrong is not None:
            return _refused(route, name, wrong, draft)
        backends.append(backend(route, one, f"{at}.backendRefs[{index}]", own, resources, draft, needs_grants))
    if not backends and any(one.answers for one in filters):
        return Rule((), filters=filters, name=name)
    if not backends:
        return _refused(route, name, _Wrong(at, NO_BACKEND), draft)
    if not any(one.weight for one in backends):
        message = f"{name.removeprefix(f'{route.title}, ')}: every weight is 0: calls are answered 503"
        draft.report(route, "warning", f"{at}.backendRefs", message, "give a backend a weight")
    keys = [one.service for one in backends]
    numbered = tuple(structs.replace(one, number=keys[:index].count(one.service)) for index, one in enumerate(backends))
    return Rule(numbered, filters=filters, timeouts=_timeouts(said), retry=of_route(said.retry), name=name)


def _timeouts(said: RouteRule) -> Timeouts | None:
    if said.timeouts is None:
        return None
    request, attempt = (seconds_of(one or "") for one in (said.timeouts.request, said.timeouts.backend_request))
    return Timeouts(request or None, attempt or None) if request or attempt else None


def _refused(route: Resource[Any], name: str, wrong: _Wrong, draft: Draft) -> Rule:
    rule = name.removeprefix(f"{route.title}, ")  # the report names the route itself
    draft.report(route, "warning", wrong.at, f"{rule}: {wrong.why}: its calls are answered 500", wrong.hint)
    return Rule((), name=name, refuses="bad-route", detail=wrong.why, unresolved=wrong.unresolved)


def _filters(
    route: Resource[Any],
    filters: tuple[RouteFilter, ...] | None,
    at: str,
    resources: Input,
    draft: Draft,
    needs_grants: bool,
    of_backend: bool = False,
) -> tuple[tuple[AnyFilter, ...], _Wrong | None]:
    """Return the filters, or the place and name of one that is not done here: no call may pass without it."""
    found: list[AnyFilter] = []
    for number, one in enumerate(filters or ()):
        if one.type == "RequestHeaderModifier" and one.request_header_modifier is not None:
            found.append(RequestFields(_fields(one.request_header_modifier)))
        elif one.type == "ResponseHeaderModifier" and one.response_header_modifier is not None:
            found.append(ResponseFields(_fields(one.response_header_modifier)))
        elif one.type == "URLRewrite" and one.url_rewrite is not None:
            found.append(Rewrite(_path_change(one.url_rewrite.path), one.url_rewrite.hostname or ""))
        elif one.type == "RequestRedirect" and one.request_redirect is not None and not of_backend:
            said = one.request_redirect
            where = (said.scheme or "", said.hostname or "", said.port or 0)
            found.append(Redirect(said.status_code, *where, _path_change(said.path)))
        elif one.type == "ExtensionRef" and one.extension_ref is not None:
            made = http_filters.named(route, one.extension_ref, resources)
            if isinstance(made, http_filters.Unresolved):
                return (), _Wrong(f"{at}[{number}].extensionRef", made.why, made.word, made.hint)
            if isinstance(made, ExternalAuth) and needs_grants and not _may_call(route, made.service, resources):
                why = f"HTTPFilter {one.extension_ref.name} asks Service {made.service}, and {_NO_GRANT}"
                return (), _Wrong(f"{at}[{number}].extensionRef", why, "RefNotPermitted")
            found.append(made)
        elif one.type == "CORS" and one.cors is not None and not of_backend:
            found.append(_cors(one.cors))
        elif one.type == "RequestMirror" and one.request_mirror is not None:
            mirror = one.request_mirror
            there = f"{at}[{number}].requestMirror.backendRef"
            key = _mirrored(route, mirror.backend_ref, there, resources, draft, needs_grants)
            if mirror.fraction is not None:
                parts = (mirror.fraction.numerator, mirror.fraction.denominator)
            else:
                parts = (100 if mirror.percent is None else mirror.percent, 100)
            found.append(RequestMirror(key, mirror.backend_ref.port or 0, *parts))
        else:
            whose = " of a backend" if of_backend and one.type in ("RequestRedirect", "CORS") else ""
            return (), _Wrong(f"{at}[{number}].type", f"a filter{whose} of type {one.type} is not done here")
    return tuple(found), None


def _cors(said: gateway.Cors) -> Cors:
    return Cors(
        tuple(one.lower() for one in said.allow_origins or ()),
        said.allow_methods or (),
        said.allow_headers or (),
        said.expose_headers or (),
        bool(said.allow_credentials),
        said.max_age,
    )


def _may_call(route: Resource[Any], service: str, resources: Input) -> bool:
    """Return whether requests of a route for a Gateway may go to a Service, which may be of another namespace."""
    namespace, _, name = service.partition("/")
    return granted(resources, route.kind, route.namespace, "Service", namespace, name)


def _mirrored(route: Resource[Any], ref: MirrorRef, at: str, resources: Input, draft: Draft, needs_grants: bool) -> str:
    """Return the key of the Service that copies go to. One that cannot get them is told, and gets none."""
    key = f"{ref.namespace or route.namespace}/{ref.name}"
    if ref.kind != "Service" or ref.group not in ("", "core"):
        kind = f"{ref.kind}.{ref.group}" if ref.group else ref.kind
        draft.report(route, "warning", f"{at}.kind", f"{kind} {key} is no Service: no copies go there")
        return f"{kind} {key}"
    if needs_grants and not _may_call(route, key, resources):
        draft.report(route, "warning", f"{at}.namespace", f"copies for Service {key}: {_NO_GRANT}: no copies go there")
        return f"{UNGRANTED} {key}"
    service: Service | None = draft.services.get(key)
    if service is None:
        near = resources.missing("Service", ref.namespace or route.namespace, ref.name)
        draft.report(route, "warning", f"{at}.name", f"there is no Service {key}: no copies go there", near)
    elif not any(one.port == ref.port and one.transport == "tcp" for one in service.ports):
        has = ", ".join(str(one.port) for one in service.ports) or "none"
        told = f"Service {key} has no port {ref.port}: no copies go there"
        draft.report(route, "warning", f"{at}.port", told, f"it has {has}")
    return key


def _path_change(path: PathModifier | None) -> PathChange | None:
    if path is None:
        return None
    if path.type == "ReplaceFullPath":
        return PathChange(path.replace_full_path or "")
    return PathChange(path.replace_prefix_match or "", "")  # the prefix is that of each match (`_bound`)


def _fields(modifier: HeaderModifier) -> Fields:
    return Fields(
        _named(modifier.set), _named(modifier.add), tuple(dict.fromkeys(one.lower() for one in modifier.remove or ()))
    )


def _named(values: tuple[HeaderValue, ...] | None) -> tuple[tuple[str, str], ...]:
    """Return names and values. Of a name that is said twice the first counts."""
    found: dict[str, str] = {}
    for one in values or ():
        found.setdefault(one.name.lower(), one.value)
    return tuple(found.items())


def backend(
    route: Resource[Any],
    ref: BackendRef | StreamBackend,
    at: str,
    filters: tuple[AnyFilter, ...],
    resources: Input,
    draft: Draft,
    needs_grants: bool,
    outcome: str = "its calls are answered 500",
) -> Backend:
    """Return the share of a rule's calls that a Service gets. `outcome`: of those that it cannot get."""
    key = f"{ref.namespace or route.namespace}/{ref.name}"
    if ref.kind != "Service" or ref.group not in ("", "core"):
        kind = f"{ref.kind}.{ref.group}" if ref.group else ref.kind
        draft.report(route, "warning", f"{at}.kind", f"backend {kind} {key} is no Service: {outcome}")
        return Backend(f"{kind} {key}", ref.weight, ref.port or 0, filters, strict=True)
    if needs_grants:
        namespace = ref.namespace or route.namespace
        kind = plain(route.kind)
        if not granted(resources, kind, route.namespace, "Service", namespace, ref.name):
            told = f"no ReferenceGrant of namespace {namespace} lets {kind}s of {route.namespace} use Service {key}"
            draft.report(route, "warning", f"{at}.namespace", f"{told}: {outcome}")
            return Backend(f"{UNGRANTED} {key}", ref.weight, ref.port or 0, filters, strict=True)
    service: Service | None = draft.services.get(key)
    if service is None:
        near = resources.missing("Service", ref.namespace or route.namespace, ref.name)
        told = f"there is no Service {key}: {outcome}"
        draft.report(route, "warning" if ref.weight else "notice", f"{at}.name", told, near)
    elif not any(one.port == ref.port and one.transport == "tcp" for one in service.ports):
        has = ", ".join(str(one.port) for one in service.ports) or "none"
        told = f"Service {key} has no port {ref.port}: {outcome}"
        draft.report(route, "warning", f"{at}.port", told, f"it has {has}")
    return Backend(key, ref.weight, ref.port or 0, filters, strict=True)
