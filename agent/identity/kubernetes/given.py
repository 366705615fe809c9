"""An authority that was made elsewhere, or signs elsewhere: a MeshRootCertificate names its Secret or its issuer.

What is given is taken over step by step, as a rotation on boxes (agent/identity/authority/rotation.py), each as soon as
it cuts off nobody. A MeshRootCertificate that is gone or damaged changes nothing: what signs goes on signing.
"""

from __future__ import annotations

import logging
from base64 import b64decode

import msgspec
from msgspec import Struct

from agent.identity.authority import ca, rotation
from agent.identity.authority.authority import is_trust_domain
from agent.identity.authority.ca import Issuer
from agent.identity.authority.rotation import NotNow
from agent.identity.authority.state import AuthorityState, name_of
from agent.identity.csr import Unusable
from agent.identity.kubernetes import cert_manager, objects
from agent.kubernetes.api import ApiError, ApiServer, path_of
from policy.kinds.osm import CertManager, MeshRootCertificate

log = logging.getLogger("edgemesh.authority")

VERSION = "config.openservicemesh.io/v1alpha2"
# Keys of the Secret: those of a kubernetes.io/tls Secret, and those of OSM's.
_CERTIFICATES, _KEYS = ("tls.crt", "ca.crt"), ("tls.key", "private.key")


