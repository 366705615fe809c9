"""Peers: what all connections of one have together, and who is forgotten."""

from __future__ import annotations

import pytest
import trio

from nodeproxy.h2 import peer_limits
from nodeproxy.h2.limits import Bounds
from nodeproxy.h2.peer_limits import CONNECTIONS, Guests
from nodeproxy.limits import Limits

ALICE, BOB = ("spiffe://cluster.local/ns/shop/sa/alice", "there"), ("spiffe://cluster.local/ns/shop/sa/bob", "there")


async def test_one_peer_has_one_gate_however_often_it_connects() -> None:
    made = Guests(Limits(streams=7), Bounds())
    assert made.of(ALICE) is made.of(ALICE)
    assert made.of(ALICE) is not made.of(BOB)
    assert made.of(ALICE) is not made.of((ALICE[0], "elsewhere")), "another node's workloads with the same identity"
    gate = made.of(ALICE)
    assert gate.full == CONNECTIONS
    assert gate.owner is not None
    assert gate.owner.most == 7
    made.limit(Limits(connections=5, streams=3))
    assert (gate.full, gate.owner.most) == (5, 3)


async def test_who_has_nothing_open_and_no_debt_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(peer_limits, "_MANY", 4)
    bounds = Bounds(owner_reset_burst=1, owner_reset_rate=1)
    made = Guests(Limits(), bounds)
    open_, debtor, quiet, busy = (made.of((name, "there")) for name in ("open", "debtor", "quiet", "busy"))
    open_.enter()
    assert debtor.owner is not None and busy.owner is not None
    for _ in range(3):
        debtor.owner.spend(trio.current_time())
    busy.owner.begin()
    made.of(ALICE)
    assert [
        made.of((name, "there")) is gate for name, gate in (("open", open_), ("debtor", debtor), ("busy", busy))
    ] == [True] * 3
    await trio.sleep(60)
    made.of(BOB)
    assert made.of(("debtor", "there")) is not debtor, "the debt is paid"
    assert made.of(("open", "there")) is open_
    assert made.of(("quiet", "there")) is not quiet


async def test_a_node_that_passes_on_calls_of_many_has_a_budget_for_many() -> None:
    bounds = Bounds(owner_reset_burst=2, owner_reset_rate=1)
    crowd = bounds.of_crowd()
    assert (crowd.owner_reset_burst, crowd.owner_reset_rate, crowd.reset_burst) == (40, 20, 20 * bounds.reset_burst)
    assert (crowd.max_streams, crowd.connection_window) == (bounds.max_streams, bounds.shared().connection_window)
    made = Guests(Limits(), bounds)
    alice, node = made.of(ALICE).owner, made.of(("spiffe://cluster.local/node/there", "there"), crowd=True).owner
    assert alice is not None and node is not None
    now = trio.current_time()
    assert [sum(one.spend(now) for _ in range(100)) for one in (alice, node)] == [2, 40]
