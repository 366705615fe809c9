"""Roots, intermediates and what they sign, and the node's check of what came back; OpenSSL is asked for a second opinion."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.ca import Issuer
from agent.identity.csr import Unusable

NOW = 1_800_000_000.0
DAY = 86400.0
TD = "cluster.local"
ALICE = f"spiffe://{TD}/ns/shop/sa/alice"


@pytest.fixture(scope="module")
def root() -> Issuer:
    return ca.make_root(TD, NOW, 1 << 127)


@pytest.fixture(scope="module")
def site(root: Issuer) -> Issuer:
    return ca.make_intermediate(root, TD, "till-3", NOW, 0xABCDEF)


@pytest.fixture(scope="module")
def key() -> bytes:
    return csr.new_key()


def issue(
    issuer: Issuer, key: bytes, spiffe: str = ALICE, node: str = "till-3", lifetime: float = DAY, now: float = NOW
) -> str:
    return ca.sign(issuer, ca.read_csr(csr.request(key, spiffe)), spiffe, node, lifetime, now, 0x0A0B)


def loaded(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem.encode())[0]


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_certificate_says_what_the_authority_decided(root: Issuer, key: bytes) -> None:
    certificate = loaded(issue(root, key))
    extensions = {extension.value.__class__: extension for extension in certificate.extensions}
    names = extensions[x509.SubjectAlternativeName].value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert [(type(name), name.value) for name in names] == [(x509.UniformResourceIdentifier, ALICE)]
    assert [(item.oid, item.value) for item in certificate.subject] == [(NameOID.ORGANIZATIONAL_UNIT_NAME, "till-3")]
    constraints, usage, extended = (
        extensions[kind] for kind in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
    )
    assert constraints.critical and constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    assert usage.critical and isinstance(usage.value, x509.KeyUsage)
    assert usage.value.digital_signature and not usage.value.key_cert_sign and not usage.value.key_agreement
    assert isinstance(extended.value, x509.ExtendedKeyUsage)
    assert list(extended.value) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.serial_number == 0x0A0B
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


def test_facts(root: Issuer, site: Issuer, key: bytes) -> None:
    chain = issue(site, key)
    assert csr.facts(chain, root.root) == csr.Facts(ALICE, "till-3", "0a0b", NOW - 300, NOW + DAY, root.fingerprint)
    assert csr.facts(chain).root == ""
    assert csr.facts(chain, ca.make_root(TD, NOW, 5).root).root == ""
    assert chain.count("BEGIN CERTIFICATE") == 2  # the site's, and no root
    assert issue(root, key).count("BEGIN CERTIFICATE") == 1


def test_nothing_outlives_its_issuer(root: Issuer, key: bytes) -> None:
    late = root.not_after - 3600
    assert csr.facts(issue(root, key, now=late)).not_after == root.not_after
    with pytest.raises(Unusable, match="ended at"):
        issue(root, key, now=root.not_after + 1)
    with pytest.raises(Unusable, match="valid from"):
        issue(root, key, now=root.not_before - 1)
    # The backdating does not lead to before the issuer either.
    assert csr.facts(issue(root, key, now=root.not_before + 1)).not_before == root.not_before


def test_serials_need_128_bits() -> None:
    assert ca.serial(b"\xff" * 16) == (1 << 128) - 1
    assert ca.serial(b"\0" * 16) == 1
    with pytest.raises(ValueError, match="16 random bytes"):
        ca.serial(b"\xff" * 8)


def test_no_key_in_a_repr(root: Issuer, site: Issuer) -> None:
    for issuer in (root, site):
        assert "PRIVATE" not in repr(issuer) and "BEGIN" not in repr(issuer)


# what the authority is asked


def request_of(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, *names: x509.GeneralName
) -> str:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    algorithm = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(private, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def test_names_of_a_request_are_not_believed(root: Issuer) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    wishes = (x509.UniformResourceIdentifier(f"spiffe://{TD}/ns/bank/sa/vault"), x509.DNSName("bank.example"))
    chain = ca.sign(root, ca.read_csr(request_of(private, *wishes)), ALICE, "till-3", DAY, NOW, 1)
    assert csr.facts(chain).spiffe == ALICE
    csr.check(chain, private_pem(private), ALICE, root.root, NOW)


@pytest.mark.parametrize(
    "private",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "ed25519"],
)
def test_other_keys_are_refused(private: rsa.RSAPrivateKey) -> None:
    with pytest.raises(Unusable, match="P-256"):
        ca.read_csr(request_of(private))


def test_a_request_proves_possession_of_its_key(key: bytes) -> None:
    """The key of somebody else's request in ours, with our signature."""
    theirs = x509.load_pem_x509_csr(csr.request(csr.new_key(), ALICE).encode())
    ours = x509.load_pem_x509_csr(csr.request(key, ALICE).encode())
    point = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    der = ours.public_bytes(serialization.Encoding.DER)
    forged = der.replace(ours.public_key().public_bytes(*point), theirs.public_key().public_bytes(*point))
    assert forged != der
    pem = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(Unusable, match="not signed with the key"):
        ca.read_csr(pem)


