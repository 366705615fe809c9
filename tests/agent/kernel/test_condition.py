"""A condition says nothing that was not found out."""

from agent.kernel.condition import Condition


def test_nothing_is_claimed_by_default():
    told = Condition(captured=False)
    assert (told.where, told.error, told.gaps, told.powers, told.udp_packets, told.older_connections) == (
        "",
        "",
        0,
        (),
        0,
        0,
    )
    assert told == Condition(captured=False)
    assert hash(told) == hash(Condition(captured=False)), "conditions can be compared and kept"
