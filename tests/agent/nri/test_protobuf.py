"""protobuf.py: what was written is read, and whatever else comes is refused within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.nri import protobuf
from agent.nri.protobuf import MalformedError, field, fields, message, number, text

VALUES = st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300))


@given(st.lists(st.tuples(st.integers(1, 2**20), VALUES), max_size=20))
def test_what_was_written_is_read(written):
    assert list(fields(b"".join(field(at, value) for at, value in written))) == written


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_malformed(data):
    try:
        found = list(fields(data))
    except MalformedError:
        return
    assert sum(len(value) for _, value in found if isinstance(value, bytes)) <= len(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x00\x00", "number 0"),
        (b"\x0b", "kind 3"),
        (b"\x0a\x05abc", "ends after its message"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "ends after its message"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes"),
        (b"\x08", "ends after its message"),
        (b"\x09\x00", "ends after its message"),
    ],
)
def test_what_is_malformed(data, why):
    with pytest.raises(MalformedError, match=why):
        list(fields(data))


def test_fixed_numbers_are_passed_over():
    assert list(fields(b"\x09" + b"12345678" + b"\x15" + b"1234" + field(1, "x"))) == [
        (1, b"12345678"),
        (2, b"1234"),
        (1, b"x"),
    ]


def test_the_number_of_fields_is_bounded(monkeypatch):
    monkeypatch.setattr(protobuf, "_MOST", 3)
    assert len(list(fields(field(1, 1) * 3))) == 3
    with pytest.raises(MalformedError, match="more than 3 fields"):
        list(fields(field(1, 1) * 4))


def test_a_field_of_another_kind_is_malformed():
    assert (text(b"till"), message(b"x"), number(7)) == ("till", b"x", 7)
    for wrong, value in ((text, 7), (text, b"\xff"), (message, 7), (number, b"x")):
        with pytest.raises(MalformedError):
            wrong(value)
