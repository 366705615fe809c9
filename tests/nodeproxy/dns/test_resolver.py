"""The doors of a workload's resolver, over real loopback sockets, with a resolver played by the test."""

import socket

import dns.flags
import dns.message
import dns.rcode
import trio
import trio.testing

from nodeproxy.dns.resolver import MAX_CONNECTIONS, MAX_OUTSTANDING, MAX_QUESTION, Counts


def addresses(response):
    return [record.to_text() for rrset in response.answer for record in rrset]


def reply_to(wire, address="192.0.2.1"):
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query, recursion_available=True)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return response.to_wire()


async def test_names_of_the_mesh_are_answered(open_udp, names, sockets):
    client = open_udp()
    assert addresses(await client.ask("bookstore.bookstore")) == ["240.240.0.7"]
    assert addresses(await client.ask("own")) == ["240.240.0.8"]
    assert (await client.ask("own", "AAAA")).rcode() == dns.rcode.NOERROR
    assert (await client.ask("own")).answer[0].ttl == 7
    assert names.counts == Counts(answered=4)
    assert sockets.made == 0


async def test_the_answer_comes_from_the_address_that_was_asked(open_udp):
    # The client's socket is connected, so it gets nothing from another address. To 127.0.0.9 the kernel would choose 127.0.0.1.
    assert addresses(await open_udp("0.0.0.0", "127.0.0.9").ask("own")) == ["240.240.0.8"]
    assert addresses(await open_udp("::1").ask("own")) == ["240.240.0.8"]
    assert addresses(await open_udp("::", "::1").ask("own")) == ["240.240.0.8"]


async def test_other_questions_pass_unchanged_each_from_its_own_port(open_udp, names, sockets, upstream_udp):
    client = open_udp("0.0.0.0", "127.0.0.1")
    ports = set()
    for edns in (-1, 0):
        query = dns.message.make_query("eXample.com", "MX", use_edns=edns)
        await client.sock.send(query.to_wire())
        question, peer = await upstream_udp.recvfrom(65535)
        assert question == query.to_wire()
        ports.add(peer[1])
        reply = reply_to(question) + b"odd bytes at the end, none of our business"
        await upstream_udp.sendto(reply, peer)
        assert await client.sock.recv(65535) == reply
    assert len(ports) == 2
    assert names.counts == Counts(forwarded=2)
    _, client_address, listener = sockets.seen[0]
    assert client_address == client.sock.getsockname()
    assert listener == client.sock.getpeername()


async def test_a_name_out_of_reach_of_the_namespace_passes(open_udp, upstream_udp):
    client = open_udp()
    query = dns.message.make_query("bookstore", "A")
    await client.sock.send(query.to_wire())
    question, peer = await upstream_udp.recvfrom(65535)
    response = dns.message.make_response(dns.message.from_wire(question))
    response.set_rcode(dns.rcode.NXDOMAIN)
    await upstream_udp.sendto(response.to_wire(), peer)
    assert (await client.answer(query)).rcode() == dns.rcode.NXDOMAIN


async def test_a_forged_reply_is_not_taken(open_udp, upstream_udp):
    client = open_udp()
    query = dns.message.make_query("example.com", "A")
    await client.sock.send(query.to_wire())
    question, peer = await upstream_udp.recvfrom(65535)
    stranger = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with stranger:
        await stranger.sendto(reply_to(question, "192.0.2.66"), peer)  # right, but from elsewhere
    forged = bytearray(reply_to(question, "192.0.2.66"))
    forged[0] ^= 1
    await upstream_udp.sendto(forged, peer)
    other = dns.message.make_query("example.org", "A", id=query.id)
    await upstream_udp.sendto(reply_to(other.to_wire(), "192.0.2.66"), peer)
    await upstream_udp.sendto(question, peer)
    await upstream_udp.sendto(reply_to(question), peer)
    assert addresses(await client.answer(query)) == ["192.0.2.1"]


async def test_a_silent_resolver_is_servfail_after_the_deadline(open_udp, names, upstream_udp, autojump_clock):
    client = open_udp()
    began = trio.current_time()
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    assert trio.current_time() - began == 5.0
    assert names.counts == Counts(failed=1)


async def test_nobody_to_ask_is_servfail_at_once(open_udp, names, sockets, upstream_udp):
    client = open_udp()
    door = client.sock.getpeername()
    upstream_udp.close()  # nobody listens: the kernel says so
    for asked in (sockets.asked, None, ("10.9.8.7", 15053), ("10.9.8.7", 15001), door, ("fe80::1", 53)):
        sockets.asked = asked
        with trio.fail_after(2):
            assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    assert sockets.made == 2  # none of those that are our own doors was asked
    sockets.asked = ("127.0.0.1", 53)
    sockets.error = FileNotFoundError("the namespace is gone")
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    names._context.snapshot.workloads.clear()
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    assert names.counts == Counts(failed=8)
    assert addresses(await client.ask("own")) == ["240.240.0.8"]


