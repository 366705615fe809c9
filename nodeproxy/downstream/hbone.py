"""Tunnel listeners: another node calls workloads of this one (HBONE: HTTP/2 CONNECT over mTLS, as in Istio ambient).

Theory of operation. There are two kinds of listener. Each workload has one, which presents the workload's own
certificate and leads only to that workload. A node with configured addresses has one for all of its workloads, with the
node's certificate. A peer proves an identity by certificate. Until then it is one of the few unauthenticated
connections. A peer that is revoked, or neither a workload nor a node at which a Gateway has a listener, is refused
before it can request anything. The task that accept.py made owns the connection (`_serve`): TLS first, then HTTP/2, with a task for every stream in the nursery
there.

Behind the listener a stream is a connection of its own: a Conn with the proved identity, its own record, and a scope
that publish() cuts if a new snapshot forbids its traffic. `_admit` checks, in this order: is it CONNECT, or a request
between two edgemesh nodes? Is its authority an address and port, and of a workload behind this listener? May this
identity ever call that workload and port? Only then the stream gets an `Inward` route and is served like a call in
plain text:

    a request                       to the HTTP handler, authorised like every request
    CONNECT, the port speaks HTTP   200, then the HTTP handler: a tunnel does not bypass the rules for HTTP
    CONNECT, opaque bytes may pass  the server is dialled, then 200 and the relay: so 503 means that no server answers
    CONNECT, nothing declared,      200, then detection: the first bytes show whether it is HTTP
      and only HTTP may pass

Calls from outside the mesh. The node at which one came in by a listener passes it on with the node's own certificate,
and says on each stream who calls and by which Gateway. A node calls in no other way, and nobody else may say such a
thing: a stream of a workload that does is refused. Whether the node may speak for that Gateway, and whether its caller
may come in, is asked of the snapshot as for a listener of this node (policy/entering.py, routing/gateway.py `Arrived`).

Where the bytes come from. The identity is the certificate's, whatever headers say. The address that servers see is the
caller's own: that of the connection, if the workload itself dialled; at the node's listener the one in `forwarded`, if
a workload with that identity has it.

Ends. A stream's fault ends the stream. If the connection is lost, its streams are cut as "client-gone". A renewed
certificate changes nothing for connected peers (mesh/pool.py maintains them). GOAWAY announces the daemon's stop.
"""

from __future__ import annotations

import contextlib
import time

import trio

from nodeproxy.codec import hbone
from nodeproxy.codec.local_reply import answer_fields, content, grpc_fields
from nodeproxy.codec.trace_context import trace_id
from nodeproxy.context import Conn, Context
from nodeproxy.downstream.accepted_peer import AcceptedPeer
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Channel
from nodeproxy.h2.transport import Transport
from nodeproxy.limits import FEW, Gate
from nodeproxy.mesh.host_pool import outlive_no_silence
from nodeproxy.protocols.http.room import serve_stream_of_node
from nodeproxy.protocols.lifetime import Life, note_refusal
from nodeproxy.protocols.serve import serve
from nodeproxy.protocols.table import OPAQUE, handler
from nodeproxy.protocols.tcp import open_upstream, serve_tcp
from nodeproxy.routing.gateway import Arrived
from nodeproxy.routing.route import Inward, denied
from nodeproxy.stream import Peeked, abort, close_now, plain_socket
from nodeproxy.telemetry.record import Record, Report, new_id
from nodeproxy.tls.credentials import AnySecured, Credentials, Trust
from nodeproxy.tls.spiffe import read_spiffe
from policy.entering import distrusts
from policy.model import Identity, Workload
from policy.snapshot import Snapshot

_FAREWELL = 1.0  # seconds in which ended streams may write their records after the connection is over


async def workload_tunnels(conn: Conn) -> None:
    """Serve a connection to the listener of one workload. Raise Refused."""
    await _serve(conn, conn.workload, conn.context.identities.of(conn.workload.identity))


async def node_tunnels(conn: Conn) -> None:
    """Serve a connection to the node's own listener, for all workloads that are captured here. Raise Refused."""
    conn.report.record.destination = None  # each stream has its own
    await _serve(conn, None, conn.context.identities.node())


