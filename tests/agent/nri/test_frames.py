"""frames.py: calls come out of a stream of bytes, whole, byte by byte, and never without bound."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.nri import frames
from agent.nri.frames import OURS, THEIRS, Reader, Request, Response
from agent.nri.protobuf import MalformedError, field


def called(call, method, payload=b"", service="s"):
    """A request of the runtime."""
    data = field(1, service) + field(2, method) + field(3, payload) + field(4, 2_000_000_000)
    return framed(OURS, call, 1, data)


def framed(channel, call, kind, data):
    data = struct.pack(">IIBB", len(data), call, kind, 0) + data
    return struct.pack(">II", channel, len(data)) + data


STREAM = called(1, "Configure", b"abc") + framed(THEIRS, 1, 2, field(2, b"ok")) + called(3, "Synchronize")
SAID = [Request(1, "s", "Configure", b"abc"), Response(1, b"ok", ""), Request(3, "s", "Synchronize", b"")]


def test_whole():
    assert Reader().feed(STREAM) == SAID


def test_byte_by_byte():
    reader = Reader()
    assert [said for byte in STREAM for said in reader.feed(bytes([byte]))] == SAID


def test_a_call_in_pieces_between_pieces_of_the_other_channel():
    call = called(5, "RunPodSandbox", b"x" * 100)[8:]
    other = framed(THEIRS, 1, 2, field(2, b"ok"))
    data = b"".join(
        struct.pack(">II", OURS, len(part)) + part + more for part, more in ((call[:30], other), (call[30:], b""))
    )
    assert Reader().feed(data) == [Response(1, b"ok", ""), Request(5, "s", "RunPodSandbox", b"x" * 100)]


def test_an_error_has_its_reason():
    status = field(1, field(1, 2) + field(2, "no such plugin"))
    assert Reader().feed(framed(THEIRS, 1, 2, status)) == [Response(1, b"", "no such plugin")]
    assert Reader().feed(framed(THEIRS, 1, 2, field(1, field(1, 2)))) == [Response(1, b"", "no reason given")]
    assert Reader().feed(framed(THEIRS, 1, 2, field(1, b""))) == [Response(1, b"", "")]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack(">II", 3, 1), "channel 3"),
        (struct.pack(">II", OURS, 0xFFFFFFFF), "a piece of 4294967295 bytes"),
        (struct.pack(">II", OURS, 10) + struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0), "a frame of 4294967295 bytes"),
        (framed(OURS, 1, 7, b""), "kind 7"),
        (framed(OURS, 1, 1, b"\xff"), "ends after"),
    ],
)
def test_what_is_malformed_or_too_large_is_refused_at_its_header(data, why):
    with pytest.raises(MalformedError, match=why):
        Reader().feed(data)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes_are_calls_or_malformed(parts):
    reader = Reader()
    try:
        for part in parts:
            reader.feed(part)
    except MalformedError:
        pass


@given(st.data())
def test_a_mutated_stream_is_calls_or_malformed(data):
    mutated = bytearray(STREAM)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(STREAM) - 1))] = data.draw(st.integers(0, 255))
    reader = Reader()
    try:
        for at in range(0, len(mutated), 7):
            reader.feed(bytes(mutated[at : at + 7]))
    except MalformedError:
        pass
    assert len(reader._raw) <= len(mutated)


def test_what_is_written_is_read_by_the_other_end():
    """The runtime reads the same frames, with the channels' roles turned around."""
    assert Reader().feed(frames.request(1, "svc", "RegisterPlugin", b"p")) == [
        Request(1, "svc", "RegisterPlugin", b"p")
    ]
    assert Reader().feed(frames.response(7, b"p")) == [Response(7, b"p", "")]
    assert Reader().feed(frames.refusal(7, "closed")) == [Response(7, b"", "closed")]
