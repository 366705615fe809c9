"""Connections to other nodes: shared by the streams of one identity, dialled when needed, kept while they live.

Theory of operation. A `Way` is an identity of ours and a place to reach with it. The peer judges streams by the certificate of their
connection, so no connection is ever shared by two identities. The first caller who finds no connection with room starts an attempt;
whoever comes meanwhile waits for the same one and shares what becomes of it. An attempt runs in the nursery of `run`, not in a caller's
task, because the connection outlives that: one task dials, and then carries the connection to its end (`_live`).

After a failure the way rests, twice as long after each, and callers are told so at once instead of waiting in turn; the first who
comes after the rest is the probe. One task looks every second at all connections, those that peers made to us too (`accepted`, see
hbone.py): quiet ones are asked whether they live, idle ones end, and those whose certificates were renewed or have run out take no new
streams and end with their last one: so nothing that runs is dropped for a certificate's sake. What is revoked is cut.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable

import trio

from nodeproxy.context import Conn, Context, Pick
from nodeproxy.credentials import Credentials, Trust
from nodeproxy.errors import Refused
from nodeproxy.http.h2 import Channel
from nodeproxy.limits import PeerLimits
from nodeproxy.peer import Link, PeerConnection, note_peer
from nodeproxy.proof import read_spiffe
from nodeproxy.secure import Secures
from nodeproxy.stream import abort, close_now
from nodeproxy.telemetry.report import new_id
from nodeproxy.tunnel import check_answer, connect_fields
from nodeproxy.upstream.connect import forwarded_for, shown_to
from nodeproxy.upstream.way import Attempt, Way, connect
from policy.model import Hop, Identity, Workload

log = logging.getLogger("edgemesh.peers")

_LOOK = 1.0  # seconds between looks at all connections
_ROOM = 0.05  # seconds between looks for room, when all connections of a way are full
_FORGOTTEN = 60.0  # seconds after which a way that failed is remembered no longer
_GRACE = 1.0  # seconds: the other node tries its server as long as we wait for it, and its answer says more than our silence

Key = tuple[Identity, Hop, str]  # who calls, whither, and the caller's workload where the connection is made in its namespace


class Peers:
    """All connections between this node and others. `run` first."""

    def __init__(
        self,
        context: Context,
        settings: PeerLimits | None = None,
        now: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        """`now` holds the dates of certificates against the clock."""
        self.context = context
        self.settings = settings or PeerLimits()
        self.now = now
        self.secures = Secures(context.lane, now)
        self.accepted: dict[Link, None] = {}  # made by peers, to our doors
        self._ways: dict[Key, Way] = {}
        self._carried: dict[Link, bool] = {}  # ours, and whether their links cost by the byte
        self.connect = connect  # a socket becomes a stream
        self._random = chance or random.Random()  # noqa: S311 - jitter
        self._nursery: trio.Nursery | None = None
        self._stirred = trio.Event()

    def __repr__(self) -> str:
        return f"<Peers {len(self._carried)} dialled, {len(self.accepted)} accepted>"

    def __len__(self) -> int:
        return len(self._carried) + len(self.accepted)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections going until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                if not self and not self._ways:
                    self._stirred = trio.Event()
                    await self._stirred.wait()
                await trio.sleep(_LOOK)
                self.look(trio.current_time())

    # what rooms ask

    async def get(self, conn: Conn, hop: Hop) -> PeerConnection:
        """A connection to there for this caller's identity, with room for a stream that is opened soon. Raises Refused."""
        return await self._with_room(conn, hop)

    def existing(self, conn: Conn, hop: Hop) -> PeerConnection | None:
        """A connection to there that is up and takes more, if there is one."""
        workload = self.context.snapshot.workload(conn.workload.key) or conn.workload
        way = self._ways.get((workload.identity, hop, "" if hop.node else workload.key))
        try:
            made_of = self._ready(workload.identity, hop) if way is not None else None
        except Refused:
            return None
        return next((link for link in way.links if link.made_of == made_of and link.room()), None) if way is not None else None

    async def tunnel(self, conn: Conn, pick: Pick) -> Channel:
        """Opaque bytes to the picked endpoint, through its node. Raises Refused."""
        hop, limits = pick.hop, self.context.limits
        assert hop is not None
        trace = ""
        if not self._metered(hop.node, hop.metered):
            trace = conn.report.record.id = conn.report.record.id or new_id()
        caller = shown_to(conn, pick.endpoint) or forwarded_for(conn)
        fields = connect_fields(pick.endpoint, (caller, conn.peer[1]), trace)
        with trio.move_on_after(limits.connect_timeout + _GRACE) as scope:
            for last in (False, True):
                # Dialling has deadlines of its own.
                scope.deadline = math.inf
                link = await self._with_room(conn, hop)
                scope.deadline = trio.current_time() + limits.connect_timeout + _GRACE
                note_peer(conn.report.record, link)
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
                    # It ended just as we came, or said that it did nothing with this (RFC 9113 section 6.8): asked once more.
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

    # what the proxy tells

    def recheck(self) -> int:
        """A snapshot was published: cut the connections of those whom it refuses now. Answers how many."""
        snapshot = self.context.snapshot
        cut = 0
        for link in [*self._carried, *self.accepted]:
            why = snapshot.refuses(link.peer.identity, link.peer.node, link.peer.serial)
            if why and not link.closed:
                link.cut("peer-revoked", why)
                cut += 1
        return cut

    def drain(self) -> None:
        """The daemon is stopping: peers are told to come no more, and what runs goes on."""
        for link in self.accepted:
            link.drain()

    def forget(self, key: str) -> None:
        """A workload is gone from this node: so are the connections that were made in its namespace."""
        for (_, _, workload), way in self._ways.items():
            if workload == key:
                for link in list(way.links):
                    link.close()
        identities, snapshot = self.context.identities, self.context.snapshot
        here = [found.identity for one in self.context.captured if (found := snapshot.workload(one)) is not None]
        self.secures.retain([made for made in (identities.node(), *map(identities.of, here)) if made is not None], identities.trust())

    def admit(self, link: Link) -> None:
        """A peer has connected to a door of ours. Its door takes it out of `accepted` again."""
        self.accepted[link] = None
        self._stirred.set()

    # finding a connection

    async def _with_room(self, conn: Conn, hop: Hop) -> Link:
        """The room is promised to the caller, who opens a stream soon."""
        context = self.context
        workload = context.snapshot.workload(conn.workload.key) or conn.workload
        key: Key = (workload.identity, hop, "" if hop.node else workload.key)
        waited_until = trio.current_time() + context.limits.connect_timeout
        while True:
            made_of = self._ready(workload.identity, hop)
            way = self._ways.get(key)
            if way is None:
                way = self._ways[key] = Way()
                self._stirred.set()
            living = 0
            for link in way.links:
                if link.made_of != made_of:
                    link.drain()  # renewed: what runs goes on, and nothing new begins
                elif link.room() > 0:
                    link.promise()
                    return link
                elif not link.ending:
                    living += 1
            if way.attempt is not None:
                if way.failures:
                    raise way.resting(hop)
                await way.attempt.outcome(hop)
            elif living >= self.settings.connections:
                if trio.current_time() >= waited_until:
                    why = f"{living} connections to {hop} carry all the streams that they may; see NodeConfig peers and http2.streams"
                    raise Refused("too-many-connections", why)
                await trio.sleep(_ROOM)  # an event would cost every stream that ends
            elif trio.current_time() < way.until:
                raise way.resting(hop)
            else:
                assert self._nursery is not None, "run() first"
                way.attempt = attempt = Attempt()
                self._nursery.start_soon(self._live, way, attempt, workload, hop, made_of)
                await attempt.outcome(hop)
                if way.came_to_nothing():  # without a rest this would go round and round
                    way.failed(Refused("peer-lost", "it ended the connection as soon as it began"), self._random)

    def _ready(self, identity: Identity, hop: Hop) -> tuple[Credentials, Trust]:
        """What a new connection is made of. Raises Refused where none may be made."""
        context = self.context
        trust, credentials = context.identities.trust(), context.identities.of(identity)
        if trust is None or credentials is None:
            raise Refused("no-certificate", f"{identity}, to call {hop}")
        named = read_spiffe(hop.spiffe)
        why = context.snapshot.refuses(named.identity if named else None, hop.node)
        if why:
            raise Refused("peer-revoked", why)
        return credentials, trust

    # one connection

    async def _live(self, way: Way, attempt: Attempt, workload: Workload, hop: Hop, made_of: tuple[Credentials, Trust]) -> None:
        """The life of one connection, from its dialling to its end."""
        limits = self.context.limits
        stream: object = None
        link: Link | None = None
        failure: Refused | None = None
        timeout = Refused("connect-timeout", f"no answer in {limits.connect_timeout:g} s")
        trying = trio.CancelScope(deadline=trio.current_time() + limits.connect_timeout)

        def met() -> None:
            assert link is not None
            trying.deadline = math.inf
            way.succeeded(link)

        try:
            with trying:
                stream = await self.connect(self.context, workload, hop)
                timeout = Refused("tls-failed", f"no handshake in {limits.connect_timeout:g} s")
                secured, carrier = await self.secures.connect(stream, *made_of, (hop.spiffe,), limits.connect_timeout)
                stream = secured.stream
                peer = secured.peer
                assert peer is not None
                if why := self.context.snapshot.refuses(peer.identity, peer.node, peer.serial):
                    raise Refused("peer-revoked", why)
                timeout = Refused("peer-lost", f"no SETTINGS in {limits.connect_timeout:g} s")
                bounds = self.context.h2_bounds
                link = Link(secured, True, bounds.shared() if hop.node else bounds, str(hop), made_of, met, carrier)
                self._carried[link] = self._metered(hop.node, hop.metered)
                await link.run()
            if trying.cancelled_caught:
                failure = timeout
        except Refused as refused:
            failure = refused
            if link is not None and not link.heard_of and refused.flag == "peer-lost" and "sent alert" in refused.detail:
                failure = Refused("tls-failed", refused.detail)  # it did not believe our certificate
        except Exception:
            log.exception("connection to %s", hop)
            failure = Refused("internal")
        finally:
            ended = link is not None and link.heard_of and not (failure or link.verdict)
            if stream is not None:
                # What was sent last may still be on its way, which a reset would overtake.
                close_now(stream) if ended else abort(stream)
            if link is not None:
                link.close()
                self._carried.pop(link, None)
                if link in way.links:
                    way.links.remove(link)
            if way.attempt is attempt:
                ended_mutely = Refused("peer-lost", "it ended the connection before it said anything")
                way.failed(failure or ended_mutely, self._random)
        log.debug("%s: %s", hop, failure or "ended")

    # looking after all of them

    def look(self, now: float) -> None:
        """What is due: what is quiet is asked, what is idle or out of date ends when its streams do."""
        identities = self.context.identities
        trust = identities.trust()
        for link, metered in self._carried.items():
            self._look_at(link, now, 1.0, metered)
            if link.made_of[1] != trust:
                link.drain()
        for (identity, _, _), way in self._ways.items():
            credentials = identities.of(identity)
            for link in way.links:
                if credentials is not None and link.made_of[0] != credentials:
                    link.drain()
        for link in self.accepted:
            # The other end does the asking and the ending, since it dialled: we come later, in case that it does not.
            self._look_at(link, now, 2.0, self._metered(link.peer.node, False))
            if self.context.draining or link.made_of[1] != trust:
                link.drain()
        for key, way in list(self._ways.items()):
            if not way.links and way.attempt is None and now > way.until + (_FORGOTTEN if way.failures else 0):
                del self._ways[key]

    def _look_at(self, link: Link, now: float, patience: float, metered: bool) -> None:
        settings = self.settings
        link.forgive()
        if self.now() > link.peer.not_after + link.made_of[1].tolerance:
            link.drain()
        if not link.streams:
            if now - link.idle_since > settings.idle_timeout * patience:
                link.drain()
            return
        interval = (settings.keepalive_metered if metered else settings.keepalive) * patience
        if now - max(link.last_heard, link.pinged_at) >= interval:
            assert self._nursery is not None
            self._nursery.start_soon(link.ask, settings.answer)

    def _metered(self, node: str, metered: bool) -> bool:
        """Does the link to that node cost by the byte, at either end?"""
        snapshot = self.context.snapshot
        return metered or any(one.metered and one.name in (snapshot.node, node) for one in snapshot.nodes)
