"""Counted doors."""

import msgspec

from nodeproxy.limits import Gate, Limits


def test_a_full_gate_refuses_and_counts():
    gate = Gate(2)
    assert [gate.enter() for _ in range(4)] == [True, True, False, False]
    assert repr(gate) == "<Gate 2/2 open, 2 refused>"
    gate.leave()
    assert gate.enter()


def test_limits_are_written_in_camel_case_like_every_other_setting():
    assert msgspec.convert({"headBytes": 1024}, Limits).head_bytes == 1024
