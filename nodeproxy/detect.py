"""First bytes -> protocol (sans-IO): what is this connection, when its Service did not say?"""

from __future__ import annotations

import re
from typing import Literal

Detected = Literal["http", "h2", "tls", "tcp"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
_MOST = 8192  # a request line longer than this is not waited for; the path limit is the same
# RFC 9112 section 3: method SP request-target SP HTTP-version. A prefix of one, or a whole one.
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}\Z|[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} ")
_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} [^\r\n ]+ HTTP/1\.[0-9]\r?\Z")


def detect(data: bytes) -> Detected | None:
    """The protocol that these first bytes begin, None while they could still become more than one.

    Whole request lines are waited for, because other text protocols also begin with a word and a space (Redis: "GET key").
    """
    if not data:
        return None
    if data[0] == 0x16:  # TLS record type handshake (RFC 8446 section 5.1)
        return "tls" if len(data) < 2 or data[1] == 3 else "tcp"
    if _PREFACE.startswith(data[: len(_PREFACE)]):
        return "h2" if len(data) >= len(_PREFACE) else None
    line, end, _ = data.partition(b"\n")
    if end:
        return "http" if _LINE.match(line) else "tcp"
    if len(data) < _MOST and _METHOD.match(data) and b"\0" not in data:
        return None
    return "tcp"
