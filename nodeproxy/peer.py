"""What rooms see of a connection to another node, and the one kind of it that there is: HTTP/2 over TLS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import trio

from nodeproxy.credentials import Credentials, Peer, Trust
from nodeproxy.http.h2 import Bounds, Channel, Connection
from nodeproxy.http.h2_carrier import Carrier
from nodeproxy.http.message import Fields
from nodeproxy.stream import Stream
from nodeproxy.telemetry.report import Record
from nodeproxy.tls import MESH


class AnySecured(Protocol):
    """A connection whose other end was proved, by whichever TLS."""

    @property
    def stream(self) -> object: ...
    @property
    def peer(self) -> Peer | None: ...
    @property
    def alpn(self) -> str: ...


class PeerConnection(Protocol):
    """All that rooms see: whoever else comes to own these connections has this to offer."""

    @property
    def peer(self) -> Peer:
        """Who proved to be at the other end."""
        ...

    @property
    def native(self) -> bool:
        """The other end takes requests that are not CONNECT."""
        ...

    async def open(self, fields: Fields, end: bool = False) -> Channel:
        """Open a stream. Raises Refused("peer-lost") when the connection takes no more."""
        ...

    def room(self) -> int:
        """How many more streams may be opened now."""
        ...

    def drain(self) -> None:
        """No new streams; it ends with the last one."""
        ...

    def close(self) -> None: ...


class Link(Connection):
    """One HTTP/2 connection with a peer who proved who he is, in either role. Its owner runs it and closes the stream below.

    `made_of`: our credentials and roots in its handshake. `met` is called once, when the other end has sent its SETTINGS: in TLS 1.3
    a client learns only then that the server believed its certificate.
    """

    def __init__(
        self,
        secured: AnySecured,
        client: bool,
        bounds: Bounds,
        name: str,
        made_of: tuple[Credentials, Trust],
        met: Callable[[], None] = lambda: None,
        carrier: Carrier | None = None,
    ) -> None:
        super().__init__(cast(Stream, secured.stream), client, bounds, name, carrier)
        assert secured.peer is not None, "nobody proved anything"
        self.peer = secured.peer
        self.native = secured.alpn == MESH
        self.made_of = made_of
        self.heard_of = False  # the other end has sent its SETTINGS
        self.pinged_at = trio.current_time()
        self.verdict = ""  # the flag and the reason that it was cut with
        self.why = ""
        self._met = met
        self._promised = 0  # streams that somebody is about to open

    def room(self) -> int:
        return max(0, super().room() - self._promised)

    def promise(self) -> None:
        """Keep room for a stream that is about to be opened. Kept until `open`, or until the next `forgive`."""
        self._promised += 1

    def forgive(self) -> None:
        """Forget promises: whoever has not come by now does not come."""
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
        """Does it live? If not, it is cut."""
        self.pinged_at = trio.current_time()
        if not await self.ping(patience):
            self.cut("peer-lost", f"it did not answer a PING in {patience:g} s")

    def cut(self, verdict: str, why: str) -> None:
        """End it at once, for a reason."""
        if not self.closed:
            self.verdict, self.why = verdict, why
            self.close()


def note_peer(record: Record, link: PeerConnection) -> None:
    """Who the other end proved to be, for the record."""
    record.tls_peer, record.tls_version, record.tls_cipher = link.peer.spiffe, link.peer.version, link.peer.cipher
