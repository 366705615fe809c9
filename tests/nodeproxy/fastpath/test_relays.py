"""Opaque bytes in the native lane, through its Python door: order, ends, resets, back-pressure, time; and that nothing is kept."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import resource
import socket
import time

import pytest
import trio

from nodeproxy import native
from nodeproxy.errors import Refused
from nodeproxy.interfaces import NO_FAST_PATH
from nodeproxy.native import AVAILABLE
from nodeproxy.protocols import relay as relay_module
from nodeproxy.protocols.relay import relay
from nodeproxy.stream import Peeked
from nodeproxy.telemetry.record import Record
from tests.compiled import needs_lane
from tests.nodeproxy.conftest import opened

if AVAILABLE:
    from nodeproxy.fastpath.path import NativePath
    from nodeproxy.limits import Limits
    from nodeproxy.native import DONE, IDLE, LEFT_BROKEN, Lane

pytestmark = needs_lane

CHUNK = 65536
LINGER = bytes([1, 0, 0, 0, 0, 0, 0, 0])  # SO_LINGER: 0 seconds


def tcp_pair(buffers=0):
    """Two ends of a TCP connection: a reset is a thing of TCP."""
    with socket.socket() as listener:
        if buffers:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.socket()
        if buffers:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    opened.extend((near, far))
    for one in (near, far):
        if buffers:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setblocking(False)
    return near, far


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    sock.close()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


class Place:
    """A lane that relays between a caller and a server, whose other ends it has."""

    def __init__(self, buffers=0, held=(b"", b""), idle=300.0, begin=True):
        self.lane = Lane(())
        self.lane.limit(
            head_bytes=65536,
            header_count=100,
            path_bytes=8192,
            buffer_bytes=CHUNK,
            rest_per_target=4,
            keepalive_timeout=75,
            response_timeout=300,
            idle_timeout=300,
            rest_timeout=30,
        )
        self.caller, self.left = tcp_pair(buffers)
        self.right, self.server = tcp_pair(buffers)
        if begin:
            self.begin(held, idle)

    def begin(self, held=(b"", b""), idle=300.0):
        self.descriptors = descriptors()
        self.relayed = self.lane.relay(5, self.left.fileno(), self.right.fileno(), *held, idle)

    def turn(self):
        for _ in range(3):  # the kernel's loopback may deliver a moment later
            while self.lane.turn(500):
                pass
            time.sleep(0.001)

    def heard(self, sock):
        """All that has come to an end; None stands for its end."""
        data = b""
        while True:
            self.turn()
            try:
                more = sock.recv(1 << 20)
            except BlockingIOError:
                return data
            if not more:
                return data, None
            data += more

    def fill(self, sock, most=64 << 20):
        """Send until nothing more is taken."""
        sent = quiet = 0
        while sent < most and quiet < 3:
            try:
                sent += sock.send(bytes(min(CHUNK, most - sent)))
                quiet = 0
            except BlockingIOError:
                quiet += 1
            self.turn()
        return sent

    def over(self):
        self.turn()
        return self.lane.relayed()

    def close(self):
        self.relayed.drop()


@pytest.fixture
def place():
    made = Place()
    yield made
    made.close()


@pytest.fixture
def narrow():
    """Sockets with buffers so small that who does not read is noticed soon. (Below loopback's largest segment TCP takes naps.)"""
    made = Place(buffers=131072)
    yield made
    made.close()


def test_bytes_pass_both_ways(place):
    place.caller.sendall(b"question")
    assert place.heard(place.server) == b"question"
    place.server.sendall(b"a long answer")
    assert place.heard(place.caller) == b"a long answer"
    assert place.relayed.counts == (8, 13)
    assert place.lane.moved() == [(5, 8, 13)]
    assert place.lane.moved() == []
    assert place.lane.stats["relays"] == 1
    assert not place.lane.pending


def test_what_was_read_before_goes_first():
    place = Place(begin=False)
    place.caller.sendall(b" and the caller")
    place.server.sendall(b" and the server")
    place.begin((b"held", b"hello"))
    assert place.heard(place.server) == b"held and the caller"
    assert place.heard(place.caller) == b"hello and the server"
    assert place.relayed.counts == (19, 20)
    place.close()


def test_what_was_read_before_may_be_more_than_the_server_takes():
    held = random.Random(1).randbytes(1 << 20)
    place = Place(buffers=131072, held=(held, b""))
    place.caller.sendall(b"the rest")
    place.caller.shutdown(socket.SHUT_WR)
    assert place.heard(place.server) == (held + b"the rest", None)
    place.close()


@pytest.mark.parametrize("way", ["to the server", "to the caller", "both"])
def test_order_and_every_byte(narrow, way):
    """Many megabytes in pieces of any size, read in pieces of any size, through copies and pipes."""
    chance = random.Random(way)
    lines = {
        "to the server": [(narrow.caller, narrow.server)],
        "to the caller": [(narrow.server, narrow.caller)],
        "both": [(narrow.caller, narrow.server), (narrow.server, narrow.caller)],
    }[way]
    data = [chance.randbytes(6 << 20) for _ in lines]
    sent, got = [0] * len(lines), [bytearray() for _ in lines]
    until = time.monotonic() + 30
    while any(len(g) < len(d) for g, d in zip(got, data, strict=True)):
        assert time.monotonic() < until
        for number, (source, sink) in enumerate(lines):
            with contextlib.suppress(BlockingIOError):
                sent[number] += source.send(
                    data[number][sent[number] : sent[number] + chance.choice((1, 5000, 70_000, 300_000))]
                )
            with contextlib.suppress(BlockingIOError):
                got[number] += sink.recv(chance.choice((1, 20_000, 200_000)))
        narrow.lane.turn(500)
    assert [bytes(g) == d for g, d in zip(got, data, strict=True)] == [True] * len(lines)


@pytest.mark.parametrize("first", ["caller", "server"])
def test_half_close_is_passed_on_after_what_came_before_it(place, first):
    one, two = (place.caller, place.server) if first == "caller" else (place.server, place.caller)
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    assert place.heard(two) == (b"question", None)
    assert place.over() == []
    two.sendall(b"answer")
    assert place.heard(one) == b"answer"
    two.shutdown(socket.SHUT_WR)
    assert place.heard(one) == (b"", None)
    counts = (8, 6) if first == "caller" else (6, 8)
    assert place.over() == [(5, DONE, *counts, 0)]
    assert place.relayed.counts is None
    assert place.relayed.drop() is None
    assert place.lane.stats["relays"] == 0


def test_an_end_waits_for_bytes_that_wait(narrow):
    """The caller ends while its bytes cannot be delivered: the server gets all of them, then the end."""
    sent = narrow.fill(narrow.caller, 4 << 20)
    narrow.caller.shutdown(socket.SHUT_WR)
    narrow.server.sendall(b"ok")
    narrow.server.shutdown(socket.SHUT_WR)
    assert narrow.heard(narrow.caller) == (b"ok", None)
    narrow.turn()
    assert narrow.over() == []
    assert narrow.heard(narrow.server) == (bytes(sent), None)
    assert narrow.over() == [(5, DONE, sent, 2, 0)]


def test_both_have_ended_and_nobody_spins(narrow):
    """With both directions of a socket shut, the kernel says so all the time: the lane must not listen while it cannot act."""
    narrow.fill(narrow.caller)
    narrow.caller.shutdown(socket.SHUT_WR)
    narrow.server.shutdown(socket.SHUT_WR)
    narrow.turn()
    time.sleep(0.01)
    narrow.turn()
    assert not narrow.lane.turn(500)
    assert narrow.relayed.counts is not None


@pytest.mark.parametrize(("side", "what"), [("caller", "LEFT_BROKEN"), ("server", "RIGHT_BROKEN")])
def test_a_reset_ends_it_and_the_side_is_named(place, side, what):
    place.caller.sendall(b"x")
    assert place.heard(place.server) == b"x"
    reset(getattr(place, side))
    assert place.over() == [(5, getattr(native, what), 1, 0, errno.ECONNRESET)]
    assert place.relayed.counts is None


@pytest.mark.parametrize(("side", "what"), [("caller", "LEFT_BROKEN"), ("server", "RIGHT_BROKEN")])
def test_a_reset_is_noticed_while_bytes_wait_for_both(narrow, side, what):
    """Neither end is read then."""
    narrow.fill(narrow.caller)
    narrow.fill(narrow.server)
    reset(getattr(narrow, side))
    ((_, how, _, _, error),) = narrow.over()
    assert (how, error in (errno.ECONNRESET, errno.EPIPE)) == (getattr(native, what), True)


@pytest.mark.parametrize(("side", "what"), [("caller", "LEFT_BROKEN"), ("server", "RIGHT_BROKEN")])
def test_an_end_for_who_has_reset_is_told_to_nobody(place, side, what):
    """One end closes, and before that is passed on the other resets."""
    ends = [place.caller, place.server]
    gone = ends.pop(side == "server")
    ends[0].shutdown(socket.SHUT_WR)
    reset(gone)
    ((_, how, passed, back, _),) = place.over()
    assert (how, passed, back) == (getattr(native, what), 0, 0)


@pytest.mark.parametrize("side", ["caller", "server"])
def test_what_was_said_before_a_reset_is_heard(place, side):
    """Who closes with bytes unread resets, and what it had said is on its way."""
    one, two = (place.caller, place.server) if side == "caller" else (place.server, place.caller)
    two.sendall(b"unread")
    place.turn()
    one.sendall(b"go away")
    one.close()
    place.turn()
    assert two.recv(100) == b"go away"
    ((_, how, *_, error),) = place.over()
    assert (how, error) == (getattr(native, "LEFT_BROKEN" if side == "caller" else "RIGHT_BROKEN"), errno.ECONNRESET)


@pytest.mark.parametrize(
    ("held", "side", "what"), [((b"", b"x"), "left", "LEFT_BROKEN"), ((b"x", b""), "right", "RIGHT_BROKEN")]
)
def test_what_was_read_before_is_for_somebody_who_is_gone(held, side, what):
    """It is over when it begins, and its end is told like every other."""
    place = Place(begin=False)
    getattr(place, side).shutdown(socket.SHUT_WR)
    place.begin(held)
    assert place.over() == [(5, getattr(native, what), 0, 0, errno.EPIPE)]
    assert place.relayed.counts is None
    assert place.lane.stats["relays"] == 0


@pytest.mark.parametrize("order", ["abc", "bac", "cba", "acb"])
def test_relays_end_in_any_order(order):
    places = {name: Place(begin=False) for name in "abc"}
    lane = places["a"].lane
    for name, place in places.items():
        place.lane = lane
        place.relayed = lane.relay(ord(name), place.left.fileno(), place.right.fileno(), b"", b"", 300.0)
    left = set(places)
    for name in order:
        reset(places[name].caller)
        assert [one[:2] for one in places[name].over()] == [(ord(name), LEFT_BROKEN)]
        left.remove(name)
        for other in left:
            places[other].caller.sendall(b"x")
            assert places[other].heard(places[other].server) == b"x"
        assert lane.stats["relays"] == len(left)


def test_without_descriptors_bytes_are_copied(narrow):
    """A pipe takes two; that none is to be had slows down and breaks nothing."""
    data = random.Random(2).randbytes(4 << 20)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    sent, got = 0, bytearray()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        until = time.monotonic() + 30
        while len(got) < len(data) and time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                sent += narrow.caller.send(data[sent : sent + 300_000])
            narrow.lane.turn(500)
            with contextlib.suppress(BlockingIOError):
                got += narrow.server.recv(100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert got == data
    assert descriptors() == narrow.descriptors


@pytest.mark.parametrize(("side", "what"), [("caller", "LEFT_BROKEN"), ("server", "RIGHT_BROKEN")])
def test_a_reset_is_noticed_while_the_other_side_does_not_read(narrow, side, what):
    one, two = (narrow.caller, narrow.server) if side == "caller" else (narrow.server, narrow.caller)
    narrow.fill(one)
    assert narrow.lane.relayed() == []
    reset(one)
    ((_, how, _, _, error),) = narrow.over()
    assert (how, error) == (getattr(native, what), errno.ECONNRESET)
    assert two.fileno() >= 0


def test_a_side_that_has_gone_is_found_by_writing_to_it(place):
    place.caller.close()
    assert place.heard(place.server) == (b"", None)
    for _ in range(2):  # the first of these is answered by the reset
        place.server.sendall(b"are you there?")
        place.turn()
    ((_, what, _, _, error),) = place.over()
    assert what == LEFT_BROKEN
    assert error in (errno.EPIPE, errno.ECONNRESET)


@pytest.mark.parametrize("way", [0, 1])
def test_who_does_not_read_is_not_sent_more_than_a_buffer(narrow, way):
    """Of what was sent, the lane holds no more than a buffer; the rest is in the sockets' own."""
    source, read_from = [(narrow.caller, narrow.left), (narrow.server, narrow.right)][way]
    sent = narrow.fill(source)
    assert sent < 4 << 20
    assert not narrow.lane.turn(500), "nothing to do until somebody reads"
    passed = narrow.relayed.drop()[way]
    source.shutdown(socket.SHUT_WR)
    unread, _ = narrow.heard(read_from)
    assert 0 < sent - passed - len(unread) <= CHUNK


def test_a_relay_at_rest_owns_nothing(narrow):
    """A pipe is there while bytes wait in it; it is kept for the next that needs one, until the lane is gone."""
    assert descriptors() == narrow.descriptors
    for _ in range(3):
        sent = narrow.fill(narrow.caller)
        assert descriptors() == narrow.descriptors + 2
        assert len(narrow.heard(narrow.server)) == sent
        assert descriptors() == narrow.descriptors + 2
    sent = narrow.fill(narrow.server)
    assert descriptors() == narrow.descriptors + 2, "the same pipe, for the other direction"
    narrow.fill(narrow.caller)
    assert descriptors() == narrow.descriptors + 4
    narrow.relayed.drop()
    assert descriptors() == narrow.descriptors, "bytes were in both"
    narrow.relayed = narrow.lane.relay(6, narrow.left.fileno(), narrow.right.fileno(), b"", b"", 1.0)
    narrow.relayed.drop()


def test_a_lane_that_is_gone_keeps_no_pipe():
    gc.collect()
    before = descriptors() + 4
    place = Place(buffers=131072)
    sent = place.fill(place.caller)
    assert len(place.heard(place.server)) == sent
    place.close()
    del place.lane, place.relayed
    gc.collect()
    assert descriptors() == before


def test_dropped_at_once(place):
    place.caller.sendall(b"12345")
    assert place.heard(place.server) == b"12345"
    assert place.relayed.drop() == (5, 0)
    assert place.relayed.drop() is None
    place.caller.sendall(b"for Python")
    place.turn()
    assert place.left.recv(100) == b"for Python"
    assert place.lane.stats["relays"] == 0
    assert not place.lane.pending


def test_forgotten_by_python(place):
    place.relayed = None
    gc.collect()
    assert place.lane.stats["relays"] == 0
    place.relayed = place.lane.relay(6, place.left.fileno(), place.right.fileno(), b"", b"", 1.0)


def keeps_alive(sock, of):
    """One TCP keepalive of `sock` has reached `of`."""
    for name, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1)):
        sock.setsockopt(socket.IPPROTO_TCP, name, value)
    before = of.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)[140:144]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    until = time.monotonic() + 10
    while of.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)[140:144] == before and time.monotonic() < until:
        time.sleep(0.05)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["caller", "server"])