@pytest.mark.parametrize(
    "text",
    ["", "x", "\0", "é", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"],
)
def test_garbage_is_no_request(text: str) -> None:
    with pytest.raises(Unusable, match="cannot be read"):
        ca.read_csr(text)


def test_a_request_cut_short_anywhere_is_no_request(key: bytes) -> None:
    der = x509.load_pem_x509_csr(csr.request(key, ALICE).encode()).public_bytes(serialization.Encoding.DER)
    import base64

    for at in range(0, len(der), 7):
        body = base64.b64encode(der[:at]).decode()
        with pytest.raises(Unusable):
            ca.read_csr(f"-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")


def test_a_huge_request_is_not_read() -> None:
    with pytest.raises(Unusable, match="larger than 8 KiB"):
        ca.read_csr("x" * 8193)


# what a node checks


def test_check_takes_what_was_asked_for(root: Issuer, site: Issuer, key: bytes) -> None:
    for issuer in (root, site):
        csr.check(issue(issuer, key), key, ALICE, root.root, NOW)
    both = ca.make_root(TD, NOW, 3).root + root.root
    csr.check(issue(site, key), key, ALICE, both, NOW)


def test_check_refuses_another_key(root: Issuer, key: bytes) -> None:
    with pytest.raises(Unusable, match="another key"):
        csr.check(issue(root, key), csr.new_key(), ALICE, root.root, NOW)


def test_check_refuses_another_name(root: Issuer, key: bytes) -> None:
    with pytest.raises(Unusable, match=r"is for .*/alice, not for .*/bob alone"):
        csr.check(issue(root, key), key, f"spiffe://{TD}/ns/shop/sa/bob", root.root, NOW)


def test_check_refuses_another_root(root: Issuer, site: Issuer, key: bytes) -> None:
    other = ca.make_root(TD, NOW, 2).root
    for issuer in (root, site):
        with pytest.raises(Unusable, match="does not lead to a root"):
            csr.check(issue(issuer, key), key, ALICE, other, NOW)
    without = issue(site, key).partition("-----END CERTIFICATE-----\n")
    with pytest.raises(Unusable, match="does not lead to a root"):
        csr.check(without[0] + without[1], key, ALICE, root.root, NOW)


@pytest.mark.parametrize(("now", "said"), [(NOW - 601, "valid from"), (NOW + DAY + 301, "ended at")])
def test_check_refuses_what_is_not_valid_now(now: float, said: str, root: Issuer, key: bytes) -> None:
    with pytest.raises(Unusable, match=said):
        csr.check(issue(root, key), key, ALICE, root.root, now)
    csr.check(issue(root, key), key, ALICE, root.root, now, tolerance=400)


def test_check_refuses_garbage(root: Issuer, key: bytes) -> None:
    for chain in ("", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x" * 70_000):
        with pytest.raises(Unusable):
            csr.check(chain, key, ALICE, root.root, NOW)
    with pytest.raises(Unusable, match="private key cannot be read") as caught:
        csr.check(issue(root, key), b"SECRET", ALICE, root.root, NOW)
    assert "SECRET" not in str(caught.value)


def made(
    issuer: Issuer, key: bytes, *extensions: x509.ExtensionType, spiffe: str = ALICE, dns: tuple[str, ...] = ()
) -> str:
    """A certificate that this authority would never make: an issuer that is not ours may."""
    signer = serialization.load_pem_private_key(issuer.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    public = serialization.load_pem_private_key(key, None).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    begin = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = x509.CertificateBuilder(
        loaded(issuer.certificates[0]).subject,
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made")]),
        public,
        9,
        begin,
        begin + datetime.timedelta(days=1),
    )
    names = [x509.UniformResourceIdentifier(spiffe), *(x509.DNSName(name) for name in dns)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode() + issuer.sent


BOTH_ENDS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def test_check_refuses_odd_certificates(root: Issuer, site: Issuer, key: bytes) -> None:
    csr.check(made(root, key, BOTH_ENDS), key, ALICE, root.root, NOW)
    with pytest.raises(Unusable, match="extended key usage"):
        csr.check(made(root, key), key, ALICE, root.root, NOW)
    with pytest.raises(Unusable, match="extended key usage"):
        csr.check(made(root, key, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])), key, ALICE, root.root, NOW)
    with pytest.raises(Unusable, match="one of an authority"):
        csr.check(
            made(root, key, BOTH_ENDS, x509.BasicConstraints(ca=True, path_length=None)), key, ALICE, root.root, NOW
        )


def test_check_refuses_a_name_beside_the_one_that_was_asked_for(root: Issuer, key: bytes) -> None:
    """Whoever reads names of hosts would take its holder for that host; a SPIFFE certificate of ours names one identity alone."""
    with pytest.raises(Unusable, match=f"not for {ALICE} alone"):
        csr.check(made(root, key, BOTH_ENDS, dns=("store.shop",)), key, ALICE, root.root, NOW)


def test_a_leaf_signs_nothing(root: Issuer, key: bytes) -> None:
    leaf = Issuer((issue(root, key), root.root), key)
    with pytest.raises(Unusable, match="none of an authority"):
        csr.check(made(leaf, key, BOTH_ENDS), key, ALICE, root.root, NOW)


def test_a_site_makes_no_authority_below_it(site: Issuer, root: Issuer, key: bytes) -> None:
    with pytest.raises(Unusable, match="path length"):
        ca.make_intermediate(site, TD, "till-4", NOW, 8)
    below = made(site, key, x509.BasicConstraints(ca=True, path_length=None), spiffe=f"spiffe://{TD}/x")
    deeper = Issuer(
        (below.partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n", *site.certificates), key
    )
    with pytest.raises(Unusable, match="path length"):
        csr.check(made(deeper, key, BOTH_ENDS), key, ALICE, root.root, NOW)


def test_a_site_signs_for_its_trust_domain_alone(site: Issuer, root: Issuer, key: bytes) -> None:
    foreign = "spiffe://elsewhere.example/ns/shop/sa/alice"
    with pytest.raises(Unusable, match="name constraints"):
        issue(site, key, foreign)
    with pytest.raises(Unusable, match="name constraints"):
        csr.check(made(site, key, BOTH_ENDS, spiffe=foreign), key, foreign, root.root, NOW)


@pytest.mark.parametrize(
    ("bound", "host", "within"),
    [
        ("mesh", "mesh", True),
        ("mesh", "MESH", True),
        ("mesh", "evilmesh", False),
        ("mesh", "sub.mesh", False),
        ("mesh", "mesh.evil", False),
        (".mesh", "sub.mesh", True),
        (".mesh", "a.b.mesh", True),
        (".mesh", "mesh", False),
        (".mesh", "evilmesh", False),
    ],
)
def test_whom_a_name_constraint_means(root: Issuer, bound: str, host: str, within: bool) -> None:
    """RFC 5280 section 4.2.1.10: of a URI the host; exactly that one, or with a leading period what is below it."""
    for constraints, admitted in (
        (x509.NameConstraints([x509.UniformResourceIdentifier(bound)], None), within),
        (x509.NameConstraints(None, [x509.UniformResourceIdentifier(bound)]), not within),
    ):
        authority = loaded(made(root, csr.new_key(), constraints))
        assert csr.may_name(authority, f"spiffe://{host}/ns/shop/sa/alice") is admitted


# an authority made elsewhere


def test_load_takes_a_site_intermediate(site: Issuer, root: Issuer, key: bytes) -> None:
    found = ca.load("".join(site.certificates).encode(), site.key, TD, NOW)
    assert found.certificates == site.certificates
    csr.check(issue(found, key), key, ALICE, root.root, NOW)
    assert ca.load(root.root.encode(), root.key, TD, NOW).certificates == root.certificates
    assert ca.restore("".join(site.certificates), site.key) == site


def test_load_takes_rsa(key: bytes) -> None:
    signer = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example Corp root")])
    begin = datetime.datetime.fromtimestamp(NOW - 10, datetime.UTC)
    builder = x509.CertificateBuilder(name, name, signer.public_key(), 77, begin, begin + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    issuer = ca.load(pem, private_pem(signer), TD, NOW)
    csr.check(issue(issuer, key), key, ALICE, issuer.root, NOW)
    site = ca.make_intermediate(issuer, TD, "till-3", NOW, 5)
    csr.check(issue(site, key), key, ALICE, issuer.root, NOW)


def test_load_refuses(site: Issuer, root: Issuer, key: bytes) -> None:
    chain = "".join(site.certificates).encode()
    for certificates, private, td, now, said in (
        (chain, root.key, TD, NOW, "not that of the first certificate"),
        (root.root.encode() + site.certificates[0].encode(), site.key, TD, NOW, "not that of the first certificate"),
        (site.certificates[0].encode(), site.key, TD, NOW, "holds no root"),
        (
            site.certificates[0].encode() + ca.make_root(TD, NOW, 4).root.encode(),
            site.key,
            TD,
            NOW,
            "does not lead to a root",
        ),
        (chain, site.key, "other.example", NOW, "name constraints"),
        (chain, site.key, TD, NOW + 366 * DAY, "ended at"),
        (chain, site.key, TD, NOW - DAY - 1, "valid from"),
        (issue(root, key).encode() + root.root.encode(), key, TD, NOW, "none of an authority"),
        (b"nonsense", site.key, TD, NOW, "no readable certificate"),
        (chain, b"nonsense", TD, NOW, "issuing key cannot be read"),
        (chain, private_pem(ed25519.Ed25519PrivateKey.generate()), TD, NOW, "neither ECDSA"),
    ):
        with pytest.raises(Unusable, match=said):
            ca.load(certificates, private, td, now)


def test_load_wants_an_open_key(site: Issuer) -> None:
    private = serialization.load_pem_private_key(site.key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    protection = serialization.BestAvailableEncryption(b"word")
    shut = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    with pytest.raises(Unusable, match="is encrypted"):
        ca.load("".join(site.certificates).encode(), shut, TD, NOW)


# a second opinion


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_openssl_agrees(root: Issuer, site: Issuer, key: bytes, tmp_path: Path) -> None:
    def verify(anchor: str, chain: str, purpose: str = "sslserver", at: float = NOW) -> tuple[int, str]:
        leaf, end, above = chain.partition("-----END CERTIFICATE-----\n")
        for name, text in (("root.pem", anchor), ("leaf.pem", leaf + end), ("above.pem", above)):
            (tmp_path / name).write_text(text)
        words = [
            "openssl",
            "verify",
            "-x509_strict",
            "-attime",
            str(int(at)),
            "-purpose",
            purpose,
            "-CAfile",
            "root.pem",
        ]
        words += ["-untrusted", "above.pem"] if above else []
        done = subprocess.run([*words, "leaf.pem"], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    for issuer in (root, site):
        for purpose in ("sslserver", "sslclient"):
            assert verify(root.root, issue(issuer, key), purpose) == (0, "leaf.pem: OK\n")
        assert verify(root.root, issue(issuer, key), at=NOW + DAY + 1)[0] != 0
        assert verify(ca.make_root(TD, NOW, 6).root, issue(issuer, key))[0] != 0
    assert (
        "permitted subtree violation"
        in verify(root.root, made(site, key, BOTH_ENDS, spiffe="spiffe://b.example/ns/a/sa/b"))[1]
    )


# a client outside the mesh


def test_a_client_s_certificate_is_for_calling_alone(root: Issuer, site: Issuer, tmp_path: Path) -> None:
    hosts = ("alice.shop.cluster.local", "alice.example.com")
    chain, own = ca.make_client(site, ALICE, hosts, DAY, NOW, 0x0A0B)
    certificate = loaded(chain)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [ALICE]
    assert names.get_values_for_type(x509.DNSName) == list(hosts)
    assert csr.facts(chain, root.root).root == root.fingerprint
    assert csr.facts(chain).not_after == NOW + DAY
    ca.restore(chain, own)
    alone, key = ca.make_client(site, ALICE, (), DAY, NOW, 0x0A0B)
    with pytest.raises(Unusable, match="both ends"):
        csr.check(alone, key, ALICE, root.root, NOW)
    leaf, end, above = chain.partition("-----END CERTIFICATE-----\n")
    for name, text in (("root.pem", root.root), ("leaf.pem", leaf + end), ("above.pem", above)):
        (tmp_path / name).write_text(text)
    for purpose, good in (("sslclient", True), ("sslserver", False)):
        words = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW)), "-purpose", purpose]
        words += ["-CAfile", "root.pem", "-untrusted", "above.pem", "leaf.pem"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is good, done.stdout + done.stderr


def test_a_client_has_an_identity_or_names_or_both(root: Issuer) -> None:
    for spiffe, hosts in ((ALICE, ()), ("", ("a.example.com",)), ("", ("x" * 63 + ".example.com",))):
        chain, _ = ca.make_client(root, spiffe, hosts, DAY, NOW, 7)
        assert csr.facts(chain).spiffe == spiffe


def test_a_client_gets_no_name_that_the_issuer_may_not_give(site: Issuer) -> None:
    with pytest.raises(Unusable, match="does not allow spiffe://b"):
        ca.make_client(site, "spiffe://b.example/ns/a/sa/b", (), DAY, NOW, 7)


@pytest.mark.parametrize(
    ("bound", "host", "within"),
    [
        ("example.com", "example.com", True),
        ("example.com", "a.b.example.com", True),
        (".example.com", "a.example.com", True),
        ("example.com", "badexample.com", False),
        ("example.com", "example.com.evil", False),
        ("a.example.com", "example.com", False),
    ],
)
def test_which_hosts_a_name_constraint_means(root: Issuer, bound: str, host: str, within: bool) -> None:
    for constraints, admitted in (
        (x509.NameConstraints([x509.DNSName(bound)], None), within),
        (x509.NameConstraints(None, [x509.DNSName(bound)]), not within),
        (x509.NameConstraints([x509.UniformResourceIdentifier("mesh")], None), True),
    ):
        authority = loaded(made(root, csr.new_key(), constraints))
        assert csr.may_name_host(authority, host) is admitted


# somebody else signs


WHO = b'{"name":"company"}'


def test_a_certificate_that_somebody_else_signed_is_given_out_without_its_root(root: Issuer, site: Issuer) -> None:
    private = csr.new_key()
    public = ca.read_csr(csr.request(private, ALICE, "till-3"))
    outside = ca.elsewhere(root.root.encode(), WHO, TD, NOW)
    assert (outside.elsewhere, outside.root, root.elsewhere) == (WHO, root.root, b"")
    assert ca.restore(outside.root, outside.key) == outside
    chain = issue(site, private)
    taken, said = ca.take_over(outside, f"{chain}{root.root}{chain}", public, ALICE, "till-3", DAY, NOW)
    assert taken == chain, "the path alone, each once"
    assert (said.spiffe, said.node, said.root) == (ALICE, "till-3", root.fingerprint)
    csr.check(taken, private, ALICE, root.root, NOW)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"spiffe": f"spiffe://{TD}/ns/shop/sa/bob"}, "not for .*alice alone"),
        ({"node": "till-4"}, "must be the request's, OU=till-3"),
        ({"node": ""}, "must be the request's, OU=till-3"),
        ({"lifetime": 2 * DAY}, "172800 s from now, and 86400 s were asked for"),
        ({"lifetime": 600.0}, "ends 600 s from now already"),
        ({"now": NOW - 3 * DAY, "lifetime": DAY}, "ended at"),
    ],
)
def test_a_certificate_that_says_something_else_is_not_given_out(
    root: Issuer, key: bytes, changed: dict[str, object], said: str
) -> None:
    old = ca.make_root(TD, NOW - 5 * DAY, 3)
    chain = issue(old, key, **changed)  # type: ignore[arg-type]
    outside = ca.elsewhere(old.root.encode(), WHO, TD, NOW)
    with pytest.raises(Unusable, match=said):
        ca.take_over(outside, chain, ca.read_csr(csr.request(key, ALICE)), ALICE, "till-3", DAY, NOW)


