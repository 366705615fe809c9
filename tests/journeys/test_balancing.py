"""LoadBalancing over sockets, in both lanes: what the servers get is what it says, and the lanes agree."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
import trio

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from tests.compiled import needs_lane
from tests.journeys import test_gateway as outside
from tests.journeys.conftest import Mesh
from tests.journeys.stand_ins import echo

LIMITS = Limits(keepalive_timeout=5, head_timeout=20, response_timeout=5)
USERS = [f"user-{number}" for number in range(12)]
LANES = pytest.mark.parametrize("lane", [False, pytest.param(True, marks=needs_lane)])


def balancing(spec):
    return f"""
---
apiVersion: edgemesh.io/v1alpha1
kind: LoadBalancing
metadata: {{name: b, namespace: bookstore}}
spec: {{targetRef: {{name: bookstore}}, {spec}}}
"""


async def talk(monkeypatch, lane, spec, body):
    """Return what `body(mesh)` returns, and how many requests the fast path served."""
    async with trio.open_nursery() as nursery:
        random.seed(7)  # the same addresses, so the same tables, in each run
        mesh = Mesh(nursery, LIMITS, lane)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        both = mesh.http("bookbuyer", "bookstore") + mesh.http("bookbuyer", "bookstore-v2")
        mesh.publish(access=both, access_v2="", balancing=balancing(spec) if spec else "")
        stores = mesh.web("store-v1"), mesh.web("store-v2")
        found = await body(mesh, *stores)
        served = mesh.proxy.fast.lane.stats["served"] if lane else 0
        nursery.cancel_scope.cancel()
    mesh.close()
    return found, served


async def gets(mesh, times, **fields):
    call = await mesh.call("buyer", "bookstore.bookstore")
    found = []
    for _ in range(times):
        answer = await call.get("/books", **fields)
        assert answer.status == 200
        found.append(answer.body)
        await mesh.settled()
    await call.stream.aclose()
    return found


@needs_lane
@pytest.mark.parametrize("algorithm", ["RingHash", "Maglev"])
@pytest.mark.parametrize(("hashed", "field"), [("header: X-User", "x_user"), ("cookie: session", "cookie")])
async def test_a_users_requests_stay_at_one_server_in_both_lanes(monkeypatch, quick_clock, algorithm, hashed, field):
    async def body(mesh, *_):
        found = {}
        for user in USERS:
            value = f"a=b; session={user}; session=other" if field == "cookie" else user
            twice = [*await gets(mesh, 3, **{field: value}), *await gets(mesh, 3, **{field: value})]
            (found[user],) = set(twice)
        return found

    spec = f"algorithm: {algorithm}, hash: {{{hashed}}}"
    slow, _ = await talk(monkeypatch, False, spec, body)
    native, served = await talk(monkeypatch, True, spec, body)
    assert native == slow
    assert set(slow.values()) == {"store-v1", "store-v2"}
    assert served == 0, "which lane it was"


@LANES
async def test_requests_go_in_turn(monkeypatch, quick_clock, lane):
    async def body(mesh, *_):
        return await gets(mesh, 20)

    found, served = await talk(monkeypatch, lane, "algorithm: RoundRobin", body)
    assert Counter(found) == {"store-v1": 10, "store-v2": 10}
    assert all(one != other for one, other in itertools.pairwise(found))
    assert served == 0, "which lane it was"


@LANES
async def test_by_address_requests_stay_and_the_fast_path_serves_them(monkeypatch, quick_clock, lane):
    async def body(mesh, *stores):
        first = await gets(mesh, 20)
        (one,) = set(first)
        (its,) = [store for store in stores if store.name == one]
        (other,) = {"store-v1", "store-v2"} - {one}
        its.stop()
        assert set(await gets(mesh, 10)) == {other}, "no call is lost when it stops"
        its.start()
        await trio.sleep(40)
        await gets(mesh, 3)
        assert set(await gets(mesh, 20)) == {one}, "and it has its callers back"
        return one

    found, served = await talk(monkeypatch, lane, "algorithm: Maglev, hash: {sourceAddress: true}", body)
    assert found in ("store-v1", "store-v2")
    assert not lane or served >= 15, "which lane it was"


@LANES
async def test_callers_of_a_gateway_go_by_their_own_address(monkeypatch, quick_clock, lane):
    async def body(mesh, *_):
        backend, prefix = {"name": "bookstore", "port": 14001}, mesh.node.rpartition(".")[0]
        let_in = outside.lets_in(mesh, "bookstore", f"{prefix}.0/24")
        mesh.publish(gateway=outside.gateway(mesh), route=outside.route(outside.rule(backend)), let=let_in)
        found = {}
        for number in range(110, 126):
            caller = f"{prefix}.{number}"
            answers = [await outside.ask(mesh, caller=caller, x_forwarded_for="192.0.2.7") for _ in range(3)]
            (found[caller],) = {answer.body for answer in answers}
        return found

    found, _ = await talk(monkeypatch, lane, "algorithm: Maglev, hash: {sourceAddress: true}", body)
    assert set(found.values()) == {"store-v1", "store-v2"}


@LANES
async def test_opaque_connections_go_in_turn_too(monkeypatch, quick_clock, lane):
    async def body(mesh, *_):
        servers = [mesh.serve(f"store-v{number}", echo, 9000) for number in (1, 2)]
        mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000) + mesh.tcp("bookbuyer", "bookstore-v2", 9000))
        counts = []
        for _ in range(6):
            call = await mesh.call("buyer", "bookstore.bookstore", 9000)
            await call.send(b"hello")
            assert await call.read(5) == b"hello"
            counts.append(tuple(len(server.peers) for server in servers))
        return counts

    counts, _ = await talk(monkeypatch, lane, "algorithm: RoundRobin", body)
    assert [sum(each) for each in counts] == [1, 2, 3, 4, 5, 6]
    assert [each for each in counts if sum(each) % 2 == 0] == [(1, 1), (2, 2), (3, 3)]


@LANES
async def test_an_edit_is_in_force_with_the_next_request_of_an_open_connection(monkeypatch, quick_clock, lane):
    async def body(mesh, *_):
        call = await mesh.call("buyer", "bookstore.bookstore")

        async def ask(times):
            found = []
            for _ in range(times):
                found.append((await call.get("/books", x_user="ann")).body)
                await mesh.settled()
            return found

        await ask(30)
        mesh.publish(balancing=balancing("algorithm: Maglev, hash: {header: x-user}"))
        stays = await ask(10)
        mesh.publish(balancing=balancing("algorithm: RoundRobin"))
        turns = await ask(10)
        mesh.publish(balancing="")
        return stays, turns, await ask(30)

    (stays, turns, _), served = await talk(monkeypatch, lane, "", body)
    assert len(set(stays)) == 1
    assert Counter(turns) == {"store-v1": 5, "store-v2": 5}
    assert not lane or 30 <= served <= 60, "which lane it was: only before and after"
