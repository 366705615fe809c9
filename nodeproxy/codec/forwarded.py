"""Fields that say how a request reached this node from outside the mesh (sans-IO).

Servers believe them: links, redirects and logs are made of them. So a client's own are dropped, and ours say who
connected, by which scheme, and for which Host. Only those of a proxy whose network NodeConfig trusts
(`gateway.trustedNetworks`) are kept, and that proxy is added to them. Whatever they say, they decide nothing here.
"""

from __future__ import annotations

import re

from nodeproxy.codec.message import RequestHead

FOR, PROTO, HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
# Others by which a client could pass for another, or for a request of another kind: RFC 7239 and nginx's.
_ALIKE = frozenset((b"forwarded", b"x-real-ip"))
_BEGIN = b"x-forwarded-"
_SCHEMES = (b"http", b"https")
_KEPT_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}")
_MOST_FOR = 1024  # bytes: a chain of 20 proxies with addresses of IPv6


def at_edge(head: RequestHead, host: bytes, scheme: bytes, trusted: bool) -> None:
    """Make the forwarded fields of a request from outside the mesh ours, in place.

    `host`: that the client named. `scheme`: of the connection, b"http" or b"https". `trusted`: a trusted proxy has connected. x-forwarded-for is
    completed by who sends the request on, from `head.forwarded_for` and the address of the connection.
    """
    kept = {name: value for name, value in head.fields if trusted and name in (PROTO, HOST)}
    if trusted:
        for name in (PROTO, HOST):
            if sum(field == name for field, _ in head.fields) > 1:  # which of them holds cannot be told
                kept.pop(name, None)
        if len(head.forwarded_for) > _MOST_FOR:
            head.forwarded_for = b""
    else:
        head.forwarded_for = b""
    if not head.forwarded_proto or kept.get(PROTO) not in _SCHEMES:
        kept[PROTO] = scheme
    if not _KEPT_HOST.fullmatch(kept.get(HOST, b"")):
        kept[HOST] = host
    head.fields = [field for field in head.fields if not _dropped(field[0], trusted)]
    head.lines = [line for line in head.lines if not _dropped(line.partition(b":")[0].lower(), trusted)]
    for name, value in kept.items():
        if value:
            head.fields.append((name, value))
            head.lines.append(name + b": " + value)


def _dropped(name: bytes, trusted: bool) -> bool:
    if b"_" in name:  # CGI and those after it read it as a hyphen (RFC 3875 section 4.1.18), and no proxy writes it
        name, trusted = name.replace(b"_", b"-"), False
    return name in (PROTO, HOST) if trusted else name in _ALIKE or name.startswith(_BEGIN)
