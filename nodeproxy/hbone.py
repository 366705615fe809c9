"""Doors: another node calls workloads of this one, through tunnels (HBONE: HTTP/2 CONNECT over mTLS, as in Istio ambient).

Theory of operation. There are two doors. Each workload has one, which presents the workload's own certificate and leads to nobody else;
a node that says where it is reached has one for all of its workloads, with the node's certificate. Whoever connects proves an identity
by certificate; one that is revoked, or no workload's, is sent away before it can ask anything. The connection belongs to the task that
listen.py made for it (`_serve`): TLS first, then HTTP/2, with a task for every stream in the nursery there.

A stream is a connection of its own to everything behind this door: a Conn with the proved identity, its own record, and a scope that
publish() cuts when a new snapshot forbids what it carries. `_admit` asks, in this order: is it CONNECT, or a request between two edgemesh
nodes? Is its authority an address and port, and of a workload behind this door? May this identity ever come to that workload and port?
Only then it becomes `Inward` and goes the way of a plain call:

    a request                       to the HTTP room, judged like every request
    CONNECT, the port speaks HTTP   200, then the HTTP room: a tunnel is no way around the rules for HTTP
    CONNECT, opaque bytes may pass  the server is dialled, then 200 and the relay: so 503 tells that nobody answers there
    CONNECT, nothing declared,      200, then the hall: the first bytes tell whether it is HTTP
      and only HTTP may pass

Where the bytes come from. The identity is the certificate's, whatever headers say. The address that servers see is the caller's own: of
the connection, where the workload dialled itself; at the node's door the one in `forwarded`, if a workload with that identity has it.

Ends. A stream's fault ends the stream. When the connection is lost, its streams are cut as "client-gone". A renewed certificate changes
nothing for those who are connected (upstream/peers.py looks after them); the daemon's stop is told by GOAWAY.
"""

from __future__ import annotations

import contextlib
import logging
import time

import trio

from nodeproxy import tunnel
from nodeproxy.context import Conn, Context
from nodeproxy.credentials import Credentials
from nodeproxy.errors import Refused
from nodeproxy.guest import Guest
from nodeproxy.http.answers import answer_fields, content, grpc_fields
from nodeproxy.http.h2 import Channel
from nodeproxy.http.rooms import serve_stream_of_node
from nodeproxy.peer import note_peer
from nodeproxy.serve import ROOMS, serve
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.tcp import open_upstream, serve_tcp
from nodeproxy.telemetry.report import Record, Report, new_id, trace_id
from nodeproxy.upstream.route import Inward, denied
from nodeproxy.upstream.way import outlive_no_silence
from policy.model import Identity, Workload
from policy.snapshot import Snapshot

log = logging.getLogger("edgemesh.hbone")

_FAREWELL = 1.0  # seconds that streams which have ended get to write their records when the connection is over


async def workload_tunnels(conn: Conn) -> None:
    """The door of one workload. Raises Refused."""
    await _serve(conn, conn.workload, conn.context.identities.of(conn.workload.identity))


async def node_tunnels(conn: Conn) -> None:
    """The node's own door, to all workloads that are captured here. Raises Refused."""
    conn.report.record.destination = None  # each stream has its own
    await _serve(conn, None, conn.context.identities.node())


