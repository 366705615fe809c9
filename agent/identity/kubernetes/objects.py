"""Names and shapes of the API objects of the authority, and the fields that are read of them.

Everything in an object that another account may write is untrusted. What the API server itself writes (the user of a
CertificateSigningRequest, UIDs, `spec.nodeName` of a running Pod) is what decisions rest on.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from agent.kubernetes.api import path_of

NAMESPACE = "edgemesh-system"
SIGNER = "edgemesh.io/workload"
SECRET = "edgemesh-ca"  # noqa: S105 - a name
ROOTS = "edgemesh-roots"
LEASE = "edgemesh-authority"  # whose holder signs
ACCOUNTS = ("edgemesh-agent", "edgemesh-server")  # service accounts whose pods are nodes of the mesh
USAGES = frozenset({"digital signature", "client auth", "server auth"})

_REQUEST = ("certificates.k8s.io/v1", "certificatesigningrequests")
REQUESTS = path_of(*_REQUEST)


def secret(namespace: str) -> str:
    return path_of("v1", "secrets", namespace, SECRET)


def roots(namespace: str) -> str:
    return path_of("v1", "configmaps", namespace, ROOTS)


def lease(namespace: str) -> str:
    return path_of("coordination.k8s.io/v1", "leases", namespace, LEASE)


def pods(namespace: str) -> str:
    return path_of("v1", "pods", namespace)


def pod(namespace: str, name: str) -> str:
    return path_of("v1", "pods", namespace, name)


def namespace_of(name: str) -> str:
    return path_of("v1", "namespaces", name=name)


def request(name: str) -> str:
    return path_of(*_REQUEST, name=name)


class Metadata(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


class PodSpec(Struct, frozen=True, rename="camel"):
    node_name: str = ""
    service_account_name: str = ""


class PodStatus(Struct, frozen=True, rename="camel"):
    phase: str = ""


class Pod(Struct, frozen=True):
    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def ended(self) -> bool:
        """Return whether all of its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")


class Condition(Struct, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class RequestSpec(Struct, frozen=True, rename="camel"):
    request: str = ""  # PEM in base64
    signer_name: str = ""
    usages: tuple[str, ...] = ()
    expiration_seconds: int | None = None
    # Written by the API server from the authenticated user, whatever the requester sends
    username: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)


class RequestStatus(Struct, frozen=True):
    certificate: str = ""  # PEM in base64
    conditions: tuple[Condition, ...] = ()


class SigningRequest(Struct, frozen=True):
    """A CertificateSigningRequest (certificates.k8s.io/v1)."""

    metadata: Metadata = Metadata()
    spec: RequestSpec = RequestSpec()
    status: RequestStatus = RequestStatus()

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.status.conditions if c.type == kind and c.status in ("True", "")), None)

    @property
    def settled(self) -> bool:
        """Return whether there is nothing left to decide."""
        return bool(self.status.certificate or self.condition("Denied") or self.condition("Failed"))


def new_request(pem: str, lifetime: float) -> dict[str, Any]:
    """Return a CertificateSigningRequest for the signing request `pem`. `lifetime`: seconds."""
    from base64 import b64encode

    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "edgemesh-", "labels": {"app.kubernetes.io/name": "edgemesh"}},
        "spec": {
            "request": b64encode(pem.encode()).decode(),
            "signerName": SIGNER,
            "usages": sorted(USAGES),
            "expirationSeconds": max(600, int(lifetime)),  # the API's least
        },
    }


# the ConfigMap with the roots

TRUST_DOMAIN = "trustDomain"
ISSUER = "issuer"  # SHA-256 of the root that new certificates lead to
ROOTS_PEM = "roots.pem"
_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"
_MOST_ROOTS = 64


class RootsMap(Struct, frozen=True):
    metadata: Metadata = Metadata()
    data: dict[str, str] = field(default_factory=dict)


class SecretObject(Struct, frozen=True):
    metadata: Metadata = Metadata()
    data: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<SecretObject {self.metadata.namespace}/{self.metadata.name}>"


def split(pem: str) -> list[str]:
    """Return the certificates of a PEM text, one each, without what stands between them."""
    pieces = pem.split(_BEGIN)[1 : _MOST_ROOTS + 1]
    return [f"{_BEGIN}{piece.partition(_END)[0]}{_END}" for piece in pieces if _END in piece]