async def _serve(conn: Conn, workload: Workload | None, credentials: Credentials | None) -> None:
    """Serve one connection of a peer. `workload`: the one behind this listener; None: any of this node."""
    context, record = conn.context, conn.report.record
    trust = context.identities.trust()
    record.protocol = "hbone"
    if trust is None or credentials is None:
        raise Refused("no-certificate", workload.key if workload else "the node's own")
    if (socket := plain_socket(conn.stream)) is not None:
        outlive_no_silence(socket)

    # Which identity does the peer prove?
    made_of = (credentials, trust)
    with context.anteroom.waits(conn.peer[0], context.snapshot.knows(conn.peer[0])) as waiting:
        secured, transport = await context.peers.accept(conn.stream, *made_of, context.limits.head_timeout)
    if waiting.scope.cancelled_caught:
        raise Refused("too-many-connections", "it proved nothing, and others came")
    peer = secured.peer
    assert peer is not None
    record.tls_peer, record.tls_version, record.tls_cipher = peer.spiffe, peer.version, peer.cipher
    crowd = peer.identity is None
    if crowd and (why := _no_gateway(context.snapshot, peer.spiffe)):
        raise Refused("peer-no-identity", f"{peer.spiffe} is no workload's, and opens no tunnels: {why}")
    if why := context.snapshot.refuses(peer.identity, peer.node, peer.serial):
        raise Refused("peer-revoked", why)
    if not conn.gate.enter():
        raise Refused("too-many-connections", f"{context.limits.connections} are open")
    try:
        gate = context.guests.of((peer.spiffe, peer.node), crowd)
        if not gate.enter():
            raise Refused("too-many-connections", f"{gate.full} of this peer are open")
        try:
            if gate.owner is not None and (debt := gate.owner.debt(trio.current_time())):
                raise Refused(
                    "http2-abuse",
                    f"the streams of its connections before were for nothing; it may come again in {debt:.1f} s",
                )
            await _welcome(conn, workload, secured, transport, made_of, gate)
        finally:
            gate.leave()
    finally:
        conn.gate.leave()


async def _welcome(
    conn: Conn,
    workload: Workload | None,
    secured: AnySecured,
    transport: Transport | None,
    made_of: tuple[Credentials, Trust],
    gate: Gate,
) -> None:
    """Serve the rest of a connection whose peer is known."""
    context, record, peer = conn.context, conn.report.record, secured.peer
    assert peer is not None
    conn.identity = peer.identity
    if peer.identity is not None:
        conn.source = record.source = _caller_at(context.snapshot, conn.peer[0], peer.identity)

    # What does the peer request? Each stream has its task, which ends with the connection.
    bounds = context.h2_bounds
    accepted = AcceptedPeer(
        secured,
        bounds.of_crowd() if peer.identity is None else bounds if workload else bounds.shared(),
        f"{peer.spiffe} at {conn.peer[0]}",
        made_of,
        transport,
        gate.owner,
    )
    if gate.open > FEW:
        accepted.stay_small()
    failure: Exception | None = None
    async with trio.open_nursery() as streams:

        def accept(channel: Channel) -> None:
            streams.start_soon(_own, conn, workload, accepted, channel)

        context.peers.admit(accepted)
        try:
            await accepted.run(accept)
        except (Refused, trio.BrokenResourceError) as error:
            failure = error  # raised below: the nursery would wrap it in a group
        finally:
            context.peers.dismiss(accepted)
            accepted.left_behind()
        streams.cancel_scope.deadline = trio.current_time() + _FAREWELL
    if accepted.verdict:
        raise Refused(accepted.verdict, accepted.why)
    if failure is not None:
        raise failure
    close_now(secured.stream)  # with close_notify


async def _own(conn: Conn, workload: Workload | None, accepted: AcceptedPeer, channel: Channel) -> None:
    """Serve one stream until it ends. Unlike a connection, a stream gets a response that says why it is refused."""
    context = conn.context
    branch = _branch(conn, channel)
    record = branch.report.record
    accepted.branches[channel.id] = (branch, channel)

    def ended(flag: str) -> None:
        del accepted.branches[channel.id]
        if flag and not channel.sent_end:  # a refusal was already sent whole
            channel.abort()
        else:
            channel.close()
        if flag:
            record.id = record.id or new_id()
        total = conn.report.record
        total.bytes_in += record.bytes_in
        total.bytes_out += record.bytes_out

    with Life(branch, ended) as life, branch.scope:
        try:
            asked, route = _admit(branch, workload, accepted, channel)
            branch.route = route
            if asked.connect:
                await _carry(branch, route, channel)
            else:
                life.records = False  # the request has its own record
                await serve_stream_of_node(branch, route, channel, asked.h2)
        except Refused as refused:
            note_refusal(record, refused)
            if not channel.sent_head:
                with trio.move_on_after(context.limits.head_timeout), contextlib.suppress(trio.BrokenResourceError):
                    await _refuse(channel, refused, record)
            raise


def _branch(conn: Conn, channel: Channel) -> Conn:
    """Make a stream a connection of its own. `_admit` adds its destination."""
    now = time.time()
    method = "" if channel.tunnel else dict(channel.fields).get(b":method", b"").decode("latin-1")[:32]
    record = conn.report.record.of_request(now, "hbone" if channel.tunnel else "http", method)
    record.trace = trace_id(channel.fields)
    if channel.tunnel:
        record.kind = "connection"
    report = Report(conn.context.sink, record)
    branch = Conn(
        conn.context, Peeked(channel), conn.workload, "inbound", conn.peer, conn.dialled, now, conn.source, report
    )
    branch.identity = conn.identity
    return branch


