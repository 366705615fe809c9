"""What a gateway's node tells the server's node of a caller outside the mesh: one field of a request or tunnel (sans-IO).

    for=192.0.2.9;port=40312;by=shop%2Ffront;name=till.example;name=spiffe%3A%2F%2F...

Each value is percent-encoded, so nothing in a certificate can be read as another part. Whether any of it is believed is
decided elsewhere (downstream/hbone.py, policy/entering.py); what is not exactly of this form is refused.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, unquote_to_bytes

from nodeproxy.codec.http2 import ENTERING
from nodeproxy.codec.message import Fields
from nodeproxy.errors import Refused
from policy.doors import Came
from policy.model import Identity, canonical_serial

MOST = 4096  # bytes of the field
_NAMES = 2048  # bytes of all names, encoded: those of a certificate that do not fit are not told, and let nobody in
_PART = re.compile(rb"(for|port|by|name|identity|node|serial)=((?:[A-Za-z0-9_.~-]|%[0-9A-F]{2})+)")
_SERIAL = re.compile(r"[0-9a-f]{1,64}")
_WORD = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"  # as in SPIFFE IDs: nodeproxy/tls/spiffe.py
_IDENTITY = re.compile(rf"({_WORD})/({_WORD})")
_NODE = re.compile(_WORD)


def entering_fields(came: Came | None) -> Fields:
    """Return the field that tells of this caller; none for no caller."""
    return [] if came is None else [(ENTERING, told(came))]


def told(came: Came) -> bytes:
    """Return the value of the field."""
    parts = [("for", came.address), ("port", str(came.port)), ("by", came.gateway)]
    room = _NAMES
    for name in came.names:
        room -= len(_quoted(name))
        if room >= 0:
            parts.append(("name", name))
    if came.identity is not None:
        parts.append(("identity", f"{came.identity.namespace}/{came.identity.service_account}"))
        parts += [(name, value) for name, value in (("node", came.issued_to), ("serial", came.serial)) if value]
    return ";".join(f"{name}={_quoted(value)}" for name, value in parts).encode("ascii")


def read_entering(fields: Fields) -> Came | None:
    """Return the caller that a stream tells of; None if it tells of none. Raise Refused("not-a-gateway")."""
    found = [value for name, value in fields if name == ENTERING]
    if not found:
        return None
    if len(found) > 1 or len(found[0]) > MOST:
        raise _unreadable("there are several" if len(found) > 1 else f"it is longer than {MOST} bytes")
    said: dict[str, str] = {}
    names: list[str] = []
    for part in found[0].split(b";"):
        match = _PART.fullmatch(part)
        if match is None:
            raise _unreadable(f"{ascii(part.decode('latin-1'))[:100]} is no part of it")
        key = match[1].decode()
        try:
            value = unquote_to_bytes(match[2]).decode()
        except UnicodeDecodeError as error:
            raise _unreadable(f"{key} is no text") from error
        if key == "name":
            names.append(value)
        elif key in said:
            raise _unreadable(f"{key} is there twice")
        else:
            said[key] = value
    return _came(said, tuple(names))


def _came(said: dict[str, str], names: tuple[str, ...]) -> Came:
    try:
        address = str(ipaddress.ip_address(said.get("for", "")))
    except ValueError as error:
        raise _unreadable("it names no caller's address") from error
    port = said.get("port", "")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise _unreadable("it names no port of the caller")
    if not said.get("by"):
        raise _unreadable("it names no Gateway")
    identity: Identity | None = None
    if "identity" in said:
        match = _IDENTITY.fullmatch(said["identity"])
        if match is None:
            raise _unreadable("its identity is no NAMESPACE/SERVICE-ACCOUNT")
        identity = Identity(match[1], match[2])
    node, serial = said.get("node", ""), said.get("serial", "")
    if (node and not _NODE.fullmatch(node)) or (serial and not _SERIAL.fullmatch(serial)):
        raise _unreadable("its node or serial number is none")
    if identity is None and (node or serial):
        raise _unreadable("a certificate's node or serial number without its identity")
    return Came(address, said["by"], names, int(port), identity, node, canonical_serial(serial))


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _unreadable(why: str) -> Refused:
    return Refused("not-a-gateway", f"what it says of a caller from outside cannot be read: {why}")
