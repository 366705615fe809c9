"""A call through this very program: is its data plane fit to serve? Asked of itself by a daemon that is to take over (agent/health.py).

A mesh of two workloads that only the probe knows, and a server on loopback: one path is allowed, the other is not. The allowed one
is asked until the native lane, where there is one, has served it too. No workload, no server and no rule of the node's is touched.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time

import trio

from agent.sources import manifest
from nodeproxy.capture import Ports
from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.native import AVAILABLE
from nodeproxy.outbound import outbound
from nodeproxy.proxy import Proxy
from nodeproxy.stream import Peeked
from policy.build import build
from policy.snapshot import Snapshot

_HERE = "127.0.0.1"
_TIMEOUT = 5.0  # seconds; it takes milliseconds
_TIMES = 3  # the first teaches the native lane, the second is lent to it
_MANIFESTS = """\
{{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {{name: caller, namespace: probe}}, spec: {{serviceAccount: caller, addresses: [127.0.0.2]}}}}
---
{{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {{name: server, namespace: probe}},
  spec: {{serviceAccount: server, addresses: [127.0.0.1], ports: [{{port: {port}}}]}}}}
---
{{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {{name: some, namespace: probe}},
  spec: {{matches: [{{name: it, methods: [GET], pathRegex: /allowed}}]}}}}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: may, namespace: probe}}
spec:
  destination: {{kind: ServiceAccount, name: server, namespace: probe}}
  sources: [{{kind: ServiceAccount, name: caller, namespace: probe}}]
  rules: [{{kind: HTTPRouteGroup, name: some, matches: [it]}}]
"""
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nprobe"


async def fault(lane: bool = AVAILABLE) -> str:
    """What is wrong with calls through us; "" for nothing."""
    wrong = f"a call through itself was not answered within {_TIMEOUT:g} s"
    with trio.move_on_after(_TIMEOUT):
        try:
            wrong = await _probe(lane)
        except* OSError as errors:
            wrong = f"a call through itself failed: {errors.exceptions[0]}"
    return wrong


async def _probe(lane: bool) -> str:
    wrong = ""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host=_HERE)
        nursery.start_soon(trio.serve_listeners, _serve, [listener])
        server = listener.socket.getsockname()[1]
        proxy = Proxy(_snapshot(server), _Loopback(), Limits(), Ports(), lambda _: None, lane=lane)
        proxy.context.captured.add("probe/server")
        await nursery.start(proxy.run)
        ours, theirs = await _pair()
        nursery.start_soon(_own, proxy, theirs, server)
        with ours.socket, contextlib.closing(proxy.context.pool):
            for path, wanted in (*[("/allowed", b"200")] * _TIMES, ("/other", b"403")):
                await ours.send_all(f"GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n".encode())
                status = await _status(ours)
                if status != wanted:
                    wrong = f"a call through itself to {path} was answered {status.decode('ascii', 'replace') or 'nothing'} instead of {wanted.decode()}"
                    break
        nursery.cancel_scope.cancel()
    return wrong


def _snapshot(port: int) -> Snapshot:
    return build(manifest.read(_MANIFESTS.format(port=port).encode(), "probe").objects or (), node="probe").snapshot


async def _pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Both ends of a connection over loopback."""
    [listener] = await trio.open_tcp_listeners(0, host=_HERE)
    async with listener:
        ours = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        return ours, await listener.accept()


async def _own(proxy: Proxy, stream: trio.SocketStream, port: int) -> None:
    """As nodeproxy/listen.py owns a captured connection; what was dialled is known without the kernel."""
    context = proxy.context
    caller = context.snapshot.workload("probe/caller")
    assert caller is not None
    conn = Conn(context, Peeked(stream), caller, "outbound", ("127.0.0.2", 1), (_HERE, port), time.time())
    context.conns[conn.id] = conn
    with stream.socket, contextlib.suppress(Refused, trio.BrokenResourceError, trio.ClosedResourceError), conn.scope:
        await outbound(conn)


async def _status(stream: trio.SocketStream) -> bytes:
    """Of one answer, which is read whole; b"" for none."""
    data = b""
    while True:
        head, blank, body = data.partition(b"\r\n\r\n")
        if blank:
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            if length is None or len(body) >= int(length[1]):
                return head[9:12]
        more = await stream.receive_some(4096)
        if not more:
            return b""
        data += more


async def _serve(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        data = b""
        while more := await stream.receive_some(4096):
            data += more
            while b"\r\n\r\n" in data:
                _, _, data = data.partition(b"\r\n\r\n")
                await stream.send_all(_ANSWER)


class _Loopback:
    """nodeproxy.capture.Sockets of a mesh that is all here."""

    def towards(self, workload: object, caller: str, family: int) -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def outwards(self, workload: object, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK)

    def from_node(self, family: int) -> socket.socket:
        return self.towards(None, "", family)

    def resolver_asked(self, workload: object, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        return None

    def node_addresses(self) -> frozenset[str]:
        return frozenset()
