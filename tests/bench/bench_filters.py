"""CPU that each filter of a rule costs a request: process CPU time over requests, beside the same requests without a filter.

Run: python tests/bench/bench_filters.py [--requests N] [--rounds N]. As bench_http.py, whose load and server it uses: the HTTP room
alone, in the slow path, where calls with filters are. Rounds are interleaved; the least of each filter is
told, which other programs of the machine disturb least, and the most.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import trio

sys.path.insert(0, str(Path(__file__).parent))
from bench_http import Route, load, origin

from nodeproxy.capture import Ports
from nodeproxy.context import Conn, Context
from nodeproxy.keys import Keys
from nodeproxy.limits import Limits
from nodeproxy.protocols.http.aside import Asides
from nodeproxy.protocols.http.room import serve_http
from nodeproxy.stream import Peeked
from nodeproxy.upstream.balance import Live
from nodeproxy.upstream.http1_pool import Pool
from nodeproxy.user_filters import UserFilter, UserFilters
from policy import route
from policy.model import Endpoint, Mesh, Service, ServicePort, Workload
from policy.snapshot import Snapshot

OTHER = "default/other"
CALLER = Workload("default", "caller", "caller", ("127.0.0.1",))
SIGNED = route.Signature("default/key", ("host", "user-agent"))
FILTERS: dict[str, tuple[route.AnyFilter, ...]] = {
    "none": (),
    "request header fields": (route.RequestFields(route.Fields(set=(("x-a", "1"),), remove=("accept",))),),
    "response header fields": (route.ResponseFields(route.Fields(set=(("x-a", "1"),), remove=("server",))),),
    "path and Host": (route.Rewrite(route.PathChange("/other", "/books"), "other"),),
    "CORS, no page": (route.Cors(("https://shop.example",)),),
    "fault that never comes": (route.Fault(1.0, 0, 503, 0),),
    "signature": (route.Sign(SIGNED),),
    "mirror, 0 %": (route.RequestMirror(OTHER, 80, 0, 100),),
    "mirror, all": (route.RequestMirror(OTHER, 80),),
    "external authorization": (route.ExternalAuth(OTHER, 80),),
    "Python of the node": (route.User("stamp"),),
}


class Sockets:
    """Plain sockets in our own namespace."""

    def outwards(self, workload: Workload, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        return sock

    def towards(self, workload: Workload, caller: str, family: int, reuse: bool = False) -> socket.socket:
        return self.outwards(workload, family)


class Filtered(Route):
    """Always the origin, by a rule with these filters."""

    filters: tuple[route.AnyFilter, ...] = ()

    def pick(self, *args: Any, **more: Any) -> Any:
        from msgspec.structs import replace

        return replace(self._pick, filters=self.filters) if self.filters else self._pick


async def measure(requests: int, rounds: int, folder: str) -> None:
    processes = multiprocessing.get_context("spawn")
    ports, times = processes.Queue(), processes.Queue()
    server = processes.Process(target=origin, args=(ports,), daemon=True)
    server.start()
    number = await trio.to_thread.run_sync(ports.get)
    limits = Limits(pool_idle_per_endpoint=256)
    workload = Workload("default", "origin", "origin", ("127.0.0.1",))
    endpoint = Endpoint("127.0.0.1", number, workload.key)
    other = Service("default", "other", ("127.1.0.1",), (ServicePort("web", 80, "http", "tcp", (endpoint,)),))
    flags: set[str] = set()
    context = Context(
        Snapshot("here", Mesh(permissive=True), (CALLER, workload), (other,)),
        cast(Any, Sockets()),
        Live(),
        Pool(limits),
        limits,
        Ports(),
        lambda record: flags.add(record.flag),
        asides=Asides,
        keys=Keys(folder),
        user_filters=UserFilters((UserFilter("stamp", "stamp", "Stamp", timeout=10),), folder),
    )
    context.captured.add(workload.key)
    made = Filtered(number)

    async def serve(stream: trio.SocketStream) -> None:
        peer = stream.socket.getpeername()
        conn = Conn(context, Peeked(stream), CALLER, "outbound", (peer[0], peer[1]), ("127.0.0.1", 80), time.time())
        with contextlib.suppress(
            trio.BrokenResourceError, trio.ClosedResourceError
        ):  # the load ends with requests under way
            await serve_http(conn, made)
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    request = b"GET /books HTTP/1.1\r\nHost: bookstore\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
    found: dict[str, list[float]] = {name: [] for name in FILTERS}
    async with trio.open_nursery() as nursery:
        await nursery.start(context.asides.run)
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        for _ in range(rounds):
            for name, filters in FILTERS.items():
                made.filters = filters
                client = processes.Process(target=load, args=(port, requests, 8, request, times), daemon=True)
                client.start()
                while not context.live.in_flight:
                    await trio.sleep(0.005)
                begin = time.process_time()
                done, *_ = await trio.to_thread.run_sync(times.get)
                found[name].append((time.process_time() - begin) / done * 1e6)
                client.join()
                while context.live.in_flight or context.asides.running:
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    server.terminate()
    none = min(found["none"])
    for name, costs in found.items():
        print(f"{name:26} {min(costs):6.0f} us CPU a request, {min(costs) - none:+6.0f} us (at most {max(costs):.0f})")
    print(f"copies dropped: {context.asides.dropped}; flags: {sorted(flags - {'', 'client-gone', 'drained'})}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder, "default", "key")
        key.parent.mkdir()
        key.write_bytes(b"0123456789abcdef0123456789abcdef")
        key.chmod(0o600)
        Path(folder, "stamp.py").write_text(
            "class Stamp:\n    def request(self, head):\n        head.set('x-a', '1')\n"
        )
        trio.run(measure, options.requests, options.rounds, folder)


if __name__ == "__main__":
    main()
