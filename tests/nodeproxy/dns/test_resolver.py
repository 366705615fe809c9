"""The doors of a workload's resolver, over real loopback sockets, with a resolver played by the test."""

import socket

import dns.flags
import dns.message
import dns.rcode
import trio
import trio.testing

from nodeproxy.dns import resolver
from nodeproxy.dns.resolver import MAX_CONNECTIONS, MAX_OUTSTANDING, MAX_QUESTION, Counts
from policy.model import Service
from policy.snapshot import Snapshot


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


async def test_a_name_of_the_cluster_that_does_not_exist_is_said_so_at_once(open_udp, sockets, names):
    response = await open_udp().ask("example.com.bookbuyer.svc.cluster.local")
    assert response.rcode() == dns.rcode.NXDOMAIN
    (soa,) = response.authority
    assert soa.to_text() == (
        "cluster.local. 7 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 7"
    )
    assert (sockets.made, names.counts) == (0, Counts(answered=1))


async def test_where_the_clusters_resolver_has_names_of_its_own_it_is_asked(open_udp, names, upstream_udp):
    names._context.dns_ask_unknown = True
    await open_udp().sock.send(dns.message.make_query("own.zone.cluster.local", "A").to_wire())
    with trio.fail_after(5):
        await upstream_udp.recvfrom(65535)


async def test_that_a_name_has_no_such_record_is_told_from_that_it_does_not_exist(open_udp):
    client = open_udp()
    for name, authorities in (("bookstore.bookstore.svc.cluster.local", 1), ("bookstore.bookstore", 0)):
        response = await client.ask(name, "AAAA")
        assert (response.rcode(), len(response.answer)) == (dns.rcode.NOERROR, 0)
        assert len(response.authority) == authorities, "only below our domain there is somebody to speak for it"


async def test_services_by_port_and_by_address(open_udp):
    client = open_udp()
    response = await client.ask("_http._tcp.bookstore.bookstore.svc.cluster.local", "SRV")
    assert [record.to_text() for record in response.answer[0]] == ["0 100 80 bookstore.bookstore.svc.cluster.local."]
    response = await client.ask("7.0.240.240.in-addr.arpa", "PTR")
    assert [record.to_text() for record in response.answer[0]] == ["bookstore.bookstore.svc.cluster.local."]
    assert addresses(await client.ask("db-0.db.bookstore.svc.cluster.local")) == ["10.42.0.1"]
    response = await client.ask("1.0.42.10.in-addr.arpa", "PTR")
    assert addresses(response) == ["db-0.db.bookstore.svc.cluster.local."]


async def test_what_was_asked_before_is_answered_alike_until_other_policy_is_in_force(open_udp, names, upstream_udp):
    client = open_udp()
    for number in (7, 8):
        assert addresses(await client.ask("own", id=number)) == ["240.240.0.8"]
        assert (await client.ask("own", "AAAA", id=number)).rcode() == dns.rcode.NOERROR
        query = dns.message.make_query("new.bookbuyer", "A", id=number)
        await client.sock.send(query.to_wire())
        question, peer = await upstream_udp.recvfrom(65535)
        assert question == query.to_wire(), "with its own id"
        await upstream_udp.sendto(reply_to(question).replace(b"\0\0\0\x3c", bytes(4)), peer)
        assert addresses(await client.answer(query)) == ["192.0.2.1"]
    services = (Service("bookbuyer", "own", ("240.240.0.9",)), Service("bookbuyer", "new", ("240.240.0.10",)))
    names._context.snapshot.zone = Snapshot("here", services=services).zone
    assert addresses(await client.ask("own")) == ["240.240.0.9"]
    assert addresses(await client.ask("new.bookbuyer")) == ["240.240.0.10"]


async def test_what_is_at_hand_is_bounded(open_udp, names):
    client = open_udp()
    for number in range(300):
        await client.ask(f"n{number}.cluster.local")
    assert len(names._recent) == 128


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


async def test_a_silent_resolver_is_servfail_once_it_gave_no_sign_of_life(
    open_udp, names, sockets, upstream_udp, autojump_clock
):
    client = open_udp()
    began = trio.current_time()
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    assert trio.current_time() - began == 2.5
    assert names.counts == Counts(failed=1)
    ((asked, since),) = names.down()
    assert (asked, since) == (sockets.asked, began + 1.0)


async def play(upstream, asked, answers=lambda query: True):
    """A resolver: it notes the names that it is asked for, and answers those that it should."""
    while True:
        wire, peer = await upstream.recvfrom(65535)
        query = dns.message.from_wire(wire)
        asked.append(query.question[0].name.to_text(omit_final_dot=True))
        if answers(query):
            await upstream.sendto(reply_to(wire), peer)


async def timed(client, name):
    began = trio.current_time()
    return (await client.ask(name)).rcode(), trio.current_time() - began


