"""Who works when: the native lane in trio's place, and trio's tasks while the lane is busy."""

from __future__ import annotations

import select
import socket
import time

import pytest
import trio

from nodeproxy.native import AVAILABLE
from tests.compiled import needs_lane

if AVAILABLE:
    from nodeproxy.fastpath import loop
    from nodeproxy.fastpath.loop import SLICE, Drive
    from nodeproxy.native import CALL, QUIET
    from tests.nodeproxy.fastpath.test_path import GET, OK, SENT, Place

pytestmark = needs_lane

SECOND = 1_000_000


@pytest.fixture
def place():
    made = Place()
    yield made
    made.close()


@pytest.fixture
def others():
    """What Python waits for: an epoll descriptor, and the socket that makes it readable."""
    epoll, (near, far) = select.epoll(), socket.socketpair()
    epoll.register(near, select.EPOLLIN)
    yield epoll, far
    epoll.close()
    near.close()
    far.close()


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_a_stay_serves_and_ends_when_nothing_comes(place, others):
    epoll, _ = others
    place.a.sendall(GET)
    began = time.monotonic()
    told = place.lane.stay(5 * SECOND, 20_000, SLICE, epoll.fileno())
    assert time.monotonic() - began < 4
    assert place.d.recv(4096) == SENT
    assert told == CALL  # it was long: Python is to look at its clock
    assert place.lane.stay(SECOND, 5_000, SLICE, epoll.fileno()) == QUIET


def test_a_stay_ends_when_others_have_work(place, others):
    epoll, far = others
    far.send(b"x")
    began = time.monotonic()
    place.lane.stay(5 * SECOND, 5 * SECOND, SLICE, epoll.fileno())
    assert time.monotonic() - began < 4


def test_a_stay_ends_when_python_is_to_decide(place, others):
    epoll, _ = others
    place.a.sendall(GET.replace(b"/books", b"/unheard-of"))
    began = time.monotonic()
    assert place.lane.stay(5 * SECOND, 5 * SECOND, SLICE, epoll.fileno()) == CALL
    assert time.monotonic() - began < 4
    assert len(place.lane.ups()) == 1


def test_after_a_stay_the_lane_is_waited_for_as_before(place, others):
    epoll, _ = others
    epoll.register(place.lane.fileno(), select.EPOLLIN)  # as trio has it
    place.a.sendall(GET)
    assert readable(place.lane.fileno())
    place.lane.stay(20_000, 1000, SLICE, epoll.fileno())
    assert not readable(place.lane.fileno())
    assert place.d.recv(4096) == SENT
    place.d.sendall(OK)
    assert readable(place.lane.fileno())
    assert epoll.poll(0)


def test_what_cannot_be_waited_for_ends_a_stay(place):
    assert place.lane.stay(SECOND, SECOND, SLICE, -1) == QUIET
    place.a.sendall(GET)
    assert readable(place.lane.fileno())


@pytest.mark.parametrize("known", [True, False], ids=["in trio's place", "in turns"])
async def test_tasks_and_the_lane_share_the_loop(place, monkeypatch, known):
    """A flood through the lane, and beside it a task that sleeps, one that echoes, and one that is cancelled."""
    if not known:
        monkeypatch.setattr(loop, "_others", lambda: -1)
    collected = []
    driver = Drive(place.lane, lambda: collected.extend(place.lane.ups()))
    served, waits, echoes = 0, 0, 0
    near, far = trio.socket.socketpair()

    async def calls():
        nonlocal served
        a, d = (trio.socket.from_stdlib_socket(sock.dup()) for sock in (place.a, place.d))
        with a, d:
            while True:
                await a.send(GET)
                assert await d.recv(4096) == SENT
                await d.send(OK)
                assert await a.recv(4096) == OK
                served += 1

    async def sleeps():
        nonlocal waits
        while True:
            await trio.sleep(0.001)
            waits += 1

    async def echo():
        nonlocal echoes
        while True:
            await near.send(b"x")
            assert await far.recv(1) == b"x"
            echoes += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        for task in (calls, sleeps, echo):
            nursery.start_soon(task)
        with trio.fail_after(20):
            while min(served, waits, echoes) < 20:
                await trio.sleep(0.01)
            place.a.sendall(b"")  # nothing: a turn with nothing to do
            driver.stir()
        nursery.cancel_scope.cancel()
    near.close()
    far.close()
    assert not collected


async def test_what_python_is_to_hear_of_reaches_it_from_a_stay(place):
    collected = []
    driver = Drive(place.lane, lambda: collected.extend(place.lane.ups()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        await trio.sleep(0.01)
        place.a.sendall(GET)
        await trio.sleep(0.001)  # the lane is busy, and stays
        place.d.setblocking(True)
        assert await trio.to_thread.run_sync(place.d.recv, 4096) == SENT
        place.d.sendall(OK + b"rubbish")  # from a thread or another process it would come while the lane waits
        with trio.fail_after(30):
            while not (place.lane.stats["served"]):
                await trio.sleep(0.001)
        place.a.sendall(b"\x00\x01 rubbish\r\n\r\n")
        with trio.fail_after(30):
            while not collected:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_this_trio_has_the_descriptor_that_we_know():
    """Not promised by trio: an update that takes it away costs CPU, and is seen here."""
    from nodeproxy.fastpath.loop import _others

    assert _others() >= 0
