"""Which resolvers are dead, on a clock that the test holds."""

from nodeproxy.dns.memory import FORGOTTEN, MOST, Memory

R = ("192.0.2.1", 53)


def test_a_resolver_is_dead_that_answers_nothing_after_the_check_began():
    memory = Memory()
    known = memory.asks(R, 0.0)
    assert not known.silent
    memory.answered(known, 1.5)
    assert not memory.gave_no_answer(known, 1.0)
    assert memory.down() == []
    assert memory.gave_no_answer(known, 2.0)
    assert memory.asks(R, 3.0).silent
    assert memory.down() == [(R, 2.0)]


def test_one_answer_ends_it():
    memory = Memory()
    known = memory.asks(R, 0.0)
    memory.gave_no_answer(known, 1.0)
    memory.answered(known, 5.0)
    assert not memory.asks(R, 5.0).silent
    assert memory.down() == []
    assert memory.rest(known, 5.0) is None


def test_it_is_checked_after_rests_that_grow_while_it_is_asked():
    memory = Memory()
    known = memory.asks(R, 0.0)
    memory.gave_no_answer(known, 1.0)
    assert [memory.rest(known, 2.0) for _ in range(7)] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert memory.rest(known, FORGOTTEN) is None
    assert known.down == 1.0, "it is still shown"
    assert not memory.asks(R, FORGOTTEN).silent, "nobody looked since, and it may be back"


def test_one_that_refuses_is_down_and_nobody_waits_for_it_anyway():
    memory = Memory()
    known = memory.asks(R, 0.0)
    memory.refused(known, 0.0)
    memory.refused(known, 9.0)
    assert not memory.asks(R, 9.0).silent
    assert memory.down() == [(R, 0.0)]


def test_what_is_remembered_is_bounded():
    memory = Memory()
    for number in range(10 * MOST):
        memory.asks((f"192.0.2.{number}", 53), 0.0)
    assert repr(memory) == f"<Memory of {MOST} resolvers, down: []>"
