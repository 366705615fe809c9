"""AccessCert (OSM, fsm): which names a client outside the mesh may have, as far as the object alone tells.

The servers of a cluster ask the same before they sign, and then what only they know: whether the namespace is in the
mesh (agent/identity/kubernetes/outside.py).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any

from policy.draft import Input
from policy.faults import Fault
from policy.kinds.osm import AccessCert
from policy.resources import Resource

MOST = 20  # names of one certificate
_LONGEST = 253
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DNS = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")
_SERVICE = re.compile(r".+\.(?:svc|pod)(?:\..+)?")
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,253}/ns/[^/]+/sa/[^/]+")
_FORMS = (
    "write a DNS name, SERVICE-ACCOUNT.NAMESPACE.TRUST-DOMAIN, or spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"
)


def check(cert: Resource[Any], _: Input) -> Iterable[Fault]:
    yield from faults(cert.namespace, cert.spec)


def faults(namespace: str, spec: AccessCert) -> Iterator[Fault]:
    """Yield the path, message and hint of each fault."""
    if spec.secret.namespace not in ("", namespace):
        yield (
            "$.spec.secret.namespace",
            f"a Secret in namespace {spec.secret.namespace} is not written for an AccessCert in {namespace}",
            f"put the AccessCert into namespace {spec.secret.namespace}",
        )
    if len(spec.secret.name) > _LONGEST or not re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*", spec.secret.name):
        yield "$.spec.secret.name", f"{spec.secret.name[:80]!r} is no name of a Secret", ""
    if not spec.subject_alt_names:
        yield "$.spec.subjectAltNames", "there is no name to certify", _FORMS
    if len(spec.subject_alt_names) > MOST:
        yield "$.spec.subjectAltNames", f"there are more than {MOST} names", "make an AccessCert for each client"
    for number, name in enumerate(spec.subject_alt_names[:MOST]):
        if why := _wrong(name):
            yield f"$.spec.subjectAltNames[{number}]", f"{name[:80]!r} {why}", _FORMS


def _wrong(name: str) -> str:
    """Return why a name cannot be certified; "" if it may be."""
    if "://" in name:
        return "" if _SPIFFE.fullmatch(name) else "is no SPIFFE ID of a service account"
    try:
        ipaddress.ip_address(name)
        return "is an address, and certifies nobody"
    except ValueError:
        pass
    if "*" in name:
        return "stands for many names, and a certificate is for one client"
    if len(name) > _LONGEST or not _DNS.fullmatch(name):
        return "is no DNS name of two parts or more, in lower case"
    return "is the name of a Service or a pod of a cluster" if _SERVICE.fullmatch(name) else ""
