"""The authority's side of certificates: roots, intermediates and what they sign. Pure.

The time and serial numbers are arguments, and the caller decides what is signed. A signing request contributes only its
public key, and the proof that its sender holds the private key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from agent.identity import csr
from agent.identity.csr import Unusable

BACKDATED = 300.0  # seconds that other clocks may be behind ours
MAX_REQUEST = 8192  # bytes of a signing request; one of ours has 500
_MAX_NAME = 64  # characters of a subject CN (RFC 5280 appendix A.1)
_DAY = 86400.0
_ELSEWHERE = b"{"
_LONGEST_WHO = 4096  # bytes
_LEAST = 1800.0  # seconds that a certificate which somebody else signed must still be valid

PublicKey = ec.EllipticCurvePublicKey  # the key in a certificate that we sign
_AnyPublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey  # the key of an authority: an outside one may have RSA
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Issuer(Struct, frozen=True):
    """A signing key, and the chain from its certificate to the root. `repr` never shows the key."""

    certificates: tuple[str, ...]  # PEM, one each: its own first, the root last; a root has only its own
    key: bytes  # PEM, PKCS #8; where somebody else signs: a JSON object that says who, and that is no secret

    @property
    def elsewhere(self) -> bytes:
        """Return who signs, if that is somebody else; b"": this key does."""
        return self.key if self.key.startswith(_ELSEWHERE) else b""

    @property
    def root(self) -> str:
        return self.certificates[-1]

    @property
    def sent(self) -> str:
        """Return what is sent after a certificate that it signed: its own chain without the root, which peers have."""
        return "".join(self.certificates[:-1])

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the root, as in Bundle.issuer."""
        return csr.fingerprint(self.root)

    @property
    def own_fingerprint(self) -> str:
        return csr.fingerprint(self.certificates[0])

    @property
    def not_before(self) -> float:
        return max(csr.facts(certificate).not_before for certificate in self.certificates)

    @property
    def not_after(self) -> float:
        return min(csr.facts(certificate).not_after for certificate in self.certificates)

    @property
    def subject(self) -> str:
        return csr.name_of(csr.read(self.certificates[0])[0])

    def __repr__(self) -> str:
        return f"<Issuer {self.subject}>"


def serial(random: bytes) -> int:
    """Make a serial number from 128 random bits (RFC 5280 section 4.1.2.2: positive, at most 20 octets)."""
    if len(random) != 16:
        raise ValueError("a serial number is made of 16 random bytes")
    return int.from_bytes(random) or 1


