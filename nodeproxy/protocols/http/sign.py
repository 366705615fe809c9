"""Filters that sign requests, and that refuse those without a good signature (policy/route.py, Sign and Verify).

A signature is `t=SECONDS, v1=HEX`: the time, and HMAC-SHA256 with the key over these lines, each ended by a line feed:
the time, the method, the target, one `name: value` for each named field in the order of the configuration (values of
several fields joined by ", ", and "name" alone for one that is absent), and the SHA-256 of the body in hexadecimal if
the body is signed. No part can contain a line feed, so no two requests have the same lines.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.protocols.http.interfaces import CallFilter
from policy.route import Sign, Signature, Verify

if TYPE_CHECKING:
    from nodeproxy.protocols.http.interfaces import Acting

BODY = 65536  # bytes of a body that is signed
_SIGNATURE = re.compile(rb"t=([0-9]{1,12}), ?v1=([0-9a-f]{64})")
_PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]


class _Signing(CallFilter):
    def __init__(self, config: Sign | Verify) -> None:
        self._what: Signature = config.what
        self._field = config.what.field.encode("latin-1")
        self._fields = [name.encode("latin-1") for name in config.what.fields]

    async def _mac(self, head: RequestHead, call: Acting, at: bytes) -> str:
        """Return the HMAC of the request at this time. Raise Refused if it cannot be made."""
        key = call.conn.context.keys.get(self._what.key)
        if key is None:
            raise Refused("filter-failed", f"this node has no key {self._what.key}")
        lines = [at, head.method, head.target]
        for name in self._fields:
            values = [head.host or b""] if name == b"host" else [v for field, v in head.fields if field == name]
            lines.append(name + b": " + b", ".join(values) if values else name)
        if self._what.body:
            body = await call.body(BODY)
            if body is None:
                raise Answered(413, _PLAIN, b"the body is too large to be signed\n", f"more than {BODY} bytes")
            lines.append(hashlib.sha256(body).hexdigest().encode())
        return hmac.new(key, b"".join(line + b"\n" for line in lines), hashlib.sha256).hexdigest()

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """The response is left as it is."""


class Signs(_Signing):
    """Signs the request, in the place of a signature that the caller sent."""

    async def act(self, head: RequestHead, call: Acting) -> None:
        at = b"%d" % time.time()
        head.set_field(self._field, b"t=%b, v1=%b" % (at, (await self._mac(head, call, at)).encode()))


class Verifies(_Signing):
    """Answers 401 to a request without a good signature."""

    async def act(self, head: RequestHead, call: Acting) -> None:
        values = [value for name, value in head.fields if name == self._field]
        found = _SIGNATURE.fullmatch(values[0]) if len(values) == 1 else None
        if found is None:
            raise _unsigned("there is no signature" if not values else "the signature is malformed")
        if abs(time.time() - int(found[1])) > self._what.age:
            raise _unsigned("the signature is of another time")
        if not hmac.compare_digest((await self._mac(head, call, found[1])).encode(), found[2]):
            raise _unsigned("the signature is not that of this request")


def _unsigned(why: str) -> Answered:
    return Answered(401, _PLAIN, why.encode() + b"\n", why)
