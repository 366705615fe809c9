"""HTTPFilters: what they say, as filters of the route model, and what makes one unusable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from policy.draft import Input
from policy.faults import Fault as Wrong
from policy.fields import bad_field
from policy.kinds.edgemesh import Degrade as DegradeSpec
from policy.kinds.edgemesh import ExtAuth, FaultInjection, HTTPFilter, Signing
from policy.kinds.gateway import ExtensionRef
from policy.resources import Resource
from policy.route import AnyFilter, Degrade, ExternalAuth, Fault, Sign, Signature, User, Verify
from policy.translate.gateway_checks import is_path, seconds_of

GROUP, KIND = "edgemesh.io", "HTTPFilter"
_SAID = {
    "fault": "fault",
    "degrade": "degrade",
    "sign": "sign",
    "verify": "verify",
    "ext_auth": "extAuth",
    "user": "user",
}
_LONGEST = 60.0  # seconds that a filter may let a call wait
_NO_TIME = "write as 500ms, 2s or 1m"
_NO_BODY = (204, 205, 304)  # statuses of responses that have none
_OURS = "framing, Host, the caller and x-edgemesh-* are set by edgemesh alone"


class Unresolved(Struct, frozen=True):
    """An ExtensionRef that leads to no filter: why, and the word for that in a route's status."""

    why: str
    word: str
    hint: str = ""


def named(route: Resource[Any], ref: ExtensionRef, resources: Input) -> AnyFilter | Unresolved:
    """Return the filter that a route's ExtensionRef names."""
    if (ref.group, ref.kind) != (GROUP, KIND):
        what = f"{ref.kind}.{ref.group}" if ref.group else ref.kind
        return Unresolved(f"{what} {ref.name} is no filter here", "InvalidKind", f"known is {KIND} of group {GROUP}")
    found = resources.get(KIND, f"{route.namespace}/{ref.name}")
    if found is None:
        hint = resources.missing(KIND, route.namespace, ref.name)
        return Unresolved(f"no {KIND} {route.namespace}/{ref.name} is in force", "FilterNotFound", hint)
    return filter_of(found)


def filter_of(resource: Resource[Any]) -> AnyFilter:
    """Return what an HTTPFilter that passed its check says."""
    spec: HTTPFilter = resource.spec
    if spec.fault is not None:
        delay, abort = spec.fault.delay, spec.fault.abort
        waits = (_seconds(delay.duration), delay.percent) if delay is not None else (0.0, 100)
        return Fault(*waits, *((abort.status, abort.percent) if abort is not None else (0, 100)))
    if spec.degrade is not None:
        said = spec.degrade
        return Degrade(said.status, said.body, tuple((one.name.lower(), one.value) for one in said.headers))
    if spec.sign is not None:
        return Sign(_signature(resource, spec.sign))
    if spec.verify is not None:
        return Verify(_signature(resource, spec.verify))
    if spec.user is not None:
        return User(spec.user)
    asked = spec.ext_auth
    assert asked is not None, "one of them is said"
    return ExternalAuth(
        f"{asked.namespace or resource.namespace}/{asked.service}",
        asked.port,
        asked.path,
        _seconds(asked.timeout),
        asked.on_failure == "failOpen",
        _lower(asked.headers.send),
        _lower(asked.headers.take),
    )


def _signature(resource: Resource[Any], said: Signing) -> Signature:
    key = f"{resource.namespace}/{said.key}"
    return Signature(key, _lower(said.fields), said.body, said.header.lower(), _seconds(said.max_age))


def _lower(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.lower() for name in names))


def _seconds(words: str) -> float:
    return seconds_of(words) or 0.0


def check(resource: Resource[Any], _: Input) -> Iterable[Wrong]:
    spec: HTTPFilter = resource.spec
    said = [word for field, word in _SAID.items() if getattr(spec, field) is not None]
    if len(said) != 1:
        told = f"it says {', '.join(said)}" if said else "it says nothing"
        yield "$.spec", f"{told}, and not exactly one thing", f"say one of {', '.join(_SAID.values())}"
        return
    if spec.fault is not None:
        yield from _check_fault(spec.fault)
    if spec.degrade is not None:
        yield from _check_degrade(spec.degrade)
    for word, signing in (("sign", spec.sign), ("verify", spec.verify)):
        if signing is not None:
            yield from _check_signing(signing, f"$.spec.{word}")
    if spec.ext_auth is not None:
        yield from _check_auth(spec.ext_auth)


def _check_fault(said: FaultInjection) -> Iterable[Wrong]:
    if said.delay is None and said.abort is None:
        yield "$.spec.fault", "a fault without delay and abort", "say one of them, or both"
    if said.delay is not None:
        yield from _check_time(said.delay.duration, "$.spec.fault.delay.duration", _LONGEST)


def _check_degrade(said: DegradeSpec) -> Iterable[Wrong]:
    if said.body and said.status in _NO_BODY:
        yield "$.spec.degrade.body", f"an answer of status {said.status} has no body", "take it away"
    for number, one in enumerate(said.headers):
        if wrong := bad_field(one.name.lower(), one.value):
            yield f"$.spec.degrade.headers[{number}]", f"the field {one.name!r} {wrong}", _OURS


def _check_signing(said: Signing, at: str) -> Iterable[Wrong]:
    yield from _check_time(said.max_age, f"{at}.maxAge", 86400.0)
    if wrong := bad_field(said.header.lower()):
        yield f"{at}.header", f"the field {said.header!r} {wrong}", _OURS
    if said.header.lower() in _lower(said.fields):
        yield f"{at}.fields", f"{said.header} is to hold the signature, and cannot be signed", "take it away"


def _check_auth(said: ExtAuth) -> Iterable[Wrong]:
    yield from _check_time(said.timeout, "$.spec.extAuth.timeout", _LONGEST)
    if said.path and not is_path(said.path):
        yield (
            "$.spec.extAuth.path",
            f"{said.path!r} is no path to be sent",
            "begin with a slash; no //, dot segment or query",
        )
    for number, name in enumerate(said.headers.take):
        if wrong := bad_field(name.lower()):
            yield f"$.spec.extAuth.headers.take[{number}]", f"the field {name!r} {wrong}", _OURS


def _check_time(words: str, at: str, most: float) -> Iterable[Wrong]:
    seconds = seconds_of(words)
    if not seconds:
        yield at, f"{words!r} is no time", _NO_TIME
    elif seconds > most:
        yield at, f"{words} is longer than {most:g} s", "write less"
