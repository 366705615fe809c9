"""What was captured stays closed until a person lets go of it, whatever the manifests say or fail to say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from agent.kernel import netns
from agent.kernel.remembered import Remembered, path_in, place_of, unit_in
from policy.model import Identity, Workload

PATH = netns.path_of("till")


def workload(name: str = "till", **fields: Any) -> Workload:
    return Workload("shop", name, "till", **({"netns": "till"} | fields))


TILL, UNIT, FOUND = (
    workload(),
    workload("clock", netns="", unit="clock.service"),
    workload("guest", netns="", addresses=("10.1.0.9",)),
)


def look(remembered: Remembered, known: Iterable[Workload], wanted: Iterable[Workload]) -> dict[str, str]:
    remembered.look(known, {one.key: one for one in wanted}, "edge-1")
    return remembered.abandoned


@pytest.fixture
def remembered() -> Remembered:
    found = Remembered()
    for one in (TILL, UNIT, FOUND):
        found.captured(one)
    return found


def test_places_have_names_that_outlive_a_reboot(remembered: Remembered) -> None:
    assert remembered.places == {f"netns {PATH}": "shop/till", "unit clock.service": "shop/clock"}
    assert [path_in(place) or unit_in(place) for place in remembered.places] == [PATH, "clock.service"]
    assert place_of(FOUND) == "", "one that is found by its address has no name that lasts"
    assert Remembered(remembered.places).places == remembered.places


def test_what_is_named_is_not_abandoned(remembered: Remembered) -> None:
    assert look(remembered, (TILL, UNIT), (TILL, UNIT)) == {}


def test_a_workload_that_is_gone_leaves_its_place_closed(remembered: Remembered) -> None:
    assert look(remembered, (), ()) == {f"netns {PATH}": "shop/till", "unit clock.service": "shop/clock"}
    assert remembered.stays(TILL, PATH)
    closed = remembered.workload(f"netns {PATH}")
    assert (closed.key, closed.netns, closed.unit, closed.identity) == ("shop/till", PATH, "", Identity("shop", ""))


@pytest.mark.parametrize("fields", [{"netns": "tlil"}, {"node": "edge-2"}])
def test_a_typing_error_in_where_it_is_opens_nothing(remembered: Remembered, fields: dict[str, Any]) -> None:
    moved = workload(**fields)
    wanted = () if moved.node else (moved,)
    assert look(remembered, (moved, UNIT), (*wanted, UNIT)) == {f"netns {PATH}": "shop/till"}
    assert not remembered.is_released("shop/till")


def test_one_that_is_not_enrolled_here_is_let_go_of(remembered: Remembered) -> None:
    assert look(remembered, (workload(enrolled=False), UNIT), (UNIT,)) == {}
    assert f"netns {PATH}" not in remembered.places
    assert remembered.is_released("shop/till")


def test_one_that_another_node_leaves_alone_stays_closed_here(remembered: Remembered) -> None:
    other = workload("other", enrolled=False, node="edge-2")
    assert f"netns {PATH}" in look(remembered, (other, UNIT), (UNIT,))


def test_a_person_lets_go_of_one_and_of_no_other(remembered: Remembered) -> None:
    look(remembered, (), ())
    remembered.release("shop/till")
    assert remembered.abandoned == remembered.places == {"unit clock.service": "shop/clock"}
    assert not remembered.stays(TILL, PATH)
    assert look(remembered, (), ()) == {"unit clock.service": "shop/clock"}


def test_that_word_says_nothing_of_the_place_that_it_has_next(remembered: Remembered) -> None:
    look(remembered, (), ())
    remembered.release("shop/till")
    remembered.done(["shop/till"])
    remembered.captured(TILL)
    assert f"netns {PATH}" in look(remembered, (), ())


def test_of_two_that_name_one_place_it_stays_with_the_one_that_had_it(remembered: Remembered) -> None:
    second = workload("another")
    wanted = {one.key: one for one in (second, TILL)}
    assert remembered.in_order(wanted) == ["shop/till", "shop/another"]
    assert look(remembered, (second, TILL), (second, TILL)) == {"unit clock.service": "shop/clock"}
    assert remembered.places[f"netns {PATH}"] == "shop/till"
    look(remembered, (second,), (second,))
    assert remembered.places[f"netns {PATH}"] == "shop/another"


def test_one_found_by_its_address_stays_closed_until_it_is_released(remembered: Remembered) -> None:
    assert remembered.stays(FOUND, "/proc/1/ns/net")
    remembered.release("shop/guest")
    assert not remembered.stays(FOUND, "/proc/1/ns/net")


def test_a_place_that_is_gone_for_ever_is_forgotten():
    remembered = Remembered({"unit pod/a": "n/a", "unit b.service": "n/b"})
    remembered.look([], {}, "here")
    remembered.forget("unit pod/a")
    remembered.forget("unit pod/a")
    assert remembered.places == remembered.abandoned == {"unit b.service": "n/b"}
