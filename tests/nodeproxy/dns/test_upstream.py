"""What is known of other names is given again: over the doors of a workload, with a resolver played by the test."""

import socket

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
import trio.testing

from nodeproxy.dns import Budget
from nodeproxy.dns.resolver import MAX_OUTSTANDING, Counts
from nodeproxy.dns.upstream import MAX_UNDER_WAY, MAX_WATCHED, STALE_AFTER, Upstream

SOA = dns.rrset.from_text("example.com.", 600, "IN", "SOA", "ns.example.com. admin.example.com. 1 7200 900 1209600 60")


class Played:
    """The resolver that is asked: what it got, and what it answers."""

    def __init__(self, sock):
        self.sock = sock
        self.asked = []
        self.delay = 0.0
        self.dead = False
        self.rcode = dns.rcode.NOERROR
        self.ttl = 60
        self.address = "192.0.2.1"

    async def run(self):
        async with trio.open_nursery() as nursery:
            while True:
                wire, peer = await self.sock.recvfrom(65535)
                query = dns.message.from_wire(wire)
                if query.question[0].name != dns.name.root:
                    self.asked.append(query.question[0].name.to_text(omit_final_dot=True))
                if not self.dead:
                    nursery.start_soon(self.answer, query, peer)

    async def answer(self, query, peer):
        response = dns.message.make_response(query, recursion_available=True)
        response.set_rcode(self.rcode)
        name = query.question[0].name
        if self.rcode == dns.rcode.NXDOMAIN:
            response.authority.append(SOA)
        elif self.rcode == dns.rcode.NOERROR:
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "A", self.address))
        if name != dns.name.root:
            await trio.sleep(self.delay)
        await self.sock.sendto(response.to_wire(), peer)


@pytest.fixture
def upstream(upstream_udp, nursery):
    played = Played(upstream_udp)
    nursery.start_soon(played.run)
    return played


@pytest.fixture
def client(open_udp):
    return open_udp()


def found(response):
    return [(rrset.ttl, record.to_text()) for rrset in response.answer for record in rrset]


async def timed(client, name="example.com", **how):
    began = trio.current_time()
    return await client.ask(name, **how), trio.current_time() - began


async def test_an_answer_is_given_again_with_the_time_that_is_left(client, names, upstream, autojump_clock):
    assert found(await client.ask("example.com")) == [(60, "192.0.2.1")]
    await trio.sleep(25)
    assert found(await client.ask("EXAMPLE.com")) == [(35, "192.0.2.1")]
    await trio.sleep(36)
    upstream.address = "192.0.2.2"
    assert found(await client.ask("example.com")) == [(60, "192.0.2.2")]
    assert upstream.asked == ["example.com", "example.com"]
    assert names.counts == Counts(cached=1, forwarded=2)


async def test_that_there_is_no_such_name_is_known_too(client, upstream, autojump_clock):
    upstream.rcode = dns.rcode.NXDOMAIN
    assert (await client.ask("gone.example.com")).rcode() == dns.rcode.NXDOMAIN
    await trio.sleep(50)
    again = await client.ask("gone.example.com")
    assert again.rcode() == dns.rcode.NXDOMAIN and again.authority[0].ttl == 10
    await trio.sleep(11)
    await client.ask("gone.example.com")
    assert len(upstream.asked) == 2


async def test_what_must_not_be_kept_is_asked_each_time(client, upstream, autojump_clock):
    upstream.ttl = 0
    subnet = dns.edns.ECSOption("192.0.2.0", 24)
    for how in ({}, {"use_edns": 0, "options": [subnet]}, {"flags": 0}):
        upstream.ttl = 60 if how else 0
        before = len(upstream.asked)
        await client.ask("example.org" if how else "example.com", **how)
        await client.ask("example.org" if how else "example.com", **how)
        assert len(upstream.asked) == before + 2, how


async def test_an_old_answer_is_given_where_the_resolver_is_silent_and_told_apart(
    client, names, upstream, autojump_clock
):
    await client.ask("example.com")
    await trio.sleep(100)
    upstream.dead = True
    response, took = await timed(client, use_edns=0)
    assert (found(response), took) == ([(30, "192.0.2.1")], pytest.approx(STALE_AFTER))
    assert [option.code for option in response.options] == [3], "RFC 8914: stale answer"
    response, took = await timed(client)
    assert (found(response), took) == ([(30, "192.0.2.1")], 0.0)
    assert names.counts == Counts(forwarded=1, stale=2)
    await trio.sleep(3600)
    assert found((await timed(client))[0]) == [(30, "192.0.2.1")]
    await trio.sleep(3 * 86400)
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL, "bounded age"


