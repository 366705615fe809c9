"""One TCP connection: framing, order, deadlines, and every way either side may leave. Over memory streams."""

import dns.message
import dns.rcode
import pytest
import trio
import trio.testing

from nodeproxy.codec.dns import Next, servfail
from nodeproxy.dns.conversation import Conversation, Frames, framed
from nodeproxy.limits import Gate

IMPATIENT = 2000  # the id of a question for which there is an old answer


ALIAS = 3000  # the id of one whose answer depends on another name


def question(identifier, name="example.com"):
    return dns.message.make_query(name, "A", id=identifier).to_wire()


class Party:
    """The other end of a stream, in messages."""

    def __init__(self, stream):
        self.stream = stream
        self.frames = Frames(stream)

    async def send(self, *messages):
        await self.stream.send_all(b"".join(framed(message) for message in messages))

    async def next(self):
        with trio.fail_after(60):
            return await self.frames.next()


class Table:
    """A conversation whose client and resolver the test plays. Questions whose id is below 100 are ours: answered b"ours"."""

    def __init__(self):
        client, ours = trio.testing.memory_stream_pair()
        self.client = Party(client)
        self.ours = ours
        self.resolvers = []
        self.opened = trio.Event()
        self.refuses = False
        self.gate = Gate(3)
        self.counts = dict.fromkeys(("answered", "forwarded", "failed", "dropped"), 0)
        self.conversation = Conversation(ours, self, self.gate)
        self.ended = trio.Event()
        self.looked_up = trio.Event()

    def at_once(self, message):
        if len(message) < 12:
            return Next.DROP
        if message[:2] == ALIAS.to_bytes(2):
            return Next.LOOK_UP
        if message[0] or message[1] >= 100:
            return Next.FORWARD
        self.counts["answered"] += 1
        return message[:2] + b"ours"

    async def look_up(self, message):
        await self.looked_up.wait()
        return message[:2] + b"found"

    def patience(self, message):
        return 2.0 if message[:2] == IMPATIENT.to_bytes(2) else 5.0

    def replied(self, message, reply, took):
        self.counts["forwarded"] += 1
        self.took = took
        return reply

    def unanswered(self, message, took):
        self.counts["failed"] += 1
        self.took = took
        return servfail(message)

    def dropped(self):
        self.counts["dropped"] += 1

    async def connect(self):
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise OSError("nobody listens")
        theirs, ours = trio.testing.memory_stream_pair()
        self.resolvers.append(Party(theirs))
        return ours

    async def run(self):
        await self.conversation.run()
        self.ended.set()


@pytest.fixture
def table(nursery):
    table = Table()
    nursery.start_soon(table.run)
    return table


async def test_frames_byte_by_byte_and_all_at_once():
    small = [b"", b"a", b"b" * 300]
    for messages, step in ((small, 1), (small, 7), ([*small, b"c" * 65535], 4000), ([b"c" * 65535, *small], 100_000)):
        wire = b"".join(framed(message) for message in messages)
        sender, receiver = trio.testing.memory_stream_one_way_pair()
        frames = Frames(receiver)
        received = []

        async def send(wire=wire, step=step, sender=sender):
            for start in range(0, len(wire), step):
                await sender.send_all(wire[start : start + step])
            await sender.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while (message := await frames.next()) is not None:
                received.append(message)
        assert received == messages


async def test_a_cancelled_wait_loses_nothing(autojump_clock):
    sender, receiver = trio.testing.memory_stream_one_way_pair()
    frames = Frames(receiver)
    await sender.send_all(framed(b"message")[:4])
    with trio.move_on_after(1):
        await frames.next()
    await sender.send_all(framed(b"message")[4:])
    assert await frames.next() == b"message"


async def test_answers_may_overtake(table):
    await table.client.send(question(1000), question(1), question(1001))
    assert await table.client.next() == b"\0\1ours"
    (resolver,) = table.resolvers
    assert [await resolver.next(), await resolver.next()] == [question(1000), question(1001)]
    await resolver.send(question(1001)[:2] + b"second", question(1000)[:2] + b"first")
    assert await table.client.next() == question(1001)[:2] + b"second"
    assert await table.client.next() == question(1000)[:2] + b"first"
    assert table.gate.open == 0
    assert table.counts == {"answered": 1, "forwarded": 2, "failed": 0, "dropped": 0}


async def test_a_transfer_of_many_messages_passes(table):
    await table.client.send(question(1000))
    await trio.testing.wait_all_tasks_blocked()
    (resolver,) = table.resolvers
    parts = [question(1000)[:2] + bytes([n]) * 1000 for n in range(5)]
    await resolver.send(*parts)
    assert [await table.client.next() for _ in parts] == parts
    assert table.counts["forwarded"] == 1


async def test_a_question_that_stays_unanswered(table, autojump_clock):
    began = trio.current_time()
    await table.client.send(question(1000))
    await trio.sleep(3)
    await table.client.send(question(1001))
    assert await table.client.next() == servfail(question(1000))
    assert trio.current_time() - began == 5
    (resolver,) = table.resolvers
    await resolver.send(question(1001)[:2] + b"just in time")
    assert await table.client.next() == question(1001)[:2] + b"just in time"
    assert table.counts["failed"] == table.counts["forwarded"] == 1


