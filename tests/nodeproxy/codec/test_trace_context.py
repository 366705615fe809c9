"""Trace ids in `traceparent`, and ids that other nodes tell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.trace_context import refusal_id, trace_id, traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"


@given(st.binary(min_size=16, max_size=16).filter(any), st.binary(min_size=8, max_size=8))
def test_what_is_written_is_read(trace, span):
    written = traceparent(trace.hex(), span)
    assert written == b"00-" + trace.hex().encode() + b"-" + span.hex().encode() + b"-00"
    assert trace_id([(b"accept", b"*/*"), (b"traceparent", written)]) == trace.hex()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",  # section 3.2.2.3: all zeroes is invalid
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        b" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_a_malformed_traceparent_is_no_trace(value):
    assert trace_id([(b"traceparent", value)]) == ""


def test_no_traceparent_is_no_trace():
    assert trace_id([(b"tracestate", b"a=b")]) == ""


@pytest.mark.parametrize(
    ("text", "told"), [(TRACE, TRACE), (TRACE[1:], ""), (TRACE + "0", ""), (TRACE.upper(), ""), (TRACE + "\n", "")]
)
def test_an_id_that_another_node_tells_is_checked(text, told):
    assert refusal_id(text) == told
