"""Connections to other nodes: shared by the streams of one identity, dialled when needed, kept while they are alive.

Theory of operation. A `HostPool` belongs to one of our identities and one place to reach with it. The peer judges
streams by the certificate of their connection, so two identities never share a connection. For callers outside the mesh
this node itself calls, with its own certificate (`GATE`): these share connections, but only with a part of all others,
so that one of them cannot take every stream to a node. The first caller that finds
no connection with room starts an attempt. Callers that come meanwhile wait for the same attempt and share its outcome.
An attempt runs in the nursery of `run`, not in a caller's task, because the connection outlives that task: one task
dials, and then carries the connection to its end (`_live`).

After a failure the host pool backs off, twice as long after each failure. Callers get the refusal at once instead of
waiting in turn. The first caller after the back-off probes the host. Once a second one task checks all connections,
including those that peers made to us (`accepted`, see downstream/hbone.py). Quiet ones are pinged and idle ones end. A
connection whose certificates were renewed or have expired takes no new streams and ends with its last one, so no
running stream is dropped for a certificate's sake. A connection with a revoked certificate is cut.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Collection
from typing import Any

import trio

from nodeproxy.codec.hbone import check_answer, connect_fields
from nodeproxy.context import GATE, Context
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Channel, Connection
from nodeproxy.h2.transport import Transport
from nodeproxy.interfaces import PeerConnection, Pick
from nodeproxy.limits import PeerLimits
from nodeproxy.mesh.connection import Link, note_peer
from nodeproxy.mesh.handshake import Secures
from nodeproxy.mesh.host_pool import Attempt, HostPool, connect
from nodeproxy.mesh.reachability import Neighbour, Neighbours, name_of
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.telemetry.record import Record, new_id
from nodeproxy.tls.credentials import AnySecured, Credentials, Trust
from nodeproxy.tls.spiffe import read_spiffe
from nodeproxy.tls.unauthenticated import source
from policy.doors import Came
from policy.model import Hop, Identity, Workload

log = logging.getLogger("edgemesh.peers")

# Failures that say something about the node, and not about the caller or our own decision.
_TELLING = frozenset(
    (
        "node-unreachable",
        "peer-lost",
        "tls-failed",
        "tls-no-alpn",
        "peer-expired",
        "peer-untrusted",
        "peer-unexpected",
        "peer-wrong-domain",
    )
)
_LOOK = 1.0  # seconds between checks of all connections
_ROOM = 0.05  # seconds between checks for room, when all connections of a host are full
_FORGOTTEN = 60.0  # seconds after which a failed host is forgotten
# Seconds: the other node tries its server as long as we wait, and its answer says more than our timeout.
_GRACE = 1.0

_PARTS = 4  # into which callers outside the mesh are divided by their source

# The caller (None: this node, for callers outside the mesh), the destination, and the caller's workload where the
# connection is made in its namespace, or the part of the callers outside.
Key = tuple[Identity | None, Hop, str]


class Peers:
    """All connections between this node and others. Call `run` first."""

    def __init__(
        self,
        context: Context,
        settings: PeerLimits | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.context = context
        self.settings = settings or PeerLimits()
        self.secures = Secures(context.fast, context.identities)
        self.accepted: dict[Link, None] = {}  # connections that peers made to our listeners
        self.neighbours = Neighbours()
        self._hosts: dict[Key, HostPool] = {}
        self._carried: dict[Link, bool] = {}  # our connections, and whether their link is metered
        self.connect = connect  # makes a stream from a socket
        self._random = chance or random.Random()  # noqa: S311 - jitter
        self._nursery: trio.Nursery | None = None
        self._stirred = trio.Event()

    def __repr__(self) -> str:
        return f"<Peers {len(self._carried)} dialled, {len(self.accepted)} accepted>"

    def __len__(self) -> int:
        return len(self._carried) + len(self.accepted)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections alive until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self.context.housekeeping.keep("connections between nodes", self._look_after)

    async def _look_after(self) -> None:
        while True:
            if not self and not self._hosts:
                self._stirred = trio.Event()
                await self._stirred.wait()
            await trio.sleep(_LOOK)
            self.look(trio.current_time())

    # interfaces.PeerPool

    async def get(self, workload: Workload, hop: Hop, came: Came | None = None) -> PeerConnection:
        return await self._with_room(workload, hop, came)

    def existing(self, workload: Workload, hop: Hop) -> PeerConnection | None:
        now = self.context.snapshot.workload(workload.key) or workload
        host = self._hosts.get(_key(now, hop))
        if host is None:
            return None
        try:
            made_of = self._ready(_identity(now), hop)
        except Refused:
            return None
        return next((link for link in host.links if link.made_of == made_of and link.room()), None)

    async def tunnel(
        self, workload: Workload, pick: Pick, hop: Hop, source: tuple[str, int], record: Record
    ) -> Channel:
        limits = self.context.limits
        trace = ""
        if not self._metered(hop.node, hop.metered):
            trace = record.id = record.id or new_id()
        fields = connect_fields(pick.endpoint, source, trace, os.urandom(8) if trace else b"", pick.came)
        with trio.move_on_after(limits.connect_timeout + _GRACE) as scope:
            for last in (False, True):
                # dialling has deadlines of its own
                scope.deadline = math.inf
                link = await self._with_room(workload, hop, pick.came)
                scope.deadline = trio.current_time() + limits.connect_timeout + _GRACE
                note_peer(record, link)
                if pick.came is not None and not link.native:
                    raise Refused("no-identity", f"{hop} is no edgemesh node, and lets in nobody from outside the mesh")
                channel = None
                opened = False
                try:
                    channel = await link.open(fields)
                    answer, _ = await channel.head()
                    while answer[0][1].startswith(b"1"):
                        answer, _ = await channel.head()
                    check_answer(answer, hop, pick.endpoint, pick.workload)
                    opened = True
                    return channel
                except (Refused, trio.BrokenResourceError) as error:
                    # The connection ended just now, or the peer did nothing with the stream (RFC 9113 section 6.8): ask
                    # once more.
                    unprocessed = channel is None or channel.refused_unprocessed
                    if unprocessed and not last:
                        continue
                    if isinstance(error, Refused):
                        raise
                    raise Refused("peer-lost", f"{pick.endpoint} by {hop}: {link.why or error}") from error
                finally:
                    if channel is not None and not opened:
                        channel.abort()
        raise Refused("connect-timeout", f"{pick.endpoint} by {hop}: no answer in {limits.connect_timeout:g} s")

    # called by the proxy

    def recheck(self) -> int:
        """Cut the connections that the new snapshot refuses. Return how many."""
        snapshot = self.context.snapshot
        names = {node.name for node in snapshot.nodes}
        self.neighbours.retain(
            [name for name, _ in self.neighbours.items() if name in names or snapshot.has_address(name)]
        )
        cut = 0
        for link in [*self._carried, *self.accepted]:
            why = snapshot.refuses(link.peer.identity, link.peer.node, link.peer.serial)
            if why and not link.closed:
                link.cut("peer-revoked", why)
                cut += 1
        return cut

    def drain(self) -> None:
        """Stop: peers are told to open no more streams, and running streams go on."""
        for link in self.accepted:
            link.drain()

    def forget(self, key: str) -> None:
        """Drop the connections in the namespace of a workload that is gone from this node."""
        for (_, _, workload), host in self._hosts.items():
            if workload == key:
                for link in list(host.links):
                    link.close()
        identities, snapshot = self.context.identities, self.context.snapshot
        here = [found.identity for one in self.context.captured if (found := snapshot.workload(one)) is not None]
        self.retain(
            [made for made in (identities.node(), *map(identities.of, here)) if made is not None], identities.trust()
        )

    def retain(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        self.secures.retain(credentials, trust)

    async def accept(
        self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float
    ) -> tuple[AnySecured, Transport | None]:
        return await self.secures.accept(stream, credentials, trust, seconds)

    def admit(self, link: Connection) -> None:
        assert isinstance(link, Link), "who comes through a tunnel door is a peer"
        self.accepted[link] = None
        self._stirred.set()

    def dismiss(self, link: Connection) -> None:
        assert isinstance(link, Link), "it was admitted"
        self.accepted.pop(link, None)

    # finding a connection

    async def _with_room(self, workload: Workload, hop: Hop, came: Came | None = None) -> Link:
        """Return a connection; the room is reserved for the caller, which opens a stream soon."""
        context = self.context
        workload = context.snapshot.workload(workload.key) or workload
        key = _key(workload, hop, came)
        waited_until = trio.current_time() + context.limits.connect_timeout
        while True:
            made_of = self._ready(key[0], hop)
            host = self._hosts.get(key)
            if host is None:
                host = self._hosts[key] = HostPool()
                self._stirred.set()
            living = 0
            for link in host.links:
                if link.made_of != made_of:
                    link.drain()  # renewed: running streams go on, and no new one begins
                elif link.room() > 0:
                    link.promise()
                    return link
                elif not link.ending:
                    living += 1
            if host.attempt is not None:
                if host.failures:
                    raise host.resting(hop)
                await host.attempt.outcome(hop)
            elif living >= self.settings.connections:
                if trio.current_time() >= waited_until:
                    why = f"{living} connections to {hop} carry all the streams that they may; see NodeConfig peers and http2.streams"
                    raise Refused("too-many-connections", why)
                await trio.sleep(_ROOM)  # an event would cost work at the end of each stream
            elif trio.current_time() < host.until:
                raise host.resting(hop)
            else:
                assert self._nursery is not None, "run() first"
                host.attempt = attempt = Attempt()
                self._nursery.start_soon(self._live, host, attempt, workload, hop, made_of)
                await attempt.outcome(hop)
                if host.came_to_nothing():  # without back-off this would loop for ever
                    host.failed(Refused("peer-lost", "it ended the connection as soon as it began"), self._random)

    def _credentials(self, identity: Identity | None) -> Credentials | None:
        identities = self.context.identities
        return identities.node() if identity is None else identities.of(identity)

    def _ready(self, identity: Identity | None, hop: Hop) -> tuple[Credentials, Trust]:
        """Return the credentials and roots for a new connection. Raise Refused where none may be made."""
        context = self.context
        trust, credentials = context.identities.trust(), self._credentials(identity)
        if trust is None or credentials is None:
            raise Refused("no-certificate", f"{identity or 'this node'}, to call {hop}")
        named = read_spiffe(hop.spiffe)
        why = context.snapshot.refuses(named.identity if named else None, hop.node)
        if why:
            raise Refused("peer-revoked", why)
        return credentials, trust

    # one connection

    async def _live(
        self, host: HostPool, attempt: Attempt, workload: Workload, hop: Hop, made_of: tuple[Credentials, Trust]
    ) -> None:
        """Carry one connection, from dialling to its end."""
        limits = self.context.limits
        stream: object = None
        link: Link | None = None
        failure: Refused | None = None
        timeout = Refused("node-unreachable", f"no answer in {limits.connect_timeout:g} s")
        trying = trio.CancelScope(deadline=trio.current_time() + limits.connect_timeout)

        def met() -> None:
            assert link is not None
            trying.deadline = math.inf
            host.succeeded(link)
            self.neighbours.met(hop)

        try:
            with trying:
                stream = await self.connect(self.context, workload, hop)
                timeout = Refused("tls-failed", f"no handshake in {limits.connect_timeout:g} s")
                secured, transport = await self.secures.connect(stream, *made_of, (hop.spiffe,), limits.connect_timeout)
                stream = secured.stream
                peer = secured.peer
                assert peer is not None
                if why := self.context.snapshot.refuses(peer.identity, peer.node, peer.serial):
                    raise Refused("peer-revoked", why)
                timeout = Refused("peer-lost", f"no SETTINGS in {limits.connect_timeout:g} s")
                bounds = self.context.h2_bounds
                shared = hop.node or workload.key == GATE.key
                link = Link(secured, True, bounds.shared() if shared else bounds, str(hop), made_of, met, transport)
                self._carried[link] = self._metered(hop.node, hop.metered)
                await link.run()
            if trying.cancelled_caught:
                failure = timeout
        except Refused as refused:
            failure = refused
            if (
                link is not None
                and not link.heard_of
                and refused.flag == "peer-lost"
                and "sent alert" in refused.detail
            ):
                failure = Refused("tls-failed", refused.detail)  # it did not accept our certificate
        except Exception:
            log.exception("connection to %s", hop)
            failure = Refused("internal")
        finally:
            ended = link is not None and link.heard_of and not (failure or link.verdict)
            if stream is not None:
                # The last bytes may still be on their way, and a reset would overtake them.
                close_now(stream) if ended else abort(stream)
            if link is not None:
                link.close()
                self._carried.pop(link, None)
                if link in host.links:
                    host.links.remove(link)
            self._tell(hop, Refused(link.verdict, link.why) if link is not None and link.verdict else failure, ended)
            if host.attempt is attempt:
                if failure is None or failure.flag in ("peer-lost", "tls-failed"):
                    # It ended the connection before it said anything: perhaps our certificate is not valid by its
                    # clock.
                    self.context.identities.doubt()
                ended_mutely = Refused("peer-lost", "it ended the connection before it said anything")
                host.failed(failure or ended_mutely, self._random)
        log.debug("%s: %s", hop, failure or "ended")

    def _tell(self, hop: Hop, failure: Refused | None, ended: bool) -> None:
        """Record what the end of a connection says about its node."""
        if ended:
            self.neighbours.left(hop)
        elif (failure is None or failure.flag in _TELLING) and not self._connections(name_of(hop)):
            self.neighbours.failed(
                hop, failure or Refused("peer-lost", "it ended the connection before it said anything")
            )

    def _connections(self, name: str) -> int:
        """Return how many of our connections to that node are up."""
        return sum(
            not link.ending for (_, hop, _), host in self._hosts.items() if name_of(hop) == name for link in host.links
        )

    def nodes(self) -> list[dict[str, Any]]:
        """Return every other node with a known address, and every dialled one; ages in seconds."""
        now, snapshot = self.neighbours.clock(), self.context.snapshot
        known = dict(self.neighbours.items())
        for node in snapshot.nodes:
            if node.addresses and node.name != snapshot.node:
                known.setdefault(node.name, Neighbour(False, now))
        addresses = {node.name: node.addresses for node in snapshot.nodes}
        return [
            {
                "node": name,
                "addresses": list(addresses.get(name, ())),
                "reachable": None if name not in self.neighbours else one.reachable,
                "since_seconds": None if name not in self.neighbours else round(now - one.since, 1),
                "seen_seconds": 0.0
                if self._connections(name)
                else round(now - one.seen, 1)
                if one.seen > -math.inf
                else None,
                "connections": self._connections(name),
                "flag": one.flag,
                "error": one.error,
            }
            for name, one in sorted(known.items())
        ]

    # looking after all of them

    def look(self, now: float) -> None:
        """Do what is due: ping quiet connections; end idle and outdated ones when their streams end."""
        identities = self.context.identities
        trust = identities.trust()
        for link, metered in self._carried.items():
            self._look_at(link, now, 1.0, metered)
            if link.made_of[1] != trust:
                link.drain()
        for (identity, _, _), host in self._hosts.items():
            credentials = self._credentials(identity)
            for link in host.links:
                if credentials is not None and link.made_of[0] != credentials:
                    link.drain()
        for link in self.accepted:
            # The other end pings and ends it, since it dialled. We do so later, in case it does not.
            self._look_at(link, now, 2.0, self._metered(link.peer.node, False))
            if self.context.draining or link.made_of[1] != trust:
                link.drain()
        for key, host in list(self._hosts.items()):
            if not host.links and host.attempt is None and now > host.until + (_FORGOTTEN if host.failures else 0):
                del self._hosts[key]

    def _look_at(self, link: Link, now: float, patience: float, metered: bool) -> None:
        settings = self.settings
        link.forgive()
        if self.context.identities.now() > link.peer.not_after + link.made_of[1].tolerance:
            link.drain()
        if not link.streams:
            link.rested = True
            if now - link.idle_since > settings.idle_timeout * patience:
                link.drain()
            return
        if link.rested and patience == 1.0 and now - link.last_heard >= 2 * _LOOK:
            # The first call after an idle time, and nothing has arrived: the link may have broken. It has as long as
            # dialling would.
            assert self._nursery is not None
            link.rested = False
            self._nursery.start_soon(link.ask, min(settings.answer, self.context.limits.connect_timeout))
            return
        interval = (settings.keepalive_metered if metered else settings.keepalive) * patience
        if now - max(link.last_heard, link.pinged_at) >= interval:
            assert self._nursery is not None
            self._nursery.start_soon(link.ask, settings.answer)

    def _metered(self, node: str, metered: bool) -> bool:
        """Return whether the link to that node is metered at either end."""
        snapshot = self.context.snapshot
        return metered or any(one.metered and one.name in (snapshot.node, node) for one in snapshot.nodes)


def _identity(workload: Workload) -> Identity | None:
    return None if workload.key == GATE.key else workload.identity


def _key(workload: Workload, hop: Hop, came: Came | None = None) -> Key:
    identity = _identity(workload)
    if identity is None:
        return None, hop, f"part {hash(source(came.address)) % _PARTS}" if came is not None else ""
    return identity, hop, "" if hop.node else workload.key
