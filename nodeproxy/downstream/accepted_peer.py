"""A connection that another node opened to a listener of this node: its peer, and its streams."""

from __future__ import annotations

from nodeproxy.context import Conn
from nodeproxy.h2.connection import Bounds, Channel
from nodeproxy.h2.transport import Transport
from nodeproxy.limits import Owner
from nodeproxy.mesh.connection import Link
from nodeproxy.tls.credentials import AnySecured, Credentials, Trust


class AcceptedPeer(Link):
    """The server side of a connection between nodes. `branches`: its streams, by number, each with its own Conn."""

    def __init__(
        self,
        secured: AnySecured,
        bounds: Bounds,
        name: str,
        made_of: tuple[Credentials, Trust],
        transport: Transport | None = None,
        owner: Owner | None = None,
    ) -> None:
        super().__init__(secured, False, bounds, name, made_of, transport=transport, owner=owner)
        self.branches: dict[int, tuple[Conn, Channel]] = {}

    def cut(self, verdict: str, why: str) -> None:
        for branch, _ in self.branches.values():
            _end(branch, verdict)
        super().cut(verdict, why)

    def was_reset(self, number: int, code: int, by_peer: bool) -> None:
        """End the work for that stream, because its caller is gone, even if its task is not about to read or send."""
        branch, channel = self.branches.get(number, (None, None))
        super().was_reset(number, code, by_peer)
        if branch is not None and channel is not None and (channel.cut or not (channel.sent_end or channel.held)):
            _end(branch, "client-gone")

    def left_behind(self) -> None:
        """End the streams that broke with the connection, but not those that have already ended."""
        for branch, channel in self.branches.values():
            if channel.broken:
                _end(branch, "client-gone")


def _end(branch: Conn, verdict: str) -> None:
    branch.verdict = branch.verdict or verdict
    branch.scope.cancel()
