"""Tunnel doors: other nodes call local workloads, over mTLS (HBONE: HTTP/2 CONNECT, as Istio's ambient mode speaks it).

Theory of operation. One accepted connection is one peer: TLS first, with the certificate of the workload whose door this is, or of the
node at the node's own door; then HTTP/2, and each of its streams is a call. A stream gets a Conn of its own, entered in
`context.conns` before anything is decided, so that publish() can cut it like any other: it has the identity that the certificate
proved, the address and port that it asks for, and goes through the same route, hall and rooms as a plain call. What the peer says
about itself counts for nothing: no header is an identity, and the caller's address is believed only when the manifests give that
address to the very identity that was proved.

CONNECT is answered 200 when the way to the server is open: an opaque stream when it is dialled, one that carries HTTP at once, since
there each request is decided by itself. On a connection that agreed on "edgemesh-h2" a request that is no CONNECT is decided and sent
on like one that was read out of such a tunnel, and says in `x-edgemesh-destination` whom it is for.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time

import trio

from nodeproxy.context import Conn, Context
from nodeproxy.credentials import Credentials, Peer
from nodeproxy.errors import Refused
from nodeproxy.http.answers import answer_fields, content, said
from nodeproxy.http.h2 import Connection
from nodeproxy.http.h2_channel import Channel
from nodeproxy.http.h2_message import DESTINATION
from nodeproxy.http.message import Fields
from nodeproxy.http.rooms import serve_stream_of_node
from nodeproxy.serve import serve
from nodeproxy.stream import Peeked
from nodeproxy.tcp import open_upstream
from nodeproxy.telemetry.report import new_id, trace_id
from nodeproxy.tls import ALPN_MESH, MESH, accept
from nodeproxy.upstream.route import Inward
from policy.model import Identity, Workload
from policy.snapshot import Snapshot

log = logging.getLogger("edgemesh.hbone")

_LOOK = 1.0  # seconds between looks at whether a connection is still wanted
_PLACE = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15})):([0-9]{1,5})")
_FORWARDED = re.compile(rb'(?:^|;)for="?(\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::([0-9]{1,5}))?"?(?:;|$)')  # RFC 7239 section 6
# ztunnel's answers: 400 for what makes no sense, 401 for policy, 503 for everything that may be better later.
_STATUSES = {"not-connect": 400, "bad-authority": 400, "own-port": 400, "denied": 401, "no-identity": 401, "peer-revoked": 401}
_UNAVAILABLE = 503


async def workload_tunnels(conn: Conn) -> None:
    """Door: another node calls the workload whose door this is. Raises Refused."""
    await _serve(conn, conn.context.identities.of(conn.workload.identity), at_node=False)


async def node_tunnels(conn: Conn) -> None:
    """Door: another node calls some workload of this one. Raises Refused."""
    await _serve(conn, conn.context.identities.node(), at_node=True)


async def _serve(conn: Conn, credentials: Credentials | None, at_node: bool) -> None:
    context, record = conn.context, conn.report.record
    record.protocol = "hbone"
    trust = context.identities.trust()
    if trust is None or credentials is None:
        raise Refused("no-certificate", "of the node" if at_node else conn.workload.identity.spiffe("..."))
    # who is it
    tls = context.tls.server(credentials, trust, ALPN_MESH)
    secured = await accept(conn.stream, tls, trust, context.limits.handshake_timeout)
    peer = secured.peer
    assert peer is not None, "a certificate is required here"
    record.tls_peer, record.tls_version, record.tls_cipher = peer.spiffe, peer.version, peer.cipher
    if reason := context.snapshot.refuses(peer.identity, peer.node, peer.serial):
        raise Refused("peer-revoked", reason)
    if peer.identity is None:
        raise Refused("peer-no-identity", f"{peer.spiffe} is a node: its certificate opens no tunnels")
    conn.proved, conn.identity = peer, peer.identity
    conn.source = record.source = _caller(context.snapshot, peer.identity, conn.peer[0])
    # its calls
    connection = Connection(secured.stream, client=False, bounds=context.h2_bounds, name=f"{peer.spiffe} at {conn.peer[0]}")
    failure: Exception | None = None
    async with trio.open_nursery() as calls:

        def call(channel: Channel) -> None:
            calls.start_soon(_Call(conn, peer, channel, at_node).run)

        calls.start_soon(_end_in_time, conn, connection, peer, trust.tolerance)
        try:
            await connection.run(call)
        except (Refused, trio.BrokenResourceError) as error:
            failure = error  # raised below: the nursery would wrap it in a group
        calls.cancel_scope.cancel()
    secured.stream.close()
    if failure is not None:
        raise failure


async def _end_in_time(conn: Conn, connection: Connection, peer: Peer, tolerance: float) -> None:
    """Drain a connection that nobody uses, that outlives its peer's certificate, or that the daemon's stop finds open."""
    context = conn.context
    while True:
        await trio.sleep(_LOOK)
        rested = trio.current_time() - connection.idle_since
        # Twice what our own side waits: whoever opened it decides, and this is for those who do not.
        idle = not connection.streams and rested > 2 * context.peer_limits.idle_timeout
        if idle or context.draining or time.time() > peer.not_after + tolerance:
            connection.drain()
            return


class _Call:
    """One stream: checked, answered, carried, and recorded once."""

    def __init__(self, carrier: Conn, peer: Peer, channel: Channel, at_node: bool) -> None:
        self.carrier = carrier
        self.peer = peer
        self.channel = channel
        self.at_node = at_node
        self.context: Context = carrier.context

    async def run(self) -> None:
        """Never raises but to be cancelled: what goes wrong with one stream is not its neighbours' business."""
        fields = dict(self.channel.fields)
        tunnel = fields.get(b":method") == b"CONNECT"
        conn: Conn | None = None
        flag, detail = "drained", ""
        try:
            conn, h2 = self._begin(fields, tunnel)
            self.context.conns[conn.id] = conn
            with conn.scope:
                if tunnel:
                    await self._carry(conn)
                else:
                    await serve_stream_of_node(conn, Inward(conn), self.channel, h2)
                flag = ""
            if conn.scope.cancelled_caught:
                flag = conn.verdict or "drained"
        except Refused as refused:
            flag, detail = refused.flag, refused.detail
            await self._refuse(refused, conn, tunnel)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            flag, detail = "client-gone", str(error)
        except Exception:
            flag = "internal"
            log.exception("a call of %s", self.peer.spiffe)
        finally:
            if flag:
                self.channel.abort()
            else:
                self.channel.close()
            if conn is not None:
                self.context.conns.pop(conn.id, None)
                if tunnel and not conn.report.closed:  # a request has a record of its own
                    conn.report.close(flag, detail)

    def _begin(self, fields: dict[bytes, bytes], tunnel: bool) -> tuple[Conn, bool]:
        """Whom it is for, and who calls. Answers whether the caller spoke HTTP/2 too. Raises Refused."""
        carrier, context = self.carrier, self.context
        if tunnel:
            place, speaks = fields.get(b":authority", b""), b""
        elif self.peer.alpn == MESH:
            place, _, speaks = fields.get(DESTINATION, b"").partition(b";")
        else:
            raise Refused("not-connect", fields.get(b":method", b"").decode("latin-1")[:32])
        address, port = _place(place)
        if port in context.ports:
            raise Refused("own-port", f"{address}:{port}")
        snapshot = context.snapshot
        if self.at_node:
            workload = snapshot.workload_at(address, port)
            if workload is None or workload.key not in context.captured:
                raise Refused("unknown-workload", f"{address}:{port}")
        elif _same(address, carrier.dialled[0]):
            workload = snapshot.workload(carrier.workload.key) or carrier.workload
        else:
            raise Refused("bad-authority", f"{address}:{port} at the door of {carrier.dialled[0]}")
        identity = self.peer.identity
        assert identity is not None
        caller = _forwarded(snapshot, identity, fields.get(b"forwarded", b"")) or carrier.peer
        source = _caller(snapshot, identity, caller[0])
        conn = Conn(context, Peeked(self.channel), workload, "inbound", caller, (address, port), time.time(), source)
        conn.identity = identity
        record = conn.report.record
        record.tls_peer, record.tls_version, record.tls_cipher = self.peer.spiffe, self.peer.version, self.peer.cipher
        return conn, speaks == b"h2"

    async def _carry(self, conn: Conn) -> None:
        """A tunnel: open the way to the server, say so, and let the hall find the room. Raises Refused."""
        route = conn.route = Inward(conn)
        protocol = self.context.snapshot.destination(*conn.dialled).protocol
        try:
            pick = route.pick(None)
        except Refused as refused:
            # HTTP may still be admitted, request by request, unless a Service says that it is something else.
            if not refused.detail.startswith("http-only:") or protocol.startswith("tcp"):
                raise
            pick = None
        if pick is None or protocol in ("http", "grpc"):
            await self.channel.send_head([(b":status", b"200")])
            await serve(conn, route, protocol)
            return
        conn.moves(pick, None)
        upstream, pick = await open_upstream(conn, route, pick)
        await self.channel.send_head([(b":status", b"200")])
        await serve(conn, route, protocol, (upstream, pick))

    async def _refuse(self, refused: Refused, conn: Conn | None, tunnel: bool) -> None:
        """Say no, with the reason and an id under which both nodes remember it."""
        request_id = refused.request_id or trace_id(self.channel.fields) or new_id()
        if conn is None:
            log.info("refused a call of %s: %s (%s)", self.peer.spiffe, refused, request_id)
        else:
            conn.report.record.id = request_id
            if refused.protected is not None:
                conn.report.record.destination = refused.protected
        if tunnel or self.peer.alpn != MESH:
            status = b"%d" % _STATUSES.get(refused.flag, _UNAVAILABLE)
            fields: Fields = [(b":status", status), *said(refused, request_id)]
            body = b""
        else:
            body = content(refused)
            fields = answer_fields(refused, request_id, len(body))
        try:
            with trio.move_on_after(self.context.limits.head_timeout):
                await self.channel.send_head(fields, end=not body)
                if body:
                    await self.channel.send_all(body, end=True)
                self.channel.close()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the answer was for whoever is gone


