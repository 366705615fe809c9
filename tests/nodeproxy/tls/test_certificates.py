"""Which certificate a client gets: exact before wildcard before the first; and that none shows its key."""

import msgspec
import pytest

from nodeproxy.tls.certificates import Certificates, ServerCertificate


def certificate(name, *hosts):
    return ServerCertificate(name, hosts, b"chain", b"-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize(
    ("host", "got"),
    [
        ("www.shop.example", "exact"),
        ("api.shop.example", "wildcard"),
        ("shop.example", "first"),  # a wildcard is one label
        ("a.b.shop.example", "first"),
        ("", "first"),
        ("other.example", "first"),
    ],
)
def test_exact_before_wildcard_before_the_first(host, got):
    held = Certificates()
    held.take(
        [
            certificate("first", "first.example"),
            certificate("wildcard", "*.shop.example"),
            certificate("exact", "www.shop.example"),
            certificate("another's", "other.example"),
        ]
    )
    chosen = held.choose(("first", "wildcard", "exact", "gone"), host)
    assert chosen.name == got


def test_of_two_that_fit_alike_the_first_is_taken():
    held = Certificates()
    held.take([certificate("b", "*.a"), certificate("a", "*.a")])
    assert held.choose(("a", "b"), "x.a").name == "a"
    assert held.choose(("b", "a"), "x.a").name == "b"


def test_what_is_not_here_is_not_chosen():
    held = Certificates()
    assert held.choose(("a",), "a") is None
    held.take([certificate("a", "a")])
    assert "a" in held
    held.take([])
    assert "a" not in held
    assert held.choose(("a",), "a") is None


def test_a_key_is_not_shown():
    one = certificate("a", "a.example")
    held = Certificates()
    held.take([one])
    for text in (repr(one), str(one), f"{held!r}", repr([one])):
        assert "PRIVATE" not in text
    assert "a.example" in repr(one)
    assert msgspec.structs.replace(one, key=b"x") != one  # a renewed key is another certificate
