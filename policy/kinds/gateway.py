"""Shapes of the Gateway API's kinds: HTTPRoute, GRPCRoute."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from policy.kinds.base import Name, Port, Strict

# Gateway API gateway.networking.k8s.io

_FEW = Meta(max_length=16)  # items of most lists, as the Gateway API's own definition has it
Path = Annotated[str, Meta(max_length=1024)]
Hostname = Annotated[str, Meta(min_length=1, max_length=253)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class ParentRef(Strict, frozen=True):
    name: Name  # of the Service
    group: str | None = None  # "" for a Service; without: gateway.networking.k8s.io, which has none
    kind: str = "Gateway"  # Service: the route is for calls of the mesh; routes of other parents are left alone
    namespace: str | None = None  # of the Service; another one than the route's: the route holds for callers of its own
    section_name: str | None = None  # name of the one port of the Service that the route holds for
    port: Port | None = None  # number of the one port of the Service that the route holds for; without: all ports


class PathMatch(Strict, frozen=True):
    type: str = (
        "PathPrefix"  # Exact, PathPrefix (whole segments), or RegularExpression (RE2; it has to fit the whole path)
    )
    value: Annotated[str, Meta(max_length=1024)] = "/"  # the path, prefix or pattern


class ValueMatch(Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]  # of the header field, in any case, or of the parameter
    value: Text  # what its value is, or a pattern
    type: str = "Exact"  # Exact, or RegularExpression (RE2; it has to fit the whole value)


class RouteMatch(Strict, frozen=True):
    path: PathMatch | None = None  # without: every path
    headers: Annotated[tuple[ValueMatch, ...], _FEW] | None = None  # fields of the request: all have to match
    query_params: Annotated[tuple[ValueMatch, ...], _FEW] | None = None  # parameters of the query: all have to match
    method: str | None = None  # GET, POST, ...; without: every method


class HeaderValue(Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]  # of the field, in any case
    value: Text  # its value


class HeaderModifier(Strict, frozen=True):
    # fields that are put in the place of all of that name
    set: Annotated[tuple[HeaderValue, ...], _FEW] | None = None
    add: Annotated[tuple[HeaderValue, ...], _FEW] | None = None  # fields that are put beside those of that name
    remove: Annotated[tuple[Text, ...], _FEW] | None = None  # names of fields that are taken away


class PathModifier(Strict, frozen=True):
    type: str  # ReplaceFullPath or ReplacePrefixMatch
    replace_full_path: Path | None = None  # the path in the place of the whole one
    replace_prefix_match: Path | None = None  # what stands in the place of the prefix that the rule's match names


class UrlRewrite(Strict, frozen=True):
    hostname: Hostname | None = None  # the Host that the server gets; without: the caller's
    path: PathModifier | None = None  # the path that the server gets; without: the caller's


class RequestRedirect(Strict, frozen=True):
    scheme: str | None = None  # http or https; without: http
    hostname: Hostname | None = None  # without: as the caller wrote it
    path: PathModifier | None = None  # without: as the caller wrote it
    port: Port | None = None  # without: the scheme's own if one is said, else as the caller wrote it
    status_code: int = 302  # 301, 302, 303, 307 or 308


class MirrorRef(Strict, frozen=True):
    name: Name  # of the Service that gets the copies
    group: str = ""  # "" for a Service
    kind: str = "Service"  # Service; nothing is sent to another kind
    namespace: str | None = None  # of the Service; without: the route's own
    port: Port | None = None  # of the Service, as others call it


class Fraction(Strict, frozen=True):
    numerator: Annotated[int, Meta(ge=0)]  # so many
    denominator: Annotated[int, Meta(ge=1)] = 100  # of so many


class RequestMirror(Strict, frozen=True):
    backend_ref: MirrorRef  # where copies go: the caller has to be allowed to call it
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None  # so many of a hundred requests; without: all
    fraction: Fraction | None = None  # the same as a fraction; not beside percent


class Cors(Strict, frozen=True):
    # https://shop.example, https://*.example (any number of labels), with a port where it is not the scheme's own; or *
    # alone
    allow_origins: Annotated[tuple[Annotated[str, Meta(max_length=253)], ...], Meta(max_length=64)] | None = None
    allow_credentials: bool | None = None  # whether a page may send cookies and the like
    # methods beside GET, HEAD and POST, which every page may use; or * alone
    allow_methods: Annotated[tuple[str, ...], Meta(max_length=9)] | None = None
    allow_headers: Annotated[tuple[Text, ...], Meta(max_length=64)] | None = None  # fields of requests; or * alone
    expose_headers: Annotated[tuple[Text, ...], Meta(max_length=64)] | None = None  # fields of responses; or *
    max_age: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 5  # seconds for which a browser keeps the answer


class ExtensionRef(Strict, frozen=True):
    group: str  # edgemesh.io
    kind: str  # HTTPFilter
    name: Name  # of an HTTPFilter of the route's own namespace


class RouteFilter(Strict, frozen=True):
    # RequestHeaderModifier, ResponseHeaderModifier, URLRewrite, RequestMirror, ExtensionRef; RequestRedirect and
    # CORS, not of a backend. A rule with a filter of another type refuses its calls (500).
    type: str
    request_header_modifier: HeaderModifier | None = None  # changes of the request's fields
    response_header_modifier: HeaderModifier | None = None  # changes of the response's fields
    request_mirror: RequestMirror | None = None  # where copies of the requests go; bodies up to 64 KiB
    request_redirect: RequestRedirect | None = None  # where the caller is sent; its rule has no backends
    url_rewrite: UrlRewrite | None = None  # another path or Host for the server; the query stays
    cors: Cors | None = None  # which pages may call, for browsers; not of a backend
    external_auth: Any = None  # not acted on: its type is refused
    # an HTTPFilter; while it is not there, the rule answers 500
    extension_ref: ExtensionRef | None = None


class BackendRef(Strict, frozen=True):
    name: Name  # of the Service that gets this share of the calls
    group: str = ""  # "" for a Service
    kind: str = "Service"  # Service; the share of another kind is refused (500)
    namespace: str | None = None  # of the Service; without: the route's own
    port: Port | None = None  # of the Service, as others call it
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 1  # its share, relative to the sum of all weights; 0: none
    filters: Annotated[tuple[RouteFilter, ...], _FEW] | None = None  # only for this share, behind those of the rule


class RouteTimeouts(Strict, frozen=True):
    # from a request's head to its response's last byte, as 10s or 1m30s (h, m, s, ms); 0s: as without
    request: str | None = None
    backend_request: str | None = None  # the same for each attempt at a server; not longer than request


class RouteRetry(Strict, frozen=True):
    # statuses of responses after which a request is sent again, whatever its method: 400 to 599. It always is where no
    # connection came about, and where one broke or backendRequest passed if its method is idempotent
    codes: Annotated[tuple[int, ...], Meta(max_length=200)] | None = None
    attempts: Annotated[int, Meta(ge=0, le=4294967295)] | None = None  # beside the first one; without: 1; at most 100
    backoff: str | None = None  # the least wait before each of them, as 100ms; it grows, to 10 times as much


class RouteRule(Strict, frozen=True):
    name: str | None = None  # for people
    matches: Annotated[tuple[RouteMatch, ...], Meta(max_length=64)] | None = (
        None  # one has to match; without: all calls
    )
    filters: Annotated[tuple[RouteFilter, ...], _FEW] | None = None  # what is done to requests and responses, in order
    backend_refs: Annotated[tuple[BackendRef, ...], _FEW] | None = None  # Services that the calls are spread over
    timeouts: RouteTimeouts | None = None  # without: NodeConfig limits.responseTimeout
    retry: RouteRetry | None = None  # when a request is sent again; without: a Retry may say it
    session_persistence: Any = None  # not acted on: a rule with it refuses its calls (500)


class HTTPRoute(Strict, frozen=True):
    """What becomes of HTTP calls to a Service: matches, weights, changes of header fields. It grants nothing.

    A route of the Service's own namespace holds for all callers; one of another namespace for callers of that one, in
    the place of the first. A call that no rule fits gets 404. Of rules that fit, the one with the closest match counts,
    as the Gateway API says: exact path, pattern, longest prefix, method, most header fields, most parameters, oldest
    route. Only routes whose parent is a Service are read.
    """

    parent_refs: Annotated[tuple[ParentRef, ...], Meta(max_length=32)] | None = None  # what the route is for
    hostnames: Annotated[tuple[str, ...], _FEW] | None = None  # not acted on: the address that is called decides
    rules: Annotated[tuple[RouteRule, ...], _FEW] | None = (
        None  # without: one rule without anything, which refuses (500)
    )
    use_default_gateways: Any = None  # not acted on: it is for Gateways


class MethodMatch(Strict, frozen=True):
    type: str = "Exact"  # Exact, or RegularExpression (RE2; it has to fit the whole name)
    service: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None  # "package.Service"; without: every one
    method: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None  # "Method"; without: every one


class GRPCRouteMatch(Strict, frozen=True):
    method: MethodMatch | None = None  # without: every method of every service
    headers: Annotated[tuple[ValueMatch, ...], _FEW] | None = None  # metadata of the call: all have to match


class GRPCRouteRule(Strict, frozen=True):
    name: str | None = None  # for people
    matches: Annotated[tuple[GRPCRouteMatch, ...], Meta(max_length=64)] | None = (
        None  # one has to match; without: all calls
    )
    filters: Annotated[tuple[RouteFilter, ...], _FEW] | None = None  # what is done to calls and answers, in order
    backend_refs: Annotated[tuple[BackendRef, ...], _FEW] | None = None  # Services that the calls are spread over
    session_persistence: Any = None  # not acted on: a rule with it refuses its calls (500)


class GRPCRoute(Strict, frozen=True):
    """What becomes of gRPC calls to a Service: matches by service, method and metadata, weights, changes of metadata.

    All is as with HTTPRoute. A call that no rule fits gets UNIMPLEMENTED. Where routes of both kinds are for one port of
    one Service, the GRPCRoute is in force.
    """

    parent_refs: Annotated[tuple[ParentRef, ...], Meta(max_length=32)] | None = None  # what the route is for
    hostnames: Annotated[tuple[str, ...], _FEW] | None = None  # not acted on: the address that is called decides
    rules: Annotated[tuple[GRPCRouteRule, ...], _FEW] | None = (
        None  # without: one rule without anything, which refuses (500)
    )
    use_default_gateways: Any = None  # not acted on: it is for Gateways
