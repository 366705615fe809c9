"""shares.py: places, connections and the order of those that wait."""

import pytest
import trio
import trio.testing

from nodeproxy.upstream import shares
from nodeproxy.upstream.shares import Full, Open, Shares
from policy.upstream import Circuit, ServiceBounds

KEY = ("shop/till", "shop/stock", 8080)


def bounds(**said):
    return ServiceBounds("u", **said)


async def test_no_more_requests_than_that_at_once_for_each_caller():
    held, of = Shares(), bounds(max_requests=2)
    one, _ = held.enter(KEY, of, 0.0), held.enter(KEY, of, 0.0)
    with pytest.raises(Full, match="maxRequests"):
        held.enter(KEY, of, 0.0)
    held.enter(("shop/other", *KEY[1:]), of, 0.0)
    one.leave()
    one.leave()
    held.enter(KEY, of, 0.0)
    with pytest.raises(Full):
        held.enter(KEY, of, 0.0)


async def test_requests_wait_for_a_connection_in_order_and_no_more_than_may(autojump_clock):
    held, of, order = Shares(), bounds(max_connections=1, max_pending=2), []

    async def call(number):
        place = held.enter(KEY, of, 0.0)
        try:
            await place.connect()
        except Full as full:
            order.append(f"{number} {full.args[0]}")
            return
        else:
            order.append(number)
            await trio.sleep(1)
        finally:
            place.leave()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(call, number)
            await trio.testing.wait_all_tasks_blocked()
        assert repr(held.share(KEY, of, 0.0)) == "<Share 3 requests, 1 connections, 2 wait>"
    assert order == [0, "3 maxPendingRequests", "4 maxPendingRequests", 1, 2]
    assert trio.current_time() == 3
    assert repr(held.share(KEY, of, 0.0)) == "<Share 0 requests, 0 connections, 0 wait>"


async def test_who_leaves_while_waiting_takes_nothing(autojump_clock):
    held, of = Shares(), bounds(max_connections=1)
    first, second, third = (held.enter(KEY, of, 0.0) for _ in range(3))
    await first.connect()
    with trio.move_on_after(1) as gave_up:
        await second.connect()
    assert gave_up.cancelled_caught
    second.leave()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(third.connect)
        await trio.testing.wait_all_tasks_blocked()
        first.leave()
    share = held.share(KEY, of, 0.0)
    assert share.connections == 1
    third.leave()
    assert share.connections == 0


async def test_who_is_cancelled_as_a_connection_is_handed_over_gives_it_back():
    held, of = Shares(), bounds(max_connections=1)
    first, second = held.enter(KEY, of, 0.0), held.enter(KEY, of, 0.0)
    await first.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.connect)
        await trio.testing.wait_all_tasks_blocked()
        first.leave()
        nursery.cancel_scope.cancel()
    second.leave()
    assert held.share(KEY, of, 0.0).connections == 0


async def test_opaque_connections_do_not_wait():
    held, of = Shares(), bounds(max_connections=1)
    share = held.share(KEY, of, 0.0)
    share.take_connection()
    with pytest.raises(Full, match="maxConnections"):
        share.take_connection()
    share.leave_connection()
    share.take_connection()


async def test_bounds_that_are_lowered_hold_for_the_next_ones(autojump_clock):
    held = Shares()
    wide, narrow = bounds(max_connections=2), bounds(max_connections=1)
    one, two = held.enter(KEY, wide, 0.0), held.enter(KEY, wide, 0.0)
    await one.connect()
    await two.connect()
    three = held.enter(KEY, narrow, 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(three.connect)
        await trio.testing.wait_all_tasks_blocked()
        one.leave()
        await trio.testing.wait_all_tasks_blocked()
        share = held.share(KEY, narrow, 0.0)
        assert (share.connections, len(share.waiting)) == (1, 1)
        two.leave()
    assert held.share(KEY, narrow, 0.0).connections == 1


CIRCUIT = bounds(circuit=Circuit(60.0, 1, 30.0, errors=1))


async def test_a_circuit_is_told_each_outcome_once_and_opens_for_that_caller_alone():
    held = Shares()
    place = held.enter(KEY, CIRCUIT, 0.0)
    place.outcome(True, 0.0)
    assert not list(held.circuits()), "nothing was sent"
    place.sent(0.0)
    place.outcome(True, 0.1)
    place.outcome(True, 0.1)
    place.leave()
    assert list(held.circuits()) == [(KEY, "u", "open")]
    with pytest.raises(Open):
        held.enter(KEY, CIRCUIT, 0.2)
    held.enter(("shop/other", *KEY[1:]), CIRCUIT, 0.2)


async def test_a_trial_that_ends_without_an_outcome_lets_the_next_one_try():
    held = Shares()
    place = held.enter(KEY, CIRCUIT, 0.0)
    place.sent(0.0)
    place.outcome(True, 0.0)
    place.leave()
    trial = held.enter(KEY, CIRCUIT, 30.0)
    with pytest.raises(Open):
        held.enter(KEY, CIRCUIT, 30.0)
    trial.leave()
    trial = held.enter(KEY, CIRCUIT, 31.0)
    trial.sent(31.0)
    trial.outcome(False, 31.1)
    trial.leave()
    assert not list(held.circuits())


async def test_an_edited_circuit_begins_closed():
    held = Shares()
    place = held.enter(KEY, CIRCUIT, 0.0)
    place.sent(0.0)
    place.outcome(True, 0.0)
    place.leave()
    held.enter(KEY, bounds(circuit=Circuit(60.0, 2, 30.0, errors=1)), 1.0)
    assert not list(held.circuits())


async def test_they_are_bounded(monkeypatch):
    monkeypatch.setattr(shares, "_MOST", 4)
    held, of = Shares(), bounds(max_requests=9)
    kept = held.enter(KEY, of, 0.0)
    for number in range(100):
        held.enter((f"shop/{number}", *KEY[1:]), of, 0.0).leave()
    assert repr(held) in [f"<Shares of {n} callers and Services>" for n in (2, 3, 4)]
    with pytest.raises(Full):
        for _ in range(9):
            held.enter(KEY, of, 0.0)
    kept.leave()


async def test_no_more_retries_than_that_are_under_way():
    held, of = Shares(), bounds(max_retries=1)
    one, two = held.enter(KEY, of, 0.0), held.enter(KEY, of, 0.0)
    assert one.may_retry() and two.may_retry()
    one.retry()
    one.retry()
    assert one.may_retry() and not two.may_retry()
    one.leave()
    assert two.may_retry()
    assert held.share(KEY, of, 0.0).retries == 0
    assert held.under_way == 1
    two.leave()
    assert held.under_way == 0
    assert not held.enter(KEY, bounds(max_retries=0), 0.0).may_retry()


async def test_bounds_that_are_raised_let_those_go_on_that_wait():
    held = Shares()
    first, second = held.enter(KEY, bounds(max_connections=1), 0.0), held.enter(KEY, bounds(max_connections=1), 0.0)
    await first.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.connect)
        await trio.testing.wait_all_tasks_blocked()
        assert held.share(KEY, bounds(max_connections=2), 0.0).connections == 2
