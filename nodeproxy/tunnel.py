"""What is asked of a tunnel door, and what it answers (HBONE), as HTTP/2 fields (sans-IO).

CONNECT ADDRESS:PORT opens a tunnel. Between two edgemesh nodes (ALPN edgemesh-h2) a request that is not CONNECT names its server in
x-edgemesh-destination instead. Of the fields that come along, `forwarded` says who calls (believed or not by hbone.py), `traceparent`
gives the record its id, and everything else, `baggage` first of all, is tolerated and not looked at.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re

from msgspec import Struct

from nodeproxy.errors import Refused
from nodeproxy.http.answers import said
from nodeproxy.http.h2_message import DESTINATION, REASON, REQUEST
from nodeproxy.http.message import Fields
from nodeproxy.telemetry.report import trace_id
from policy.model import Endpoint, Hop, Workload

OPENED: Fields = [(b":status", b"200")]

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15})):([1-9][0-9]{0,4})")
_FOR = re.compile(r'(?:^|;)\s*for="?(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::([0-9]{1,5}))?"?\s*(?:;|$)', re.IGNORECASE)
# ztunnel's statuses (src/proxy/inbound.rs); every other flag is 503.
_STATUS = {"not-connect": 400, "bad-authority": 400, "own-port": 400, "denied": 401, "no-identity": 401, "peer-revoked": 401}
_SHOWN = 100  # characters of somebody else's words in ours


class Asked(Struct, frozen=True):
    """One stream's wish: an opaque tunnel (`connect`), or one request, to this address and port."""

    connect: bool
    address: str  # in the one form that the snapshot has it
    port: int
    h2: bool = False  # of a request: its caller speaks HTTP/2, so a server of which nothing is declared is asked so too
    caller: tuple[str, int] | None = None  # who calls, as the peer says
    trace: str = ""  # the caller's trace id


def read(fields: Fields, native: bool) -> Asked:
    """What a stream asks for. `native`: it may be a request that is not CONNECT. Raises Refused."""
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
    return Asked(connect, address, port, mode == "h2", _caller(first, connect), trace_id(fields))


def read_authority(text: str) -> tuple[str, int]:
    """An IP address and a port, IPv6 in brackets; a host name is none. Raises Refused("bad-authority")."""
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
    """The last hop's word: of Forwarded (RFC 7239), or of X-Forwarded-For, which a request brings along anyway."""
    # A request brings its workload's own `forwarded` along, which is nobody's word: the last of X-Forwarded-For is the node's.
    said_of = first.get(b"forwarded")
    if connect and said_of is not None:
        match = _FOR.search(said_of.decode("latin-1").rpartition(",")[2].strip())
        if match and (address := _canonical(match[1] or match[2], bool(match[1]))):
            return address, min(int(match[3] or 0), 65535)
        return None
    last = first.get(b"x-forwarded-for", b"").decode("latin-1").rpartition(",")[2].strip()
    address = _canonical(last, ":" in last)
    return (address, 0) if address else None


def connect_fields(endpoint: Endpoint, caller: tuple[str, int], trace: str) -> Fields:
    """CONNECT, as ztunnel sends it. `trace` "": none is told, since an id is what a link that costs by the byte cannot compress."""
    address, port = caller
    shown = f'for="[{address}]:{port}"' if ":" in address else f'for="{address}:{port}"'
    fields: Fields = [(b":method", b"CONNECT"), (b":authority", str(endpoint).encode()), (b"forwarded", shown.encode())]
    if trace:
        fields.append((b"traceparent", f"00-{trace}-{os.urandom(8).hex()}-00".encode()))
    return fields


def refusal_fields(refused: Refused, request_id: str) -> Fields:
    """The answer to a CONNECT that opens no tunnel. It has no body."""
    return [(b":status", b"%d" % _STATUS.get(refused.flag, 503)), *said(refused, request_id)]


def check_answer(fields: Fields, hop: Hop, endpoint: Endpoint, workload: Workload | None) -> None:
    """Raises Refused when the other end opened no tunnel."""
    found = dict(fields)
    status = found.get(b":status", b"").decode("latin-1")
    if status.startswith("2"):
        return
    reason = found.get(REASON, b"").decode("latin-1")[:_SHOWN]
    # An answer that there is no server behind it is one about the endpoint; any other is about who asks, and what.
    flag = "connect-failed" if status == "503" else "peer-refused"
    why = f"{reason} ({status})" if reason else status
    request_id = found.get(REQUEST, b"").decode("latin-1")
    raise Refused(flag, f"{endpoint} by {hop}: {why}", workload, request_id if re.fullmatch("[0-9a-f]{32}", request_id) else "")
