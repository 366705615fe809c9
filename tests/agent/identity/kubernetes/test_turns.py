"""Who asks for much waits for itself alone."""

from __future__ import annotations

from agent.identity.kubernetes import turns
from agent.identity.kubernetes.turns import Turns


def taken(waiting: Turns, most: int = 100) -> list[str]:
    found = []
    while len(found) < most and (name := waiting.take()) is not None:
        found.append(name)
        waiting.done(name)
    return found


def test_callers_have_turns() -> None:
    waiting = Turns()
    for number in range(4):
        waiting.add("busy", f"busy-{number}")
    waiting.add("other", "other-0")
    assert taken(waiting) == ["busy-0", "other-0", "busy-1", "busy-2", "busy-3"]


def test_a_name_waits_once_and_not_while_it_is_dealt_with() -> None:
    waiting = Turns()
    waiting.add("a", "one")
    waiting.add("a", "one")
    assert waiting.take() == "one"
    waiting.add("a", "one")
    assert waiting.take() is None
    waiting.done("one", again="a")
    assert waiting.take() == "one"
    waiting.done("one")
    assert waiting.take() is None
    waiting.add("a", "one")
    assert waiting.take() == "one"


def test_what_waits_is_bounded() -> None:
    waiting = Turns()
    added = [waiting.add("flood", str(number)) for number in range(turns._OF_ONE + 10)]
    assert sum(added) == turns._OF_ONE
    assert waiting.add("other", "x")
    assert all(waiting.add(f"caller {n}", f"of {n}") for n in range(turns._CALLERS - 2))
    assert not waiting.add("one too many", "y")
