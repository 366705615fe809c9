"""UpstreamTrafficSetting (OSM, fsm): what bounds the calls to a Service of its namespace.

One that an Egress names bounds the calls that this lets out. Where two of them name one Service, the older one is in
force. What a rate counts is the requests of all of its callers
to one workload: OSM counts at each server, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import structs

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.fields import bad_field
from policy.kinds.osm import (
    CircuitBreaking,
    HttpLocalRateLimit,
    HttpRateLimit,
    TcpLocalRateLimit,
    UpstreamTrafficSetting,
)
from policy.match import bad_pattern
from policy.near import did_you_mean
from policy.resources import Resource
from policy.route import HttpMatch, Regex
from policy.service_names import key_of_host
from policy.translate.durations import go_seconds
from policy.upstream import Circuit, Rate, RequestRate, ServiceBounds

_KIND = "UpstreamTrafficSetting"
_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_TIME = "write it as 5s, 1m30s or 200ms"
_PATTERN = "patterns have RE2 syntax: no back-references, no look-around"
_NOT_TO_SET = "framing, Host, the caller and x-edgemesh-* are set by edgemesh alone"
_LONGEST = 86400.0  # seconds of a duration
_CONTENT = 65536  # characters of a degraded response


def check(setting: Resource[Any], _: Input) -> Iterable[Fault]:
    """Yield what makes a setting unusable."""
    spec: UpstreamTrafficSetting = setting.spec
    at = "$.spec.connectionSettings"
    connections = spec.connection_settings
    if connections is not None and connections.tcp is not None and connections.tcp.connect_timeout is not None:
        yield from _check_time(connections.tcp.connect_timeout, f"{at}.tcp.connectTimeout")
    if connections is not None and connections.http is not None and connections.http.circuit_breaking is not None:
        yield from _check_circuit(connections.http.circuit_breaking, f"{at}.http.circuitBreaking")
    if spec.rate_limit is not None and (local := spec.rate_limit.local) is not None and local.tcp is not None:
        yield from _check_unit(local.tcp.unit, "$.spec.rateLimit.local.tcp.unit")
    for where, rate in _http_rates(spec):
        yield from _check_unit(rate.unit, f"{where}.unit")
        if rate.response_status_code and rate.response_status_code < 400:
            message = f"{rate.response_status_code} is not the status of an error"
            yield f"{where}.responseStatusCode", message, "write one from 400 to 599"
        for number, one in enumerate(rate.response_headers_to_add or ()):
            if wrong := bad_field(one.name.lower(), one.value):
                yield f"{where}.responseHeadersToAdd[{number}]", f"the field {one.name!r} {wrong}", _NOT_TO_SET
    for number, route in enumerate(spec.http_routes or ()):
        if fault := bad_pattern(route.path):
            yield f"$.spec.httpRoutes[{number}].path", f"pattern {route.path!r}: {fault}", _PATTERN
    for number, said in enumerate(spec.http_headers or ()):
        inside = f"$.spec.httpHeaders[{number}].headers"
        if not said.headers:
            yield inside, "no headers", "name at least one field of the request"
        for index, one in enumerate(said.headers):
            if fault := bad_pattern(one.value):
                yield f"{inside}[{index}].value", f"pattern {one.value!r}: {fault}", _PATTERN


def _http_rates(spec: UpstreamTrafficSetting) -> Iterator[tuple[str, HttpLocalRateLimit]]:
    """Yield each rate of requests and its path."""
    if spec.rate_limit is not None and spec.rate_limit.local is not None and spec.rate_limit.local.http is not None:
        yield "$.spec.rateLimit.local.http", spec.rate_limit.local.http
    for number, route in enumerate(spec.http_routes or ()):
        if route.rate_limit is not None and route.rate_limit.local is not None:
            yield f"$.spec.httpRoutes[{number}].rateLimit.local", route.rate_limit.local
    for number, said in enumerate(spec.http_headers or ()):
        if said.rate_limit is not None and said.rate_limit.local is not None:
            yield f"$.spec.httpHeaders[{number}].rateLimit.local", said.rate_limit.local


def _check_unit(unit: str, at: str) -> Iterable[Fault]:
    if unit not in _UNITS:
        yield at, f"there is no unit {unit!r}", did_you_mean(unit, _UNITS) or f"known are {', '.join(_UNITS)}"


def _check_time(words: str, at: str) -> Iterable[Fault]:
    seconds = go_seconds(words)
    if seconds is None or not 0 < seconds <= _LONGEST:
        yield at, f"{words!r} is no time between 0 and a day", _TIME


def _check_circuit(said: CircuitBreaking, at: str) -> Iterable[Fault]:
    yield from _check_time(said.stat_time_window, f"{at}.statTimeWindow")
    yield from _check_time(said.degraded_time_window, f"{at}.degradedTimeWindow")
    if said.slow_time_threshold is not None:
        yield from _check_time(said.slow_time_threshold, f"{at}.slowTimeThreshold")
    elif said.slow_amount_threshold or said.slow_ratio_threshold:
        yield at, "slow responses are counted, and nothing says which are slow", "write slowTimeThreshold"
    status = said.degraded_status_code
    if status is not None and not 200 <= status <= 599:
        yield f"{at}.degradedStatusCode", f"{status} is not the status of a final response", "write one from 200 to 599"
    if len(said.degraded_response_content or "") > _CONTENT:
        yield f"{at}.degradedResponseContent", f"it has more than {_CONTENT} characters", "shorten it"


def translate(resources: Input, draft: Draft) -> None:
    """Write the bounds of Services, which are translated before."""
    for egress in resources.all("Egress"):
        for number, one in enumerate(egress.spec.matches or ()):
            if one.kind == _KIND and resources.get(_KIND, f"{egress.namespace}/{one.name}") is None:
                message = f"there is no {_KIND} {egress.namespace}/{one.name}: nothing is bounded"
                near = resources.missing(_KIND, egress.namespace, one.name)
                draft.report(egress, "warning", f"$.spec.matches[{number}].name", message, near)
    taken: dict[str, str] = {}
    settings = sorted(
        resources.all(_KIND),
        key=lambda one: (one.metadata.creation_timestamp or "9", one.namespace, one.name),
    )
    for setting in settings:
        spec: UpstreamTrafficSetting = setting.spec
        for path, rate in _global(spec):
            if rate is not None:
                message = f"{path.removeprefix('$.spec.')} limits nothing: no rate limit service is asked"
                draft.report(setting, "warning", path, message, "write a local rate limit")
        _warn_of_idle(setting, draft)
        named = [one for one in resources.all("Egress") if _names(one, setting)]
        for egress in named:
            if _plain(spec.host) not in map(_plain, egress.spec.hosts or ()):
                message = f"host {spec.host} is no host of {egress.title}, which names this: nothing of it is bounded"
                draft.report(setting, "warning", "$.spec.host", message, "write one of its hosts")
            elif egress.title in draft.outside:
                message = f"{egress.title} names another one too: {draft.outside[egress.title].name} is in force"
                draft.report(setting, "warning", "$", message, "keep one of them")
            else:
                draft.outside[egress.title] = _upstream(setting.title, spec)
                if any(True for _ in _http_rates(spec)) or (spec.rate_limit is not None and spec.rate_limit.local):
                    message = "rates hold at a server's node: what leaves the mesh has none"
                    draft.report(setting, "warning", "$.spec.rateLimit", message, "write connectionSettings")
        if named:
            continue
        key = key_of_host(spec.host, setting.namespace, draft.mesh.cluster_domain)
        service = draft.services.get(key)
        if service is None or service.namespace != setting.namespace:
            near = resources.missing("Service", setting.namespace, key.partition("/")[2] or spec.host)
            message = f"host {spec.host} is no Service of namespace {setting.namespace}: nothing is bounded"
            draft.report(setting, "warning", "$.spec.host", message, near)
        elif key in taken:
            message = f"{taken[key]} bounds {spec.host} too, and is in force"
            draft.report(setting, "warning", "$.spec.host", message, "keep one of them")
        else:
            taken[key] = setting.title
            draft.services[key] = structs.replace(service, upstream=_upstream(setting.title, spec))


def _warn_of_idle(setting: Resource[Any], draft: Draft) -> None:
    """Point out bounds that nothing can reach."""
    spec: UpstreamTrafficSetting = setting.spec
    connections = spec.connection_settings
    http = connections.http if connections is not None else None
    if connections is None or http is None:
        return
    at, said = "$.spec.connectionSettings.http", http.circuit_breaking
    if said is not None and not (
        said.error_amount_threshold
        or said.error_ratio_threshold
        or said.slow_amount_threshold
        or said.slow_ratio_threshold
    ):
        hint = "write a threshold, as errorRatioThreshold: 0.5"
        draft.report(setting, "warning", f"{at}.circuitBreaking", "the circuit never opens: it has no threshold", hint)
    if http.max_pending_requests is not None and (connections.tcp is None or connections.tcp.max_connections is None):
        message = "maxPendingRequests bounds nothing: requests wait only where tcp.maxConnections is said"
        draft.report(
            setting, "warning", f"{at}.maxPendingRequests", message, "write connectionSettings.tcp.maxConnections"
        )


def _names(egress: Resource[Any], setting: Resource[Any]) -> bool:
    matches = egress.spec.matches or () if egress.namespace == setting.namespace else ()
    return any(one.kind == setting.kind and one.name == setting.name for one in matches)


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _global(spec: UpstreamTrafficSetting) -> Iterator[tuple[str, Any]]:
    if spec.rate_limit is not None:
        yield "$.spec.rateLimit.global", spec.rate_limit.global_
    limits = [(f"httpRoutes[{n}]", one.rate_limit) for n, one in enumerate(spec.http_routes or ())]
    limits += [(f"httpHeaders[{n}]", one.rate_limit) for n, one in enumerate(spec.http_headers or ())]
    for where, limit in limits:
        if limit is not None:
            yield f"$.spec.{where}.rateLimit.global", limit.global_


def _upstream(title: str, spec: UpstreamTrafficSetting) -> ServiceBounds:
    local = spec.rate_limit.local if spec.rate_limit is not None else None
    rates = [] if local is None or local.http is None else [_request_rate("rateLimit.local.http", local.http, None)]
    for number, route in enumerate(spec.http_routes or ()):
        name = f"httpRoutes[{number}]"
        rates += _rates(name, route.rate_limit, HttpMatch(name, Regex(route.path)))
    for number, said in enumerate(spec.http_headers or ()):
        name = f"httpHeaders[{number}]"
        fields = tuple((one.name.lower(), Regex(one.value)) for one in said.headers)
        rates += _rates(name, said.rate_limit, HttpMatch(name, headers=fields))
    connections = spec.connection_settings
    tcp = connections.tcp if connections is not None else None
    http = connections.http if connections is not None else None
    circuit = http.circuit_breaking if http is not None else None
    return ServiceBounds(
        title,
        _rate(local.tcp) if local is not None and local.tcp is not None else None,
        tuple(rates),
        tcp.max_connections if tcp is not None else None,
        go_seconds(tcp.connect_timeout) if tcp is not None and tcp.connect_timeout is not None else None,
        http.max_requests if http is not None else None,
        http.max_pending_requests if http is not None else None,
        http.max_retries if http is not None else None,
        http.max_requests_per_connection if http is not None else None,
        _circuit(circuit) if circuit is not None else None,
    )


def _rates(name: str, said: HttpRateLimit | None, match: HttpMatch) -> list[RequestRate]:
    return [] if said is None or said.local is None else [_request_rate(name, said.local, match)]


def _request_rate(name: str, said: HttpLocalRateLimit, match: HttpMatch | None) -> RequestRate:
    fields = tuple((one.name.lower(), one.value) for one in said.response_headers_to_add or ())
    return RequestRate(_rate(said), match, said.response_status_code or 429, fields, name)


def _rate(said: HttpLocalRateLimit | TcpLocalRateLimit) -> Rate:
    each = said.requests if isinstance(said, HttpLocalRateLimit) else said.connections
    return Rate(float(each + said.burst), each / _UNITS[said.unit])


def _circuit(said: CircuitBreaking) -> Circuit:
    def seconds(words: str | None) -> float:
        return go_seconds(words or "0") or 0.0

    content = said.degraded_response_content
    return Circuit(
        seconds(said.stat_time_window),
        said.min_request_amount,
        seconds(said.degraded_time_window),
        said.error_amount_threshold or 0,
        said.error_ratio_threshold or 0.0,
        seconds(said.slow_time_threshold),
        said.slow_amount_threshold or 0,
        said.slow_ratio_threshold or 0.0,
        said.degraded_status_code or 409,
        "Coming soon ..." if content is None else content,
    )
