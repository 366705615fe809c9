"""The certificate of the chapters' gateway."""

from __future__ import annotations

import ssl

from agent.demo import certificate


def test_it_can_be_presented_and_its_key_is_its_owners(tmp_path):
    folder = tmp_path / "shop" / "front"
    certificate.write(folder, "web.example")
    assert (folder / "tls.key").stat().st_mode & 0o777 == 0o600
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    trusting = ssl.create_default_context(cafile=folder / "tls.crt")
    assert trusting.get_ca_certs()[0]["subjectAltName"] == (("DNS", "web.example"),)
