"""The table of protocols: first bytes lead to one row, whole, byte by byte, with trailing bytes, and for anything at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.protocols import table
from nodeproxy.protocols.table import HANDLERS, OPAQUE, handler
from policy.protocols import PROTOCOLS


def detect(data):
    found = table.detect(data)
    return found and found.name


CASES = [
    (b"GET / HTTP/1.1\r\n", "http"),
    (b"POST /a?b=c HTTP/1.0\r\n", "http"),
    (b"OPTIONS * HTTP/1.1\n", "http"),
    (b"CONNECT example.com:443 HTTP/1.1\r\n", "http"),
    (b"BREW-COFFEE /pot HTTP/1.1\r\n", "http"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "h2"),
    (b"PRIVATE / HTTP/1.1\r\n", "http"),
    (b"\x16\x03\x01\x02\x00", "tls"),
    (b"\x16\x99", "tcp"),
    (b"GET key\r\n", "tcp"),  # Redis
    (b"GET / HTTP/2.0\r\n", "tcp"),
    (b"*1\r\n", "tcp"),  # Redis again
    (b"HELO box\r\n", "tcp"),
    (b"\x10\x0c\x00\x04MQTT", "tcp"),
    (b"\x00", "tcp"),
    (b"a" * 40, "tcp"),
    (b"GET /" + b"a" * 9000, "tcp"),
]


@pytest.mark.parametrize(("data", "protocol"), CASES)
def test_whole_and_with_trailing_bytes(data, protocol):
    assert detect(data) == protocol
    assert detect(data + b"\xff more") == protocol


@pytest.mark.parametrize(("data", "protocol"), CASES)
def test_byte_by_byte_changes_its_mind_never(data, protocol):
    seen = {found for end in range(len(data) + 1) if (found := detect(data[:end]))}
    assert seen <= {protocol} or (data[0] == 0x16 and seen == {"tls", "tcp"})


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_any_bytes_are_answered_and_more_bytes_do_not_change_an_answer(data, more):
    first = detect(data)
    if first is not None and len(data) > 1:
        assert detect(data + more) == first


def test_what_policy_calls_opaque_is_served_as_a_stream():
    for name, declared in PROTOCOLS.items():
        assert handler(name).requests != declared.opaque, name
    assert not OPAQUE.requests


def test_whatever_has_no_row_is_opaque():
    assert handler("mysql") is handler("tcp") is OPAQUE


def test_a_protocol_is_its_row(monkeypatch):
    async def serve(conn, route):
        pass

    mqtt = table.Handler("mqtt", serve, "mqtt", lambda data: data[:1] == b"\x10" if data else None)
    monkeypatch.setitem(HANDLERS, "mqtt", mqtt)
    assert table.detect(b"\x10\x0c\x00\x04MQTT") is handler("mqtt") is mqtt
    assert detect(b"GET / HTTP/1.1\r\n") == "http"
