"""Which TLS a connection between nodes gets: the native lane's, where it owns the connection afterwards, or Python's over any stream."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import trio

from nodeproxy import tls
from nodeproxy.credentials import Credentials, Trust
from nodeproxy.http.h2_carrier import Carrier
from nodeproxy.native import AVAILABLE
from nodeproxy.peer import AnySecured
from nodeproxy.stream import Peeked

if AVAILABLE:
    from nodeproxy import tls_native
    from nodeproxy.linked import LaneCarrier

if TYPE_CHECKING:
    from nodeproxy.lane import FastLane


class Secures:
    """Handshakes of one proxy, in both roles. All raise Refused, and then the caller closes the stream."""

    def __init__(self, lane: FastLane | None, now: tls.Now) -> None:
        self.now = now
        self.contexts = tls.Contexts()
        self._lane = lane if AVAILABLE else None
        self._native = tls.ContextCache(tls_native.make) if AVAILABLE else None

    def __repr__(self) -> str:
        return f"<Secures {'native' if self._lane is not None else 'Python'}>"

    async def accept(self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float) -> tuple[AnySecured, Carrier | None]:
        if self._lane is not None and self._native is not None and isinstance(stream.stream, trio.SocketStream):
            made = self._native.server(credentials, trust, tls.ALPN_MESH)
            secured = await tls_native.accept(stream, made, trust, seconds, self.now)
            return secured, LaneCarrier(self._lane, secured.stream.socket.fileno(), secured.secured)
        return await tls.accept(stream, self.contexts.server(credentials, trust, tls.ALPN_MESH), trust, seconds, self.now), None

    async def connect(
        self, stream: Any, credentials: Credentials, trust: Trust, expects: Collection[str], seconds: float
    ) -> tuple[AnySecured, Carrier | None]:
        if self._lane is not None and self._native is not None and isinstance(stream, trio.SocketStream):
            made = self._native.client(credentials, trust, tls.ALPN_MESH)
            secured = await tls_native.connect(stream, made, trust, expects, seconds, self.now)
            return secured, LaneCarrier(self._lane, secured.stream.socket.fileno(), secured.secured)
        context = self.contexts.client(credentials, trust, tls.ALPN_MESH)
        return await tls.connect(stream, context, trust, expects, seconds, self.now), None

    def retain(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        """Forget what was made of other credentials or roots than these."""
        self.contexts.retain(credentials, trust)
        if self._native is not None:
            self._native.retain(credentials, trust)
