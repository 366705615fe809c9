"""A caller that pipelines: what it sends ahead costs no more than the one that does not, and waits in the kernel, not with us."""

from __future__ import annotations

import contextlib

import trio

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from tests.compiled import needs_lane
from tests.journeys.conftest import Mesh

HOST = "bookstore-v1.bookstore"


@needs_lane
async def test_what_goes_up_goes_up_once(monkeypatch):
    """Requests that the lane does not know, a thousand at a time, on a connection that it carries."""
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, Limits(), True)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        with contextlib.closing(mesh), trio.fail_after(30):
            mesh.web("store-v1")
            call = await mesh.call("buyer", HOST)
            for _ in range(3):
                assert (await call.get("/books")).status == 200
                await mesh.settled()
            up = []
            collected = mesh.proxy.fast.lane.ups

            class Counted:
                """The lane, whose upcalls are counted."""

                def __init__(self, lane):
                    self.lane = lane

                def __getattr__(self, name):
                    return getattr(self.lane, name)

                def ups(self):
                    told = collected()
                    up.extend(len(one[6]) for one in told)
                    return told

            mesh.proxy.fast.engine.lane = Counted(mesh.proxy.fast.lane)
            count = 1000
            asked = f"GET /books/%2e HTTP/1.1\r\nhost: {call.host}\r\n\r\n".encode().replace(b"%2e", b"a%20b")
            answers = b""

            async def send():
                await call.send(asked * count)

            nursery.start_soon(send)
            while answers.count(b"HTTP/1.1 200") < count:
                data = await call.stream.receive_some(65536)
                assert data
                answers += data
            assert sum(up) <= 2 * count * len(asked), "bytes go up once, and not again with each request before them"
            await call.stream.aclose()
        nursery.cancel_scope.cancel()
