"""What makes an HTTPRoute or GRPCRoute unusable: its last good version stays in force."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from policy.draft import Input
from policy.faults import Fault
from policy.fields import bad_field
from policy.kinds.gateway import (
    Cors,
    ExtensionRef,
    GRPCRouteMatch,
    GRPCRouteRule,
    HeaderModifier,
    HeaderValue,
    PathModifier,
    RequestMirror,
    RequestRedirect,
    RouteFilter,
    RouteMatch,
    RouteRetry,
    RouteRule,
    UrlRewrite,
    ValueMatch,
)
from policy.match import bad_pattern
from policy.near import nearest
from policy.resources import Resource
from policy.translate import grpc_matches
from policy.translate.gateway_attachment import has_gateway
from policy.translate.gateway_parents import parents
from policy.translate.http_matches import whole

_PATHS = ("Exact", "PathPrefix", "RegularExpression")
_VALUES = ("Exact", "RegularExpression")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_REDIRECTS = (301, 302, 303, 307, 308)
_SENT = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]*)+")  # RFC 3986 section 3.3
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_ORIGIN = re.compile(r"https?://(?:\*|\*?[A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_RE2 = "patterns have RE2 syntax: no back-references, no look-around"
_NEVER_SENT = re.compile(r"//|/\.{1,2}(?:/|$)|[?#]")
_FIELDS = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "URLRewrite": "url_rewrite",
    "RequestRedirect": "request_redirect",
    "RequestMirror": "request_mirror",
    "CORS": "cors",
    "ExtensionRef": "extension_ref",
}
_DURATION = re.compile(r"(?:[0-9]{1,5}(?:h|ms|m|s)){1,4}")
_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NOT_TO_SET = "framing, Host, the caller and x-edgemesh-* are set by edgemesh alone"


def check(route: Resource[Any], known: Input) -> Iterable[Fault]:
    """Yield what makes a route unusable. One without a Service or a Gateway of ours among its parents is left alone."""
    if not any(parents(route)) and not has_gateway(route, known):
        return
    for number, rule in enumerate(route.spec.rules or ()):
        at = f"$.spec.rules[{number}]"
        for index, match in enumerate(rule.matches or ()):
            if isinstance(match, GRPCRouteMatch):
                yield from _check_grpc_match(match, f"{at}.matches[{index}]")
            else:
                yield from _check_match(match, f"{at}.matches[{index}]")
        yield from _check_filters(rule.filters, f"{at}.filters")
        if isinstance(rule, GRPCRouteRule):
            yield from _check_grpc_filters(rule, at)
        else:
            yield from _check_changes(rule, at)
            yield from _check_timeouts(rule, f"{at}.timeouts")
            yield from _check_retry(rule.retry, f"{at}.retry")
        for index, backend in enumerate(rule.backend_refs or ()):
            inside = f"{at}.backendRefs[{index}]"
            if backend.kind == "Service" and backend.group in ("", "core") and backend.port is None:
                yield f"{inside}.port", f"backend {backend.name} has no port", "name the Service's port"
            yield from _check_filters(backend.filters, f"{inside}.filters")


def _check_match(match: RouteMatch, at: str) -> Iterable[Fault]:
    if match.path is not None:
        path, there = match.path, f"{at}.path"
        if path.type not in _PATHS:
            yield _unknown(f"{there}.type", "a type of path", path.type, _PATHS)
        elif path.type == "RegularExpression":
            yield from _check_pattern(path.value, f"{there}.value")
        elif not path.value.startswith("/"):
            yield f"{there}.value", f"path {path.value!r} does not begin with a slash", "write the whole path"
        elif _NEVER_SENT.search(path.value):
            hint = "no //, dot segment, query or fragment: requests are matched by their normalised path"
            yield f"{there}.value", f"no path of a request is {path.value!r}", hint
    if match.method is not None and match.method not in _METHODS:
        yield _unknown(f"{at}.method", "a method", match.method, _METHODS)
    yield from _check_values(match.headers, f"{at}.headers")
    yield from _check_values(match.query_params, f"{at}.queryParams")


def _check_grpc_match(match: GRPCRouteMatch, at: str) -> Iterable[Fault]:
    if match.method is not None:
        if match.method.type in grpc_matches.TYPES:
            yield from grpc_matches.check(match.method, f"{at}.method")
        else:
            yield _unknown(f"{at}.method.type", "a type of match", match.method.type, grpc_matches.TYPES)
    yield from _check_values(match.headers, f"{at}.headers")


def _check_values(values: tuple[ValueMatch, ...] | None, at: str) -> Iterable[Fault]:
    for number, value in enumerate(values or ()):
        there = f"{at}[{number}]"
        if value.type not in _VALUES:
            yield _unknown(f"{there}.type", "a type of match", value.type, _VALUES)
        elif value.type == "RegularExpression":
            yield from _check_pattern(value.value, f"{there}.value")


def _check_pattern(pattern: str, at: str) -> Iterable[Fault]:
    if fault := bad_pattern(pattern) or bad_pattern(whole(pattern)):
        yield at, f"pattern {pattern!r}: {fault}", _RE2


def _check_filters(filters: tuple[RouteFilter, ...] | None, at: str) -> Iterable[Fault]:
    for number, one in enumerate(filters or ()):
        field = _FIELDS.get(one.type)
        if field is None:
            continue  # its rule refuses calls (`_filters`)
        modifier = getattr(one, field)
        name = _camel(one.type)
        there = f"{at}[{number}].{name}"
        if modifier is None:
            yield there, f"a filter of type {one.type} without {name}", f"say in {name} what it does"
            continue
        if isinstance(modifier, ExtensionRef):
            continue  # whether it is there is another object's matter
        if isinstance(modifier, Cors):
            yield from _check_cors(modifier, there)
            continue
        if isinstance(modifier, RequestMirror):
            yield from _check_mirror(modifier, there)
            continue
        if not isinstance(modifier, HeaderModifier):
            yield from _check_target(modifier, there)
            continue
        for what in ("set", "add", "remove"):
            for index, item in enumerate(getattr(modifier, what) or ()):
                name, value = (item.name, item.value) if isinstance(item, HeaderValue) else (item, "")
                if wrong := bad_field(name.lower(), value):
                    yield f"{there}.{what}[{index}]", f"the field {name!r} {wrong}", _NOT_TO_SET


def _check_mirror(said: RequestMirror, at: str) -> Iterable[Fault]:
    fraction = said.fraction
    if said.percent is not None and fraction is not None:
        yield f"{at}.fraction", "both percent and fraction", "keep one of them"
    if fraction is not None and fraction.numerator > fraction.denominator:
        yield f"{at}.fraction.numerator", f"{fraction.numerator} of {fraction.denominator}", "at most all are copied"
    ref = said.backend_ref
    if ref.kind == "Service" and ref.group in ("", "core") and ref.port is None:
        yield f"{at}.backendRef.port", f"backend {ref.name} has no port", "name the Service's port"


def _check_cors(said: Cors, at: str) -> Iterable[Fault]:
    lists = {
        "allowOrigins": said.allow_origins,
        "allowMethods": said.allow_methods,
        "allowHeaders": said.allow_headers,
        "exposeHeaders": said.expose_headers,
    }
    for field, values in lists.items():
        if field != "exposeHeaders" and values and "*" in values and len(values) > 1:
            yield f"{at}.{field}", "* beside other values", "* alone stands for all"
        for index, value in enumerate(values or ()):
            there = f"{at}.{field}[{index}]"
            if value == "*":
                continue
            if field == "allowOrigins":
                if not _ORIGIN.fullmatch(value):
                    yield there, f"{value!r} is no origin", "write https://shop.example, https://*.example or *"
            elif field == "allowMethods":
                if value not in _METHODS:
                    yield _unknown(there, "a method", value, (*_METHODS, "*"))
            elif not _TOKEN.fullmatch(value):
                yield there, f"{value!r} is no name of a field", "write the name alone"


def _check_grpc_filters(rule: GRPCRouteRule, at: str) -> Iterable[Fault]:
    lists = [
        (rule.filters, at),
        *((one.filters, f"{at}.backendRefs[{n}]") for n, one in enumerate(rule.backend_refs or ())),
    ]
    for filters, there in lists:
        for number, one in enumerate(filters or ()):
            if one.type in ("URLRewrite", "RequestRedirect", "CORS"):
                place = f"{there}.filters[{number}].type"
                yield (
                    place,
                    f"a GRPCRoute has no filter of type {one.type}",
                    "write it into an HTTPRoute"
                    if one.type == "CORS"
                    else "the names of a gRPC call stand for its method",
                )


def _check_target(said: UrlRewrite | RequestRedirect, at: str) -> Iterable[Fault]:
    if said.hostname is not None and not _HOST.fullmatch(said.hostname):
        yield f"{at}.hostname", f"{said.hostname!r} is no host name", "write a name in lower case, without a port"
    if said.path is not None:
        yield from _check_path(said.path, f"{at}.path")
    if isinstance(said, RequestRedirect):
        if said.scheme not in (None, "http", "https"):
            yield _unknown(f"{at}.scheme", "a scheme", str(said.scheme), ("http", "https"))
        if said.status_code not in _REDIRECTS:
            known = ", ".join(map(str, _REDIRECTS))
            yield f"{at}.statusCode", f"{said.status_code} is not the status of a redirect", f"known are {known}"


def _check_path(path: PathModifier, at: str) -> Iterable[Fault]:
    fields = {"ReplaceFullPath": path.replace_full_path, "ReplacePrefixMatch": path.replace_prefix_match}
    if path.type not in fields:
        yield _unknown(f"{at}.type", "a type of change", path.type, tuple(fields))
        return
    value, field = fields[path.type], _camel(path.type)
    if value is None:
        yield f"{at}.type", f"a change of type {path.type} without {field}", f"say the path in {field}"
    elif value and not is_path(value):
        hint = "begin with a slash; no //, dot segment, query or fragment; escape what is no character of a path"
        yield f"{at}.{field}", f"{value!r} is no path to be sent", hint


def is_path(value: str) -> bool:
    """Return whether a request may be sent to this path."""
    return _SENT.fullmatch(value) is not None and not _NEVER_SENT.search(value)


def _check_changes(rule: RouteRule, at: str) -> Iterable[Fault]:
    """Check what filters ask of their rule."""
    kinds = [one.type for one in rule.filters or ()]
    if "RequestRedirect" in kinds and rule.backend_refs:
        yield f"{at}.backendRefs", "a rule with a RequestRedirect has backends", "take one of them away"
    if "RequestRedirect" in kinds and "URLRewrite" in kinds:
        yield f"{at}.filters", "a rule with a RequestRedirect has a URLRewrite", "say the path in the redirect"
    for kind in ("RequestRedirect", "URLRewrite", "CORS"):
        if kinds.count(kind) > 1:
            yield f"{at}.filters", f"a rule has several filters of type {kind}", "keep one of them"
    lists = [(rule.filters, f"{at}.filters")]
    lists += [(one.filters, f"{at}.backendRefs[{n}].filters") for n, one in enumerate(rule.backend_refs or ())]
    prefixes = all(one.path is None or one.path.type == "PathPrefix" for one in rule.matches or ())
    for filters, there in lists:
        for number, one in enumerate(filters or ()):
            said = one.url_rewrite or one.request_redirect
            if said is not None and said.path is not None and said.path.type == "ReplacePrefixMatch" and not prefixes:
                path = f"{there}[{number}].{_camel(one.type)}.path.type"
                yield path, "ReplacePrefixMatch in a rule that matches no prefix", "match with path type PathPrefix"


def _check_timeouts(rule: RouteRule, at: str) -> Iterable[Fault]:
    if rule.timeouts is None:
        return
    said = {"request": rule.timeouts.request, "backendRequest": rule.timeouts.backend_request}
    for field, words in said.items():
        if words is not None and seconds_of(words) is None:
            yield f"{at}.{field}", f"{words!r} is no time", "write as 10s, 500ms or 1m30s"
    whole, each = (seconds_of(words or "") for words in said.values())
    if whole and each and each > whole:
        yield f"{at}.backendRequest", "backendRequest is longer than request", "an attempt is a part of its request"


def _check_retry(retry: RouteRetry | None, at: str) -> Iterable[Fault]:
    if retry is None:
        return
    for number, code in enumerate(retry.codes or ()):
        if not 400 <= code <= 599:
            yield f"{at}.codes[{number}]", f"{code} is no status of a failure", "statuses from 400 to 599 can be named"
    if retry.backoff is not None and seconds_of(retry.backoff) is None:
        yield f"{at}.backoff", f"{retry.backoff!r} is no time", "write as 10s, 500ms or 1m30s"


def seconds_of(words: str) -> float | None:
    """Return a duration of the Gateway API (GEP-2257) in seconds; None if it is none."""
    if not _DURATION.fullmatch(words):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(words))


def _unknown(at: str, what: str, word: str, known: tuple[str, ...]) -> Fault:
    near = nearest(word, known)
    return at, f"{word!r} is not {what}", f"did you mean {near}?" if near else f"known are {', '.join(known)}"


def _camel(word: str) -> str:
    """Return the field of a type: urlRewrite of URLRewrite."""
    if word in ("URLRewrite", "CORS"):
        return {"URLRewrite": "urlRewrite", "CORS": "cors"}[word]
    return word[0].lower() + word[1:]
