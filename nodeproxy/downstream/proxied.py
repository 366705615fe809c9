"""Who calls through a proxy before this node: the header that it begins a connection with is taken off the stream."""

from __future__ import annotations

import trio

from nodeproxy.codec.proxy_protocol import MOST_2, Proxied, read_proxy_header
from nodeproxy.errors import Refused
from nodeproxy.stream import Peeked


async def hear_proxy(stream: Peeked, seconds: float) -> Proxied:
    """Return what a trusted proxy says of a connection; what follows its header is left on the stream.

    Raise Refused("bad-proxy-header") if it does not begin with one in time, or BrokenResourceError.
    """
    with trio.move_on_after(seconds):
        while True:
            try:
                said = read_proxy_header(stream.held)
            except ValueError as error:
                raise Refused("bad-proxy-header", str(error)) from error
            if said is not None:
                await stream.receive_some(said.size)
                return said
            seen = len(stream.held)
            if len(await stream.peek(MOST_2)) == seen:
                raise Refused("bad-proxy-header", "the connection ended before its header was whole")
    raise Refused("bad-proxy-header", f"it was not whole in {seconds:g} s")
