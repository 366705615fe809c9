"""The frames of an NRI connection: two channels on one socket, and calls (ttrpc) on each of them. Sans-IO.

A frame of the socket has the channel and the length of a piece. The pieces of one channel are a stream of frames of
ttrpc: length, number of the call, kind, flags. In one of them is one request or response. On channel 1 the runtime calls
us, on channel 2 we call the runtime.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from agent.nri.protobuf import MalformedError, field, fields, message, number, text

OURS, THEIRS = 1, 2  # channels, by who serves there
_REQUEST, _RESPONSE = 1, 2  # kinds of ttrpc frames
_MOST = 4 << 20  # bytes of one frame: ttrpc's own bound
_PIECE = struct.Struct(">II")
_CALL = struct.Struct(">IIBB")
_INTERNAL = 13  # gRPC's code


class Request(Struct, frozen=True):
    """A call of the other end. Answer it with the number of its `call`."""

    call: int
    service: str
    method: str
    payload: bytes


class Response(Struct, frozen=True):
    """The answer to a call of ours. `error`: "" when it went well."""

    call: int
    payload: bytes
    error: str


class Reader:
    """Bytes of the socket to requests and responses. Holds at most one frame of each channel and one piece."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._channels: dict[int, bytearray] = {OURS: bytearray(), THEIRS: bytearray()}

    def feed(self, data: bytes) -> list[Request | Response]:
        """Return what is whole now. Raise MalformedError: then the connection is of no more use."""
        self._raw += data
        found: list[Request | Response] = []
        at = 0
        while len(self._raw) - at >= _PIECE.size:
            channel, size = _PIECE.unpack_from(self._raw, at)
            if channel not in self._channels:
                raise MalformedError(f"a piece for channel {channel}")
            if size > _MOST + _CALL.size:
                raise MalformedError(f"a piece of {size} bytes")
            if len(self._raw) - at < _PIECE.size + size:
                break
            at += _PIECE.size
            self._channels[channel] += self._raw[at : at + size]
            at += size
            found += self._calls(self._channels[channel])
        del self._raw[:at]
        return found

    def _calls(self, stream: bytearray) -> list[Request | Response]:
        found: list[Request | Response] = []
        at = 0
        while len(stream) - at >= _CALL.size:
            size, call, kind, _ = _CALL.unpack_from(stream, at)
            if size > _MOST:
                raise MalformedError(f"a frame of {size} bytes")
            if len(stream) - at < _CALL.size + size:
                break
            at += _CALL.size
            data = bytes(stream[at : at + size])
            at += size
            if kind == _REQUEST:
                found.append(_request(call, data))
            elif kind == _RESPONSE:
                found.append(_response(call, data))
            else:
                raise MalformedError(f"a frame of kind {kind}")
        del stream[:at]
        return found


def _request(call: int, data: bytes) -> Request:
    found: dict[int, int | bytes] = {}
    for at, value in fields(data):
        found[at] = value
    return Request(call, text(found.get(1, b"")), text(found.get(2, b"")), message(found.get(3, b"")))


def _response(call: int, data: bytes) -> Response:
    payload, error = b"", ""
    for at, value in fields(data):
        if at == 2:
            payload = message(value)
        elif at == 1:
            status = dict(fields(message(value)))
            if number(status.get(1, 0)):
                error = text(status.get(2, b"")) or "no reason given"
    return Response(call, payload, error)


def request(call: int, service: str, method: str, payload: bytes) -> bytes:
    """Return the bytes of a call of ours."""
    return _framed(THEIRS, call, _REQUEST, field(1, service) + field(2, method) + field(3, payload))


def response(call: int, payload: bytes) -> bytes:
    """Return the bytes of an answer."""
    return _framed(OURS, call, _RESPONSE, field(2, payload))


def refusal(call: int, why: str) -> bytes:
    """Return the bytes of an answer by which a call fails: the runtime makes no pod then."""
    return _framed(OURS, call, _RESPONSE, field(1, field(1, _INTERNAL) + field(2, why)))


def _framed(channel: int, call: int, kind: int, data: bytes) -> bytes:
    data = _CALL.pack(len(data), call, kind, 0) + data
    return _PIECE.pack(channel, len(data)) + data