def _admit(
    branch: Conn, door: Workload | None, accepted: AcceptedPeer, channel: Channel
) -> tuple[hbone.Asked, Inward | Arrived]:
    """Decide whether this stream may continue, as far as its head allows, and write its destination into `branch`.

    Return what it asks for, and what decides on it from here on. Raise Refused.
    """
    context, record = branch.context, branch.report.record
    snapshot = context.snapshot
    identity = branch.identity

    # What is requested, and may this peer ask it for somebody outside the mesh?
    asked = hbone.read(channel.fields, accepted.native)
    if asked.came is not None and identity is not None:
        raise Refused("not-a-gateway", f"{accepted.peer.spiffe} is a workload, and calls for nobody but itself")
    if asked.came is None and identity is None:
        raise Refused("peer-no-identity", f"{accepted.peer.spiffe} names nobody outside the mesh for whom it calls")
    address, port = asked.address, asked.port
    dialled = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    # Of which workload
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
    # The same check as accept.py makes for connections; the gates there do not count streams.
    if 2 * len(context.conns) + len(context.pool) >= context.descriptors * 3 // 4:
        raise Refused("too-many-connections", "descriptors run short")

    if asked.came is not None:
        branch.peer = asked.came.address, asked.came.port
        record.source_address = asked.came.address
        arrived = Arrived(branch, asked.came, accepted.peer.node)
        if asked.connect:
            declared = snapshot.destination(address, port).protocol
            arrived.check(not declared or handler(declared).requests)
        return asked, arrived

    # On whose behalf: at a workload's own listener the caller is the peer that dialled.
    assert identity is not None
    if door is None and asked.caller is not None:
        source = _caller_at(snapshot, asked.caller[0], identity)
        if source is not None:
            branch.source = record.source = source
            branch.peer = asked.caller
            record.source_address = asked.caller[0]

    # May this identity ever call it?
    verdict = snapshot.authorize(identity, workload, port)
    protocol = snapshot.destination(address, port).protocol
    if not verdict.allowed and (verdict.reason != "http-only" or (protocol and not handler(protocol).requests)):
        raise denied(verdict, workload)
    return asked, Inward(branch)


def _no_gateway(snapshot: Snapshot, spiffe: str) -> str:
    """Return why a peer that is no workload passes on no calls from outside the mesh; "" if it may."""
    named = read_spiffe(spiffe)
    return distrusts(snapshot, named.node) if named is not None and named.node else "it is no node"


async def _carry(branch: Conn, route: Inward | Arrived, channel: Channel) -> None:
    """Serve a tunnel: send 200 once there is a server at its other end, then relay or detect what it carries.

    Raise Refused.
    """
    context = branch.context
    protocol = context.snapshot.destination(*branch.dialled).protocol
    opaque = route.opaque()
    if not opaque or handler(protocol).requests:
        await channel.send_head(hbone.OPENED)
        await serve(branch, route, protocol)
        return
    pick = route.pick(None)
    branch.moves(pick, None)
    upstream, pick = await open_upstream(branch, route, pick)
    try:
        await channel.send_head(hbone.OPENED)
    except BaseException:
        abort(upstream)
        raise
    branch.report.record.protocol = OPAQUE.shown
    await serve_tcp(branch, route, upstream, pick)


async def _refuse(channel: Channel, refused: Refused, record: Record) -> None:
    """Send a refusal with its reason, in the protocol of the request."""
    if channel.tunnel:
        await channel.send_head(hbone.refusal_fields(refused, record.id), end=True)
    elif (b"content-type", b"application/grpc") in channel.fields:
        await channel.send_head(grpc_fields(refused, record.id), end=True)
    else:
        body = content(refused, record.id)
        await channel.send_head(answer_fields(refused, record.id, len(body)))
        await channel.send_all(body, end=True)
    record.status = refused.status


def _behind(context: Context, door: Workload | None, address: str, port: int) -> Workload | None:
    """Return the workload of this node that is reached at an address and port through a listener."""
    snapshot = context.snapshot
    workload = snapshot.workload_at(address, port) if door is None else snapshot.workload(door.key)
    if workload is None or workload.key not in context.captured:
        return None
    # A unit shares its address with the node and other units: other programs may listen there too.
    return None if workload.unit and port not in workload.ports else workload


def _caller_at(snapshot: Snapshot, address: str, identity: Identity) -> Workload | None:
    """Return the workload that has this address and this identity, if there is one."""
    if not snapshot.has_address(address):
        return None
    found = snapshot.workload_at(address)
    if found is not None:
        return found if found.identity == identity else None
    return next((one for one in snapshot.workloads if address in one.addresses and one.identity == identity), None)
