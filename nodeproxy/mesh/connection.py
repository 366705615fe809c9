"""A connection to another node: HTTP/2 over TLS. Protocols see it as context.PeerConnection."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import trio

from nodeproxy.codec.message import Fields
from nodeproxy.h2.connection import Bounds, Channel, Connection
from nodeproxy.h2.transport import Transport
from nodeproxy.interfaces import PeerConnection
from nodeproxy.limits import Owner
from nodeproxy.stream import Stream
from nodeproxy.telemetry.record import Record
from nodeproxy.tls.contexts import MESH
from nodeproxy.tls.credentials import AnySecured, Credentials, Trust


class Link(Connection):
    """One HTTP/2 connection to a peer that has proved its identity, in either role.

    Its owner runs it and closes the stream below. `made_of`: our credentials and roots in its handshake. `met` is
    called once, when the other end has sent its SETTINGS: in TLS 1.3 a client learns only then that the server accepted
    its certificate.
    """

    def __init__(
        self,
        secured: AnySecured,
        client: bool,
        bounds: Bounds,
        name: str,
        made_of: tuple[Credentials, Trust],
        met: Callable[[], None] = lambda: None,
        transport: Transport | None = None,
        owner: Owner | None = None,
    ) -> None:
        super().__init__(cast(Stream, secured.stream), client, bounds, name, transport, owner)
        assert secured.peer is not None, "nobody proved anything"
        self.peer = secured.peer
        self.native = secured.alpn == MESH
        self.made_of = made_of
        self.heard_of = False  # the other end has sent its SETTINGS
        self.pinged_at = trio.current_time()
        self.rested = False  # without streams at the last check
        self.verdict = ""  # flag and reason of the cut
        self.why = ""
        self._met = met
        self._promised = 0  # streams that callers are about to open

    def room(self) -> int:
        return max(0, super().room() - self._promised)

    def promise(self) -> None:
        """Reserve room for a stream that is about to be opened, until `open` or the next `forgive`."""
        self._promised += 1

    def forgive(self) -> None:
        """Drop reservations: a caller that has not come by now does not come."""
        self._promised = 0

    async def open(self, fields: Fields, end: bool = False) -> Channel:
        self._promised = max(0, self._promised - 1)
        return await super().open(fields, end)

    def greeted(self) -> None:
        super().greeted()
        if not self.heard_of:
            self.heard_of = True
            self._met()

    async def ask(self, patience: float) -> None:
        """Check that the connection is alive, and cut it if not."""
        self.pinged_at = trio.current_time()
        if not await self.ping(patience):
            self.cut("peer-lost", f"it did not answer a PING in {patience:g} s")

    def cut(self, verdict: str, why: str) -> None:
        """End the connection at once, for a reason."""
        if not self.closed:
            self.verdict, self.why = verdict, why
            self.close()


def note_peer(record: Record, link: PeerConnection) -> None:
    """Write the proved identity of the other end into the record."""
    record.tls_peer, record.tls_version, record.tls_cipher = link.peer.spiffe, link.peer.version, link.peer.cipher