async def test_an_old_answer_to_there_is_nothing_too(client, upstream, autojump_clock):
    upstream.rcode = dns.rcode.NXDOMAIN
    await client.ask("example.com.lab.example.com")
    await trio.sleep(100)
    upstream.dead = True
    assert (await client.ask("example.com.lab.example.com")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
async def test_an_old_answer_is_given_where_the_resolver_cannot_find_out(client, upstream, autojump_clock, rcode):
    await client.ask("example.com")
    await trio.sleep(100)
    upstream.rcode = rcode
    assert await timed(client) and found((await timed(client))[0]) == [(30, "192.0.2.1")]
    assert len(upstream.asked) == 2, "RFC 8767 section 5: not again within 30 s"
    await trio.sleep(31)
    upstream.rcode, upstream.address = dns.rcode.NOERROR, "192.0.2.2"
    assert found(await client.ask("example.com")) == [(60, "192.0.2.2")], "it is asked first"


async def test_what_the_resolver_could_not_find_out_at_once_is_passed_on_each_time(client, upstream):
    upstream.rcode = dns.rcode.SERVFAIL
    for _ in range(2):
        assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    assert len(upstream.asked) == 2


async def test_what_it_could_not_find_out_after_a_while_fails_at_once_for_the_next(client, upstream, autojump_clock):
    upstream.rcode, upstream.delay = dns.rcode.SERVFAIL, 4.0
    assert (await timed(client))[1] == 4.0
    response, took = await timed(client)
    assert (response.rcode(), took) == (dns.rcode.SERVFAIL, 0.0)


async def test_a_renewal_that_comes_late_is_taken_up(client, upstream, autojump_clock):
    await client.ask("example.com")
    await trio.sleep(100)
    upstream.delay, upstream.address = 3.0, "192.0.2.2"
    assert found(await client.ask("example.com")) == [(30, "192.0.2.1")]
    await trio.sleep(2)
    assert found(await client.ask("example.com")) == [(59, "192.0.2.2")]


async def test_equal_questions_under_way_are_asked_once(open_udp, names, upstream, autojump_clock):
    upstream.delay = 0.5
    clients = [open_udp() for _ in range(20)]
    got = []

    async def ask(number, one):
        query = dns.message.make_query("exAMPLE.com" if number % 2 else "example.COM", "A", id=1000 + number)
        await one.sock.send(query.to_wire())
        wire = await one.sock.recv(4096)
        assert wire[12:25] == query.to_wire()[12:25], "in the case that it was asked in"
        assert query.is_response(dns.message.from_wire(wire))
        got.append(found(dns.message.from_wire(wire)))

    async with trio.open_nursery() as nursery:
        for number, one in enumerate(clients):
            nursery.start_soon(ask, number, one)
    assert got == [[(60, "192.0.2.1")]] * 20
    assert len(upstream.asked) == 1
    assert names.counts == Counts(forwarded=20)


async def test_equal_questions_with_a_cookie_are_each_asked(open_udp, upstream, autojump_clock):
    upstream.delay = 0.5
    async with trio.open_nursery() as nursery:
        for number in range(3):
            cookie = dns.edns.GenericOption(10, b"1234567%d" % number)
            query = dns.message.make_query("example.com", "A", use_edns=0, options=[cookie])
            one = open_udp()
            await one.sock.send(query.to_wire())
            nursery.start_soon(one.answer, query)
    assert len(upstream.asked) == 3


async def test_two_resolvers_may_say_different_things(client, sockets, upstream, nursery):
    await client.ask("example.com")
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        other = Played(sock)
        other.address = "192.0.2.99"
        nursery.start_soon(other.run)
        sockets.asked = sock.getsockname()
        assert found(await client.ask("example.com")) == [(60, "192.0.2.99")]
        nursery.cancel_scope.cancel()


async def test_over_tcp_the_same_is_known(client, open_tcp, names, upstream, monkeypatch, autojump_clock):
    await client.ask("example.com")
    address = upstream.sock.getsockname()
    monkeypatch.setattr("nodeproxy.dns.resolver.original_destination", lambda sock: address)
    talk = await open_tcp()()
    await talk.send(dns.message.make_query("example.com", "A"))
    assert found(await talk.answer()) == [(60, "192.0.2.1")]
    assert names.counts == Counts(cached=1, forwarded=1)
    await trio.sleep(70)
    await talk.stream.aclose()
    talk = await open_tcp()()
    await talk.send(dns.message.make_query("example.com", "A"))  # nobody listens there for TCP
    assert found(await talk.answer()) == [(30, "192.0.2.1")]
    assert names.counts == Counts(cached=1, stale=1, forwarded=1)


async def test_what_comes_over_tcp_is_kept(client, open_tcp, names, upstream_tcp, sockets, monkeypatch):
    sockets.asked = upstream_tcp.socket.getsockname()
    talk = await open_tcp()()
    query = dns.message.make_query("example.com", "A")
    await talk.send(query)
    async with await upstream_tcp.accept() as upstream:
        await upstream.receive_some()
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text("example.com.", 60, "IN", "A", "192.0.2.1"))
        await upstream.send_all(response.to_wire(prepend_length=True))
        assert found(await talk.answer()) == [(60, "192.0.2.1")]
    assert found(await client.ask("example.com"))[0][1] == "192.0.2.1"
    assert names.counts == Counts(cached=1, forwarded=1)