def test_a_quiet_connection_whose_end_sends_keepalives_lives(side):
    place = Place(begin=False)
    place.lane.tick(1000.0)
    place.begin(idle=3600.0)
    place.lane.tick(1100.0)
    keeps_alive(getattr(place, side), place.left if side == "caller" else place.right)
    place.lane.tick(4601.0)
    assert place.over() == []
    place.lane.tick(4700.0)
    place.lane.tick(8000.0)
    assert place.over() == []
    place.lane.tick(8202.0)
    assert place.over() == [(5, IDLE, 0, 0, 0)]
    place.close()


def test_nothing_moves_for_too_long():
    place = Place(begin=False)
    place.lane.tick(1000.0)
    place.begin(idle=30.0)
    place.lane.tick(1029.0)
    place.server.sendall(b"tick")
    assert place.heard(place.caller) == b"tick"
    place.lane.tick(1058.0)
    assert place.lane.relayed() == []
    place.lane.tick(1060.5)
    assert place.lane.pending
    assert place.over() == [(5, IDLE, 0, 4, 0)]
    place.close()


def test_a_clock_that_is_set_back_ends_nothing():
    place = Place(begin=False)
    place.lane.tick(1000.0)
    place.begin(idle=30.0)
    for now in (1000.0, 900.0, 1029.0):
        place.lane.tick(now)
        assert place.over() == []
    place.close()


