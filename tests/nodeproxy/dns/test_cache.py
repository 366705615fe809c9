"""What is remembered of answers, for how long, and at whose cost; on a clock that the test holds."""

import tracemalloc

from nodeproxy.codec.dns_reply import Kept
from nodeproxy.dns.cache import MAX_STALE, NODE_BYTES, RECHECK, WORKLOAD_BYTES, Budget

R = ("192.0.2.53", 53)


def key(name="example.com", resolver=R):
    return (resolver, name, 1, 0)


def kept(ttl=60, size=4):
    return Kept(0, ((b"\xc0\x0c\0\1\0\1", b"\0\4" + bytes(size)),), (), ttl)


def test_an_answer_is_fresh_then_old_then_gone():
    cache = Budget().cache()
    cache.put(key(), kept(), 100.0)
    entry = cache.find(key(), 159.0)
    assert entry.kept == kept() and entry.until == 160.0
    assert cache.find(key(), 160.0 + MAX_STALE - 1) is entry
    assert cache.find(key(), 160.0 + MAX_STALE) is None
    assert (len(cache), cache.used) == (0, 0)


def test_resolvers_types_and_flags_are_kept_apart():
    cache = Budget().cache()
    cache.put(key(), kept(), 0.0)
    for other in (key(resolver=("192.0.2.54", 53)), (R, "example.com", 28, 0), (R, "example.com", 1, 16)):
        assert cache.find(other, 1.0) is None


def test_a_ttl_of_nought_is_not_kept_and_ends_what_was():
    cache = Budget().cache()
    cache.put(key(), kept(), 0.0)
    cache.put(key(), kept(ttl=0), 1.0)
    assert cache.find(key(), 1.0) is None


def test_what_failed_is_asked_again_at_growing_intervals_and_forgotten():
    cache, now, pauses = Budget().cache(), 0.0, []
    for _ in range(8):
        cache.failed(key(), now)
        entry = cache.find(key(), now)
        assert entry.kept is None
        pauses.append(entry.pause_until - now)
        now = entry.pause_until
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert cache.find(key(), now + 100.0) is None
    cache.failed(key(), now)
    cache.put(key(), kept(), now)
    assert cache.find(key(), now).failures == 0


def test_an_old_answer_that_could_not_be_renewed_rests():
    cache = Budget().cache()
    cache.put(key(), kept(), 0.0)
    cache.failed(key(), 70.0)
    entry = cache.find(key(), 70.0)
    assert entry.kept == kept() and entry.pause_until == 70.0 + RECHECK
    cache.put(key("example.org", ("192.0.2.54", 53)), kept(), 0.0)
    cache.failed(key("example.org", ("192.0.2.54", 53)), 70.0)
    cache.resume(R)
    assert cache.find(key(), 71.0).pause_until < 71.0
    assert cache.find(key("example.org", ("192.0.2.54", 53)), 71.0).pause_until > 71.0


def fill(cache, count, size=200):
    for number in range(count):
        cache.put(key(f"{number}.example.com"), kept(size=size), 0.0)


def test_a_workload_makes_room_with_its_own_oldest_answers():
    budget = Budget()
    greedy, modest = budget.cache(), budget.cache()
    fill(modest, 3)
    fill(greedy, 100)
    for number in range(5000):
        greedy.put(key(f"{number}.example.org"), kept(), 0.0)
        greedy.find(key("0.example.com"), 1.0)
    assert WORKLOAD_BYTES * 0.9 < greedy.used <= WORKLOAD_BYTES
    assert greedy.find(key("0.example.com"), 1.0), "it is used"
    assert greedy.find(key("1.example.com"), 1.0) is None
    assert len(modest) == 3


def test_nobody_loses_anything_within_an_equal_share_of_the_node():
    budget = Budget(400_000)
    caches = [budget.cache() for _ in range(4)]
    fill(caches[0], 50)
    before = caches[0].used
    assert before < 100_000
    for greedy in caches[1:]:
        fill(greedy, 1000)
    assert budget.used == sum(cache.used for cache in caches) <= 400_000
    assert (len(caches[0]), caches[0].used) == (50, before)
    usage = budget.usage()
    assert usage.bytes == budget.used and usage.entries == sum(map(len, caches))


def test_a_cache_that_is_closed_gives_its_memory_back():
    budget = Budget()
    cache, other = budget.cache(), budget.cache()
    fill(cache, 10)
    fill(other, 1)
    cache.close()
    assert budget.used == other.used
    cache.put(key(), kept(), 0.0)
    assert cache.find(key(), 0.0) is None, "a late answer"
    assert budget.used == other.used


def test_without_memory_nothing_is_kept():
    budget = Budget(0)
    cache = budget.cache()
    fill(cache, 3)
    cache.failed(key(), 0.0)
    assert budget.usage() == (0, 0)


def test_what_is_counted_is_what_it_takes():
    cache = Budget().cache()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(200):
            name = "".join((f"{number:04}", ".example.com"))
            resolver = ("".join(("192.0.2.", str(number))), 53)
            cache.put((resolver, name, 1, 0), kept(size=number % 7 + 4), float(number))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 * cache.used < after - before <= cache.used
    assert NODE_BYTES >= 16 * WORKLOAD_BYTES


def test_repr_shows_state():
    budget = Budget()
    cache = budget.cache()
    assert repr(budget) == f"<Budget 0/{NODE_BYTES} bytes in 1 caches>"
    assert repr(cache) == "<Cache 0 answers, 0 bytes>"
    cache.put(key(), kept(), 0.0)
    assert repr(cache.find(key(), 0.0)) == "<Entry until 60.0, 0 failures>"
