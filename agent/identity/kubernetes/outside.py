"""What an AccessCert asks for, and which names a client outside the mesh may not have. Pure.

Who may write an AccessCert may have the identities of its own namespace, as who may make pods there; and none that a
workload of the mesh has or may have, since its key would be in a Secret that others read.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from agent.identity.authority.authority import workload_of
from agent.identity.kubernetes.requests import Denied
from policy import enrolment
from policy.enrolment import Marks
from policy.kinds.osm import AccessCert
from policy.model import Identity
from policy.translate import access_certs

_CLUSTER = ".cluster.local"  # the DNS names of a cluster's Services end so, unless it was set up otherwise


class Wanted(Struct, frozen=True):
    identity: Identity | None  # as the mesh knows the client; None: it does not
    hosts: tuple[str, ...]  # DNS names
    secret: str
    # Namespaces that must not be there: for whom those are servers, "stock.shop" is a Service.
    not_namespaces: tuple[str, ...]


def wanted(namespace: str, spec: bytes, trust_domain: str) -> Wanted:
    """Return what an AccessCert of this namespace asks for. `spec`: JSON. Raise Denied."""
    try:
        asked = msgspec.json.decode(spec, type=AccessCert)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Denied("Invalid", str(error)[:300]) from error
    for path, message, hint in access_certs.faults(namespace, asked):
        reason = "CrossNamespace" if path == "$.spec.secret.namespace" else "Invalid"
        raise Denied(reason, f"{message}; {hint}" if hint else message)
    if namespace in enrolment.NEVER:
        raise Denied("Protected", f"no Secret is written into namespace {namespace}")
    identities = {name: _identity(name, trust_domain) for name in asked.subject_alt_names}
    found = {one for one in identities.values() if one is not None}
    if len(found) > 1:
        raise Denied("SeveralIdentities", "a certificate proves one identity, and several are named")
    for one in found:
        if one.namespace != namespace:
            raise Denied(
                "CrossNamespace",
                f"{one.service_account} of namespace {one.namespace} is not certified for an AccessCert in {namespace}; put"
                f" the AccessCert into namespace {one.namespace}",
            )
    hosts = tuple(dict.fromkeys(name for name in asked.subject_alt_names if "://" not in name))
    ends = tuple(host.rpartition(".")[2] for host in hosts if host.count(".") == 1)
    return Wanted(next(iter(found), None), hosts, asked.secret.name, ends)


def check_namespace(name: str, marks: Marks) -> None:
    """Raise Denied if the pods of a Namespace are in the mesh: its service accounts are theirs."""
    if enrolment.of_pod(name, marks, Marks()).enrolled:
        raise Denied(
            "MeshWorkload",
            f"namespace {name} is in the mesh: its service accounts are the identities of workloads, whose keys stay on"
            " their nodes; put the AccessCert into a namespace outside the mesh",
        )


def _identity(name: str, trust_domain: str) -> Identity | None:
    """Return the identity that a name means; None: it means none. Raise Denied."""
    if "://" in name:
        found = workload_of(name, trust_domain)
        if found is None:
            raise Denied("OtherTrustDomain", f"{name[:200]} is no service account of the trust domain {trust_domain}")
        return found
    if name.endswith(f".{trust_domain}"):
        account, _, namespace = name.removesuffix(f".{trust_domain}").rpartition(".")
        if not account:
            raise Denied("Invalid", f"{name} is none of SERVICE-ACCOUNT.NAMESPACE.{trust_domain}")
        return Identity(namespace, account)
    if name.endswith(_CLUSTER):
        raise Denied("ServiceName", f"{name} may be the name of a Service; the trust domain is {trust_domain}")
    return None
