"""The one door to the h2 library (and hpack, which is a part of it): its state machine, with the bounds on a peer that it lacks (sans-IO)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import InvalidBodyLengthError, ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy
from hpack import NeverIndexedHeaderTuple

from nodeproxy.http.h2_bounds import FIRST_WINDOW, Bounds, Budget, Code
from nodeproxy.http.message import Fields

# Frame types of RFC 9113 section 6.
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = range(10)
_KIND = ("empty DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION")
_COST = {_SETTINGS: 10}  # each is answered, and may touch every stream; any other frame that carries nothing costs 1
_LAST_ID = 2**31 - 1
_TABLE = 4096  # bytes of header compression: a larger one would be the peer's to fill, in our memory
_SECRET = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))
_KNOWN_SETTINGS = frozenset((1, 2, 3, 4, 5, 6))  # RFC 9113 section 6.5.2


class Violation(Exception):  # noqa: N818 - of a rule, by the peer
    """The peer broke HTTP/2, or went beyond our bounds. The GOAWAY that says so is queued."""


class _Excess(ProtocolError):  # noqa: N818 - as above
    error_code = ErrorCodes.ENHANCE_YOUR_CALM


class Listener(Protocol):
    """Who is told what the peer did. Streams are told by number."""

    def requested(self, number: int, fields: Fields, ended: bool) -> None: ...
    def responded(self, number: int, fields: Fields, ended: bool) -> None: ...
    def trailed(self, number: int, fields: Fields) -> None: ...
    def arrived(self, number: int, data: bytes, size: int) -> None: ...  # size: as flow control counts, with padding
    def ended(self, number: int) -> None: ...
    def was_reset(self, number: int, code: int, by_peer: bool) -> None: ...
    def windows_opened(self, number: int | None) -> None: ...  # 0: of the connection; None: of all streams
    def greeted(self) -> None: ...
    def answered(self, mark: bytes) -> None: ...
    def left(self, last: int, code: int) -> None: ...


class Machine(H2Connection):
    """h2's state machine, and what it lacks: budgets for what costs the peer nothing, GOAWAY that lets streams finish, and errors of
    one stream that it takes for errors of the connection.

    It hooks into `_receive_frame`, which h2 does not promise to keep; most tests of this package fail when that changes.
    """

    lent = 0  # streams that are not Python's
    MAX_CLOSED_STREAMS = 512  # remembered, to tell late frames from wrong ones; h2 would keep 65536, some 10 MiB

    def __init__(self, client: bool, bounds: Bounds, listener: Listener, now: float) -> None:
        # Fields are checked once, in h2_bounds: h2 looks at each character in Python, and ends the connection for a bad one. Fields that
        # we send are in lower case and without surrounding whitespace already, whoever they came from.
        super().__init__(
            H2Configuration(
                client_side=client,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.bounds = bounds
        self.listener = listener
        self.now = now
        self.greeted = False  # the peer's first SETTINGS came
        self.growth = bounds.connection_window // 3  # bytes that are left for windows of streams to grow by
        self.control = Budget(bounds.control_burst, bounds.control_rate, now)
        self.resets = Budget(bounds.reset_burst, bounds.reset_rate, now)
        self.local_settings = self._settings(bounds.max_streams)
        self.initiate_connection()
        # Told is max_streams. h2 must not enforce it: it would end the connection where RFC 9113 section 5.1.2 refuses a stream.
        self.local_settings = self._settings(2**32 - 1)
        self.max_inbound_frame_size = bounds.frame_size
        # Twice of what we tell, so that the room can answer 431 to a head that is only too large. More is a bomb.
        self.decoder.max_header_list_size = 2 * bounds.head_bytes
        if bounds.connection_window > FIRST_WINDOW:
            self.increment_flow_control_window(bounds.connection_window - FIRST_WINDOW)

    def _settings(self, streams: int) -> Settings:
        return Settings(
            client=bool(self.config.client_side),
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: streams,
                SettingCodes.INITIAL_WINDOW_SIZE: FIRST_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: self.bounds.frame_size,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.bounds.head_bytes,
                SettingCodes.HEADER_TABLE_SIZE: _TABLE,
            },
        )

    def send_fields(self, number: int, fields: Fields, end: bool) -> None:
        # RFC 7541 section 7.1.3: what a guess could be tested against never enters the table. h2 does the same, in four passes.
        self.send_headers(number, [NeverIndexedHeaderTuple(*f) if f[0] in _SECRET else f for f in fields], end_stream=end)

    def open(self, fields: Fields, end: bool) -> int:
        number = self.get_next_available_stream_id()
        self.send_fields(number, fields, end)
        return number

    def send_data(self, number: int, data: bytes | memoryview, end_stream: bool = False, pad_length: Any = None) -> None:
        super().send_data(number, data, end_stream, pad_length)
        self.control.earn(4)  # what it costs the peer to open its windows again

    def give_back(self, number: int, size: int, growth: int = 0) -> None:
        """Bytes were taken: the peer may send as many on the stream, and `growth` more. 0: on the connection."""
        self.increment_flow_control_window(size + growth, number or None)

    def served(self) -> None:
        """A stream was served to its end: that earns a reset."""
        self.resets.earn(1)

    @property
    def peer_max_streams(self) -> int:
        return self.remote_settings.max_concurrent_streams

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._data_to_send)

    @property
    def exhausted(self) -> bool:
        """No stream numbers are left."""
        return self.highest_outbound_stream_id >= _LAST_ID - 2

    def feed(self, data: bytes | bytearray, now: float) -> None:
        """What arrived. The listener is told of each frame before the next one is looked at. Raises Violation."""
        self.now = now
        try:
            self.receive_data(data)
        except ProtocolError as error:  # h2 has queued GOAWAY
            raise Violation(str(error)) from error

    def blame(self, what: str) -> None:
        """The peer of a server had it work for nothing: by a reset, or by what had to be reset. Raises when that is too often.

        Not the other way: a server that resets our requests costs us no more than the requests that we chose to make.
        """
        if not self.config.client_side and not self.resets.spend(1, self.now):
            raise _Excess(f"more than {self.bounds.reset_burst} {what}")

    def drop(self, number: int, code: int) -> None:
        """Reset a stream, if it is not over."""
        stream = self.streams.get(number)
        if stream is not None and not stream.closed:
            self.reset_stream(number, code)

    def go_away(self) -> int:
        """Queue GOAWAY, and answer the last stream of the peer that is still taken.

        h2 is not told: it forgets all streams then, where RFC 9113 section 6.8 lets those up to the last finish.
        """
        last = self.highest_inbound_stream_id
        self._data_to_send += struct.pack(">HBBBIII", 0, 8, _GOAWAY, 0, 0, last, Code.NO_ERROR)
        return last

    def _receive_frame(self, frame: Any) -> list[Event]:
        """Every frame comes by here; one of HEADERS with all of its CONTINUATION frames, of which h2 allows 64."""
        kind = frame.type
        self._budget(kind, frame)
        if kind == _GOAWAY:
            self.listener.left(frame.last_stream_id, frame.error_code)
        elif kind == _PRIORITY or kind > _CONTINUATION:
            pass  # deprecated, or unknown (RFC 9113 sections 5.3.2, 5.5)
        else:
            if kind == _SETTINGS:  # h2 would keep all 65536 that there may be
                frame.settings = {name: value for name, value in frame.settings.items() if name in _KNOWN_SETTINGS}
            try:
                events = super()._receive_frame(frame)
            except ProtocolError as error:
                if self._is_late(error, kind, frame.stream_id):
                    return []
                if not self._is_of_stream(error, kind, frame.stream_id):
                    raise
                self.reset_stream(frame.stream_id, Code.PROTOCOL_ERROR)
                if kind == _DATA:
                    self.acknowledge_received_data(frame.flow_controlled_length, frame.stream_id)
                self.listener.was_reset(frame.stream_id, Code.PROTOCOL_ERROR, by_peer=False)
                return []
            if kind == _SETTINGS:
                self.encoder.header_table_size = min(self.encoder.header_table_size, _TABLE)
            for event in events:
                if tell := _TELL.get(type(event)):
                    tell(self.listener, event)
        return []

    def _budget(self, kind: int, frame: Any) -> None:
        if not self.greeted:
            if kind != _SETTINGS or "ACK" in frame.flags:
                raise ProtocolError("the first frame is not SETTINGS (RFC 9113 section 3.4)")
            self.greeted = True
        if kind == _HEADERS:
            self.control.earn(2)
            if len(frame.data) > 2 * self.bounds.head_bytes:
                raise _Excess(f"a field block of {len(frame.data)} bytes, {self.bounds.head_bytes} allowed")
        elif kind == _DATA and (frame.data or "END_STREAM" in frame.flags):
            self.control.earn(2)
        elif not self.control.spend(_COST.get(kind, 1), self.now):
            name = _KIND[kind] if kind < len(_KIND) else "an unknown one"
            raise _Excess(f"too many frames that carry nothing, the last one {name}")
        if len(self._data_to_send) > 4 * self.bounds.queue_bytes:
            raise _Excess(f"it does not read: {len(self._data_to_send)} bytes wait, and it sends what must be answered")

    def _is_late(self, error: ProtocolError, kind: int, number: int) -> bool:
        """Is it an interim response that was on its way when we reset its stream? h2 expects any other frame then."""
        stream = self.streams.get(number)
        reset = stream is not None and stream.closed_by is StreamClosedBy.SEND_RST_STREAM
        return reset and kind == _HEADERS and isinstance(error.__cause__, KeyError)

    def _is_of_stream(self, error: ProtocolError, kind: int, number: int) -> bool:
        """Is it the message that is malformed, and not the connection (RFC 9113 section 8.1.1)?

        Where h2 objects to a message, its stream is still open; errors of the frames have types of their own or close it, and
        those of compression have a cause.
        """
        stream = self.streams.get(number)
        return (
            kind in (_DATA, _HEADERS)
            and type(error) in (ProtocolError, InvalidBodyLengthError)
            and error.__cause__ is None
            and stream is not None
            and stream.open
        )


def _settings_came(who: Listener) -> None:
    who.windows_opened(None)
    who.greeted()


_TELL: dict[type[Event], Callable[[Listener, Any], None]] = {
    RequestReceived: lambda who, event: who.requested(event.stream_id, event.headers, event.stream_ended is not None),
    ResponseReceived: lambda who, event: who.responded(event.stream_id, event.headers, event.stream_ended is not None),
    InformationalResponseReceived: lambda who, event: who.responded(event.stream_id, event.headers, False),
    TrailersReceived: lambda who, event: who.trailed(event.stream_id, event.headers),
    DataReceived: lambda who, event: who.arrived(event.stream_id, event.data, event.flow_controlled_length),
    StreamEnded: lambda who, event: who.ended(event.stream_id),
    StreamReset: lambda who, event: who.was_reset(event.stream_id, int(event.error_code), event.remote_reset),
    WindowUpdated: lambda who, event: who.windows_opened(event.stream_id),
    RemoteSettingsChanged: lambda who, event: _settings_came(who),
    PingAckReceived: lambda who, event: who.answered(event.ping_data),
}
