"""Balancing: how the calls to one Service are spread over its endpoints. Without one they go where least is under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Algorithm = Literal["least-request", "round-robin", "ring-hash", "maglev"]


class Balancing(Struct, frozen=True):
    """How one Service is balanced. "ring-hash" and "maglev" hash one thing of a call: exactly one of the last three.

    It holds at the caller's node, for each calling workload by itself, among the endpoints that may take the call.
    """

    name: str  # the object that says it: "LoadBalancing shop/stock"
    algorithm: Algorithm
    header: str = ""  # the field of this name, in lower case; several of them are one value, joined
    cookie: str = ""  # the cookie of this name; the first, if there are several
    address: bool = False  # the caller's address

    @property
    def hashes(self) -> bool:
        return self.algorithm in ("ring-hash", "maglev")

    @property
    def settled(self) -> bool:
        """Whether all calls of one caller go to one endpoint."""
        return self.address

    def key(self, fields: Sequence[tuple[bytes, bytes]] | None, address: str) -> bytes | None:
        """Return what is hashed of a call; None where it has no such thing. `fields`: None for an opaque stream."""
        if self.address:
            return address.encode()
        if fields is None:
            return None
        if self.header:
            wanted = self.header.encode("latin-1")
            values = [value for name, value in fields if name == wanted]
            return b", ".join(values) if values else None
        wanted = self.cookie.encode("latin-1")
        for name, value in fields:
            if name != b"cookie":  # HTTP/2 may have several (RFC 9113 section 8.2.3)
                continue
            for pair in value.split(b";"):
                named, is_one, content = pair.strip(b" \t").partition(b"=")
                if is_one and named == wanted:
                    return content
        return None


_WORDS: dict[Algorithm, str] = {
    "least-request": "calls go to the endpoint with less under way, of two that are chosen by chance",
    "round-robin": "each call goes to the next endpoint in turn",
    "ring-hash": "calls go to an endpoint by a hash ring",
    "maglev": "calls go to an endpoint by a Maglev table",
}


def balancing_words(one: Balancing) -> str:
    """Return how a Service is balanced, in words."""
    said = f"{one.name}: {_WORDS[one.algorithm]}"
    if not one.hashes:
        return said
    of = f"field {one.header}" if one.header else f"cookie {one.cookie}" if one.cookie else "the caller's address"
    return f"{said} of {of}"