def test_sockets_that_tell_of_no_keepalives_may_be_quiet_for_as_long():
    """Those of one machine (unix(7)) have no segments to count."""
    place = Place(begin=False)
    place.caller, place.left = socket.socketpair()
    place.right, place.server = socket.socketpair()
    opened.extend((place.caller, place.left, place.right, place.server))
    for sock in (place.caller, place.left, place.right, place.server):
        sock.setblocking(False)
    place.lane.tick(1000.0)
    place.begin(idle=30.0)
    place.lane.tick(1001.0)
    assert place.over() == [], "it has just begun"
    sent = place.fill(place.caller, 1 << 20)
    assert len(place.heard(place.server)) == sent
    for now in (1011.0, 1029.0):
        place.lane.tick(now)
        assert place.over() == []
    place.lane.tick(1100.0)
    assert place.over() == [(5, IDLE, sent, 0, 0)]
    place.close()


def test_who_is_in_a_hurry_leaves_turns_to_others():
    """Twenty that have bytes all the time, and one that has some: it has its turn, however short the slices are."""
    places = [Place() for _ in range(20)]
    lane = Lane(())
    lane.limit(
        head_bytes=65536, header_count=100, path_bytes=8192, buffer_bytes=CHUNK, rest_per_target=4, keepalive_timeout=75,
        response_timeout=300, idle_timeout=300, rest_timeout=30,
    )  # fmt: skip
    for number, place in enumerate(places):
        place.relayed.drop()
        place.relayed = lane.relay(number, place.left.fileno(), place.right.fileno(), b"", b"", 300.0)

    def busy(place):
        for sock, act in ((place.caller, lambda s: s.send(bytes(CHUNK))), (place.server, lambda s: s.recv(1 << 20))):
            try:
                while True:
                    act(sock)
            except BlockingIOError:
                pass

    for _ in range(30):
        for place in places[:-1]:
            busy(place)
        lane.turn(1)
    places[-1].caller.sendall(b"and I?")
    for _ in range(10):
        for place in places[:-1]:
            busy(place)
        lane.turn(1)
    assert places[-1].server.recv(100) == b"and I?"
    counts = [place.relayed.counts[0] for place in places[:-1]]
    assert min(counts) > 0
    for place in places:
        place.close()


