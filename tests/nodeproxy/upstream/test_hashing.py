"""nodeproxy/upstream/hashing.py: keys stay where they are, shares are even, nodes agree, tables are bounded."""

import random
from collections import Counter

import pytest

from nodeproxy.upstream.hashing import Maglev, Ring, Tables
from policy.balancing import Balancing
from policy.candidates import Taker
from policy.model import Endpoint, Service, ServicePort
from policy.route import Backend

KEYS = [b"user-%d" % number for number in range(4000)]
BOTH = pytest.mark.parametrize("table", [Ring, Maglev])


def endpoints(count, workload="w"):
    return tuple(Endpoint(f"10.0.{number // 250}.{number % 250}", 80, f"{workload}{number}") for number in range(count))


def owners(made):
    return {key: next(made.order(key)) for key in KEYS}


@BOTH
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_shares_are_even_within_bounds(table, count):
    shares = Counter(owners(table(endpoints(count))).values())
    assert set(shares) == set(endpoints(count))
    assert max(shares.values()) < 1.45 * len(KEYS) / count
    assert min(shares.values()) > 0.6 * len(KEYS) / count


@BOTH
def test_nodes_agree_whatever_they_know_of_workloads_and_in_which_order(table):
    mixed = list(endpoints(7, "other"))
    random.Random(1).shuffle(mixed)
    one, other = owners(table(endpoints(7))), owners(table(mixed))
    assert [(e.address, e.port) for e in one.values()] == [(e.address, e.port) for e in other.values()]


@BOTH
def test_few_keys_move_when_an_endpoint_goes_and_all_of_its_own_do(table):
    before, after = owners(table(endpoints(10))), owners(table(endpoints(9)))
    gone = endpoints(10)[-1]
    moved = [key for key in KEYS if before[key] != after[key] and before[key] != gone]
    assert all(after[key] != gone for key in KEYS)
    assert len(moved) < len(KEYS) * 0.08, "Maglev moves a few of those that need not"


@BOTH
@pytest.mark.parametrize("count", [1, 2, 60, 700, 3000])
def test_every_endpoint_comes_once_however_many_there_are(table, count):
    made = table(endpoints(count))
    found = list(made.order(b"some key"))
    assert Counter(found) == Counter(endpoints(count))


@BOTH
def test_keys_of_an_endpoint_that_is_down_are_spread_over_the_others(table):
    made = table(endpoints(5))
    down = endpoints(5)[2]
    second = Counter(list(made.order(key))[1] for key in KEYS if next(made.order(key)) == down)
    assert len(second) == 4
    assert max(second.values()) < 0.6 * sum(second.values())


@BOTH
@pytest.mark.parametrize("key", [b"", b"\0", b"\xff" * 100_000])
def test_any_bytes_are_a_key(table, key):
    made = table(endpoints(3))
    assert next(made.order(key)) == next(made.order(key))


def taker(name, its):
    port = ServicePort("", 80, "", "tcp", its)
    return Taker(Backend(f"n/{name}", 1), Service("n", name, (), (port,)), port, its)


def test_a_table_is_made_once_until_endpoints_or_algorithm_change():
    tables, ring = Tables(), Balancing("b", "ring-hash", header="x")
    first = tables.of(taker("s", endpoints(3)), ring)
    assert tables.of(taker("s", endpoints(3)), ring) is first, "equal endpoints, of a newer snapshot"
    assert tables.of(taker("s", endpoints(4)), ring) is not first
    assert isinstance(tables.of(taker("s", endpoints(4)), Balancing("b", "maglev", header="x")), Maglev)
    assert len(tables) == 1


def test_what_is_kept_is_bounded_and_the_longest_unused_goes():
    tables, how = Tables(), Balancing("b", "ring-hash", header="x")
    kept = tables.of(taker("kept", endpoints(1)), how)
    for number in range(300):
        tables.of(taker(str(number), endpoints(1)), how)
        assert tables.of(taker("kept", endpoints(1)), how) is kept
    assert len(tables) == 256
