"""The compiled HTTP/2 state machine (nghttp2, native/h2.c), with the face of h2_machine.Machine: both mean the same to a Connection."""

from __future__ import annotations

from nodeproxy.http.h2_bounds import Bounds
from nodeproxy.http.h2_machine import Listener, Violation
from nodeproxy.http.message import Fields
from nodeproxy.native import AVAILABLE

if AVAILABLE:
    from nodeproxy.native import H2

_LAST_ID = 2**31 - 1
_REQUESTED, _RESPONDED, _TRAILED, _ARRIVED, _ENDED, _RESET, _WINDOW, _GREETED, _ANSWERED, _LEFT = range(10)  # native/h2.h


class NativeMachine:
    """One connection's state. What the peer did is told after all that arrived was read, in the same order."""

    def __init__(self, client: bool, bounds: Bounds, listener: Listener, now: float) -> None:
        self.bounds = bounds
        self.listener = listener
        self.now = now
        self.h2 = H2(
            client,
            bounds.max_streams,
            bounds.head_bytes,
            bounds.frame_size,
            bounds.connection_window,
            bounds.stream_window,
            bounds.queue_bytes,
            bounds.control_burst,
            bounds.control_rate,
            bounds.reset_burst,
            bounds.reset_rate,
            now,
        )
        self.ping = self.h2.ping
        self.data_to_send = self.h2.data_to_send
        self.send_fields = self.h2.send_fields
        self.go_away = self.h2.go_away

    def __repr__(self) -> str:
        return f"<NativeMachine {self.h2.streams} streams>"

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self.h2.queued

    @property
    def greeted(self) -> bool:
        """The peer's first SETTINGS came."""
        return self.h2.greeted

    @property
    def exhausted(self) -> bool:
        """No stream numbers are left."""
        return self.h2.next_id >= _LAST_ID

    @property
    def lent(self) -> int:
        """Streams that the native lane serves by itself."""
        return self.h2.lent

    def has(self, number: int) -> bool:
        """Is this stream open, one way or both?"""
        return self.h2.has(number)

    @property
    def peer_max_streams(self) -> int:
        return self.h2.peer_max_streams

    @property
    def max_outbound_frame_size(self) -> int:
        return self.h2.frame_size

    @property
    def outbound_flow_control_window(self) -> int:
        return self.h2.window(0)

    @property
    def growth(self) -> int:
        """Bytes that are left for windows of streams to grow by."""
        return self.h2.growth

    @growth.setter
    def growth(self, size: int) -> None:
        self.h2.growth = size

    def local_flow_control_window(self, number: int) -> int:
        return self.h2.window(number)

    def open(self, fields: Fields, end: bool) -> int:
        return self.h2.open(fields, end)

    def send_data(self, number: int, data: bytes | memoryview, end_stream: bool = False) -> None:
        self.h2.send_data(number, data, end_stream)

    def give_back(self, number: int, size: int, growth: int = 0) -> None:
        """As Machine.give_back."""
        self.h2.give_back(number, size, growth)

    def drop(self, number: int, code: int) -> None:
        """Reset a stream, if it is not over."""
        self.h2.drop(number, code)

    def served(self) -> None:
        """A stream was served to its end: that earns a reset."""
        self.h2.earn()

    def blame(self, what: str) -> None:
        """As Machine.blame."""
        if not self.h2.blame(self.now):
            self.h2.abuse(f"more than {self.bounds.reset_burst} {what}")
            raise Violation(self.h2.violation)

    def feed(self, data: bytes | bytearray, now: float) -> None:
        """What arrived. Raises Violation."""
        self.now = now
        self.h2.feed(data, now)
        self.dispatch()

    def dispatch(self) -> None:
        """Tell what the peer did. Raises Violation."""
        listener = self.listener
        while events := self.h2.events():
            for what, number, data, code, ended in events:
                if what == _ARRIVED:
                    listener.arrived(number, data, code)
                elif what == _REQUESTED:
                    listener.requested(number, data, ended)
                elif what == _RESPONDED:
                    listener.responded(number, data, ended)
                elif what == _ENDED:
                    listener.ended(number)
                elif what == _WINDOW:
                    listener.windows_opened(number)
                elif what == _TRAILED:
                    listener.trailed(number, data)
                elif what == _RESET:
                    listener.was_reset(number, code, ended)
                elif what == _GREETED:
                    listener.windows_opened(None)
                    listener.greeted()
                elif what == _ANSWERED:
                    listener.answered(data)
                elif what == _LEFT:
                    listener.left(number, code)
        if self.h2.over:
            raise Violation(self.h2.violation)
