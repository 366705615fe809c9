"""First bytes -> protocol (sans-IO): the protocol of a connection whose Service does not declare one.

There is one function for each detectable protocol. It returns True if these bytes begin the protocol, False if they do
not, and None if more bytes could still decide. A table selects the functions and their order (protocols/table.py).
"""

from __future__ import annotations

import re

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
_MOST = 8192  # a longer request line is not waited for; the path limit is the same
# RFC 9112 section 3: method SP request-target SP HTTP-version. A prefix of a method, or a whole one.
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}\Z|[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} ")
_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} [^\r\n ]+ HTTP/1\.[0-9]\r?\Z")


def begins_tls(data: bytes) -> bool | None:
    """Detect a TLS record of type handshake and version 3.x (RFC 8446 section 5.1).

    One byte is enough for True: few protocols begin with it.
    """
    if not data:
        return None
    return data[0] == 0x16 and (len(data) < 2 or data[1] == 3)


def begins_http2(data: bytes) -> bool | None:
    """Detect HTTP/2 with prior knowledge: the whole preface."""
    if not _PREFACE.startswith(data[: len(_PREFACE)]):
        return False
    return True if len(data) >= len(_PREFACE) else None


def begins_http1(data: bytes) -> bool | None:
    """Detect HTTP/1: a whole request line.

    Other text protocols also begin with a word and a space (Redis: "GET key").
    """
    if not data:
        return None
    line, end, _ = data.partition(b"\n")
    if end:
        return _LINE.match(line) is not None
    if len(data) < _MOST and _METHOD.match(data) and b"\0" not in data:
        return None
    return False
