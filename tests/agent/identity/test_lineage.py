"""Which of its own certificates a node has left behind."""

from __future__ import annotations

import pytest

from agent.identity.lineage import RANDOM, Lineage, after, order_of, serial

OURS, OTHERS = "0a" * 32, "0b" * 32


def number(order: int, issuer: str = OURS) -> str:
    return f"{serial(issuer, order, bytes(RANDOM)):x}"


def line(*issued: str, shown: str = "") -> Lineage:
    found = Lineage()
    for one in issued:
        found.issue(one)
    found.show(shown)
    return found


def test_a_serial_number_tells_its_order_and_begins_with_no_zero() -> None:
    for order in (1, 1_800_000_000_000, (1 << 48) - 1):
        text = number(order)
        assert (order_of(text), len(text), text[0] != "0") == (order, 40, True)
        assert int(text, 16).bit_length() < 160  # 20 octets, and positive (RFC 5280 section 4.1.2.2)
    assert order_of(number(1 << 60)) == (1 << 48) - 1
    with pytest.raises(ValueError, match="random"):
        serial(OURS, 1, b"short")


@pytest.mark.parametrize(
    "text", ["", "0a", "4e", "f" * 40, "4e" * 16, "4e" * 21, "4e" + "q" * 38, f"4e{'0' * 8} +0_000_001{'0' * 17}"]
)
def test_other_serial_numbers_tell_none(text: str) -> None:
    assert order_of(text) == 0


def test_the_order_follows_the_time_and_grows_while_the_clock_goes_back() -> None:
    assert after(0, 1_800_000_000.5) == 1_800_000_000_500
    assert after(1_800_000_000_500, 1_800_000_000.5) == 1_800_000_000_501
    assert after(1_800_000_000_500, 5.0) == 1_800_000_000_501


@pytest.mark.parametrize("first", [number(5), "0b5"])
def test_what_was_issued_before_the_one_that_was_shown_is_left_behind(first: str) -> None:
    """Until then the node may hold each of them: answers are lost, and overtake one another."""
    held = [first, number(10), number(11), number(12)]
    found = line(*held, shown=first)
    assert all(found.may_renew(one, [OURS]) for one in held)
    found.show(held[2])
    assert [found.may_renew(one, [OURS]) for one in held] == [False, False, True, True]
    found.show(held[1])  # a request that was under way
    assert [found.may_renew(one, [OURS]) for one in held] == [False, False, True, True]


def test_one_that_the_ledger_lost_is_known_by_its_order_and_its_issuer() -> None:
    found = line(number(5), number(6), shown=number(6))
    assert found.may_renew(number(9), [OTHERS, OURS])
    assert not found.may_renew(number(9), [OTHERS])
    assert not found.may_renew(number(5), [OURS])
    assert not found.may_renew("0b5", [OURS])
    found.show(number(9))
    assert [found.may_renew(number(order), [OURS]) for order in (6, 8, 9, 10)] == [False, False, True, True]


def test_nothing_is_known_of_a_node() -> None:
    assert Lineage().may_renew(number(1), [OURS])
    assert not any(Lineage().may_renew(text, [OURS]) for text in ("", "0b", number(1, OTHERS)))


def test_serial_numbers_of_earlier_versions_go_by_the_order_of_the_ledger() -> None:
    found = line("0a1", "0c3", "0b2", shown="0a1")
    assert all(found.may_renew(text, [OURS]) for text in ("a1", "0A1", "c3", "b2"))
    found.show("c3")
    assert [found.may_renew(text, [OURS]) for text in ("a1", "c3", "b2")] == [False, True, True]
    found.show("a1")  # unknown by now, or a copy of what was left behind
    assert (found.shown, found.may_renew("a1", [OURS])) == ("c3", False)
    found.show(number(7))
    assert not any(found.may_renew(text, [OURS]) for text in ("a1", "c3", "b2"))


def test_an_earlier_version_that_signed_in_between_is_believed() -> None:
    """A release was taken back, and put in again."""
    found = line(number(5), shown=number(5))
    found.issue("0b7")
    assert found.may_renew("b7", [OURS])
    found.show("b7")
    found.issue(number(6))
    assert [found.may_renew(one, [OURS]) for one in ("b7", number(6))] == [True, True]
    found.show(number(6))
    assert [found.may_renew(one, [OURS]) for one in ("b7", number(5), number(6))] == [False, False, True]


def test_what_was_left_behind_stays_so_when_an_earlier_version_signed_in_between() -> None:
    """A release was taken back, and put in again: the certificate that the node shows then has no order."""
    found = line(number(5), number(6), shown=number(6))
    found.issue("0b7")
    found.show("b7")
    assert [found.may_renew(one, [OURS]) for one in (number(5), number(6), "b7", number(7))] == [False] * 2 + [True] * 2
    found.show(number(5))  # a copy
    assert (found.shown, found.may_renew("b7", [OURS])) == ("b7", True)
    unheard = line(number(5), number(6), "b7", shown=number(5))  # the answer with 6 was lost, or never used
    unheard.show("b7")
    assert [unheard.may_renew(one, [OURS]) for one in (number(6), "b7", number(7))] == [False, True, True]


def test_what_is_kept_is_bounded_and_the_one_that_was_shown_is_not_forgotten() -> None:
    found = line("a1", shown="a1")
    for order in range(1, 1000):
        found.issue(number(order))
    assert "1000" not in repr(found) and "32 known" in repr(found)
    assert found.may_renew("0a1", [OURS])
    assert found.may_renew(number(1), [OURS])
