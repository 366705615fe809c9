"""Retry (OSM, fsm): requests of a service account to Services are sent again, and `retry` of a rule of an HTTPRoute.

The words of `retryOn` mean what Envoy documents for them, which is what OSM's pages refer to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.gateway import RouteRetry
from policy.kinds.osm import Retry, RetryPolicy
from policy.model import CallerRetry, Identity
from policy.near import nearest
from policy.resources import Resource
from policy.route import FAILURES, Failure
from policy.route import Retry as Rule
from policy.translate.durations import go_seconds
from policy.translate.gateway_checks import seconds_of
from policy.translate.osm import precedence

MOST = 100  # retries of one request: more are not made, whatever an object says
_BASE = 0.025  # seconds; Envoy's own
_LONGEST = 10  # times the base, at most: Envoy's own


class _Word(Struct, frozen=True):
    """What a word of `retryOn` adds."""

    statuses: tuple[int, ...] = ()
    failures: tuple[Failure, ...] = ()
    grpc: tuple[int, ...] = ()
    lacks: str = ""  # why it adds nothing


_WORDS: dict[str, _Word] = {
    "5xx": _Word(tuple(range(500, 600)), FAILURES),
    "gateway-error": _Word((502, 503, 504), FAILURES),
    "reset": _Word(failures=FAILURES),
    "reset-before-request": _Word(failures=("connect", "refused")),
    "connect-failure": _Word(failures=("connect",)),
    "refused-stream": _Word(failures=("refused",)),
    "retriable-4xx": _Word((409,)),
    "cancelled": _Word(grpc=(1,)),
    "deadline-exceeded": _Word(grpc=(4,)),
    "resource-exhausted": _Word(grpc=(8,)),
    "internal": _Word(grpc=(13,)),
    "unavailable": _Word(grpc=(14,)),
    "retriable-status-codes": _Word(lacks="a Retry has no field for the statuses: write them, as 503"),
    "retriable-headers": _Word(lacks="a Retry has no field for the headers"),
    "envoy-ratelimited": _Word(lacks="no server here sends that header"),
    "http3-post-connect-failure": _Word(lacks="there is no HTTP/3 to servers"),
}


def check(retry: Resource[Any], _: Input) -> Iterable[Fault]:
    spec: Retry = retry.spec
    if spec.source.kind != "ServiceAccount":
        yield "$.spec.source.kind", f"source kind {spec.source.kind!r} is not known", "only ServiceAccount is"
    if not spec.destinations:
        yield "$.spec.destinations", "no destinations", "name at least one Service"
    for number, one in enumerate(spec.destinations):
        if one.kind != "Service":
            at = f"$.spec.destinations[{number}].kind"
            yield at, f"destination kind {one.kind!r} is not known", "only Service is"
    policy = spec.retry_policy
    if not _words(policy):
        yield "$.spec.retryPolicy.retryOn", "retryOn names nothing", "write for example 5xx"
    for word in _words(policy):
        if word not in _WORDS and not _is_status(word):
            near = nearest(word, _WORDS)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(_WORDS)}, and statuses such as 503"
            yield "$.spec.retryPolicy.retryOn", f"{word!r} is nothing to retry on", hint
    for field, words in (
        ("perTryTimeout", policy.per_try_timeout),
        ("retryBackoffBaseInterval", policy.retry_backoff_base_interval),
    ):
        if words is not None and go_seconds(words) is None:
            yield f"$.spec.retryPolicy.{field}", f"{words!r} is no time", "write as 10s, 500ms or 1m30s"


def translate(resources: Input, draft: Draft) -> None:
    on = _switched_on(resources)
    # Of several the one in the caller's own namespace counts, and then the first by name
    ordered = sorted(resources.all("Retry"), key=lambda one: one.namespace != _caller(one).namespace)
    for retry in ordered:
        spec: Retry = retry.spec
        if not on:
            message = "no request is sent again because of it: MeshConfig featureFlags.enableRetryPolicy is not true"
            draft.report(retry, "warning", "$.spec", message, "set it to true in the MeshConfig")
            continue
        rule, caller = _rule(retry, draft), _caller(retry)
        for number, one in enumerate(spec.destinations):
            namespace = one.namespace or retry.namespace
            key, at = f"{namespace}/{one.name}", f"$.spec.destinations[{number}]"
            if key not in draft.services:
                near = resources.missing("Service", namespace, one.name)
                draft.report(retry, "warning", f"{at}.name", f"there is no Service {key}", near)
            before = draft.retries.get((key, caller))
            if before is not None:
                message = f"{before.retry.name} is in force for calls of {caller} to {key}"
                draft.report(retry, "warning", at, message, "keep one of them")
                continue
            draft.retries[key, caller] = CallerRetry(key, caller, rule)


def of_route(said: RouteRetry | None) -> Rule | None:
    """Return what `retry` of an HTTPRoute's rule means (GEP-1731). It never waits less than its `backoff`."""
    if said is None or said.attempts == 0:
        return None
    least = seconds_of(said.backoff or "") or 0.0
    base = least or _BASE
    attempts = min(1 if said.attempts is None else said.attempts, MOST)
    return Rule(attempts, tuple(sorted(set(said.codes or ()))), base, least, _LONGEST * base)


def _caller(retry: Resource[Any]) -> Identity:
    return Identity(retry.spec.source.namespace or retry.namespace, retry.spec.source.name)


def _rule(retry: Resource[Any], draft: Draft) -> Rule:
    policy: RetryPolicy = retry.spec.retry_policy
    statuses: set[int] = set()
    failures: set[Failure] = set()
    grpc: set[int] = set()
    for word in _words(policy):
        if _is_status(word):
            statuses.add(int(word))
            continue
        adds = _WORDS[word]
        if adds.lacks:
            message = f"spec.retryPolicy.retryOn: {word} is not heeded: {adds.lacks}"
            draft.report(retry, "warning", "$.spec.retryPolicy.retryOn", message)
        statuses.update(adds.statuses)
        failures.update(adds.failures)
        grpc.update(adds.grpc)
    count = 1 if policy.num_retries is None else policy.num_retries
    if count > MOST:
        draft.report(
            retry, "warning", "$.spec.retryPolicy.numRetries", f"no request is sent again more than {MOST} times"
        )
    base = go_seconds(policy.retry_backoff_base_interval or "") or _BASE
    return Rule(
        min(count, MOST),
        tuple(sorted(statuses)),
        base,
        most=_LONGEST * base,
        failures=tuple(one for one in FAILURES if one in failures),
        any_method=True,
        grpc=tuple(sorted(grpc)),
        timeout=go_seconds(policy.per_try_timeout or "") or None,
        name=retry.title,
    )


def _words(policy: RetryPolicy) -> list[str]:
    return [word for word in (one.strip() for one in policy.retry_on.split(",")) if word]


def _is_status(word: str) -> bool:
    return len(word) == 3 and word.isascii() and word.isdigit() and 400 <= int(word) <= 599


def _switched_on(resources: Input) -> bool:
    """Return whether the MeshConfig in force has OSM's switch on; without it OSM does not read a Retry."""
    configs = sorted(resources.all("MeshConfig"), key=precedence)
    flags = configs[0].spec.feature_flags if configs else None
    return isinstance(flags, Mapping) and flags.get("enableRetryPolicy") is True
