"""A peer's connection to a door of ours: who it is, and what is being done for him, stream by stream."""

from __future__ import annotations

from nodeproxy.context import Conn
from nodeproxy.credentials import Credentials, Trust
from nodeproxy.http.h2 import Bounds, Channel
from nodeproxy.http.h2_carrier import Carrier
from nodeproxy.peer import AnySecured, Link


class Guest(Link):
    """The connection of a peer, and its streams."""

    def __init__(
        self, secured: AnySecured, bounds: Bounds, name: str, made_of: tuple[Credentials, Trust], carrier: Carrier | None = None
    ) -> None:
        super().__init__(secured, False, bounds, name, made_of, carrier=carrier)
        self.branches: dict[int, tuple[Conn, Channel]] = {}

    def cut(self, verdict: str, why: str) -> None:
        for branch, _ in self.branches.values():
            _end(branch, verdict)
        super().cut(verdict, why)

    def was_reset(self, number: int, code: int, by_peer: bool) -> None:
        """Whoever asked is gone: what is being done for him ends too, though it may not be about to read or send."""
        branch, channel = self.branches.get(number, (None, None))
        super().was_reset(number, code, by_peer)
        if branch is not None and channel is not None and (channel.cut or not (channel.sent_end or channel.held)):
            _end(branch, "client-gone")

    def left_behind(self) -> None:
        """The connection is over: end the streams that broke with it, not those that have ended."""
        for branch, channel in self.branches.values():
            if channel.broken:
                _end(branch, "client-gone")


def _end(branch: Conn, verdict: str) -> None:
    branch.verdict = branch.verdict or verdict
    branch.scope.cancel()
