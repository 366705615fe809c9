"""A node's side of certificates: make a key, request a certificate, and check the result. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

_E = TypeVar("_E", bound=x509.ExtensionType)

TOLERANCE = 300.0  # seconds that two clocks may differ
_MAX_CHAIN = 64 * 1024  # bytes of PEM
_MAX_DEPTH = 8  # certificates from the leaf to the root
_MAX_NAME = 64  # characters of a subject OU (RFC 5280 appendix A.1)


class Unusable(Exception):  # noqa: N818 - it is a property of what was read
    """A certificate, key or request that cannot be used; the message says why."""


class Facts(Struct, frozen=True):
    """The fields of a certificate, and the root of its chain."""

    spiffe: str  # "" when it has not exactly one URI
    node: str  # subject OU; "" when there is none
    serial: str  # hexadecimal, lower case
    not_before: float  # seconds since the epoch
    not_after: float
    root: str  # fingerprint of the root that it leads to; "" when it leads to none of those given


def new_key() -> bytes:
    """Return a fresh P-256 key: PEM, PKCS #8, not encrypted."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request(key: bytes, spiffe: str, node: str = "") -> str:
    """Return a certificate signing request (RFC 2986), PEM.

    The authority decides itself which names a certificate has. `node`: the subject OU, for an authority that takes the
    names from the request once somebody has checked them.
    """
    subject = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, node)] if 0 < len(node) <= _MAX_NAME else []
    builder = x509.CertificateSigningRequestBuilder(x509.Name(subject))
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe)]), critical=True
    )
    return builder.sign(_private(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(certificate: str | bytes) -> str:
    """Return the SHA-256 of one certificate (DER), hexadecimal. Raise Unusable."""
    return read(certificate)[0].fingerprint(hashes.SHA256()).hex()


def facts(chain: str | bytes, roots: str | bytes = b"") -> Facts:
    """Return what the first certificate of `chain` says. Raise Unusable when it is no certificate.

    Dates are returned, not checked.
    """
    certificates = read(chain)
    try:
        path = path_to(certificates, read(roots) if roots else ())
        root = path[-1].fingerprint(hashes.SHA256()).hex()
    except Unusable:
        root = ""
    first = certificates[0]
    uris = uris_of(first)
    return Facts(uris[0] if len(uris) == 1 else "", node_of(first), serial_of(first), *validity(first), root)


def check(
    chain: str | bytes, key: bytes, spiffe: str, roots: str | bytes, now: float, tolerance: float = TOLERANCE
) -> None:
    """Check that this is the certificate that was requested.

    Raise Unusable: not our key, another name, no chain to a root, not valid now.
    """
    public = (
        _private(key)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    check_issued(read(chain), public, spiffe, read(roots), now, tolerance)


def check_issued(
    certificates: Sequence[x509.Certificate],
    public: bytes,
    spiffe: str,
    roots: Sequence[x509.Certificate],
    now: float,
    tolerance: float = TOLERANCE,
) -> list[x509.Certificate]:
    """Check that the first certificate is for the key `public` (DER) and for `spiffe` alone, and leads to a root.

    Return the path from it to the root. Raise Unusable.
    """
    first = certificates[0]
    if public_bytes(first) != public:
        raise Unusable("the certificate is for another key than the one that was asked for")
    if uris_of(first) != [spiffe] or others_of(first):
        raise Unusable(f"the certificate is for {', '.join(uris_of(first)) or 'nobody'}, not for {spiffe} alone")
    if is_ca(first):
        raise Unusable("the certificate is one of an authority")
    usages = _extension(first, x509.ExtendedKeyUsage)
    if usages is None or not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(usages):
        raise Unusable("the certificate is not for both ends of a connection (extended key usage)")
    path = path_to(certificates, roots)
    check_dates(path, now, tolerance)
    return path


def path_to(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the chain from its first certificate up to one of `roots`. Raise Unusable.

    RFC 5280 section 6.1, without dates.
    """
    path = [chain[0]]
    anchors = {root.public_bytes(serialization.Encoding.DER) for root in roots}
    while path[-1].public_bytes(serialization.Encoding.DER) not in anchors:
        if len(path) >= _MAX_DEPTH:
            raise Unusable(f"the chain is longer than {_MAX_DEPTH} certificates")
        above = next((upper for upper in (*roots, *chain[1:]) if upper not in path and issued(upper, path[-1])), None)
        if above is None:
            raise Unusable(f"the certificate of {name_of(path[-1])} does not lead to a root that is believed")
        path.append(above)
    for below, upper in enumerate(path[1:]):
        check_authority(upper, below)
        _check_names(upper, path[: below + 1])
    return path


def issued(upper: x509.Certificate, lower: x509.Certificate) -> bool:
    """Return whether `upper` issued `lower`, by name and by signature."""
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def check_authority(certificate: x509.Certificate, below: int) -> None:
    """Check that a certificate may sign, with `below` authorities between it and the leaf. Raise Unusable.

    RFC 5280 sections 4.2.1.3 and 4.2.1.9.
    """
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise Unusable(f"the certificate of {name_of(certificate)} is none of an authority (basic constraints)")
    if constraints.path_length is not None and constraints.path_length < below:
        raise Unusable(
            f"there are {below} authorities below {name_of(certificate)}, which allows {constraints.path_length} (path length)"
        )
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise Unusable(f"the certificate of {name_of(certificate)} may not sign certificates (key usage)")


def _check_names(authority: x509.Certificate, path: Sequence[x509.Certificate]) -> None:
    """Check name constraints for URIs (RFC 5280 section 4.2.1.10).

    The host must be the one named, or below it when that begins with a dot.
    """
    for certificate in path:
        for uri in uris_of(certificate):
            if not may_name(authority, uri):
                raise Unusable(f"{name_of(authority)} may not sign for {uri} (name constraints)")


def may_name(authority: x509.Certificate, uri: str) -> bool:
    """Return whether the name constraints of this one authority admit `uri`."""
    constraints = _extension(authority, x509.NameConstraints)
    if constraints is None:
        return True
    host = (urlsplit(uri).hostname or "").lower()

    def within(names: Sequence[x509.GeneralName] | None) -> list[bool]:
        bounds = [name.value.lower() for name in names or () if isinstance(name, x509.UniformResourceIdentifier)]
        return [host.endswith(bound) if bound.startswith(".") else host == bound for bound in bounds]

    permitted, excluded = within(constraints.permitted_subtrees), within(constraints.excluded_subtrees)
    return (any(permitted) or not permitted) and not any(excluded)


def may_name_host(authority: x509.Certificate, host: str) -> bool:
    """Return whether the name constraints of this one authority admit a DNS name: the one named, or any below it."""
    constraints = _extension(authority, x509.NameConstraints)
    if constraints is None:
        return True

    def within(names: Sequence[x509.GeneralName] | None) -> list[bool]:
        bounds = [name.value.lower().lstrip(".") for name in names or () if isinstance(name, x509.DNSName)]
        return [not bound or host == bound or host.endswith(f".{bound}") for bound in bounds]

    permitted, excluded = within(constraints.permitted_subtrees), within(constraints.excluded_subtrees)
    return (any(permitted) or not permitted) and not any(excluded)


def check_dates(path: Sequence[x509.Certificate], now: float, tolerance: float = TOLERANCE) -> None:
    """Check that all of these are valid now. Raise Unusable."""
    for certificate in path:
        begin, end = validity(certificate)
        if now < begin - tolerance:
            raise Unusable(
                f"the certificate of {name_of(certificate)} is valid from {_date(begin)} on, and our clock says {_date(now)}"
            )
        if now > end + tolerance:
            raise Unusable(
                f"the certificate of {name_of(certificate)} ended at {_date(end)}, and our clock says {_date(now)}"
            )


# one certificate


def read(pem: str | bytes) -> list[x509.Certificate]:
    """Return the certificates of a PEM text, at least one. Raise Unusable."""
    data = pem.encode("utf-8", "replace") if isinstance(pem, str) else pem
    if len(data) > _MAX_CHAIN:
        raise Unusable(f"more than {_MAX_CHAIN // 1024} KiB of certificates")
    try:
        certificates = x509.load_pem_x509_certificates(data)
        for certificate in certificates:
            _ = certificate.extensions, certificate.subject  # parsed on first access
            public_bytes(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise Unusable("there is no readable certificate (PEM)") from error
    return certificates


def validity(certificate: x509.Certificate) -> tuple[float, float]:
    """Return when a certificate begins and ends, in seconds since the epoch."""
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial number: hexadecimal, lower case, whole bytes, as OpenSSL writes it."""
    digits = f"{certificate.serial_number:x}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def node_of(certificate: x509.Certificate) -> str:
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return str(units[0].value) if len(units) == 1 else ""


def uris_of(certificate: x509.Certificate) -> list[str]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    return [] if names is None else list(names.get_values_for_type(x509.UniformResourceIdentifier))


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names of a certificate, in lower case."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    return () if names is None else tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


def others_of(certificate: x509.Certificate) -> bool:
    """Return whether a certificate has a name that is no URI."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    return names is not None and any(not isinstance(name, x509.UniformResourceIdentifier) for name in names)


def is_ca(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def public_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def name_of(certificate: x509.Certificate) -> str:
    """Return the name of a certificate for people: its URI, else its subject."""
    return next(iter(uris_of(certificate)), "") or certificate.subject.rfc4514_string() or "nobody"


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unusable("the private key cannot be read") from None  # the message must not show what was read
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise Unusable("the private key is not of the curve P-256")
    return loaded


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