class Wrong(Exception):  # noqa: N818 - it is an answer
    """What is given cannot be used. `hint`: what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class _Object(Struct, frozen=True):
    metadata: objects.Metadata = objects.Metadata()
    spec: msgspec.Raw = msgspec.Raw(b"{}")


class _List(Struct, frozen=True):
    items: tuple[_Object, ...] = ()


class Given(Struct, frozen=True):
    issuer: Issuer | None  # None: one that edgemesh makes; without a key: cert-manager signs
    trust_domain: str  # "" where it is not said


async def read(
    api: ApiServer, namespace: str, trust_domain: str, now: float, seen: dict[bytes, bytes] | None = None
) -> Given | None:
    """Return what a MeshRootCertificate gives; None if there is none. Raise Wrong, ApiError, ApiUnreachable.

    `trust_domain`: of the mesh, if the MeshRootCertificate does not say it. `seen`: the roots of cert-manager's issuers
    that were seen in an answer, by issuer; what is not there is asked for, and noted there.
    """
    try:
        found: _List = await api.get(path_of(VERSION, "meshrootcertificates", namespace), _List)
    except ApiError as error:
        if error.status == 404:  # a cluster without that kind
            return None
        raise
    if not found.items:
        return None
    names = sorted(one.metadata.name for one in found.items)
    if len(names) > 1:
        raise Wrong(
            f"there are several MeshRootCertificates, {', '.join(names[:5])}: none of them counts", "delete all but one"
        )
    title = f"MeshRootCertificate {namespace}/{names[0]}"
    try:
        spec = msgspec.json.decode(found.items[0].spec, type=MeshRootCertificate)
    except msgspec.MsgspecError as error:
        raise Wrong(f"{title}: {error}") from error
    if spec.trust_domain and not is_trust_domain(spec.trust_domain):
        raise Wrong(
            f"{title}: {spec.trust_domain[:80]!r} is no trust domain",
            "it has lower-case letters, digits, dots and dashes",
        )
    domain = spec.trust_domain or trust_domain
    if spec.provider.cert_manager is not None and spec.provider.tresor is None and spec.provider.vault is None:
        issuer = await _elsewhere(
            api, namespace, spec.provider.cert_manager, title, domain, now, {} if seen is None else seen
        )
        return Given(issuer, spec.trust_domain)
    if spec.provider.tresor is None:
        if spec.provider.cert_manager is not None or spec.provider.vault is not None:
            raise Wrong(
                f"{title}: its provider is not used here; the servers sign with a key of their own",
                "name a Secret, provider.tresor.ca.secretRef, or an issuer of cert-manager, provider.certManager alone",
            )
        return Given(None, spec.trust_domain)
    reference = spec.provider.tresor.ca.secret_ref
    if reference.namespace not in ("", namespace):
        raise Wrong(
            f"{title}: Secrets are read in namespace {namespace} only", f"put it there, and say namespace: {namespace}"
        )
    secret = await _secret(api, namespace, reference.name, title)
    try:
        return Given(_issuer(secret, domain, now), spec.trust_domain)
    except Unusable as error:
        raise Wrong(f"{title}: Secret {reference.name}: {error}") from error


def advance(state: AuthorityState, issuer: Issuer) -> None:
    """Take the next step on the way to this issuer, if one can be taken. Raise FolderError."""
    standing, name = state.standing, name_of(issuer)
    try:
        if standing.issuer == name and state.issuer.key != issuer.key:
            state.keep(issuer)  # somebody else signs under this certificate
            state.write(standing)
        if standing.step == "idle" and standing.issuer != name:
            rotation.add(state, issuer)
        elif standing.step == "added" and standing.other == name:
            rotation.issue(state)
        elif standing.step == "issuing" and standing.issuer == name:
            rotation.retire(state)
        elif standing.step == "added":
            rotation.undo(state)  # towards another one, which is given no more
        else:
            return
    except NotNow as wait:
        log.debug("the root is not changed yet: %s", wait)
        return
    log.warning("the mesh's root: step %r on the way to %s", state.standing.step, issuer.subject)


async def _elsewhere(
    api: ApiServer, namespace: str, provider: CertManager, title: str, domain: str, now: float, seen: dict[bytes, bytes]
) -> Issuer:
    """Return the authority that cert-manager signs for. Raise Wrong, ApiError, ApiUnreachable."""
    who = cert_manager.who(provider)
    try:
        if provider.secret_name:
            root = (await _secret(api, namespace, provider.secret_name, title)).get("ca.crt", b"")
            source = f"ca.crt of Secret {provider.secret_name}"
        else:
            if who not in seen:
                seen[who] = await cert_manager.root_of(api, namespace, provider, domain)
            root, source = seen[who], "status.ca of a CertificateRequest"
        return ca.elsewhere(root, who, domain, now)
    except cert_manager.Silent as silent:
        raise Wrong(f"{title}: {silent}", silent.hint) from silent
    except cert_manager.Refused as refusal:
        raise Wrong(f"{title}: {refusal}") from refusal
    except Unusable as error:
        seen.pop(who, None)
        hint = "name the Secret that has the self-signed root in ca.crt: provider.certManager.secretName"
        raise Wrong(f"{title}: {source}: {error}", hint) from error


async def _secret(api: ApiServer, namespace: str, name: str, title: str) -> dict[str, bytes]:
    if name == objects.SECRET:
        raise Wrong(f"{title}: Secret {objects.SECRET} is edgemesh's own", "give the Secret another name")
    try:
        found: objects.SecretObject = await api.get(path_of("v1", "secrets", namespace, name), objects.SecretObject)
    except ApiError as error:
        if error.status == 404:
            raise Wrong(f"{title}: there is no Secret {namespace}/{name}") from error
        if error.status == 403:
            allow = f"kubectl -n {namespace} create role edgemesh-{name} --verb=get --resource=secrets --resource-name={name}, and a rolebinding of it to service account edgemesh-server"
            raise Wrong(f"{title}: the servers may not read Secret {namespace}/{name}", allow) from error
        raise
    try:
        return {key: b64decode(value, validate=True) for key, value in (found.data or {}).items()}
    except ValueError as error:
        raise Wrong(f"{title}: Secret {namespace}/{name} is no base64") from error


def _issuer(secret: dict[str, bytes], trust_domain: str, now: float) -> Issuer:
    """Raise Unusable."""
    key = next((secret[name] for name in _KEYS if secret.get(name)), b"")
    certificates = b"\n".join(secret[name] for name in _CERTIFICATES if secret.get(name))
    if not key or not certificates:
        raise Unusable("it has not both certificate and key: tls.crt, tls.key and ca.crt, or ca.crt and private.key")
    return ca.load(certificates, key, trust_domain, now)