@pytest.mark.parametrize("which", ["left", "right"])
def test_a_descriptor_that_is_none(which):
    place = Place(begin=False)
    ends = {"left": place.left.fileno(), "right": place.right.fileno(), which: 9999}
    with pytest.raises(OSError, match="Bad file descriptor"):
        place.lane.relay(1, ends["left"], ends["right"], b"abc", b"", 1.0)
    assert place.lane.stats["relays"] == 0
    place.begin()
    place.close()


# as the rooms use it


class Context:
    def __init__(self):
        self.limits = Limits(keepalive_timeout=0.04)  # four looks at the clock in that time
        self.conns = {}


@pytest.fixture
async def lane(nursery):
    made = NativePath(Context())
    await nursery.start(made.run)
    return made


def streams():
    caller, left = tcp_pair()
    right, server = tcp_pair()
    return [trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (caller, left, right, server)]


def record():
    return Record("connection", "outbound", 0.0, 0.0, None, "", None, "", "", "", "tcp")


async def test_through_the_lane_held_bytes_first(lane, nursery):
    caller, left, right, server = streams()
    counted, ended = record(), []

    async def run():
        ended.append(await relay(Peeked(left, b"held "), Peeked(right), 60, counted, CHUNK, lane))

    nursery.start_soon(run)
    await caller.send_all(b"question")
    assert await server.receive_some(5) == b"held "
    assert await server.receive_some() == b"question"
    with trio.fail_after(30):
        while counted.bytes_in != 13:
            await trio.sleep(0.005)
    await caller.send_eof()
    assert await server.receive_some() == b""
    await server.send_all(b"answer")
    await server.aclose()
    assert await caller.receive_some() == b"answer"
    assert await caller.receive_some() == b""
    assert ended == [(13, 6)]
    assert (counted.bytes_in, counted.bytes_out) == (13, 6)
    assert not lane.relays._relays


