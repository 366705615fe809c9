"""protocols.py: how ports declare what they speak."""

import pytest

from policy.protocols import APP_PROTOCOLS, FIRST_WORDS, PROTOCOLS, by_port_name, is_opaque


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("http", "http"),
        ("HTTP-web", "http"),
        ("httpweb", ""),
        ("https", ""),
        ("http2-web", ""),
        ("grpc-api", "grpc"),
        ("tcp", "tcp"),
        ("tcp-db", "tcp"),
        ("tcp-server", "tcp"),
        ("tcp-server-first", "tcp-server-first"),
        ("tcp-server-first-mysql", "tcp-server-first"),
        ("tcp-server-firsts", "tcp"),
        ("web-http", ""),
        ("", ""),
    ],
)
def test_a_name_declares_by_its_first_words(name, protocol):
    assert by_port_name(name) == protocol


def test_each_spelling_means_one_protocol():
    words = [word for row in PROTOCOLS.values() for word in row.app_protocols]
    prefixes = [word for row in PROTOCOLS.values() for word in row.prefixes]
    assert len(set(words)) == len(words) == len(APP_PROTOCOLS)
    assert len(set(prefixes)) == len(prefixes)
    assert all(word == word.lower() for word in words + prefixes)
    assert FIRST_WORDS == ("http", "grpc", "tcp")


def test_what_is_opaque():
    assert [name for name in ("", "http", "grpc", "tcp", "tcp-server-first", "other") if is_opaque(name)] == [
        "tcp",
        "tcp-server-first",
    ]
