"""HTTP that crosses from node to node in the native lane of both: what is served there, and what goes up to Python in the middle."""

from __future__ import annotations

import pytest
import trio

from nodeproxy.dns import resolver
from nodeproxy.downstream import accept
from nodeproxy.routing import source
from tests.compiled import needs_lane

from .two_nodes import TwoNodes

pytestmark = needs_lane


@pytest.fixture(params=[True, False], ids=["node doors", "own doors"])
async def mesh(request, monkeypatch, mint):
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, request.param)
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        monkeypatch.setattr(resolver, "original_destination", mesh.original_destination)
        monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
        await mesh.start()
        yield mesh
        nursery.cancel_scope.cancel()
    mesh.close()


def served(side):
    return side.proxy.fast.lane.stats["served"]


async def test_after_the_first_requests_both_lanes_serve(mesh):
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(10):
        response = await buyer.get("/books")
        assert response.status == 200
    assert served(mesh.west) >= 7
    assert served(mesh.east) >= 7