@pytest.mark.parametrize("use_lane", [False, True])
@pytest.mark.parametrize(("side", "flag"), [(0, "client-gone"), (3, "upstream-broken")])
async def test_both_lanes_say_the_same_of_a_reset(lane, use_lane, side, flag):
    ends = streams()
    counted = record()
    refused = []

    async def run():
        with pytest.raises(Refused) as caught:
            await relay(ends[1], ends[2], 60, counted, CHUNK, lane if use_lane else NO_FAST_PATH)
        refused.append(caught.value)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await ends[0].send_all(b"12345")
            assert await ends[3].receive_some() == b"12345"
            await trio.sleep(0.02)
            reset(ends[side].socket)
    assert refused[0].flag == flag
    assert refused[0].detail == "socket connection broken: [Errno 104] Connection reset by peer"
    assert counted.bytes_in == 5
    assert ends[1].socket.fileno() == ends[2].socket.fileno() == -1
    with pytest.raises(trio.BrokenResourceError):
        await ends[3 - side].receive_some()


async def test_through_the_lane_nothing_moves(lane):
    ends = streams()
    with pytest.raises(Refused, match="idle"), trio.fail_after(30):
        await relay(ends[1], ends[2], 0.05, None, CHUNK, lane)
    with pytest.raises(trio.BrokenResourceError):
        await ends[0].receive_some()


