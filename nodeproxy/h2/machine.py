"""The only user of the h2 library and its part hpack: their state machine, with bounds on the peer (sans-IO)."""

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
from hpack import HPACKError, NeverIndexedHeaderTuple

from nodeproxy.codec.message import Fields
from nodeproxy.h2.limits import FIRST_WINDOW, Bounds, Code, Violation
from nodeproxy.limits import Owner
from nodeproxy.token_bucket import TokenBucket

# Frame types of RFC 9113 section 6.
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    range(10)
)
_KIND = (
    "empty DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
)
_COST = {_SETTINGS: 10}  # each needs an acknowledgement and may touch every stream; other frames without content cost 1
_LAST_ID = 2**31 - 1
_TABLE = 4096  # bytes for header compression; the peer could fill a larger table in our memory
_SECRET = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))
_KNOWN_SETTINGS = frozenset((1, 2, 3, 4, 5, 6))  # RFC 9113 section 6.5.2


class _Uncompressible(ProtocolError):  # noqa: N818 - RFC 9113 section 4.3; h2 calls it any other error
    error_code = ErrorCodes.COMPRESSION_ERROR


class _Excess(ProtocolError):  # noqa: N818 - as above
    error_code = ErrorCodes.ENHANCE_YOUR_CALM


class Listener(Protocol):
    """Receives what the peer did. Streams are named by number."""

    # taken: the body was taken so far; cut: a field was too large to be read
    def requested(self, number: int, fields: Fields, ended: bool, taken: bool = False, cut: bool = False) -> None: ...
    def responded(self, number: int, fields: Fields, ended: bool) -> None: ...
    def trailed(self, number: int, fields: Fields) -> None: ...
    def arrived(self, number: int, data: bytes, size: int) -> None: ...  # size: for flow control, with padding
    def ended(self, number: int) -> None: ...
    def was_reset(self, number: int, code: int, by_peer: bool) -> None: ...
    def windows_opened(self, number: int | None) -> None: ...  # 0: the connection's; None: all streams'
    def greeted(self) -> None: ...
    def answered(self, mark: bytes) -> None: ...
    def left(self, last: int, code: int) -> None: ...


