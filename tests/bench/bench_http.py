"""CPU that one small HTTP request costs the proxy: process CPU time over requests, with server and load in processes of their own.

Run: python tests/bench/bench_http.py [--requests N] [--connections N] [--headers N] [--profile]
What it measures is the HTTP room alone (nodeproxy/protocols/http) between two loopback sockets; doors, policy and logs are not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import multiprocessing
import pstats
import selectors
import socket
import time
from collections.abc import Collection
from typing import Any, cast

import trio

from nodeproxy.capture import Ports
from nodeproxy.context import Conn, Context
from nodeproxy.interfaces import Pick
from nodeproxy.limits import Limits
from nodeproxy.protocols.http.room import serve_http
from nodeproxy.stream import Peeked
from nodeproxy.telemetry.record import Record
from nodeproxy.upstream.balance import Live
from nodeproxy.upstream.http1_pool import Pool
from policy.model import Endpoint, Mesh, Request, Workload
from policy.snapshot import Snapshot

RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 13\r\n\r\nhello, world!"
)


def origin(ports: Any) -> None:
    """A server that answers every read with one response."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    ports.put(listener.getsockname()[1])
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            sock = cast(socket.socket, key.fileobj)
            if sock is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            try:
                data = sock.recv(65536)
                if data:
                    sock.sendall(RESPONSE)
                    continue
            except OSError:
                pass
            selector.unregister(sock)
            sock.close()


def load(port: int, requests: int, connections: int, request: bytes, times: Any) -> None:
    """Keep one request in flight on each connection; put the wall time and the latencies (p50, p99, in ms) to `times`."""
    selector = selectors.DefaultSelector()
    started: dict[socket.socket, float] = {}
    latencies: list[float] = []
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        selector.register(sock, selectors.EVENT_READ)
        started[sock] = time.perf_counter()
        sock.sendall(request)
    begin = time.perf_counter()
    while len(latencies) < requests:
        for key, _ in selector.select():
            sock = cast(socket.socket, key.fileobj)
            data = sock.recv(65536)
            assert data.startswith(b"HTTP/1.1 200"), data
            assert data.endswith(b"hello, world!"), data
            now = time.perf_counter()
            latencies.append(now - started[sock])
            started[sock] = now
            sock.sendall(request)
    took = time.perf_counter() - begin
    latencies.sort()
    times.put((len(latencies), took, latencies[len(latencies) // 2] * 1e3, latencies[len(latencies) * 99 // 100] * 1e3))


class Route:
    """Always the origin."""

    def __init__(self, port: int) -> None:
        workload = Workload("default", "origin", "origin", ("127.0.0.1",))
        self._pick = Pick(Endpoint("127.0.0.1", port, workload.key), workload, "default/origin", "rule", local=False)

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        return self._pick

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        return True

    def spread(self) -> None:
        return None  # the slow path's

    def ruled(self) -> None:
        return None

    def rule(self, request: Request) -> int:
        return -1

    def refuses(self, endpoint: Endpoint, request: Request, via: str = "") -> None:
        return None

    def crosses(self, workload: Workload, endpoint: Endpoint) -> bool:
        return False

    def misdirected(self, host: str) -> bool:
        return False


class Sockets:
    """Plain sockets in our own namespace."""

    def outwards(self, workload: Workload, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        return sock


async def measure(requests: int, connections: int, headers: int) -> None:
    processes = multiprocessing.get_context("spawn")
    ports, times = processes.Queue(), processes.Queue()
    server = processes.Process(target=origin, args=(ports,), daemon=True)
    server.start()
    limits = Limits(pool_idle_per_endpoint=256)
    records: list[Record] = []
    context = Context(
        Snapshot("here", Mesh()),
        cast(Any, Sockets()),
        Live(),
        Pool(limits),
        limits,
        Ports(),
        lambda record: records.append(record) if record.flag else None,
    )
    route = Route(await trio.to_thread.run_sync(ports.get))
    caller = Workload("default", "caller", "caller", ("127.0.0.1",))

    async def serve(stream: trio.SocketStream) -> None:
        peer = stream.socket.getpeername()
        conn = Conn(context, Peeked(stream), caller, "outbound", (peer[0], peer[1]), ("127.0.0.1", 80), time.time())
        with contextlib.suppress(trio.BrokenResourceError):  # the load ends with requests under way
            await serve_http(conn, route)
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    extra = b"".join(b"x-header-%d: some value of ordinary length\r\n" % n for n in range(headers))
    request = b"GET /books HTTP/1.1\r\nHost: bookstore\r\nUser-Agent: bench\r\nAccept: */*\r\n" + extra + b"\r\n"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        client = processes.Process(target=load, args=(port, requests, connections, request, times), daemon=True)
        client.start()
        # The clock starts with the first connection, so that starting Python elsewhere is not counted.
        while not len(context.pool) and not context.live.in_flight:
            await trio.sleep(0.01)
        begin = time.process_time()
        done, took, median, slow = await trio.to_thread.run_sync(times.get)
        cpu = time.process_time() - begin
        nursery.cancel_scope.cancel()
    server.terminate()
    client.join()
    flags = {record.flag for record in records} - {"client-gone", "drained"}
    print(
        f"{done} requests on {connections} connections, {headers} extra headers{', FLAGS ' + str(flags) if flags else ''}"
    )
    print(
        f"  {cpu / done * 1e6:.0f} us CPU a request = {done / cpu:.0f} req/s on one core; {done / took:.0f} req/s reached"
    )
    print(f"  latency p50 {median:.2f} ms, p99 {slow:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--headers", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="print where the time goes (and measure nothing else)")
    options = parser.parse_args()
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    trio.run(measure, options.requests, options.connections, options.headers)
    if options.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
