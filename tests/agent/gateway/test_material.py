"""From a Secret's content to a certificate, or why not; no message shows a key."""

import time

import pytest

from agent.gateway.material import Unusable, certificate_of, roots_of


def content(mint, **more):
    made = mint.credentials(**{"dns": ("WWW.shop.example", "*.shop.example"), **more})
    return {"tls.crt": made.chain, "tls.key": made.key}


@pytest.mark.parametrize("key", ["p256", "p384", "rsa"])
def test_a_certificate_with_its_hosts_and_dates(mint, key):
    found = certificate_of("shop/tls", content(mint, key=key, ca=mint.root.intermediate()))
    assert found.name == "shop/tls"
    assert found.hosts == ("www.shop.example", "*.shop.example")
    assert found.not_before < time.time() < found.not_after


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tls.crt": b""}, r"it has no tls\.crt"),
        ({"tls.crt": b" ", "tls.key": b""}, r"it has no tls\.crt and tls\.key"),
        ({"tls.crt": b"-----BEGIN CERTIFICATE-----"}, "no readable certificate"),
        ({"tls.key": b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----"}, "cannot be used"),
        ({"tls.crt": b"x" * 70000}, "more than 64 KiB"),
    ],
)
def test_what_cannot_be_used_says_why_and_shows_nothing(mint, change, why):
    with pytest.raises(Unusable, match=why) as error:
        certificate_of("shop/tls", {**content(mint), **change})
    assert "secret" not in str(error.value)


def test_a_key_of_another_certificate_is_told(mint):
    with pytest.raises(Unusable, match="shop/tls cannot be used"):
        certificate_of("shop/tls", {**content(mint), "tls.key": content(mint)["tls.key"]})


def test_roots(mint):
    assert roots_of({"ca.crt": mint.root.pem}) == mint.root.pem
    for wrong in ({}, {"ca.crt": b"roots"}, {"ca.crt": b"x" * 300_000}):
        with pytest.raises(Unusable):
            roots_of(wrong)