async def test_a_cancelled_relay_is_counted_and_gives_its_connections_back(lane):
    ends = streams()
    counted = record()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, ends[1], ends[2], 60, counted, CHUNK, lane)
        await ends[0].send_all(b"12345")
        assert await ends[3].receive_some() == b"12345"
        nursery.cancel_scope.cancel()
    assert counted.bytes_in == 5
    assert not lane.relays._relays
    assert lane.lane.stats["relays"] == 0
    await ends[0].send_all(b"again")
    assert await ends[1].receive_some() == b"again"


async def test_cancelled_while_it_ends(lane):
    """The end and the cancellation may come in one turn of the loop, in either order."""
    for _ in range(30):
        ends = streams()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, ends[1], ends[2], 60, None, CHUNK, lane)
            await trio.sleep(0.001)
            for end in (ends[0], ends[3]):
                end.socket.close()
            time.sleep(0.0005)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        for end in ends:
            end.socket.close()
    assert not lane.relays._relays
    assert not lane.relays._passed
    assert lane.lane.stats["relays"] == 0


async def test_what_is_no_plain_socket_is_pythons(lane, monkeypatch):
    used = []

    async def seen(*args):
        used.append(args)
        return 0, 0

    monkeypatch.setattr(relay_module, "_relay", seen)
    near, _ = trio.testing.memory_stream_pair()
    ends = streams()
    assert await relay(near, ends[2], 60, None, CHUNK, lane) == (0, 0)
    assert await relay(Peeked(ends[1]), Peeked(near), 60, None, CHUNK, lane) == (0, 0)
    assert len(used) == 2