async def _serve(conn: Conn, workload: Workload | None, credentials: Credentials | None) -> None:
    """One connection of a peer. `workload`: the one behind this door; None: any of this node."""
    context, record = conn.context, conn.report.record
    peers, trust = context.peers, context.identities.trust()
    assert peers is not None, "the proxy runs first"
    record.protocol = "hbone"
    if trust is None or credentials is None:
        raise Refused("no-certificate", workload.key if workload else "the node's own")
    if isinstance(conn.stream.stream, trio.SocketStream):
        outlive_no_silence(conn.stream.stream)

    # Who is it?
    made_of = (credentials, trust)
    secured, carrier = await peers.secures.accept(conn.stream, *made_of, context.limits.head_timeout)
    peer = secured.peer
    assert peer is not None
    record.tls_peer, record.tls_version, record.tls_cipher = peer.spiffe, peer.version, peer.cipher
    if peer.identity is None:
        raise Refused("peer-no-identity", f"{peer.spiffe} is no workload's, and opens no tunnels")
    if why := context.snapshot.refuses(peer.identity, peer.node, peer.serial):
        raise Refused("peer-revoked", why)
    conn.identity = peer.identity
    conn.source = record.source = _caller_at(context.snapshot, conn.peer[0], peer.identity)

    # What does it want? Each stream has its task, and they have no more time than the connection.
    bounds = context.h2_bounds
    guest = Guest(secured, bounds if workload else bounds.shared(), f"{peer.spiffe} at {conn.peer[0]}", made_of, carrier)
    failure: Exception | None = None
    async with trio.open_nursery() as streams:

        def accept(channel: Channel) -> None:
            streams.start_soon(_own, conn, workload, guest, channel)

        peers.admit(guest)
        try:
            await guest.run(accept)
        except (Refused, trio.BrokenResourceError) as error:
            failure = error  # raised below: the nursery would wrap it in a group
        finally:
            peers.accepted.pop(guest, None)
            guest.left_behind()
        streams.cancel_scope.deadline = trio.current_time() + _FAREWELL
    if guest.verdict:
        raise Refused(guest.verdict, guest.why)
    if failure is not None:
        raise failure
    close_now(secured.stream)  # with a word that this is the end


async def _own(conn: Conn, workload: Workload | None, guest: Guest, channel: Channel) -> None:
    """The life of one stream: as listen.py's of a connection, but it answers what it refuses."""
    context = conn.context
    branch = _branch(conn, guest, channel)
    record = branch.report.record
    context.conns[branch.id] = branch
    guest.branches[channel.id] = (branch, channel)
    flag, detail = "drained", ""
    in_room = False
    try:
        with branch.scope:
            try:
                asked = _admit(branch, workload, guest, channel)
                branch.route = route = Inward(branch)
                if asked.connect:
                    await _carry(branch, route, channel)
                else:
                    in_room = True
                    await serve_stream_of_node(branch, route, channel, asked.h2)
                flag = ""
            except Refused as refused:
                flag, detail = refused.flag, refused.detail
                record.id = record.id or new_id()
                if refused.protected is not None:
                    record.destination = refused.protected
                if not channel.sent_head:
                    with trio.move_on_after(context.limits.head_timeout), contextlib.suppress(trio.BrokenResourceError):
                        await _refuse(channel, refused, record)
        if branch.scope.cancelled_caught:
            flag, detail = branch.verdict or "drained", ""
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        flag, detail = "client-gone", str(error)
    except OSError as error:
        flag, detail = "client-gone", error.strerror or str(error)
    except Exception:
        flag = "internal"
        log.exception("stream %r of %r", channel, conn)
    finally:
        del context.conns[branch.id]
        del guest.branches[channel.id]
        if flag and not channel.sent_end:  # what was refused has been answered whole
            channel.abort()
        else:
            channel.close()
        total = conn.report.record
        total.bytes_in += record.bytes_in
        total.bytes_out += record.bytes_out
        if in_room:
            branch.report.closed = True  # the room has recorded the request
        else:
            branch.report.close(flag, detail)


def _branch(conn: Conn, guest: Guest, channel: Channel) -> Conn:
    """A stream as a connection of its own. Whither it goes is put in by `_admit`."""
    now = time.time()
    was = conn.report.record
    record = Record(
        kind="connection" if channel.tunnel else "request",
        direction="inbound",
        started=now,
        duration=0.0,
        source=conn.source,
        source_address=conn.peer[0],
        destination=was.destination,
        service="",
        dialled=was.dialled,
        endpoint="",
        protocol="hbone" if channel.tunnel else "http",
        method="" if channel.tunnel else dict(channel.fields).get(b":method", b"").decode("latin-1")[:32],
        id=trace_id(channel.fields),
    )
    note_peer(record, guest)
    report = Report(conn.context.sink, record)
    branch = Conn(conn.context, Peeked(channel), conn.workload, "inbound", conn.peer, conn.dialled, now, conn.source, report)
    branch.identity = conn.identity
    return branch


