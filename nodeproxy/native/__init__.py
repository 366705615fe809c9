"""The compiled part of the data plane, where it was compiled: edgemesh works without it, slower."""

try:
    from nodeproxy.native._lane import (
        CALL,
        DONE,
        END,
        FAILED,
        H2,
        IDLE,
        LEFT_BROKEN,
        QUIET,
        REQUEST,
        RESPONSE,
        RIGHT_BROKEN,
        SILENT,
        STREAM_LOST,
        STREAM_RESET,
        STREAM_SHUT,
        STREAM_WRONG,
        Lane,
        Linked,
        Plan,
        Program,
        Relayed,
        Secured,
        Target,
        TlsContext,
        Tunnelled,
    )

    AVAILABLE = True
except ImportError:
    AVAILABLE = False

__all__ = [
    "AVAILABLE",
    "DONE",
    "CALL",
    "END",
    "FAILED",
    "H2",
    "IDLE",
    "QUIET",
    "LEFT_BROKEN",
    "REQUEST",
    "RESPONSE",
    "RIGHT_BROKEN",
    "SILENT",
    "STREAM_LOST",
    "STREAM_RESET",
    "STREAM_SHUT",
    "STREAM_WRONG",
    "Lane",
    "Linked",
    "Plan",
    "Program",
    "Relayed",
    "Secured",
    "Target",
    "TlsContext",
    "Tunnelled",
]
