"""Isolation, over sockets and in both lanes: calls, callers, open connections and egress."""

from __future__ import annotations

import json

from tests.journeys.stand_ins import echo


def isolation(*addresses):
    return "\n---\n" + json.dumps(
        {
            "apiVersion": "edgemesh.io/v1alpha1",
            "kind": "Isolation",
            "metadata": {"name": "quarantine"},
            "spec": {"cidrs": [f"{address}/32" for address in addresses]},
        }
    )


async def test_the_other_version_takes_the_calls_and_nobody_reaches_the_one_that_is_cut_off(mesh):
    one, two = mesh.web("store-v1"), mesh.web("store-v2")
    mesh.publish(split=mesh.split(50, 50))
    buyer = await mesh.call("buyer", "bookstore.bookstore")
    direct = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(5):
        assert (await buyer.get("/books")).status == 200
        assert (await direct.get("/books")).status == 200
    seen = len(one.requests)
    assert seen > 5
    mesh.publish(isolation=isolation(mesh.addresses["store-v1"]))
    for _ in range(10):
        assert (await buyer.get("/books")).body == "store-v2"
        answer = await direct.get("/books")
        assert (answer.status, answer.reason) == (503, "no-endpoint")
    by_address = await mesh.call("buyer", mesh.addresses["store-v1"])
    for _ in range(5):
        answer = await by_address.get("/books")
        assert (answer.status, answer.reason) == (403, "isolated")
    assert len(one.requests) == seen
    mesh.publish(isolation=isolation("192.0.2.1"))
    assert (await direct.get("/books")).status == 200
    assert two.requests


async def test_what_is_cut_off_calls_nobody(mesh):
    one = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(3):
        assert (await buyer.get("/books")).status == 200
    mesh.publish(mesh=mesh.permissive, isolation=isolation(mesh.addresses["buyer"]))
    for _ in range(3):
        answer = await buyer.get("/books")
        assert (answer.status, answer.reason) == (403, "isolated")
    assert len(one.requests) == 3


async def test_an_open_stream_is_cut(mesh):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"
    assert mesh.publish(isolation=isolation(mesh.addresses["store-v1"])) == 1
    assert await buyer.is_over() == "reset"


async def test_egress_leads_to_no_address_that_is_cut_off(mesh):
    server = mesh.web_at(mesh.stranger, 8080)
    buyer = await mesh.call("buyer", mesh.stranger, 8080)
    assert (await buyer.get("/")).status == 200
    mesh.publish(isolation=isolation(mesh.stranger))
    other = await mesh.call("buyer", mesh.stranger, 8080)
    assert await other.is_over() == "reset"  # what leaves the mesh is no HTTP to the proxy
    (record,) = [record for record in mesh.records if record.flag == "egress-denied"]
    assert " isolated: " in record.detail
    assert len(server.requests) == 1


async def test_no_access_control_lets_in_what_is_cut_off(mesh):
    one = mesh.web("store-v1")
    mesh.publish(
        mesh=mesh.strict.replace("metadata: {", "metadata: {annotations: {edgemesh.io/mtls: permissive}, ", 1),
        control="\n---\n"
        + json.dumps(
            {
                "apiVersion": "policy.openservicemesh.io/v1alpha1",
                "kind": "AccessControl",
                "metadata": {"name": "a", "namespace": "bookstore"},
                "spec": {
                    "backends": [{"name": "bookstore-v1", "port": {"number": mesh.port}}],
                    "sources": [{"kind": "IPRange", "name": f"{mesh.stranger}/32"}],
                },
            }
        ),
    )
    stranger = await mesh.call_in(mesh.stranger, "store-v1")
    assert (await stranger.get("/books")).status == 200
    mesh.publish(isolation=isolation(mesh.stranger))
    assert (await (await mesh.call_in(mesh.stranger, "store-v1")).get("/books")).status == 403
    assert len(one.requests) == 1
