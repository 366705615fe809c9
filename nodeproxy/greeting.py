"""The first word of whoever comes to a TLS door of ours: what OpenSSL would let pass, or drop in silence, is answered with an alert."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import trio

from nodeproxy import hello
from nodeproxy.errors import Refused
from nodeproxy.hello import Hello, read_hello


async def greet(stream: Any, alpn: Sequence[str]) -> bytearray:
    """Receive a ClientHello, and perhaps a little more: the bytes are for OpenSSL. Raises Refused."""
    held = bytearray()
    said: Hello | None = None
    while said is None:
        data = await _received(stream)
        if not data:
            raise Refused("tls-failed", "the peer left before its ClientHello was whole" if held else "the peer left without a word")
        held += data
        if held[0] != 0x16:
            raise Refused("plain-to-tunnel", f"the first byte is 0x{held[0]:02x}; TLS begins with 0x16")
        try:
            said = read_hello(held)
        except ValueError as error:
            await _answer(stream, hello.DECODE_ERROR)
            raise Refused("tls-failed", str(error)) from error
    if not said.tls13:
        await _answer(stream, hello.PROTOCOL_VERSION)
        raise Refused("tls-failed", "the peer does not speak TLS 1.3")
    if alpn and not set(alpn).intersection(said.alpn):
        await _answer(stream, hello.NO_APPLICATION_PROTOCOL)
        raise Refused("tls-no-alpn", f"it offers {ascii(', '.join(said.alpn))[:100]}" if said.alpn else "it offers no protocol")
    return held


async def _received(stream: Any) -> bytes:
    try:
        return bytes(await stream.receive_some(hello.MOST // 4))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise Refused("tls-failed", "the connection broke before the ClientHello was whole") from error


async def _answer(stream: Any, code: int) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it did not wait to be told
        await stream.send_all(hello.alert(code))