async def test_a_question_that_waits_less(table, autojump_clock):
    began = trio.current_time()
    await table.client.send(question(1000), question(IMPATIENT))
    assert await table.client.next() == servfail(question(IMPATIENT))
    assert (trio.current_time() - began, table.took) == (2.0, 2.0)
    await table.resolvers[0].send(question(1000)[:2] + b"answer")
    assert await table.client.next() == question(1000)[:2] + b"answer"
    assert table.took == 2.0


async def test_a_question_that_depends_on_another_name(table):
    await table.client.send(question(ALIAS), question(1))
    await table.client.stream.send_eof()
    assert await table.client.next() == b"\0\1ours", "the others need not wait"
    assert table.gate.open == 1 and not table.ended.is_set()
    table.looked_up.set()
    assert await table.client.next() == question(ALIAS)[:2] + b"found"
    await table.ended.wait()
    assert table.gate.open == 0


async def test_an_unused_connection_is_closed_and_opened_again(table, autojump_clock):
    for count in (1, 2):
        await table.client.send(question(1000))
        await trio.testing.wait_all_tasks_blocked()
        assert len(table.resolvers) == count
        resolver = table.resolvers[-1]
        assert await resolver.next() == question(1000)
        await resolver.send(question(1000)[:2] + b"answer")
        assert await table.client.next() == question(1000)[:2] + b"answer"
        assert await resolver.next() is None


async def test_what_a_lost_connection_took_with_it_is_servfail(table):
    await table.client.send(question(1000), question(1001))
    await trio.testing.wait_all_tasks_blocked()
    await table.resolvers[0].stream.aclose()
    assert [await table.client.next(), await table.client.next()] == [
        servfail(question(1000)),
        servfail(question(1001)),
    ]
    await table.client.send(question(1000))
    await trio.testing.wait_all_tasks_blocked()
    assert await table.resolvers[1].next() == question(1000)
    assert table.gate.open == 1


async def test_a_resolver_that_cannot_be_reached(table):
    table.refuses = True
    await table.client.send(question(1000), question(1))
    assert await table.client.next() == servfail(question(1000))
    assert await table.client.next() == b"\0\1ours"
    assert table.gate.open == 0


async def test_a_resolver_that_does_not_read(table, autojump_clock):
    await table.client.send(question(1000))
    await trio.sleep(1)

    async def stuck():
        await trio.sleep_forever()

    table.conversation._upstream.send_stream.send_all_hook = stuck
    await table.client.send(question(1001))
    assert await table.client.next() == servfail(question(1000))
    assert await table.client.next() == servfail(question(1001))
    await table.client.send(question(1002))
    await trio.testing.wait_all_tasks_blocked()
    assert await table.resolvers[1].next() == question(1002)  # half a message may be on the first: it is not used again


async def test_too_many_or_twice_the_same_id(table):
    await table.client.send(question(1000), question(1000), question(1001), question(1002), question(1003))
    assert await table.client.next() == servfail(question(1000))
    assert await table.client.next() == servfail(question(1003))
    assert table.gate.open == 3
    await table.resolvers[0].send(question(1000)[:2] + b"answer")
    assert await table.client.next() == question(1000)[:2] + b"answer"
    await table.client.send(question(1000))
    await trio.testing.wait_all_tasks_blocked()
    assert table.gate.open == 3


async def test_a_client_that_asks_no_more_gets_its_answers(table):
    await table.client.send(question(1000))
    await table.client.stream.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    assert not table.ended.is_set()
    await table.resolvers[0].send(question(1000)[:2] + b"answer")
    assert await table.client.next() == question(1000)[:2] + b"answer"
    await table.ended.wait()


async def test_a_client_that_asks_no_more_is_not_waited_for_longer_than_the_deadline(table, autojump_clock):
    began = trio.current_time()
    await table.client.send(question(1000))
    await table.client.stream.send_eof()
    assert await table.client.next() == servfail(question(1000))
    await table.ended.wait()
    assert trio.current_time() - began == 5


async def test_a_silent_client_is_left(table, autojump_clock):
    began = trio.current_time()
    await table.ended.wait()
    assert trio.current_time() - began == 30


async def test_what_is_no_question_ends_it(table):
    await table.client.send(question(1000), b"short")
    await table.ended.wait()
    assert table.gate.open == 0
    assert table.counts["dropped"] == 2  # it, and the one that waited


async def test_a_client_that_does_not_read_ends_it(table, autojump_clock):
    async def stuck():
        await trio.sleep_forever()

    table.ours.send_stream.send_all_hook = stuck
    await table.client.send(question(1))
    await table.ended.wait()


async def test_a_client_that_is_gone_ends_it(table):
    await table.client.send(question(1000))
    await trio.testing.wait_all_tasks_blocked()
    await table.client.stream.aclose()
    await table.resolvers[0].send(question(1000)[:2] + b"answer")
    await table.ended.wait()
    assert table.gate.open == 0


async def test_repr_shows_state(table):
    assert repr(table.conversation) == "<Conversation 0 waiting, upstream None>"
