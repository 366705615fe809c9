"""GRPCRoutes of a Service, as objects, and what callers that speak gRPC then see: over sockets, in the lane and without it."""

from __future__ import annotations

import json

import pytest

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from tests.compiled import needs_lane
from tests.journeys.conftest import Mesh
from tests.journeys.test_streams_in_the_lane import Calls
from tests.journeys.test_two_lanes_streams import CALL, DONE, NAME, OK, PORT, SERVICE, h2_caller

pytestmark = needs_lane


def route(*rules):
    return "\n---\n" + json.dumps(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GRPCRoute",
            "metadata": {"name": "calls", "namespace": "bookstore"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "store-grpc"}], "rules": list(rules)},
        }
    )


@pytest.fixture(params=[True, False], ids=["lane", "python"])
async def mesh(monkeypatch, request, nursery):
    mesh = Mesh(nursery, Limits(response_timeout=5), request.param)
    monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
    await mesh.start()
    mesh.publish(streams=SERVICE)
    yield mesh
    mesh.close()
    nursery.cancel_scope.cancel()


async def call(connection, path, *fields):
    head = [(name, path if name == b":path" else value) for name, value in CALL]
    channel = await connection.open([*head, *fields])
    await channel.send_all(b"hello", end=True)
    answered, _ = await channel.head()
    body = b""
    while more := await channel.receive_some(65536):
        body += more
    trailers = channel.trailers or [field for field in answered if field[0] == b"grpc-status"]
    channel.close()
    return dict(answered)[b":status"], body, dict(trailers)[b"grpc-status"], dict(answered)


async def test_calls_go_by_method_and_what_no_rule_fits_is_unimplemented(mesh):
    seen = []

    async def answer(channel):
        seen.append(dict(channel.fields).get(b"x-route"))
        await channel.send_head(OK)
        while data := await channel.receive_some(65536):
            await channel.send_all(data)
        await channel.send_trailers(DONE)

    Calls(mesh, answer)
    changed = {
        "type": "RequestHeaderModifier",
        "requestHeaderModifier": {"set": [{"name": "X-Route", "value": "count"}]},
    }
    marked = {
        "type": "ResponseHeaderModifier",
        "responseHeaderModifier": {"add": [{"name": "X-Served", "value": "yes"}]},
    }
    store = {"name": "store-grpc", "port": PORT}
    mesh.publish(
        mesh=mesh.permissive,
        route=route(
            {
                "matches": [{"method": {"service": "shop.Stock", "method": "Count"}}],
                "filters": [changed, marked],
                "backendRefs": [store],
            },
            {
                "matches": [{"method": {"service": "shop.Stock"}, "headers": [{"name": "till", "value": "3"}]}],
                "backendRefs": [store],
            },
        ),
    )
    async with h2_caller(mesh.nursery, await mesh.call("buyer", NAME, PORT)) as connection:
        for _ in range(6):
            status, body, ended, answered = await call(connection, b"/shop.Stock/Count")
            assert (status, body, ended, answered[b"x-served"]) == (b"200", b"hello", b"0", b"yes")
            status, body, ended, answered = await call(connection, b"/shop.Stock/Add", (b"till", b"3"))
            assert (status, body, ended, b"x-served" in answered) == (b"200", b"hello", b"0", False)
            for path, fields in ((b"/shop.Stock/Add", ()), (b"/shop.Till/Count", ())):
                status, body, ended, _ = await call(connection, path, *fields)
                assert (status, body, ended) == (b"200", b"", b"12"), path
    assert seen == [b"count", None] * 6
