"""The authority's server: TLS for nodes that join, renew and ask for roots. http.py serves what they send.

A peer proves with its certificate that it is a node, or proves nothing: the bundle is public, and a join brings a
token. An unauthenticated connection may be closed at any time to make room for others
(nodeproxy/tls/unauthenticated.py); proved nodes have places that strangers cannot take. The time of a handshake is
bounded.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence

import trio
from msgspec.structs import replace

from agent.identity.authority.authority import Authority
from agent.identity.authority.http import Caller, converse
from agent.identity.folder import FolderError
from nodeproxy.errors import Refused
from nodeproxy.stream import abort, close_now
from nodeproxy.tls.contexts import Contexts
from nodeproxy.tls.credentials import Credentials, Peer, Trust
from nodeproxy.tls.handshake import accept
from nodeproxy.tls.stream import TlsStream
from nodeproxy.tls.unauthenticated import Anteroom

log = logging.getLogger("edgemesh.authority")

_UNPROVED = 64  # strangers at once, and as many from addresses that the mesh knows
_OF_SOURCE = 16  # strangers from one source: a site of nodes behind one NAT
_NODES = 64  # connections of nodes that have proved their identity
_OF_NODE = 4
_HANDSHAKE_TIMEOUT = 10.0  # seconds


async def serve(
    listeners: Sequence[trio.SocketListener],
    authority: Authority,
    credentials: Callable[[], Credentials],
    trust: Callable[[], Trust],
    now: Callable[[], float],
    known: Callable[[str], bool] = lambda address: False,
) -> None:
    """Serve until cancelled, and close the listeners at the end.

    `credentials` and `trust` may block on the disk. `now`: the mesh's time. `known`: whether an address is that of a
    node or workload of the mesh.
    """
    door = AuthorityServer(authority, credentials, trust, now, known)
    async with trio.open_nursery() as nursery:
        await trio.serve_listeners(door.enter, list(listeners), handler_nursery=nursery)


class AuthorityServer:
    """The connections of the server, and the credentials that it presents."""

    def __init__(
        self,
        authority: Authority,
        credentials: Callable[[], Credentials],
        trust: Callable[[], Trust],
        now: Callable[[], float],
        known: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self._authority = authority
        self._contexts = Contexts()
        self._credentials = credentials
        self._trust = trust
        self._now = now
        self._known = known
        self._anteroom = Anteroom(_UNPROVED, _OF_SOURCE)
        self._inside: Counter[str] = Counter()  # by node
        self._closed_because = ""

    def __repr__(self) -> str:
        return f"<AuthorityServer {self._inside.total()} nodes inside, {len(self._anteroom)} others>"

    async def enter(self, stream: trio.SocketStream) -> None:
        """Serve one connection from its first byte to its end."""
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:  # already gone
            close_now(stream)
            return
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
            close_now(stream)

    async def _converse(self, stream: trio.SocketStream, address: str) -> None:
        with self._anteroom.waits(address, self._known(address)) as waiting:
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
            # A node that was off for a month comes with an expired certificate: the authority decides what that is good
            # for.
            secured = await accept(stream, context, replace(trust, tolerance=math.inf), _HANDSHAKE_TIMEOUT, self._now)
            who = caller(address, secured.peer, trust, self._now())
            if not who.node or not who.holds:
                await self._answer(secured.stream, who)
                return
        if waiting.scope.cancelled_caught:
            abort(stream)
            return
        if self._inside.total() >= _NODES or self._inside[who.node] >= _OF_NODE:
            secured.stream.abort()
            return
        self._inside[who.node] += 1
        try:
            await self._answer(secured.stream, who)
        finally:
            self._inside[who.node] -= 1
            self._inside += Counter()  # drops the nodes that have no connection left

    async def _answer(self, stream: TlsStream, who: Caller) -> None:
        try:
            await converse(stream, who, self._authority)
        finally:
            close_now(stream)


def caller(address: str, peer: Peer | None, trust: Trust, now: float) -> Caller:
    """Return the caller that the peer proved to be. The certificate of a workload or the authority proves no node."""
    if peer is None or peer.identity is not None or peer.spiffe != f"spiffe://{trust.trust_domain}/node/{peer.node}":
        return Caller(address)
    holds = peer.not_before - trust.tolerance <= now <= peer.not_after + trust.tolerance
    return Caller(address, peer.node, peer.serial, holds)
