"""The header by which a proxy before this node says who calls (sans-IO): PROXY protocol, versions 1 and 2.

Whoever may send it may claim any address, so only connections of trusted proxies are asked for it, and those have to
begin with it. The parser is strict: what two readers could read in two ways is no header.
"""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

# Section 2.1: the longest line of version 1, with CRLF. Version 2 may be 65,551 bytes; its addresses have 36, and what
# load balancers add to them (TLS, an id of the private endpoint, a checksum) a few hundred.
MOST_1, MOST_2 = 107, 4096
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_BEGINS_1 = b"PROXY "
_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) ([0-9]{1,5}) ([0-9]{1,5})")
_LOCAL, _PROXY = 0x20, 0x21  # version 2, and the command
_UNSPECIFIED = 0x00
# Bytes of an address, by family and transport. Datagrams and Unix sockets do not come to a TCP listener.
_ADDRESS = {0x11: 4, 0x21: 16}
_HEAD = 16  # bytes of version 2 before its addresses

Address = tuple[str, int]


class Proxied(Struct, frozen=True):
    """What a proxy said of a connection.

    `source` None: it speaks for itself, as for a health check, or does not know: the connection's own addresses count.
    """

    source: Address | None
    destination: Address | None
    size: int  # bytes of the header: what follows is the connection's


def read_proxy_header(data: bytes) -> Proxied | None:
    """Return the header that these bytes begin with; None if more bytes are needed.

    Raise ValueError if the bytes begin with no header, or with one that is not accepted.
    """
    if data[:12] == _SIGNATURE[: len(data)]:
        return _binary(data)
    if data[:6] == _BEGINS_1[: len(data)]:
        return _line(data)
    raise ValueError("the connection does not begin with a header of the PROXY protocol")


def _line(data: bytes) -> Proxied | None:
    end = data.find(b"\r\n", 0, MOST_1)
    if end < 0:
        if len(data) >= MOST_1 or b"\n" in data:
            raise ValueError(f"the PROXY line does not end within {MOST_1} bytes")
        return None
    line, size = data[:end], end + 2
    # Section 2.1: of UNKNOWN the rest of the line is ignored
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return Proxied(None, None, size)
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("the PROXY line is not TCP4, TCP6 or UNKNOWN with two addresses and two ports")
    version = 4 if match[1] == b"TCP4" else 6
    source, destination = (_text(match[number], version) for number in (2, 3))
    return Proxied((source, _port(match[4])), (destination, _port(match[5])), size)


def _text(raw: bytes, version: int) -> str:
    address = ipaddress.ip_address(raw.decode("ascii"))  # which raises ValueError, too
    if address.version != version:
        raise ValueError(f"{address} in a PROXY line of TCP{version}")
    return _plain(address)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return an address as sockets show it. One of IPv4 within IPv6 is that of IPv4, which rules name."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _port(raw: bytes) -> int:
    port = int(raw)
    if port > 65535 or (raw[:1] == b"0" and raw != b"0"):
        raise ValueError(f"{raw.decode()} in a PROXY line is no port")
    return port


def _binary(data: bytes) -> Proxied | None:
    if len(data) >= 13 and data[12] not in (_LOCAL, _PROXY):
        raise ValueError(f"PROXY version and command 0x{data[12]:02x}; 0x20 and 0x21 are known")
    if len(data) < _HEAD:
        return None
    family, length = data[13], int.from_bytes(data[14:16])
    size = _HEAD + length
    if size > MOST_2:
        raise ValueError(f"a PROXY header of {size} bytes; {MOST_2} are allowed")
    if len(data) < size:
        return None
    # Section 2.2: of LOCAL, and of no family, everything else is skipped
    if data[12] == _LOCAL or family == _UNSPECIFIED:
        return Proxied(None, None, size)
    one = _ADDRESS.get(family, 0)
    if not one:
        raise ValueError(f"PROXY family and transport 0x{family:02x}; TCP over IPv4 and IPv6 are known")
    if length < 2 * one + 4:
        raise ValueError(f"a PROXY header of {length} bytes is too short for its addresses")
    source, destination = (_plain(ipaddress.ip_address(data[_HEAD + at : _HEAD + at + one])) for at in (0, one))
    ports = _HEAD + 2 * one
    return Proxied(
        (source, int.from_bytes(data[ports : ports + 2])),
        (destination, int.from_bytes(data[ports + 2 : ports + 4])),
        size,
    )