async def test_nobody_waits_again_for_a_resolver_that_does_not_answer(
    open_udp, names, upstream_udp, autojump_clock, nursery
):
    client, asked = open_udp(), []
    nursery.start_soon(play, upstream_udp, asked, lambda query: False)
    took = [await timed(client, f"{number}.example.com") for number in range(6)]
    assert took == [(dns.rcode.SERVFAIL, 2.5)] + 5 * [(dns.rcode.SERVFAIL, 0.0)]
    assert names.counts == Counts(failed=6)
    assert asked == ["0.example.com", ".", "."], "a dead resolver is not asked the others"
    await trio.sleep(100)
    assert asked.count(".") == 2 + 2 * 6, "after rests of 2, 4, 8, 16, 30 and 30 seconds"
    await trio.sleep(300)
    gave_up = len(asked)
    await trio.sleep(300)
    assert len(asked) == gave_up, "nobody asks any more"
    assert await timed(client, "last.example.com") == (dns.rcode.SERVFAIL, 2.5), "it may be back"


async def test_a_slow_name_is_waited_for_where_the_resolver_lives(
    open_udp, names, upstream_udp, autojump_clock, nursery
):
    asked = []
    nursery.start_soon(play, upstream_udp, asked, lambda query: query.question[0].name == dns.name.root)
    client = open_udp()
    assert await timed(client, "slow.example.com") == (dns.rcode.SERVFAIL, 5.0)
    assert names.down() == []
    assert await timed(client, "slow.example.com") == (dns.rcode.SERVFAIL, 0.0), "RFC 9520: that it failed is known"
    assert await timed(client, "other.example.com") == (dns.rcode.SERVFAIL, 5.0)
    assert await timed(client, "slow.example.com") == (dns.rcode.SERVFAIL, 1.0), "asked anew, and waited for less"


async def test_a_resolver_that_is_back_is_found_by_a_check_and_not_by_a_client(
    open_udp, names, upstream_udp, autojump_clock, nursery
):
    alive, asked = False, []
    nursery.start_soon(play, upstream_udp, asked, lambda query: alive)
    client = open_udp()
    await client.ask("example.com")
    assert names.down()
    alive = True
    await trio.sleep(3)
    assert names.down() == []
    assert addresses(await client.ask("example.com")) == ["192.0.2.1"]
    assert asked == ["example.com", ".", ".", ".", "example.com"]


async def test_a_late_answer_ends_the_silence_and_is_kept(open_udp, names, upstream_udp, autojump_clock):
    client = open_udp()
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    question, peer = await upstream_udp.recvfrom(65535)
    await upstream_udp.sendto(reply_to(question), peer)
    await trio.testing.wait_all_tasks_blocked()
    assert names.down() == []
    assert addresses(await client.ask("example.com")) == ["192.0.2.1"]
    assert names.counts == Counts(cached=1, failed=1)


async def test_whatever_the_search_list_adds_a_services_name_is_answered_at_once(open_udp, names, sockets):
    client = open_udp()
    assert addresses(await client.ask("own.bookbuyer.svc.cluster.local.lan")) == ["240.240.0.8"]
    assert sockets.made == 0


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
        await client.sock.send(dns.message.make_query(f"{number}.example.com", "A", id=number).to_wire())
        waiting.append(await upstream_udp.recvfrom(65535))
    assert (await client.ask("example.com")).rcode() == dns.rcode.SERVFAIL
    assert addresses(await client.ask("own")) == ["240.240.0.8"]
    for question, peer in waiting:
        await upstream_udp.sendto(reply_to(question), peer)
        assert (await client.sock.recv(65535))[:2] == question[:2]
    await client.sock.send(dns.message.make_query("again.example.com", "A", id=7).to_wire())
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
    connect = open_tcp()
    query = dns.message.make_query("example.com", "A")

    async def fails():
        client = await connect()
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
    assert (
        repr(names)
        == "<Resolver bookbuyer/buyer-1 0 waiting, Counts(answered=0, cached=0, stale=0, forwarded=0, failed=0, dropped=0)>"
    )


async def test_over_tcp_nobody_waits_again_for_a_resolver_that_does_not_answer(
    open_tcp, names, monkeypatch, autojump_clock
):
    """A connection that is neither accepted nor refused: the backlog of this listener is full."""
    with socket.socket() as full, socket.socket() as filler, socket.socket() as more:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (filler, more):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        monkeypatch.setattr("nodeproxy.dns.resolver.original_destination", lambda sock: full.getsockname())
        client = await open_tcp()()
        took = []
        for number in range(5):
            began = trio.current_time()
            await client.send(dns.message.make_query("example.com", "A", id=number))
            assert (await client.answer()).rcode() == dns.rcode.SERVFAIL
            took.append(trio.current_time() - began)
    assert took == [4.0, 0.0, 0.0, 0.0, 0.0]


