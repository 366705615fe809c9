"""What first bytes begin: yes, no, or not told yet. The table of protocols has the rest (tests/nodeproxy/protocols/test_table.py)."""

import pytest

from nodeproxy.codec.detect import begins_http1, begins_http2, begins_tls

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize(
    ("begins", "data", "told"),
    [
        (begins_tls, b"", None),
        (begins_tls, b"\x16", True),
        (begins_tls, b"\x16\x03\x01", True),
        (begins_tls, b"\x16\x99", False),
        (begins_tls, b"GET", False),
        (begins_http2, b"", None),
        (begins_http2, b"PRI * HTTP/2.0", None),
        (begins_http2, PREFACE[:-1], None),
        (begins_http2, PREFACE, True),
        (begins_http2, PREFACE + b"\0", True),
        (begins_http2, b"PRIVATE", False),
        (begins_http1, b"", None),
        (begins_http1, b"GET", None),
        (begins_http1, b"GET /", None),
        (begins_http1, b"GET / HTTP/1.1\r\n", True),
        (begins_http1, b"GET key\r\n", False),
        (begins_http1, b"GET /\0", False),
        (begins_http1, PREFACE, False),
        (begins_http1, b"GET /" + b"a" * 9000, False),
    ],
)
def test_yes_no_or_not_told_yet(begins, data, told):
    assert begins(data) is told
