"""Certificates for tests: authorities, intermediates, and whatever may be right or wrong with what they sign."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodeproxy.tls.credentials import Credentials, Trust

HOUR, DAY = 3600.0, 86400.0
_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Authority:
    """A root (`above` is None) or an intermediate."""

    def __init__(self, certificate, key, above=None):
        self.certificate = certificate
        self.key = key
        self.above = above

    def __repr__(self):
        return f"<Authority {self.certificate.subject.rfc4514_string()}>"

    @property
    def pem(self):
        return pem(self.certificate)

    @property
    def root(self):
        return self.above.root if self.above else self

    @property
    def sent(self):
        """What follows a certificate that it signed: itself and what leads to the root, without the root."""
        return self.pem + self.above.sent if self.above else b""

    def intermediate(self, name="site", permitted=(), not_before=None, not_after=None, key="p256"):
        """`permitted`: host parts of URIs that it may sign for (RFC 5280 section 4.2.1.10)."""
        return _authority(name, self, not_before, not_after, key, permitted)


class Mint:
    """Credentials are valid from an hour ago for a day from now, and authorities for a year, unless it is said otherwise.

    Times are seconds since the epoch. Who signs is `root`, unless it is said otherwise.
    """

    def __init__(self):
        self.root = self.ca("root")

    def ca(self, name="root", not_before=None, not_after=None, key="p256"):
        return _authority(name, None, not_before, not_after, key, ())

    def credentials(
        self,
        spiffe="",
        node="",
        ca=None,
        not_before=None,
        not_after=None,
        extra_sans=(),
        dns=(),
        key="p256",
        usages=_BOTH,
    ):
        """`spiffe` "" leaves the URI out; `extra_sans` are more URIs, `dns` host names; `key`: "p256", "p384" or "rsa"."""
        ca = ca or self.root
        begin, end = _period(not_before, not_after, HOUR, DAY)
        private = _new_key(key)
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, node)] if node else [])
        names = [x509.UniformResourceIdentifier(uri) for uri in ((spiffe,) if spiffe else ()) + tuple(extra_sans)]
        names += [x509.DNSName(name) for name in dns]
        builder = (
            _builder(subject, ca.certificate.subject, private, begin, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(leaf=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
        )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            # Critical where the subject is empty (RFC 5280 section 4.2.1.6).
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not node)
        certificate = builder.sign(ca.key, hashes.SHA256())
        return Credentials(
            spiffe, pem(certificate) + ca.sent, _key_pem(private), f"{certificate.serial_number:x}", begin, end
        )

    def trust(self, *cas, trust_domain="cluster.local", tolerance=300.0):
        return Trust(trust_domain, b"".join(ca.root.pem for ca in cas or (self.root,)), tolerance)

    def spiffe(self, account="buyer", namespace="shop", trust_domain="cluster.local"):
        return f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def _authority(name, above, not_before, not_after, key, permitted):
    begin, end = _period(not_before, not_after, 30 * DAY, 365 * DAY)
    private = _new_key(key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = above.key if above else private
    builder = (
        _builder(subject, above.certificate.subject if above else subject, private, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(leaf=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if permitted:
        hosts = [x509.UniformResourceIdentifier(host) for host in permitted]
        builder = builder.add_extension(x509.NameConstraints(hosts, None), critical=True)
    return Authority(builder.sign(signer, hashes.SHA256()), private, above)


def _builder(subject, issuer, key, begin, end):
    first, last = (datetime.fromtimestamp(int(at), UTC) for at in (begin, end))
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
    )


def _period(not_before, not_after, back, ahead):
    """Whole seconds, as a certificate has them."""
    now = time.time()
    begin = float(int(now - back if not_before is None else not_before))
    return begin, float(int(max(now, begin) + ahead if not_after is None else not_after))


def _usage(leaf):
    return x509.KeyUsage(
        digital_signature=leaf,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key(kind):
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}[kind])


def _key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
