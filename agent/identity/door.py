"""The authority's door: TLS for nodes that join, renew and ask for roots; conversation.py goes on from there.

The peer proves to be a node with its certificate, or proves nothing: the bundle is for everybody, and a join brings a token.
Connections are bounded, all together and of one address, and so is the time of a handshake.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from agent.identity.authority import Authority
from agent.identity.conversation import Caller, converse
from agent.identity.folder import FolderError
from nodeproxy.credentials import Credentials, Peer, Trust
from nodeproxy.errors import Refused
from nodeproxy.stream import abort, close_now
from nodeproxy.tls import Contexts, accept

log = logging.getLogger("edgemesh.authority")

_CONNECTIONS = 64  # open at once
_OF_ADDRESS = 16  # and from one address: a site of nodes behind one NAT
_HANDSHAKE_TIMEOUT = 10.0  # seconds


async def serve(
    listeners: Sequence[trio.SocketListener],
    authority: Authority,
    credentials: Callable[[], Credentials],
    trust: Callable[[], Trust],
) -> None:
    """Answer until cancelled. `credentials` and `trust` may block on the disk. The listeners are closed at the end."""
    door = Door(authority, credentials, trust)
    async with trio.open_nursery() as nursery:
        await trio.serve_listeners(door.enter, list(listeners), handler_nursery=nursery)


class Door:
    """Who is inside, and what is presented to who comes."""

    def __init__(self, authority: Authority, credentials: Callable[[], Credentials], trust: Callable[[], Trust]) -> None:
        self._authority = authority
        self._contexts = Contexts()
        self._credentials = credentials
        self._trust = trust
        self._inside: Counter[str] = Counter()
        self._closed_because = ""

    def __repr__(self) -> str:
        return f"<Door {self._inside.total()} inside>"

    async def enter(self, stream: trio.SocketStream) -> None:
        """One connection, from its first byte to its end."""
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:  # already gone
            close_now(stream)
            return
        if self._inside.total() >= _CONNECTIONS or self._inside[address] >= _OF_ADDRESS:
            abort(stream)
            return
        self._inside[address] += 1
        try:
            await self._converse(stream, address)
        except Refused as refused:
            log.debug("%s: %s", address, refused)
            abort(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError):
            abort(stream)
        except Exception:
            log.exception("connection from %s", address)
            abort(stream)
        finally:
            self._inside[address] -= 1
            if not self._inside[address]:
                del self._inside[address]
            close_now(stream)

    async def _converse(self, stream: trio.SocketStream, address: str) -> None:
        try:
            held, trust = await trio.to_thread.run_sync(lambda: (self._credentials(), self._trust()))
        except FolderError as error:
            if str(error) != self._closed_because:
                log.error("the authority's door is shut: %s", error)
            self._closed_because = str(error)
            return
        self._closed_because = ""
        self._contexts.retain((held,), trust)
        context = self._contexts.server(held, trust, (), client_certificate=False)
        secured = await accept(stream, context, trust, _HANDSHAKE_TIMEOUT)
        try:
            await converse(secured.stream, caller(address, secured.peer, trust), self._authority)
        finally:
            close_now(secured.stream)


def caller(address: str, peer: Peer | None, trust: Trust) -> Caller:
    """A workload's certificate, or the authority's own, makes nobody a node."""
    if peer is None or peer.identity is not None or peer.spiffe != f"spiffe://{trust.trust_domain}/node/{peer.node}":
        return Caller(address)
    return Caller(address, peer.node, peer.serial)
