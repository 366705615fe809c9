"""PROTOCOLS: every protocol that a Service port can declare, one row each: its name, how people write it, what it means
to policy.

The data plane has its own table for what it does with a connection (how its first bytes look, which file serves it).
That table may name protocols that no port declares, such as TLS. Its rows are found by the names in this table.
"""

from __future__ import annotations

from msgspec import Struct

from policy.model import Protocol


class Declared(Struct, frozen=True):
    """How a Service port declares a protocol, and what follows from it."""

    name: Protocol
    # A port's name declares it if it is one of these words, or begins with one and "-" (as in Istio and OSM:
    # "http-web").
    prefixes: tuple[str, ...]
    app_protocols: tuple[str, ...]  # `appProtocol` of the port, in lower case; it takes precedence over the name
    opaque: bool  # policy sees a stream of bytes, and no requests: a TCPRoute has to admit it


PROTOCOLS: dict[Protocol, Declared] = {
    row.name: row
    for row in (
        Declared("http", ("http",), ("http", "kubernetes.io/ws"), opaque=False),
        Declared("grpc", ("grpc",), ("grpc", "kubernetes.io/h2c"), opaque=False),
        Declared("tcp", ("tcp",), ("tcp", "https", "kubernetes.io/wss"), opaque=True),
        Declared("tcp-server-first", ("tcp-server-first",), ("tcp-server-first",), opaque=True),
    )
}
APP_PROTOCOLS: dict[str, Protocol] = {word: row.name for row in PROTOCOLS.values() for word in row.app_protocols}
# The longest first: "tcp-server-first-db" is not tcp.
_PREFIXES = sorted(
    ((word, row.name) for row in PROTOCOLS.values() for word in row.prefixes), key=lambda pair: -len(pair[0])
)
FIRST_WORDS = tuple(dict.fromkeys(word.partition("-")[0] for row in PROTOCOLS.values() for word in row.prefixes))


def by_port_name(name: str) -> Protocol:
    """Return the protocol that a port's name declares; "" if it declares none."""
    name = name.lower()
    return next((protocol for word, protocol in _PREFIXES if name == word or name.startswith(f"{word}-")), "")


def is_opaque(protocol: Protocol) -> bool:
    """Return whether policy certainly sees this protocol as a stream of bytes.

    "" (no protocol declared) is not certain: its first bytes may be a request.
    """
    row = PROTOCOLS.get(protocol)
    return row is not None and row.opaque
