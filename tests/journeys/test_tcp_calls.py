"""Opaque connections: who may, half-close, who speaks first, and when nobody does."""

import trio
import trio.testing

from policy.snapshot import Snapshot
from tests.journeys.stand_ins import echo, greets


async def counts_to_the_end(stream):
    """Answers only when the caller has ended its sending: needs half-close."""
    total = 0
    async for data in stream:
        total += len(data)
    await stream.send_all(b"%d" % total)


async def test_what_a_rule_admits_flows_both_ways(mesh):
    server = mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"
    assert server.peers == [mesh.addresses["buyer"]]
    await buyer.stream.send_eof()
    assert await buyer.is_over() == "closed"
    await mesh.settled()
    (record,) = mesh.records
    assert (record.protocol, record.flag, record.bytes_in, record.bytes_out) == ("tcp", "", 4, 4)
    assert record.destination.name == "store-v1" and "TrafficTarget" in record.rule
    assert mesh.at_rest()


async def test_what_no_rule_admits_is_closed_before_the_server_hears_of_it(mesh):
    server = mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    thief = await mesh.call("thief", "bookstore-v1.bookstore", 9000)
    assert await thief.is_over() == "reset"
    assert not server.peers
    (record,) = mesh.records
    assert (record.flag, record.source.name) == ("denied", "thief")


async def test_an_http_rule_does_not_admit_an_opaque_stream(mesh):
    mesh.serve("store-v1", echo, 9000)
    assert await (await mesh.call("buyer", "bookstore-v1.bookstore", 9000)).is_over() == "reset"


async def test_half_close_is_kept(mesh):
    mesh.serve("store-v1", counts_to_the_end, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(bytes(300_000))
    await buyer.stream.send_eof()
    assert await buyer.read(100) == b"300000"


async def test_a_server_that_speaks_first(mesh):
    mesh.serve("mysql", greets, 3306)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "mysql", 3306, "bookwarehouse"))
    buyer = await mesh.call("buyer", "mysql.bookwarehouse", 3306)
    assert await buyer.read(6) == b"hello "
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"


async def test_a_reset_is_passed_on_as_a_reset(mesh):
    async def breaks_off(stream):
        await stream.send_all(b"half of ")
        stream.socket.setsockopt(1, 13, bytes([1, 0, 0, 0, 0, 0, 0, 0]))  # SO_LINGER: 0 seconds
        stream.socket.close()

    mesh.serve("store-v1", breaks_off, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    assert await (await mesh.call("buyer", "bookstore-v1.bookstore", 9000)).is_over() == "reset"
    assert mesh.records[-1].flag == "upstream-broken"


async def test_nothing_moves_for_too_long(mesh, quick_clock):
    mesh.limit(idle_timeout=30)
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    began = trio.current_time()
    assert await buyer.is_over() == "reset"
    assert mesh.limits.idle_timeout <= trio.current_time() - began < mesh.limits.idle_timeout + 2
    assert mesh.records[-1].flag == "idle"


async def test_a_port_may_be_quiet_for_as_long_as_its_service_says(mesh, quick_clock, monkeypatch):
    mesh.limit(idle_timeout=30)
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    for idle, ends in ((90.0, True), (0.0, False)):
        monkeypatch.setattr(Snapshot, "idle_timeout", lambda self, endpoint, idle=idle: idle)
        buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
        began = trio.current_time()
        with trio.move_on_after(1000):
            assert await buyer.is_over() == "reset"
        assert (90 <= trio.current_time() - began < 93) is ends


# port 7000: the Service does not say what it speaks


async def test_undeclared_the_client_speaks_http(mesh):
    web = mesh.web("store-v1", 7000)
    for grant in ("", mesh.tcp("bookbuyer", "bookstore", 7000)):
        mesh.publish(tcp=grant)
        buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 7000)
        assert (await buyer.get("/books")).status == 200
        # A TCP rule admits anything on the port; without it the HTTP rules decide.
        assert (await buyer.get("/admin")).status == (200 if grant else 403)
    assert len(web.requests) == 3


async def test_undeclared_the_client_speaks_something_else(mesh):
    mesh.serve("store-v1", echo, 7000)
    refused = await mesh.call("buyer", "bookstore-v1.bookstore", 7000)
    await refused.send(b"\x00\x01\x02\x03")
    assert await refused.is_over() == "reset"
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 7000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 7000)
    await buyer.send(b"\x00\x01\x02\x03")
    assert await buyer.read(4) == b"\x00\x01\x02\x03"


async def test_undeclared_the_server_speaks_first(mesh):
    mesh.serve("store-v1", greets, 7000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 7000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 7000)
    with trio.fail_after(mesh.limits.detect_timeout / 2):  # nobody waits for the client
        assert await buyer.read(6) == b"hello "
    await buyer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")  # too late to be HTTP
    assert (await buyer.read(14)) == b"GET / HTTP/1.1"


async def test_undeclared_nobody_speaks(mesh, quick_clock):
    server = mesh.serve("store-v1", echo, 7000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 7000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 7000)
    thief = await mesh.call("thief", "bookstore-v1.bookstore", 7000)
    await trio.sleep(mesh.limits.detect_timeout + 1)
    await buyer.send(b"GET / HTTP/1.1\r\n\r\n")  # decided by now: opaque
    assert await buyer.read(14) == b"GET / HTTP/1.1"
    assert await thief.is_over() == "reset"
    assert server.peers == [mesh.addresses["buyer"]]
