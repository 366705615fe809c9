"""Bounds on one HTTP/2 connection, and budgets for what a peer may cost us (sans-IO, without the h2 library)."""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

FIRST_WINDOW = 65535  # RFC 9113 section 6.9.2: initial window of each stream and connection


_CROWD = 20
_WASTED = ("reset_burst", "reset_rate", "owner_reset_burst", "owner_reset_rate")


class Code(IntEnum):
    """Error codes of RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Violation(Exception):  # noqa: N818 - a violation by the peer
    """The peer broke HTTP/2, or exceeded our bounds. The GOAWAY that says so is queued."""


class Bounds(Struct, frozen=True):
    """Limits of one connection, for boards with little memory.

    `connection_window` bounds what all streams together hold for consumers that do not take it. When they hold that
    much, every stream of the connection waits. So a connection that several workloads share needs max_streams * 64 KiB
    and half as much again, or one workload that does not read could stall the others: see `shared`.
    """

    stream_window: int = 262144  # most that a stream grows to while its consumer keeps up; each begins with 64 KiB
    connection_window: int = 1048576
    max_streams: int = 100
    head_bytes: int = 65536  # of one decoded head, as RFC 9113 section 6.5.2 counts; also of its encoded block
    header_count: int = 100
    frame_size: int = 16384
    queue_bytes: int = (
        65536  # senders wait while more is queued; four times that, made by the peer's own frames, is abuse
    )
    control_burst: int = 1000  # frames without content: PING, SETTINGS, WINDOW_UPDATE, empty DATA ...
    control_rate: int = 100  # and so many a second; frames with content earn some
    reset_burst: int = 500  # streams that the peer resets, or whose content makes us reset or refuse them
    reset_rate: int = 50  # and so many a second; each stream served to its end earns one
    owner_reset_burst: int = 1000  # the same for all connections of one owner together (owner.py)
    owner_reset_rate: int = 50  # a second; each may cost the slow path milliseconds
    preface: float = 10.0  # seconds for the connection preface and the first SETTINGS
    stall: float = 300.0  # seconds that a sender waits for a window, or the writer for the peer to read
    farewell: float = 1.0  # seconds for the last bytes (GOAWAY) of a connection to leave
    native: bool = True  # use the compiled state machine, if there is one

    def __post_init__(self) -> None:
        if min(self.stream_window, self.connection_window) < FIRST_WINDOW:
            raise ValueError(
                f"a window below {FIRST_WINDOW} bytes cannot be told to the peer in time (RFC 9113 section 6.9.2)"
            )

    def of_crowd(self) -> Bounds:
        """Return the bounds of a connection on which a node passes on calls of many from outside the mesh.

        Each of them may leave before it is answered. Their own node serves them first, and bounds what they cost.
        """
        shared = self.shared()
        more = {name: getattr(self, name) * _CROWD for name in _WASTED}
        return Bounds(**{**{name: getattr(shared, name) for name in self.__struct_fields__}, **more})

    def shared(self) -> Bounds:
        """Return the same bounds for a connection that several workloads share: unread streams stall no others."""
        held = self.max_streams * (FIRST_WINDOW + 1)
        return Bounds(
            **{**{name: getattr(self, name) for name in self.__struct_fields__}, "connection_window": held + held // 2}
        )
