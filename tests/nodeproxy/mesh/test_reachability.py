"""What calls tell about other nodes, on a clock that the test holds."""

import pytest

from nodeproxy.errors import Refused
from nodeproxy.mesh.reachability import MOST, Neighbours
from policy.model import Hop

THERE = Hop("10.9.0.2", 15008, "spiffe://cluster.local/node/there", "there")
DOOR = Hop("10.9.1.7", 15008, "spiffe://cluster.local/ns/shop/sa/store")
GONE = Refused("node-unreachable", "No route to host")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def known(clock):
    return Neighbours(clock)


def test_a_change_is_told_once_with_its_hour(known, clock, caplog):
    known.met(THERE)
    assert caplog.text == ""
    for clock.now in (10.0, 20.0, 30.0):
        known.failed(THERE, GONE)
    assert caplog.text.count("node there (10.9.0.2) cannot be reached: node-unreachable: No route to host") == 1
    ((name, one),) = known.items()
    assert (name, one.reachable, one.since, one.seen) == ("there", False, 10.0, 0.0)
    assert (one.flag, one.error) == ("node-unreachable", "No route to host")
    clock.now = 70.0
    known.met(THERE)
    assert caplog.text.count("node there (10.9.0.2) is reached again, after 60 s") == 1
    assert (one.reachable, one.since, one.seen) == (True, 70.0, 70.0)
    assert one.error, "what was wrong last stays to be read"


def test_one_that_was_never_reached(known, clock, caplog):
    known.failed(DOOR, GONE)
    ((name, one),) = known.items()
    assert (name, one.reachable, one.seen) == ("10.9.1.7", False, float("-inf"))
    assert "the workload's door at 10.9.1.7 cannot be reached" in caplog.text


def test_who_leaves_in_order_was_seen(known, clock):
    known.met(THERE)
    clock.now = 9.0
    known.left(THERE)
    known.left(DOOR)
    assert [one.seen for _, one in known.items()] == [9.0]


def test_who_is_no_part_of_the_mesh_is_forgotten_and_there_is_a_bound(known):
    known.met(THERE)
    for number in range(2 * MOST):
        known.failed(Hop(f"10.9.{number // 250}.{number % 250}", 15008, ""), GONE)
    assert len(known.items()) == MOST
    known.met(THERE)
    known.retain(["there"])
    assert [name for name, _ in known.items()] == ["there"]