def make_root(trust_domain: str, now: float, number: int, years: int = 10) -> Issuer:
    """Make a self-signed root with a fresh key. Site intermediates may stand under it, and nothing under those."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _authority_name("root", trust_domain, number)
    # A day back: a node whose clock is slow should reject the certificate that it gets, not the root.
    builder = _builder(name, name, key.public_key(), number, now - _DAY, now + years * 365.25 * _DAY)
    builder = _with_authority(builder, key.public_key(), key.public_key(), path_length=1)
    return Issuer((_pem(builder.sign(key, hashes.SHA256())),), _key_pem(key))


def make_intermediate(
    root: Issuer, trust_domain: str, node: str, now: float, number: int, days: float = 365.0
) -> Issuer:
    """Make a site's own authority under `root`, for this trust domain alone. Raise Unusable.

    It makes no further authority.
    """
    above = csr.read(root.certificates[0])[0]
    for below, certificate in enumerate(_chain(root), start=1):
        csr.check_authority(certificate, below)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _authority_name("site", trust_domain, number, node)
    begin, end = _period(root, now, days * _DAY)
    builder = _builder(name, above.subject, key.public_key(), number, begin, end)
    builder = _with_authority(builder, key.public_key(), _public_of(above), path_length=0)
    permitted = [x509.UniformResourceIdentifier(trust_domain)]  # RFC 5280 section 4.2.1.10: the host part of a URI
    builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
    return Issuer((_pem(builder.sign(_load_key(root.key), hashes.SHA256())), *root.certificates), _key_pem(key))


def read_csr(pem: str) -> PublicKey:
    """Return the public key of a signing request. Raise Unusable, also when its sender lacks the private key.

    Nothing else in the request is trusted.
    """
    if len(pem) > MAX_REQUEST:
        raise Unusable(f"the signing request is larger than {MAX_REQUEST // 1024} KiB")
    try:
        asked = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = asked.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Unusable("the key of the signing request is not of the curve P-256")
        proved = asked.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Unusable("the signing request cannot be read: it is not PKCS #10 in PEM") from error
    if not proved:
        raise Unusable("the signing request is not signed with the key that it names")
    return key


def requested_names(pem: str) -> tuple[str, str]:
    """Return the one URI and the node (subject OU) that a signing request names; "" for no node.

    Raise Unusable when it names no URI, several, or anything else. For callers that know from elsewhere who may have
    these names.
    """
    try:
        asked = x509.load_pem_x509_csr(pem.encode("ascii"))
        names = list(asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise Unusable("the signing request cannot be read: it is not PKCS #10 in PEM") from error
    except x509.ExtensionNotFound:
        names = []
    subject = list(asked.subject)
    if (
        len(names) != 1
        or not isinstance(names[0], x509.UniformResourceIdentifier)
        or len(subject) > 1
        or any(part.oid != NameOID.ORGANIZATIONAL_UNIT_NAME for part in subject)
    ):
        raise Unusable(
            "the signing request must name exactly one URI, its SPIFFE ID, and at most its node (OU) beside it"
        )
    return str(names[0].value), str(subject[0].value) if subject else ""


def sign(issuer: Issuer, key: PublicKey, spiffe: str, node: str, lifetime: float, now: float, number: int) -> str:
    """Return a certificate for both ends of a connection and its chain without the root, as PEM. Raise Unusable.

    `node` becomes the subject's OU; "" for the authority itself, which runs no workload.
    """
    above = csr.read(issuer.certificates[0])[0]
    if not all(csr.may_name(certificate, spiffe) for certificate in _chain(issuer)):
        raise Unusable(f"the issuing certificate does not allow {spiffe} (name constraints)")
    begin, end = _period(issuer, now, lifetime)
    who = (NameOID.ORGANIZATIONAL_UNIT_NAME, node) if node else (NameOID.COMMON_NAME, "edgemesh authority")
    builder = _builder(x509.Name([x509.NameAttribute(*who)]), above.subject, key, number, begin, end)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_identifier_of(above), critical=False)
    )
    return _pem(builder.sign(_load_key(issuer.key), hashes.SHA256())) + issuer.sent


def make_client(
    issuer: Issuer, spiffe: str, hosts: Sequence[str], lifetime: float, now: float, number: int
) -> tuple[str, bytes]:
    """Make a key, and a certificate for it with which a client calls and nobody serves.

    `spiffe`: its SPIFFE ID, "" for none; `hosts`: DNS names. Return the certificate with its chain without the root,
    and the key; PEM. Raise Unusable.
    """
    above = csr.read(issuer.certificates[0])[0]
    for certificate in _chain(issuer):
        for name in (spiffe, *hosts):
            if name and not (csr.may_name if name is spiffe else csr.may_name_host)(certificate, name):
                raise Unusable(f"the issuing certificate does not allow {name} (name constraints)")
    key = ec.generate_private_key(ec.SECP256R1())
    begin, end = _period(issuer, now, lifetime)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe)] if spiffe else []
    names += [x509.DNSName(host) for host in hosts]
    who = x509.NameAttribute(NameOID.COMMON_NAME, (hosts[0] if hosts else "edgemesh client")[:_MAX_NAME])
    builder = _builder(x509.Name([who]), above.subject, key.public_key(), number, begin, end)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_identifier_of(above), critical=False)
    )
    return _pem(builder.sign(_load_key(issuer.key), hashes.SHA256())) + issuer.sent, _key_pem(key)


def load(certificates: bytes, key: bytes, trust_domain: str, now: float) -> Issuer:
    """Read an authority made elsewhere: its certificates, its own first and the root last, and its key.

    Raise Unusable.
    """
    chain = csr.read(certificates)
    private = _load_key(key)
    if csr.public_bytes(chain[0]) != _public_der(private.public_key()):
        raise Unusable(
            "the key is not that of the first certificate; the file must begin with the certificate that is to sign"
        )
    roots = [certificate for certificate in chain if csr.issued(certificate, certificate)]
    if not roots:
        raise Unusable(
            "the file holds no root; append the certificate of the root (self-signed) that the others lead to"
        )
    path = csr.path_to(chain, roots)
    for below, certificate in enumerate(path):
        csr.check_authority(certificate, below)
        if not csr.may_name(certificate, f"spiffe://{trust_domain}/node/x"):
            raise Unusable(
                f"{csr.name_of(certificate)} may not sign for the trust domain {trust_domain} (name constraints)"
            )
    csr.check_dates(path, now, tolerance=0)
    return Issuer(tuple(_pem(certificate) for certificate in path), _key_pem(private))


def _check_who(who: bytes) -> None:
    """Raise Unusable unless this is a JSON object of names, as it stands in the place of a key that somebody else has."""
    try:
        said = msgspec.json.decode(who, type=dict[str, str]) if len(who) <= _LONGEST_WHO else {}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = {}
    if not said:
        raise Unusable("its key is neither a key, nor does it say who signs")


def elsewhere(root: bytes, who: bytes, trust_domain: str, now: float) -> Issuer:
    """Return the authority under `root` that somebody else signs for: `who`, a JSON object. Raise Unusable."""
    _check_who(who)
    roots = {certificate.fingerprint(hashes.SHA256()): certificate for certificate in csr.read(root)}
    if len(roots) != 1:
        raise Unusable(f"there are {len(roots)} certificates, and the root alone is wanted")
    (own,) = roots.values()
    if not csr.issued(own, own):
        raise Unusable(f"the certificate of {csr.name_of(own)} is no root: it is not signed by itself")
    csr.check_authority(own, 0)
    if not csr.may_name(own, f"spiffe://{trust_domain}/node/x"):
        raise Unusable(f"{csr.name_of(own)} may not sign for the trust domain {trust_domain} (name constraints)")
    csr.check_dates([own], now, tolerance=0)
    return Issuer((_pem(own),), who)


def take_over(
    issuer: Issuer, chain: str, key: PublicKey, spiffe: str, node: str, longest: float, now: float
) -> tuple[str, csr.Facts]:
    """Check what somebody else signed as strictly as a peer, and more: it says what we would have said, and no more.

    `longest`: seconds from now after which it must have ended. Return the chain without the root, and what its first
    certificate says. Raise Unusable.
    """
    path = csr.check_issued(csr.read(chain), _public_der(key), spiffe, csr.read(issuer.root), now, tolerance=BACKDATED)
    own = path[0]
    subject = [(part.oid, part.value) for part in own.subject]
    if subject != [(NameOID.ORGANIZATIONAL_UNIT_NAME, node)]:
        raise Unusable(
            f"the certificate's subject is {own.subject.rfc4514_string() or 'empty'!r}, and must be the request's, OU={node}"
        )
    usages = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if set(usages) != {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}:
        raise Unusable("the certificate is for more than both ends of a connection (extended key usage)")
    _, end = csr.validity(own)
    if end > now + longest + BACKDATED:
        raise Unusable(f"the certificate ends {end - now:.0f} s from now, and {longest:.0f} s were asked for")
    if end < now + min(_LEAST, longest / 2):
        raise Unusable(
            f"the certificate ends {max(0.0, end - now):.0f} s from now already; {longest:.0f} s were asked for"
        )
    taken = "".join(_pem(certificate) for certificate in path[:-1])
    return taken, csr.facts(taken, issuer.root)


def restore(certificates: str, key: bytes) -> Issuer:
    """Read an issuer that was kept as files.

    Raise Unusable when its certificates or its key cannot be read, or do not belong together.
    """
    chain = csr.read(certificates)
    if key.startswith(_ELSEWHERE):
        _check_who(key)
        return Issuer(tuple(_pem(certificate) for certificate in chain), key)
    if _public_der(_load_key(key).public_key()) != _public_der(_public_of(chain[0])):
        raise Unusable("the key is not that of the certificate")
    return Issuer(tuple(_pem(certificate) for certificate in chain), key)


# parts


def _chain(issuer: Issuer) -> list[x509.Certificate]:
    return [csr.read(certificate)[0] for certificate in issuer.certificates]


def _period(issuer: Issuer, now: float, lifetime: float) -> tuple[float, float]:
    """Return when a certificate begins and ends. It never outlives its issuer, whose end would invalidate it anyway."""
    csr.check_dates(_chain(issuer), now, tolerance=0)
    return max(now - BACKDATED, issuer.not_before), min(now + lifetime, issuer.not_after)


def _authority_name(kind: str, trust_domain: str, number: int, node: str = "") -> x509.Name:
    """Return a name with digits of the serial number.

    Two roots of one mesh must not have the same name, or peers build chains to the wrong one.
    """
    attributes = [
        (NameOID.ORGANIZATION_NAME, trust_domain),
        (NameOID.COMMON_NAME, f"edgemesh {kind} {number:032x}"[:30]),
    ]
    if node:
        attributes.insert(1, (NameOID.ORGANIZATIONAL_UNIT_NAME, node))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, number: int, not_before: float, not_after: float
) -> x509.CertificateBuilder:
    begin, end = (datetime.fromtimestamp(int(at), UTC) for at in (not_before, not_after))
    if end <= begin:
        raise Unusable("the certificate would end before it begins")
    return (
        x509.CertificateBuilder(issuer, subject, key, number)
        .not_valid_before(begin)
        .not_valid_after(max(end, begin + timedelta(seconds=1)))
    )


def _with_authority(
    builder: x509.CertificateBuilder, key: PublicKey, above: _AnyPublicKey, path_length: int
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False)
    )


def _usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _identifier_of(above: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the issuer's own key identifier (RFC 5280 section 4.2.1.1): an outside CA may hash its key differently."""
    try:
        own = above.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(_public_of(above))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _public_of(certificate: x509.Certificate) -> _AnyPublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise Unusable(f"the key of {csr.name_of(certificate)} is neither ECDSA nor RSA")
    return key


def _public_der(key: _AnyPublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _load_key(pem: bytes) -> _PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise Unusable("the issuing key is encrypted; decrypt it first: openssl pkey -in KEY -out PLAIN") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("the issuing key cannot be read") from None  # the message must not show what was read
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.key_size >= 256:
            return key
    elif isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key
    raise Unusable("the issuing key is neither ECDSA (P-256 or larger) nor RSA (2048 bits or more)")


def _key_pem(key: _PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
