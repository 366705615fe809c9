"""TLS of a connection between nodes: by the fast path, which then owns the connection, or by Python.

Python's TLS runs over any stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.h2.transport import Transport
from nodeproxy.interfaces import FastPath
from nodeproxy.stream import Peeked
from nodeproxy.tls import contexts, handshake
from nodeproxy.tls.credentials import AnySecured, Credentials, Identities, Trust


class Secures:
    """Handshakes of one proxy, in both roles. All raise Refused, and then the caller closes the stream."""

    def __init__(self, fast: FastPath[Conn], identities: Identities) -> None:
        self._identities = identities
        self.contexts = contexts.Contexts()
        self._fast = fast

    def __repr__(self) -> str:
        return f"<Secures by {self._fast!r}>"

    async def accept(
        self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float
    ) -> tuple[AnySecured, Transport | None]:
        with self._doubting():
            return await self._accept(stream, credentials, trust, seconds)

    async def connect(
        self, stream: Any, credentials: Credentials, trust: Trust, expects: Collection[str], seconds: float
    ) -> tuple[AnySecured, Transport | None]:
        with self._doubting():
            return await self._connect(stream, credentials, trust, expects, seconds)

    @contextlib.contextmanager
    def _doubting(self) -> Iterator[None]:
        try:
            yield
        except Refused as refused:
            if refused.flag == "peer-expired":
                self._identities.doubt()
            raise

    async def _accept(
        self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float
    ) -> tuple[AnySecured, Transport | None]:
        now = self._identities.now
        if (fast := await self._fast.accept_tls(stream, credentials, trust, seconds, now)) is not None:
            return fast
        context = self.contexts.server(credentials, trust, contexts.ALPN_MESH)
        return await handshake.accept(stream, context, trust, seconds, now), None

    async def _connect(
        self, stream: Any, credentials: Credentials, trust: Trust, expects: Collection[str], seconds: float
    ) -> tuple[AnySecured, Transport | None]:
        now = self._identities.now
        if (fast := await self._fast.connect_tls(stream, credentials, trust, expects, seconds, now)) is not None:
            return fast
        context = self.contexts.client(credentials, trust, contexts.ALPN_MESH)
        return await handshake.connect(stream, context, trust, expects, seconds, now), None

    def retain(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        """Drop contexts of other credentials or roots than these."""
        self.contexts.retain(credentials, trust)
        self._fast.retain_tls(credentials, trust)
