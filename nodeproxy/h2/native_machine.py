"""The compiled HTTP/2 state machine (nghttp2, native/h2.c): a Connection uses it exactly as machine.Machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeproxy.codec.message import Fields
from nodeproxy.h2.limits import Bounds, Violation
from nodeproxy.limits import Owner
from nodeproxy.native import AVAILABLE

if AVAILABLE:
    from nodeproxy.native import (
        H2,
        H2_ANSWERED,
        H2_ARRIVED,
        H2_CUT,
        H2_ENDED,
        H2_GREETED,
        H2_LEFT,
        H2_REQUESTED,
        H2_RESET,
        H2_RESPONDED,
        H2_TAKEN,
        H2_TRAILED,
        H2_WINDOW,
    )
    from nodeproxy.native import Owner as NativeOwner
if TYPE_CHECKING:
    from nodeproxy.h2.machine import Listener

_LAST_ID = 2**31 - 1


class NativeMachine:
    """State of one connection. The listener is told in order, after everything that arrived was read."""

    def __init__(
        self, client: bool, bounds: Bounds, listener: Listener, now: float, owner: Owner | None = None
    ) -> None:
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
            *((owner,) if isinstance(owner, NativeOwner) else ()),
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
        """True once the peer's first SETTINGS came."""
        return self.h2.greeted

    @property
    def exhausted(self) -> bool:
        """True when no stream numbers are left."""
        return self.h2.next_id >= _LAST_ID

    @property
    def lent(self) -> int:
        """Streams that the fast path serves by itself."""
        return self.h2.lent

    def has(self, number: int) -> bool:
        """Return whether this stream is open, in one direction or both."""
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
        """Bytes by which stream windows may still grow."""
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
        """Same as Machine.give_back."""
        self.h2.give_back(number, size, growth)

    def drop(self, number: int, code: int) -> None:
        """Reset a stream, if it is not over."""
        self.h2.drop(number, code)

    def served(self) -> None:
        """Earn a reset: a stream was served to its end."""
        self.h2.earn()

    def blame(self, what: str) -> None:
        """Same as Machine.blame."""
        if not self.h2.blame(self.now):
            self.h2.abuse(f"too many {what}")
            raise Violation(self.h2.violation)

    def feed(self, data: bytes | bytearray, now: float) -> None:
        """Process what arrived. Raise Violation."""
        self.now = now
        self.h2.feed(data, now)
        self.dispatch()

    def dispatch(self) -> None:
        """Tell the listener what the peer did. Raise Violation."""
        listener = self.listener
        while events := self.h2.events():
            for what, number, data, code, ended in events:
                if what == H2_ARRIVED:
                    listener.arrived(number, data, code)
                elif what == H2_REQUESTED:
                    listener.requested(number, data, ended, bool(code & H2_TAKEN), bool(code & H2_CUT))
                elif what == H2_RESPONDED:
                    listener.responded(number, data, ended)
                elif what == H2_ENDED:
                    listener.ended(number)
                elif what == H2_WINDOW:
                    listener.windows_opened(number)
                elif what == H2_TRAILED:
                    listener.trailed(number, data)
                elif what == H2_RESET:
                    listener.was_reset(number, code, ended)
                elif what == H2_GREETED:
                    listener.windows_opened(None)
                    listener.greeted()
                elif what == H2_ANSWERED:
                    listener.answered(data)
                elif what == H2_LEFT:
                    listener.left(number, code)
        if self.h2.over:
            raise Violation(self.h2.violation)
