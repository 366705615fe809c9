"""cert-manager as the one that signs: a CertificateRequest for each request that was checked, and its answer.

What it signs is never believed because it came from there: Authority.take_over checks it as strictly as a peer does. A
CertificateRequest lives as long as it is waited for. It is named after the CertificateSigningRequest and owned by it, so
one that nobody waits for any more goes with that, and a second attempt finds the first one's answer.
"""

from __future__ import annotations

import logging
import secrets
from base64 import b64decode, b64encode
from typing import Any

import msgspec
import trio
from msgspec import Struct, field

from agent.identity import csr
from agent.identity.kubernetes import objects
from agent.identity.kubernetes.objects import SigningRequest
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of
from policy.kinds.osm import CertManager

log = logging.getLogger("edgemesh.authority")

VERSION = "cert-manager.io/v1"
PATIENCE = 20.0  # seconds to wait for an answer; then the request is left for later
_LOOK = (0.1, 1.0)  # seconds between two looks: at first, and at most
_BOUND = 64 * 1024  # characters of base64
_LIFETIME = 3600.0  # seconds of the certificate that is asked for to see the root


class Silent(Exception):  # noqa: N818 - it is a state of the world
    """cert-manager has not answered, or cannot be asked: later it may. `hint`: what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Refused(Exception):  # noqa: N818 - it is an answer
    """cert-manager or its issuer has refused."""


class Answer(Struct, frozen=True):
    chain: str  # PEM, not checked
    root: bytes  # PEM of status.ca, not checked; b"": not said


class _Status(Struct, frozen=True):
    certificate: str = ""
    ca: str = ""
    conditions: tuple[objects.Condition, ...] = ()


class _Spec(Struct, frozen=True, rename="camel"):
    request: str = ""
    issuer_ref: dict[str, str] = field(default_factory=dict)


class _Request(Struct, frozen=True):
    metadata: objects.Metadata = objects.Metadata()
    spec: _Spec = _Spec()
    status: _Status = _Status()


def who(provider: CertManager) -> bytes:
    """Return the JSON object that says who signs, as an Issuer keeps it."""
    return msgspec.json.encode(_reference(provider), order="sorted")


def _reference(provider: CertManager) -> dict[str, str]:
    return {"group": provider.issuer_group, "kind": provider.issuer_kind, "name": provider.issuer_name}


async def sign(
    api: ApiServer, namespace: str, issuer: bytes, pem: str, lifetime: float, owner: SigningRequest
) -> Answer:
    """Return what the issuer makes of the signing request `pem`. `issuer`: as `who` says it.

    Raise Silent, Refused; ApiError, ApiUnreachable when the API server is in trouble.
    """
    reference = msgspec.json.decode(issuer, type=dict[str, str])
    metadata: dict[str, Any] = {
        "ownerReferences": [
            {
                "apiVersion": "certificates.k8s.io/v1",
                "kind": "CertificateSigningRequest",
                "name": owner.metadata.name,
                "uid": owner.metadata.uid,
            }
        ]
    }
    return await _asked(api, namespace, f"edgemesh-{owner.metadata.uid}", reference, pem, lifetime, metadata)


async def root_of(api: ApiServer, namespace: str, provider: CertManager, trust_domain: str) -> bytes:
    """Return the root that the issuer's certificates lead to, as status.ca says: PEM, not checked.

    A certificate is asked for to see it, for a key that is forgotten. Raise Silent, Refused, ApiError, ApiUnreachable.
    """
    spiffe = f"spiffe://{trust_domain}/authority"
    key = await trio.to_thread.run_sync(csr.new_key)
    pem = await trio.to_thread.run_sync(csr.request, key, spiffe)
    name = f"edgemesh-root-{secrets.token_hex(8)}"
    answer = await _asked(api, namespace, name, _reference(provider), pem, _LIFETIME, {}, leave=False)
    if not answer.root:
        raise Refused(
            f"{_named(_reference(provider))} signs, and does not say under which root: name a Secret with it in secretName"
        )
    return answer.root


async def _asked(
    api: ApiServer,
    namespace: str,
    name: str,
    reference: dict[str, str],
    pem: str,
    lifetime: float,
    metadata: dict[str, Any],
    leave: bool = True,
) -> Answer:
    """`leave`: a request without an answer stays, for the next attempt."""
    spec = {
        "request": b64encode(pem.encode()).decode(),
        "issuerRef": reference,
        "duration": f"{max(600, int(lifetime))}s",
        "isCA": False,
        "usages": sorted(objects.USAGES),
    }
    body = {
        "apiVersion": VERSION,
        "kind": "CertificateRequest",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "edgemesh"}, **metadata},
        "spec": spec,
    }
    path = path_of(VERSION, "certificaterequests", namespace, name)
    try:
        await api.create(path_of(VERSION, "certificaterequests", namespace), body)
    except ApiError as error:
        if error.status == 404:
            raise Silent(
                "cert-manager is not there: the API server knows no kind CertificateRequest", "install cert-manager"
            ) from error
        if error.status == 403:
            raise Silent(
                f"the servers may not make a CertificateRequest in {namespace}: {error.message}",
                "does the Role edgemesh-server of the add-on still stand?",
            ) from error
        if error.status in (400, 422):
            raise Refused(f"cert-manager takes no such request: {error.message[:300]}") from error
        if error.reason != "AlreadyExists":
            raise
    found: _Request | None = None
    done = leave is False
    try:
        with trio.move_on_after(PATIENCE):
            found = await _answered(api, path)
        if found is None or (found.spec.request, found.spec.issuer_ref) != (spec["request"], reference):
            done = (
                done or found is not None
            )  # one for another issuer, from before a change: the next attempt makes its own
            raise Silent(
                f"{_named(reference)} has not answered CertificateRequest {namespace}/{name}",
                f"kubectl -n {namespace} describe certificaterequest {name} says why: is there that issuer, does cert-manager run, is the request approved?",
            )
        done = True
        return _read(found, reference)
    finally:
        if done:
            with trio.move_on_after(5, shield=True):
                await _remove(api, path)


async def _answered(api: ApiServer, path: str) -> _Request:
    pause, most = _LOOK
    while True:
        try:
            found: _Request = await api.get(path, _Request)
        except ApiError as error:
            if error.status != 404:
                raise
            raise Silent("a CertificateRequest is gone before it was answered", "somebody else removes them") from error
        if found.status.certificate or _refusal(found):
            return found
        await trio.sleep(pause)
        pause = min(most, 2 * pause)


def _refusal(found: _Request) -> str:
    """Return why it was refused; "" when it was not."""
    for one in found.status.conditions:
        final = one.type == "Ready" and one.status == "False" and one.reason in ("Failed", "Denied")
        if final or (one.type in ("Denied", "InvalidRequest") and one.status == "True"):
            return f"{one.reason or one.type}: {one.message[:300]}" if one.message else one.reason or one.type
    return ""


def _read(found: _Request, reference: dict[str, str]) -> Answer:
    if why := _refusal(found):
        raise Refused(f"{_named(reference)} has refused: {why}")
    if max(len(found.status.certificate), len(found.status.ca)) > _BOUND:
        raise Refused(f"the answer of {_named(reference)} is larger than {_BOUND // 1024} KiB")
    try:
        chain = b64decode(found.status.certificate, validate=True).decode("ascii")
        return Answer(chain, b64decode(found.status.ca, validate=True))
    except ValueError as error:
        raise Refused(f"the answer of {_named(reference)} cannot be read: it is no PEM in base64") from error


async def _remove(api: ApiServer, path: str) -> None:
    try:
        await api.delete(path)
    except (ApiError, ApiUnreachable) as error:
        log.debug("a CertificateRequest stays: %s", error)


def _named(reference: dict[str, str]) -> str:
    return f"{reference.get('kind', '')} {reference.get('name', '')} of cert-manager"