def test_neither_another_key_nor_another_root_is_given_out(root: Issuer, site: Issuer, key: bytes) -> None:
    outside = ca.elsewhere(root.root.encode(), WHO, TD, NOW)
    own = ca.read_csr(csr.request(key, ALICE))
    with pytest.raises(Unusable, match="another key"):
        ca.take_over(outside, issue(root, csr.new_key()), own, ALICE, "till-3", DAY, NOW)
    stranger = ca.make_root(TD, NOW, 5)
    with pytest.raises(Unusable, match="does not lead to a root"):
        ca.take_over(outside, issue(stranger, key), own, ALICE, "till-3", DAY, NOW)
    without = issue(site, key).partition("-----END CERTIFICATE-----\n")
    with pytest.raises(Unusable, match="does not lead to a root"):
        ca.take_over(outside, without[0] + without[1], own, ALICE, "till-3", DAY, NOW)


def test_only_a_root_alone_may_be_one_that_somebody_else_signs_for(root: Issuer, site: Issuer, key: bytes) -> None:
    for pem, said in (
        (site.certificates[0], "is no root"),
        (site.certificates[0] + root.root, "there are 2 certificates"),
        (issue(root, key), "is no root"),
        ("", "no readable certificate"),
    ):
        with pytest.raises(Unusable, match=said):
            ca.elsewhere(pem.encode(), WHO, TD, NOW)
    with pytest.raises(Unusable, match="ended at"):
        ca.elsewhere(root.root.encode(), WHO, TD, NOW + 20 * 365 * DAY)