async def test_waiting_for_one_name_is_bounded_too(client, names, upstream, autojump_clock):
    upstream.delay = 3.0
    for number in range(MAX_OUTSTANDING):
        await client.sock.send(dns.message.make_query("example.com", "A", id=number).to_wire())
    await trio.testing.wait_all_tasks_blocked()
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    assert len(upstream.asked) == 1


async def test_what_nobody_waits_for_any_more_is_bounded_too(client, names, upstream, autojump_clock):
    """A question that failed before is waited for less long than it is under way."""

    async def ask(first):
        for number in range(first, first + 60):
            await client.sock.send(dns.message.make_query(f"{number}.example.com", "A", id=number).to_wire())
        await trio.testing.wait_all_tasks_blocked()

    upstream.delay = 10.0
    await ask(0)
    await trio.sleep(6.5)  # they failed, and may be asked again
    await ask(0)
    await trio.sleep(1.1)
    assert names._outstanding.open == 0 and len(upstream.asked) == 120
    await ask(100)
    assert len(upstream.asked) == 60 + MAX_UNDER_WAY
    await trio.sleep(6.0)
    assert repr(names._upstream).startswith("<Upstream 0 under way")


async def test_resolvers_that_are_checked_are_bounded(client, names, sockets, autojump_clock):
    opened = []
    for _ in range(40):
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await sock.bind(("127.0.0.1", 0))
        opened.append(sock)
        sockets.asked = sock.getsockname()
        await client.sock.send(dns.message.make_query("example.com", "A").to_wire())
        await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(10.0)
    checked = 0
    for sock in opened:
        messages = 0
        with trio.move_on_after(0.01):
            while True:
                await sock.recv(4096)
                messages += 1
        checked += messages > 1
        sock.close()
    assert checked == MAX_WATCHED
    await trio.sleep(400.0)
    assert names._upstream._watching == 0


async def test_an_answer_to_another_workload_is_not_seen(client, upstream, names):
    await client.ask("example.com")
    other = Upstream(Budget().cache(), None)
    assert len(other.cache) == 0 and len(names._upstream.cache) == 1


async def test_another_name_for_a_host_outside(client, names, upstream, autojump_clock):
    response = await client.ask("OUT.bookbuyer")
    assert [rrset.to_text() for rrset in response.answer] == [
        "OUT.bookbuyer. 7 IN CNAME www.example.com.",
        "www.example.com. 60 IN A 192.0.2.1",
    ]
    await trio.sleep(10)
    response = await client.ask("out.bookbuyer.svc.cluster.local")
    assert response.answer[1].ttl == 50
    assert upstream.asked == ["www.example.com"]
    assert names.counts == Counts(cached=1, forwarded=1)
    response = await client.ask("out", "CNAME")
    assert [rrset.to_text() for rrset in response.answer] == ["out. 7 IN CNAME www.example.com."]
    upstream.rcode = dns.rcode.NXDOMAIN
    response = await client.ask("out", "AAAA")
    assert response.rcode() == dns.rcode.NXDOMAIN and len(response.answer) == len(response.authority) == 1


async def test_another_name_for_a_service(client, upstream):
    response = await client.ask("in.bookbuyer")
    assert [rrset.to_text() for rrset in response.answer] == [
        "in.bookbuyer. 7 IN CNAME bookstore.bookstore.svc.cluster.local.",
        "bookstore.bookstore.svc.cluster.local. 7 IN A 240.240.0.7",
    ]
    assert upstream.asked == []


async def test_another_name_for_a_host_outside_where_the_resolver_is_dead(client, upstream, names, autojump_clock):
    upstream.dead = True
    response, took = await timed(client, "out.bookbuyer")
    assert (response.rcode(), took) == (dns.rcode.SERVFAIL, 2.5)
    assert (await timed(client, "out.bookbuyer"))[1] == 0.0
    upstream.dead = False
    await trio.sleep(3)
    await client.ask("out.bookbuyer")
    await trio.sleep(100)
    upstream.dead = True
    response = await client.ask("out.bookbuyer", use_edns=0)
    assert found(response)[1] == (30, "192.0.2.1") and [option.code for option in response.options] == [3]


async def test_another_name_over_tcp(client, open_tcp, upstream, monkeypatch):
    address = upstream.sock.getsockname()
    monkeypatch.setattr("nodeproxy.dns.resolver.original_destination", lambda sock: address)
    talk = await open_tcp()()
    await talk.send(dns.message.make_query("out.bookbuyer", "A"), dns.message.make_query("own", "A"))
    answers = [await talk.answer() for _ in range(2)]
    assert sorted(found(response)[-1] for response in answers) == [(7, "240.240.0.8"), (60, "192.0.2.1")]


def test_repr_shows_state():
    upstream = Upstream(Budget().cache(), None)
    assert repr(upstream) == "<Upstream 0 under way, <Memory of 0 resolvers, down: []>, <Cache 0 answers, 0 bytes>>"