def tied(names, name, address):
    ties = names._context.ties.get(names.workload_key)
    return ties is not None and ties.has(name, address, trio.current_time())


async def answers_to(client, upstream, name, address="192.0.2.1", rdtype="A"):
    """Ask, and be the resolver for it."""
    async with trio.open_nursery() as nursery:

        async def resolve():
            wire, peer = await upstream.recvfrom(65535)
            await upstream.sendto(reply_to(wire, address), peer)

        nursery.start_soon(resolve)
        return await client.ask(name, rdtype)


async def test_where_policy_goes_by_names_it_is_noted_what_was_answered(open_udp, names, upstream_udp, sockets):
    client = open_udp()
    assert addresses(await answers_to(client, upstream_udp, "www.example.com")) == ["192.0.2.1"]
    assert names._context.ties == {}, "nobody needs it"
    names._context.snapshot = type(names._context.snapshot)()  # a newer one
    names._context.snapshot.by_names = True
    assert sockets.from_the_node == 0
    await answers_to(client, upstream_udp, "WWW.Example.com", "192.0.2.7")
    assert sockets.from_the_node == 1, "asked anew, from where the workload forges nothing"
    assert tied(names, "www.example.com", "192.0.2.7")
    assert not tied(names, "www.example.com", "192.0.2.1")
    names._context.ties.clear()
    await client.ask("www.example.com")
    assert names.counts.cached == 1 and tied(names, "www.example.com", "192.0.2.7")


async def test_of_a_resolver_that_does_not_count_nothing_is_noted_but_its_address(
    open_udp, names, upstream_udp, sockets
):
    names._context.snapshot.by_names = True
    names._context.dns_trusted = lambda workload: {"192.0.2.53"}
    await answers_to(open_udp(), upstream_udp, "www.example.com")
    assert not tied(names, "www.example.com", "192.0.2.1")
    assert names._context.ties[names.workload_key].distrusted == "127.0.0.1"
    assert sockets.from_the_node == 0


async def test_over_tcp_it_is_noted_too(open_tcp, names, upstream_tcp, sockets, nursery):
    names._context.snapshot.by_names = True

    async def resolve():
        async with await upstream_tcp.accept() as stream:
            wire = await stream.receive_some()
            reply = reply_to(wire[2:], "192.0.2.9")
            await stream.send_all(len(reply).to_bytes(2) + reply)
            await stream.receive_some()

    nursery.start_soon(resolve)
    client = await open_tcp()()
    await client.send(dns.message.make_query("www.example.com", "A"))
    await client.answer()
    assert sockets.from_the_node == 1
    assert tied(names, "www.example.com", "192.0.2.9")


async def test_what_was_asked_before_policy_went_by_names_is_not_noted(open_udp, names, upstream_udp):
    early, later = open_udp(), open_udp()
    query = dns.message.make_query("www.example.com", "A")
    await early.sock.send(query.to_wire())
    wire, peer = await upstream_udp.recvfrom(65535)
    names._context.snapshot = type(names._context.snapshot)()
    names._context.snapshot.by_names = True
    await later.ask("own")
    await upstream_udp.sendto(reply_to(wire, "192.0.2.66"), peer)
    assert addresses(await early.answer(query)) == ["192.0.2.66"], "it is answered all the same"
    assert not tied(names, "www.example.com", "192.0.2.66")
    await answers_to(later, upstream_udp, "www.example.com")
    assert tied(names, "www.example.com", "192.0.2.1")


async def test_a_name_is_asked_for_where_nobody_did(open_udp, names, upstream_udp, sockets, monkeypatch):
    monkeypatch.setattr(resolver, "PORT", upstream_udp.getsockname()[1])
    open_udp()
    await trio.testing.wait_all_tasks_blocked()
    await names.tie("www.example.com", 1)
    assert (sockets.made, names._context.ties) == (0, {}), "nobody needs it"
    names._context.snapshot = type(names._context.snapshot)()
    names._context.snapshot.by_names = True
    assert names._context.lookups == {names.workload_key: names.tie}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.tie, "www.example.com", 1)
        wire, peer = await upstream_udp.recvfrom(65535)
        await upstream_udp.sendto(reply_to(wire, "192.0.2.5"), peer)
    assert (sockets.made, sockets.from_the_node) == (1, 1)
    assert tied(names, "www.example.com", "192.0.2.5")
    await names.tie("www.example.com", 1)
    assert sockets.made == 1, "from memory"
    names._context.dns_trusted = lambda workload: set()
    await names.tie("other.example.com", 1)
    assert sockets.made == 1
    names.close()
    assert names._context.lookups == {}


async def test_as_many_names_are_asked_for_as_questions_wait(open_udp, names, sockets):
    names._context.snapshot.by_names = True
    open_udp()
    await trio.testing.wait_all_tasks_blocked()
    while names._outstanding.enter():
        pass
    await names.tie("www.example.com", 1)
    assert sockets.made == 0
