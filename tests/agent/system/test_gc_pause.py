"""system/gc_pause.py: the collector rests while anybody reads, and works again after."""

import gc

from agent.system.gc_pause import paused


def test_it_rests_until_the_last_one_is_through() -> None:
    assert gc.isenabled()
    with paused():
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_works_again_after_a_fault() -> None:
    try:
        with paused():
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert gc.isenabled()
