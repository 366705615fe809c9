"""The compiled part of the data plane, where it was compiled: edgemesh works without it, slower."""

try:
    from nodeproxy.native._lane import END, FAILED, REQUEST, RESPONSE, Lane, Plan, Target

    AVAILABLE = True
except ImportError:
    AVAILABLE = False

__all__ = ["AVAILABLE", "END", "FAILED", "REQUEST", "RESPONSE", "Lane", "Plan", "Target"]