class Machine(H2Connection):
    """h2's state machine with three additions.

    They are budgets for what costs the peer nothing, a GOAWAY that lets streams finish, and the recognition of stream
    errors that h2 takes for connection errors.

    It hooks into `_receive_frame`, which h2 does not promise to keep; most tests of this package fail when that
    changes.
    """

    lent = 0  # streams that the fast path serves: only the native machine has any
    MAX_CLOSED_STREAMS = 512  # remembered, to tell late frames from wrong ones; h2's default is 65536, some 10 MiB

    def __init__(
        self, client: bool, bounds: Bounds, listener: Listener, now: float, owner: Owner | None = None
    ) -> None:
        # Fields are checked once, in h2_bounds: h2 looks at each character in Python, and ends the connection for a bad
        # one. Fields that we send are already in lower case and without surrounding whitespace, whatever their origin.
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
        self.growth = bounds.connection_window // 3  # bytes by which stream windows may still grow
        self.control = TokenBucket(bounds.control_burst, bounds.control_rate, now)
        self.owner = owner
        self.resets = TokenBucket(bounds.reset_burst, bounds.reset_rate, now)
        self.local_settings = self._settings(bounds.max_streams)
        self.initiate_connection()
        # The peer is told max_streams. h2 must not enforce it: it would end the connection where RFC 9113 section 5.1.2
        # refuses a stream.
        self.local_settings = self._settings(2**32 - 1)
        self.max_inbound_frame_size = bounds.frame_size
        # Twice what we tell, so that the handler can answer 431 to a head that is only too large. More is a bomb.
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
        # RFC 7541 section 7.1.3: secrets that could be guessed through compression never enter the table. h2 does the
        # same, in four passes.
        self.send_headers(
            number, [NeverIndexedHeaderTuple(*f) if f[0] in _SECRET else f for f in fields], end_stream=end
        )

    def open(self, fields: Fields, end: bool) -> int:
        number = self.get_next_available_stream_id()
        self.send_fields(number, fields, end)
        return number

    def send_data(
        self, number: int, data: bytes | memoryview, end_stream: bool = False, pad_length: Any = None
    ) -> None:
        super().send_data(number, data, end_stream, pad_length)
        self.control.earn(4)  # the peer needs these to open its windows again

    def give_back(self, number: int, size: int, growth: int = 0) -> None:
        """Credit the peer with bytes of the stream (0: of the connection), and with `growth` more."""
        self.increment_flow_control_window(size + growth, number or None)

    def served(self) -> None:
        """Earn a reset: a stream was served to its end."""
        self.resets.earn(1)
        if self.owner is not None:
            self.owner.earn()

    @property
    def peer_max_streams(self) -> int:
        return self.remote_settings.max_concurrent_streams

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._data_to_send)

    @property
    def exhausted(self) -> bool:
        """True when no stream numbers are left."""
        return self.highest_outbound_stream_id >= _LAST_ID - 2

    def feed(self, data: bytes | bytearray, now: float) -> None:
        """Process what arrived. The listener is told of each frame before the next one is read. Raise Violation."""
        self.now = now
        try:
            self.receive_data(data)
        except ProtocolError as error:  # h2 has queued GOAWAY
            raise Violation(str(error)) from error

    def blame(self, what: str) -> None:
        """Charge for work that the peer of a server caused in vain, by a reset or by what had to be reset.

        Raise Violation when that is too often. A server that resets our requests is not charged: that costs us no more
        than the requests that we chose to make.
        """
        if not self.config.client_side and not self._may_be_for_nothing():
            raise _Excess(f"too many {what}")

    def _may_be_for_nothing(self) -> bool:
        of_all = self.owner is None or self.owner.spend(self.now)
        return self.resets.spend(1, self.now) and of_all

    def drop(self, number: int, code: int) -> None:
        """Reset a stream, if it is not over."""
        stream = self.streams.get(number)
        if stream is not None and not stream.closed:
            self.reset_stream(number, code)

    def go_away(self) -> int:
        """Queue GOAWAY. Return the last stream of the peer that is still served.

        h2 is not told. It would forget all streams then, where RFC 9113 section 6.8 lets those up to the last finish.
        """
        last = self.highest_inbound_stream_id
        self._data_to_send += struct.pack(">HBBBIII", 0, 8, _GOAWAY, 0, 0, last, Code.NO_ERROR)
        return last

    def _receive_frame(self, frame: Any) -> list[Event]:
        """Handle each frame. A HEADERS frame comes with all of its CONTINUATION frames, of which h2 allows 64."""
        kind = frame.type
        self._budget(kind, frame)
        if kind == _GOAWAY:
            self.listener.left(frame.last_stream_id, frame.error_code)
        elif kind == _PRIORITY or kind > _CONTINUATION:
            pass  # deprecated, or unknown (RFC 9113 sections 5.3.2, 5.5)
        else:
            if kind == _SETTINGS:  # h2 would keep all 65536 possible ones
                frame.settings = {name: value for name, value in frame.settings.items() if name in _KNOWN_SETTINGS}
            try:
                events = super()._receive_frame(frame)
            except ProtocolError as error:
                if self._is_late(error, kind, frame.stream_id):
                    return []
                if type(error) is ProtocolError and isinstance(error.__cause__, HPACKError):
                    raise _Uncompressible(str(error)) from error
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
        """Return whether it is an interim response that was on its way when we reset its stream.

        h2 expects any other frame then.
        """
        stream = self.streams.get(number)
        reset = stream is not None and stream.closed_by is StreamClosedBy.SEND_RST_STREAM
        return reset and kind == _HEADERS and isinstance(error.__cause__, KeyError)

    def _is_of_stream(self, error: ProtocolError, kind: int, number: int) -> bool:
        """Return whether the message is malformed, and not the connection (RFC 9113 section 8.1.1).

        Where h2 objects to a message, its stream is still open. Frame errors have types of their own or close the
        stream, and compression errors have a cause.
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