async def test_what_is_no_question_is_dropped(open_udp, names, autojump_clock):
    client = open_udp()
    await client.sock.send(b"")
    await client.sock.send(b"short")
    await client.sock.send(reply_to(dns.message.make_query("example.com", "A").to_wire()))
    await client.sock.send(dns.message.make_query("own", "A").to_wire() + bytes(MAX_QUESTION))
    assert addresses(await client.ask("own")) == ["240.240.0.8"]  # the first answer of all
    assert names.counts == Counts(answered=1, dropped=4)


async def test_outstanding_questions_are_bounded(open_udp, names, sockets, upstream_udp):
    client = open_udp()
    waiting = []
    for number in range(MAX_OUTSTANDING):
        await client.sock.send(dns.message.make_query("example.com", "A", id=number).to_wire())
        waiting.append(await upstream_udp.recvfrom(65535))
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    assert addresses(await client.ask("own")) == ["240.240.0.8"]
    for question, peer in waiting:
        await upstream_udp.sendto(reply_to(question), peer)
        assert (await client.sock.recv(65535))[:2] == question[:2]
    await client.sock.send(dns.message.make_query("example.com", "A", id=7).to_wire())
    question, peer = await upstream_udp.recvfrom(65535)  # there is room again
    await upstream_udp.sendto(reply_to(question), peer)
    assert (await client.sock.recv(65535))[:2] == b"\0\7"
    assert names.counts == Counts(answered=1, forwarded=MAX_OUTSTANDING + 1, failed=1)


async def test_a_flood_leaves_the_others_their_turns(open_udp, names):
    flooder, client = open_udp(), open_udp()
    question = dns.message.make_query("own", "A").to_wire()
    for _ in range(100):
        await flooder.sock.send(question)
    before = names.counts.answered
    assert before < 80  # the flood goes on
    assert addresses(await client.ask("own")) == ["240.240.0.8"]
    assert names.counts.answered - before < 10  # it waited for a few of them only


async def test_over_tcp_several_questions_and_the_connections_are_bounded(open_tcp, names):
    connect = open_tcp()
    first = await connect()
    queries = [dns.message.make_query("own", "A", id=number) for number in range(5)]
    await first.send(*queries)
    for query in queries:
        response = await first.answer()
        assert query.is_response(response) and addresses(response) == ["240.240.0.8"]
    others = [await connect() for _ in range(MAX_CONNECTIONS - 1)]
    for other in others:
        await other.send(queries[0])
        assert addresses(await other.answer()) == ["240.240.0.8"]
    refused = await connect()
    assert await refused.frame() is None
    assert names.counts == Counts(answered=5 + MAX_CONNECTIONS - 1, dropped=1)
    await first.stream.send_eof()
    assert await first.frame() is None
    await trio.testing.wait_all_tasks_blocked()
    again = await connect()
    await again.send(queries[0])
    assert addresses(await again.answer()) == ["240.240.0.8"]


async def test_over_tcp_a_question_is_forwarded_over_tcp(open_tcp, names, upstream_tcp):
    client = await open_tcp()()
    query = dns.message.make_query("eXample.com", "TXT", use_edns=0)
    await client.send(query)
    async with await upstream_tcp.accept() as upstream:
        assert await upstream.receive_some() == query.to_wire(prepend_length=True)
        reply = reply_to(query.to_wire()) + bytes(5000)
        await upstream.send_all(len(reply).to_bytes(2) + reply)
        assert await client.frame() == reply
    assert names.counts == Counts(forwarded=1)


async def test_over_tcp_nobody_to_ask_is_servfail(open_tcp, names, sockets, upstream_tcp, monkeypatch):
    client = await open_tcp()()
    query = dns.message.make_query("example.com", "A")

    async def fails():
        await client.send(query)
        with trio.fail_after(2):
            assert (await client.answer()).rcode() == dns.rcode.SERVFAIL

    upstream_tcp.socket.close()
    await fails()
    monkeypatch.setattr("nodeproxy.dns.resolver.original_destination", lambda sock: sock.getsockname())
    await fails()  # our own door was dialled
    monkeypatch.setattr("nodeproxy.dns.resolver.original_destination", lambda sock: ("127.0.0.1", 15053))
    await fails()
    assert sockets.made == 1

    def unknown(sock):
        raise FileNotFoundError("conntrack does not know it")

    monkeypatch.setattr("nodeproxy.dns.resolver.original_destination", unknown)
    await fails()
    sockets.error = FileNotFoundError("the namespace is gone")
    monkeypatch.setattr("nodeproxy.dns.resolver.original_destination", lambda sock: ("127.0.0.1", 53))
    await fails()
    names._context.snapshot.workloads.clear()
    await fails()
    assert names.counts == Counts(failed=6)


def test_repr_shows_state(names):
    assert repr(names) == "<Resolver bookbuyer/buyer-1 0 waiting, Counts(answered=0, forwarded=0, failed=0, dropped=0)>"
