"""ties.py: an address is a name's as long as DNS said, and somewhat longer; whoever asks much forgets its own names."""

from nodeproxy.ties import GRACE, MOST_ADDRESSES, MOST_NAMES, Ties


def test_an_address_counts_for_its_name_until_some_time_after_its_ttl():
    ties = Ties()
    ties.give("a.example", ["192.0.2.1", "2001:db8::1"], 60.0, 1000.0)
    assert ties.has("a.example", "192.0.2.1", 1000.0)
    assert ties.has("a.example", "2001:db8::1", 1059.0 + GRACE)
    assert not ties.has("a.example", "192.0.2.1", 1060.0 + GRACE)
    assert not ties.has("a.example", "192.0.2.2", 1000.0)
    assert not ties.has("b.example", "192.0.2.1", 1000.0)


def test_a_later_answer_adds_addresses_and_shortens_nothing():
    ties = Ties()
    ties.give("a.example", ["192.0.2.1"], 600.0, 0.0)
    ties.give("a.example", ["192.0.2.1", "192.0.2.2"], 5.0, 10.0)
    assert ties.has("a.example", "192.0.2.1", 599.0 + GRACE)
    assert ties.has("a.example", "192.0.2.2", 14.0 + GRACE)
    assert not ties.has("a.example", "192.0.2.2", 15.0 + GRACE)
    ties.give("a.example", [], 5.0, 20.0)  # of another type, say
    assert ties.has("a.example", "192.0.2.1", 21.0)


def test_what_is_over_takes_no_room():
    ties = Ties()
    for second in range(0, 100_000, 1000):
        ties.give("a.example", [f"192.0.2.{second // 1000}"], 1.0, float(second))
    assert repr(ties) == "<Ties of 1 names, 1 addresses>"


def test_the_name_asked_for_least_lately_gives_way():
    ties = Ties()
    for number in range(MOST_NAMES):
        ties.give(f"{number}.example", ["192.0.2.1"], 60.0, 0.0)
    ties.give("0.example", ["192.0.2.1"], 60.0, 1.0)
    ties.give("more.example", ["192.0.2.1"], 60.0, 1.0)
    assert ties.has("0.example", "192.0.2.1", 2.0) and ties.has("more.example", "192.0.2.1", 2.0)
    assert not ties.has("1.example", "192.0.2.1", 2.0)


def test_many_addresses_are_bounded_together():
    ties = Ties()
    for number in range(100):
        ties.give(f"{number}.example", [f"10.{number}.0.{one}" for one in range(200)], 60.0, 0.0)
    held = sum(ties.has(f"{n}.example", f"10.{n}.0.{one}", 1.0) for n in range(100) for one in range(200))
    assert MOST_ADDRESSES - 200 < held <= MOST_ADDRESSES