def _admit(branch: Conn, door: Workload | None, guest: Guest, channel: Channel) -> tunnel.Asked:
    """May this stream go on, as far as that can be said before a byte of it? Puts into `branch` whither it goes. Raises Refused."""
    context, record = branch.context, branch.report.record
    snapshot = context.snapshot
    identity = branch.identity
    assert identity is not None

    # What is asked
    asked = tunnel.read(channel.fields, guest.native)
    address, port = asked.address, asked.port
    dialled = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    # Of whom
    if port in context.ports:
        raise Refused("own-port", dialled)
    if door is not None and address != branch.dialled[0]:
        raise Refused("bad-authority", f"{dialled} at the door of {branch.dialled[0]}")
    workload = _behind(context, door, address, port)
    if workload is not None and port == workload.tunnel_port:
        raise Refused("own-port", dialled)
    if workload is None:
        raise Refused("unknown-workload", dialled)
    branch.workload = workload
    branch.dialled = (address, port)
    record.destination = workload
    record.dialled = dialled
    # As listen.py asks of connections, of which these are more than its gates count.
    if 2 * len(context.conns) + len(context.pool) >= context.descriptors * 3 // 4:
        raise Refused("too-many-connections", "descriptors run short")

    # On whose behalf: at a workload's own door the caller is whoever dialled.
    if door is None and asked.caller is not None:
        source = _caller_at(snapshot, asked.caller[0], identity)
        if source is not None:
            branch.source = record.source = source
            branch.peer = asked.caller
            record.source_address = asked.caller[0]

    # May it ever?
    verdict = snapshot.authorize(identity, workload, port)
    protocol = snapshot.destination(address, port).protocol
    if not verdict.allowed and (verdict.reason != "http-only" or (protocol and protocol not in ROOMS)):
        raise denied(verdict, workload)
    return asked


async def _carry(branch: Conn, route: Inward, channel: Channel) -> None:
    """A tunnel: 200 when there is something at its other end, then whatever it carries. Raises Refused."""
    context = branch.context
    protocol = context.snapshot.destination(*branch.dialled).protocol
    opaque = context.snapshot.authorize(branch.identity, branch.workload, branch.dialled[1]).allowed
    if protocol in ROOMS or not opaque:
        await channel.send_head(tunnel.OPENED)
        await serve(branch, route, protocol)
        return
    pick = route.pick(None)
    branch.moves(pick, None)
    upstream, pick = await open_upstream(branch, route, pick)
    try:
        await channel.send_head(tunnel.OPENED)
    except BaseException:
        abort(upstream)
        raise
    branch.report.record.protocol = "tcp"
    await serve_tcp(branch, route, upstream, pick)


async def _refuse(channel: Channel, refused: Refused, record: Record) -> None:
    """Say no, and why, in the words of what was asked."""
    if channel.tunnel:
        await channel.send_head(tunnel.refusal_fields(refused, record.id), end=True)
    elif (b"content-type", b"application/grpc") in channel.fields:
        await channel.send_head(grpc_fields(refused, record.id), end=True)
    else:
        body = content(refused)
        await channel.send_head(answer_fields(refused, record.id, len(body)))
        await channel.send_all(body, end=True)
    record.status = refused.status


def _behind(context: Context, door: Workload | None, address: str, port: int) -> Workload | None:
    """The workload of this node that is reached at an address and port through a door."""
    snapshot = context.snapshot
    workload = snapshot.workload_at(address, port) if door is None else snapshot.workload(door.key)
    if workload is None or workload.key not in context.captured:
        return None
    # A unit shares its address with the node and other units: what else listens there is not its own.
    return None if workload.unit and port not in workload.ports else workload


def _caller_at(snapshot: Snapshot, address: str, identity: Identity) -> Workload | None:
    """The workload that has this address and this identity, if there is one."""
    if not snapshot.has_address(address):
        return None
    found = snapshot.workload_at(address)
    if found is not None:
        return found if found.identity == identity else None
    return next((one for one in snapshot.workloads if address in one.addresses and one.identity == identity), None)
