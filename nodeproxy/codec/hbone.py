"""Requests to a tunnel listener, and its responses (HBONE), as HTTP/2 fields (sans-IO).

CONNECT ADDRESS:PORT opens a tunnel. Between two edgemesh nodes (ALPN edgemesh-h2) a request other than CONNECT names
its server in x-edgemesh-destination instead. The node of a Gateway says for which caller outside the mesh it asks
(entering.py). Of the other fields, `forwarded` names the caller and `traceparent` gives the record its id. Whether a
caller that is named is believed, downstream/hbone.py decides. Everything else, in particular `baggage`, is accepted and
ignored.
"""

from __future__ import annotations

import functools
import ipaddress
import re

from msgspec import Struct

from nodeproxy.codec.entering import entering_fields, read_entering
from nodeproxy.codec.http2 import DESTINATION, ENTERING, REASON, REQUEST
from nodeproxy.codec.local_reply import said
from nodeproxy.codec.message import Fields
from nodeproxy.codec.trace_context import refusal_id, trace_id, traceparent
from nodeproxy.errors import Refused
from policy.doors import Came
from policy.model import Endpoint, Hop, Workload

OPENED: Fields = [(b":status", b"200")]

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15})):([1-9][0-9]{0,4})")
_FOR = re.compile(
    r'(?:^|;)\s*for="?(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::([0-9]{1,5}))?"?\s*(?:;|$)', re.IGNORECASE
)
# ztunnel's statuses (src/proxy/inbound.rs); every other flag is 503.
_STATUS = {
    "not-connect": 400,
    "bad-authority": 400,
    "own-port": 400,
    "denied": 401,
    "no-identity": 401,
    "peer-revoked": 401,
    "not-a-gateway": 401,
}
_SHOWN = 100  # characters of a peer's text that are quoted


class Asked(Struct, frozen=True):
    """The request of one stream: an opaque tunnel (`connect`), or one HTTP request, to this address and port."""

    connect: bool
    address: str  # in the canonical form that the snapshot uses
    port: int
    h2: bool = False  # for a request: its caller speaks HTTP/2, so a server of undeclared protocol gets HTTP/2 too
    caller: tuple[str, int] | None = None  # address and port of the caller, as the peer states them
    trace: str = ""  # the caller's trace id
    came: Came | None = None  # the caller outside the mesh for whom a gateway's node asks, as it tells


def read(fields: Fields, native: bool) -> Asked:
    """Return what a stream requests. `native`: it may be a request other than CONNECT. Raise Refused."""
    first: dict[bytes, bytes] = {}
    for name, value in fields:
        first.setdefault(name, value)
    connect = first.get(b":method") == b"CONNECT"
    if connect:
        aimed, mode = first.get(b":authority", b""), ""
    elif native:
        aimed, _, rest = first.get(DESTINATION, b"").partition(b";")
        mode = rest.decode("latin-1")
    else:
        raise Refused("not-connect", ascii(first.get(b":method", b"").decode("latin-1"))[:_SHOWN])
    address, port = read_authority(aimed.decode("latin-1"))
    came = read_entering(fields) if ENTERING in first else None
    return Asked(connect, address, port, mode == "h2", _caller(first, connect), trace_id(fields), came)


def read_authority(text: str) -> tuple[str, int]:
    """Return an IP address (IPv6 in brackets) and a port; a host name is not accepted.

    Raise Refused("bad-authority").
    """
    match = _AUTHORITY.fullmatch(text)
    address = _canonical(match[1] or match[2], bool(match[1])) if match else ""
    if not match or not address or int(match[3]) > 65535:
        raise Refused("bad-authority", f"{ascii(text)[:_SHOWN]} is no IP address and port")
    return address, int(match[3])


@functools.lru_cache(1024)  # ipaddress takes 5 us
def _canonical(text: str, six: bool) -> str:
    try:
        return str(ipaddress.IPv6Address(text) if six else ipaddress.IPv4Address(text))
    except ValueError:
        return ""


def _caller(first: dict[bytes, bytes], connect: bool) -> tuple[str, int] | None:
    """Return the caller that the last hop names: in Forwarded (RFC 7239), or in X-Forwarded-For of a request."""
    # A request carries its workload's own `forwarded`, which proves nothing: the last entry of X-Forwarded-For is the
    # node's.
    said_of = first.get(b"forwarded")
    if connect and said_of is not None:
        match = _FOR.search(said_of.decode("latin-1").rpartition(",")[2].strip())
        if match and (address := _canonical(match[1] or match[2], bool(match[1]))):
            return address, min(int(match[3] or 0), 65535)
        return None
    last = first.get(b"x-forwarded-for", b"").decode("latin-1").rpartition(",")[2].strip()
    address = _canonical(last, ":" in last)
    return (address, 0) if address else None


def connect_fields(
    endpoint: Endpoint, caller: tuple[str, int], trace: str, span: bytes, came: Came | None = None
) -> Fields:
    """Return the fields of CONNECT, as ztunnel sends it. `span`: 8 random bytes, sent with `trace`.

    `came`: a caller outside the mesh, who is told of to an edgemesh node.

    `trace` "": neither is sent, because ids do not compress on a link that is billed by the byte.
    """
    address, port = caller
    shown = f'for="[{address}]:{port}"' if ":" in address else f'for="{address}:{port}"'
    fields: Fields = [(b":method", b"CONNECT"), (b":authority", str(endpoint).encode()), (b"forwarded", shown.encode())]
    if trace:
        fields.append((b"traceparent", traceparent(trace, span)))
    return fields + entering_fields(came)


def refusal_fields(refused: Refused, request_id: str) -> Fields:
    """Return the response to a CONNECT that opens no tunnel. It has no body."""
    return [(b":status", b"%d" % _STATUS.get(refused.flag, 503)), *said(refused, request_id)]


def check_answer(fields: Fields, hop: Hop, endpoint: Endpoint, workload: Workload | None) -> None:
    """Raise Refused if the other end opened no tunnel."""
    found = dict(fields)
    status = found.get(b":status", b"").decode("latin-1")
    if status.startswith("2"):
        return
    reason = found.get(REASON, b"").decode("latin-1")[:_SHOWN]
    # A 503 says that there is no server behind the listener, so it concerns the endpoint. Any other status concerns the
    # caller or its request.
    flag = "connect-failed" if status == "503" else "peer-refused"
    why = f"{reason} ({status})" if reason else status
    raise Refused(flag, f"{endpoint} by {hop}: {why}", workload, refusal_id(found.get(REQUEST, b"").decode("latin-1")))
