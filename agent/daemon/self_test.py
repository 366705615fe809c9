"""A call through this process: is its data plane fit to serve?

A daemon that is to take over runs this on itself (agent/daemon/takeover_checks.py). It makes a mesh of two workloads
that only the test knows, and a server on loopback: one path is allowed, the other is not. It requests the allowed path
until the fast path, where there is one, has served it too. It touches no workload, server or rule of the node.
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
from nodeproxy.downstream.outbound import outbound
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.proxy import Proxy
from nodeproxy.stream import Peeked
from policy.build import build
from policy.snapshot import Snapshot

_HERE = "127.0.0.1"
_TIMEOUT = 5.0  # seconds; it takes milliseconds
_TIMES = 3  # the first call teaches the fast path, the second is lent to it
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


async def fault(fast: bool = True) -> str:
    """Return what is wrong with calls through us; "" for nothing."""
    wrong = f"a call through itself was not answered within {_TIMEOUT:g} s"
    with trio.move_on_after(_TIMEOUT):
        try:
            wrong = await _probe(fast)
        except* OSError as errors:
            wrong = f"a call through itself failed: {errors.exceptions[0]}"
    return wrong


async def _probe(fast: bool) -> str:
    wrong = ""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host=_HERE)
        nursery.start_soon(trio.serve_listeners, _serve, [listener])
        server = listener.socket.getsockname()[1]
        proxy = Proxy(_snapshot(server), _Loopback(), Limits(), Ports(), lambda _: None, fast=fast)
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
    """Return both ends of a connection over loopback."""
    [listener] = await trio.open_tcp_listeners(0, host=_HERE)
    async with listener:
        ours = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        return ours, await listener.accept()


async def _own(proxy: Proxy, stream: trio.SocketStream, port: int) -> None:
    """Handle a captured connection as nodeproxy/downstream/accept.py does.

    The dialled address is known without the kernel.
    """
    context = proxy.context
    caller = context.snapshot.workload("probe/caller")
    assert caller is not None
    conn = Conn(context, Peeked(stream), caller, "outbound", ("127.0.0.2", 1), (_HERE, port), time.time())
    context.conns[conn.id] = conn
    with stream.socket, contextlib.suppress(Refused, trio.BrokenResourceError, trio.ClosedResourceError), conn.scope:
        await outbound(conn)


async def _status(stream: trio.SocketStream) -> bytes:
    """Read one whole response. Return its status; b"" for none."""
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
    """Implements nodeproxy.capture.Sockets for a mesh that is all on loopback."""

    def towards(self, workload: object, caller: str, family: int, reuse: bool = False) -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def outwards(self, workload: object, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK)

    def gateway_door(self, address: str, port: int) -> socket.socket:
        raise AssertionError("the test has no Gateway")

    def close_gateway_door(self, address: str, port: int) -> None:
        return None

    def from_node(self, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return self.towards(None, "", family)

    def resolver_asked(
        self, workload: object, client: tuple[str, int], listener: tuple[str, int]
    ) -> tuple[str, int] | None:
        return None

    def node_addresses(self) -> frozenset[str]:
        return frozenset()

    def lent_addresses(self) -> frozenset[str]:
        return frozenset()

    def before_nat(self, peer: tuple[str, int], dialled: tuple[str, int]) -> tuple[str, int] | None:
        return None

    def probers(self) -> frozenset[str]:
        return frozenset()
