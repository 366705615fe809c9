"""LoadBalancing: how the calls to a Service of its namespace are spread over its endpoints.

Where two of them name one Service, the older one is in force.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from msgspec import structs

from policy.balancing import Algorithm, Balancing
from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.edgemesh import LoadBalancing
from policy.resources import Resource

_KIND = "LoadBalancing"
_ALGORITHMS: dict[str, Algorithm] = {
    "LeastRequest": "least-request",
    "RoundRobin": "round-robin",
    "RingHash": "ring-hash",
    "Maglev": "maglev",
}
_HASHES = ("RingHash", "Maglev")
_ONE = "write one of header, cookie and sourceAddress: true"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2, of names of fields and cookies


def check(resource: Resource[Any], _: Input) -> Iterable[Fault]:
    """Yield what makes a LoadBalancing unusable."""
    spec: LoadBalancing = resource.spec
    said = spec.hash
    if said is None:
        if spec.algorithm in _HASHES:
            yield "$.spec.hash", f"{spec.algorithm} hashes something of each call, and nothing says what", _ONE
        return
    if spec.algorithm not in _HASHES:
        message = f"{spec.algorithm} hashes nothing"
        yield "$.spec.hash", message, "leave it out, or write algorithm: RingHash or Maglev"
    there = [what for what in (said.header, said.cookie) if what is not None]
    if len(there) + said.source_address != 1:
        yield "$.spec.hash", f"{len(there) + said.source_address} things to hash", _ONE
    for where, name in (("header", said.header), ("cookie", said.cookie)):
        if name is not None and not _TOKEN.fullmatch(name):
            yield f"$.spec.hash.{where}", f"{name!r} is no name of a {where}", "write it without spaces and separators"


def translate(resources: Input, draft: Draft) -> None:
    """Write how Services are balanced, which are translated before."""
    taken: dict[str, str] = {}
    said = sorted(
        resources.all(_KIND), key=lambda one: (one.metadata.creation_timestamp or "9", one.namespace, one.name)
    )
    for resource in said:
        spec: LoadBalancing = resource.spec
        key, at = f"{resource.namespace}/{spec.target_ref.name}", "$.spec.targetRef.name"
        service = draft.services.get(key)
        if service is None:
            near = resources.missing("Service", resource.namespace, spec.target_ref.name)
            draft.report(resource, "warning", at, f"there is no Service {key}: nothing is balanced by it", near)
        elif key in taken:
            message = f"{taken[key]} balances {key} too, and is in force"
            draft.report(resource, "warning", at, message, "keep one of them")
        else:
            taken[key] = resource.title
            if service.affinity:
                message = f"sessionAffinity of Service {key} has no effect beside it"
                draft.report(resource, "warning", at, message, "keep one of them")
            draft.services[key] = structs.replace(service, balancing=_balancing(resource.title, spec))


def _balancing(title: str, spec: LoadBalancing) -> Balancing:
    algorithm, said = _ALGORITHMS[spec.algorithm], spec.hash
    if said is None:
        return Balancing(title, algorithm)
    return Balancing(title, algorithm, (said.header or "").lower(), said.cookie or "", said.source_address)
