"""What a CertificateSigningRequest asks for, and by whom it was made. Pure.

Who made it is known from what the API server wrote of the authenticated user: the service account, and the pod that its
token is bound to. Which node that is, the Pod object says; the pod's own account of itself is not asked. What is asked
for is in the signing request itself, and nowhere else.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable

from msgspec import Struct

from agent.identity.authority import ca
from agent.identity.csr import Unusable
from agent.identity.kubernetes.objects import ACCOUNTS, SIGNER, USAGES, Pod, SigningRequest

_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_NODE_NAME = "authentication.kubernetes.io/node-name"  # Kubernetes 1.30 and newer
_MOST = 4 * ca.MAX_REQUEST  # characters of base64


class Denied(Exception):  # noqa: N818 - it is an answer
    """The request is denied for good. `reason`: one word in CamelCase, for the condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Caller(Struct, frozen=True):
    """The pod whose token made the request."""

    namespace: str
    account: str
    pod: str
    uid: str
    node: str  # as the token says; "" where the API server does not tell


class Asked(Struct, frozen=True):
    """What is asked for."""

    spiffe: str
    node: str  # "": the request does not say it
    pem: str
    lifetime: float | None  # seconds; None: as long as the authority gives


def caller(request: SigningRequest, namespace: str) -> Caller:
    """Return who made the request. `namespace`: where edgemesh's own pods are. Raise Denied."""
    spec = request.spec
    kind, _, rest = spec.username.partition("system:serviceaccount:")
    where, _, account = rest.partition(":")
    if kind or where != namespace or account not in ACCOUNTS:
        raise Denied("NotAnAgent", f"{spec.username[:200]!r} is no service account of edgemesh's pods in {namespace}")
    pod, uid = _one(request, _POD_NAME), _one(request, _POD_UID)
    if not pod or not uid:
        raise Denied(
            "NotBoundToAPod", "the token is bound to no pod: only a running pod of edgemesh may ask for certificates"
        )
    return Caller(where, account, pod, uid, _one(request, _NODE_NAME))


def node_of(caller: Caller, pod: Pod | None) -> str:
    """Return the node that the caller runs on, from the Pod that its token is bound to; None: it is gone. Raise Denied."""
    if pod is None or pod.metadata.uid != caller.uid:
        raise Denied("PodGone", f"pod {caller.namespace}/{caller.pod} with UID {caller.uid} is gone")
    if (pod.metadata.namespace, pod.metadata.name) != (caller.namespace, caller.pod):
        raise Denied("PodGone", "the API server answered with another pod than was asked for")
    if pod.spec.service_account_name != caller.account:
        raise Denied("NotAnAgent", f"pod {caller.pod} is not one of service account {caller.account}")
    if not pod.spec.node_name or pod.ended:
        raise Denied("PodNotRunning", f"pod {caller.pod} does not run on a node now")
    if caller.node and caller.node != pod.spec.node_name:
        raise Denied(
            "OtherNode", f"the token is one of node {caller.node}, and pod {caller.pod} runs on {pod.spec.node_name}"
        )
    return pod.spec.node_name


def asked(request: SigningRequest) -> Asked:
    """Return what is asked for. Raise Denied."""
    spec = request.spec
    if spec.signer_name != SIGNER:
        raise Denied("OtherSigner", f"the request is for the signer {spec.signer_name[:200]!r}")
    if set(spec.usages) != USAGES:
        raise Denied("WrongUsages", f"usages must be {', '.join(sorted(USAGES))}")
    if len(spec.request) > _MOST:
        raise Denied("Malformed", f"the signing request is larger than {ca.MAX_REQUEST // 1024} KiB")
    try:
        pem = b64decode(spec.request, validate=True).decode("ascii")
        ca.read_csr(pem)
        spiffe, node = ca.requested_names(pem)
    except (ValueError, Unusable) as error:
        raise Denied("Malformed", str(error)[:300]) from error
    return Asked(spiffe, node, pem, None if spec.expiration_seconds is None else float(spec.expiration_seconds))


def running_there(pods: Iterable[Pod], namespace: str, account: str, node: str) -> list[Pod]:
    """Return those of `pods` that run on `node` now under this service account, whatever was asked of the API."""
    return [
        pod
        for pod in pods
        if pod.metadata.namespace == namespace
        and pod.spec.service_account_name == account
        and pod.spec.node_name == node
        and not pod.ended
    ]


def _one(request: SigningRequest, key: str) -> str:
    """Return the only value of `key` in what the API server knows of the user; "" when there is none or several."""
    values = request.spec.extra.get(key, ())
    return values[0] if len(values) == 1 else ""