def _place(text: bytes) -> tuple[str, int]:
    """ADDRESS:PORT, an IPv6 address in brackets. Raises Refused: names are for who calls, not for who is called."""
    match = _PLACE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        address = str(ipaddress.ip_address((match[1] or match[2]).decode()))
        port = int(match[3])
        if not 0 < port < 65536 or (":" in address) != bool(match[1]):
            raise ValueError
    except ValueError:
        raise Refused("bad-authority", text.decode("latin-1")[:100]) from None
    return address, port


def _same(left: str, right: str) -> bool:
    """A socket of both families names an IPv4 caller's address in the other one's way."""
    mine, other = ipaddress.ip_address(left), ipaddress.ip_address(right)
    return mine == other or getattr(other, "ipv4_mapped", None) == mine


def _forwarded(snapshot: Snapshot, identity: Identity, field: bytes) -> tuple[str, int] | None:
    """The caller's address, as the other node tells it: believed when the manifests give it to the identity that was proved."""
    match = _FORWARDED.search(field)
    if match is None:
        return None
    try:
        address = str(ipaddress.ip_address(match[1].decode().strip("[]")))
    except ValueError:
        return None
    if any(workload.identity == identity for workload in snapshot.workloads_at(address)):
        return address, int(match[2] or 0)
    return None


def _caller(snapshot: Snapshot, identity: Identity, address: str) -> Workload:
    """The workload that calls, for records: the one with that address if it has that identity, else what is known of it."""
    for workload in snapshot.workloads_at(address):
        if workload.identity == identity:
            return workload
    return Workload(identity.namespace, identity.service_account, identity.service_account)
