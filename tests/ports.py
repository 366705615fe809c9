"""Ports that nothing takes between the moment a test asks for one and the moment it listens there."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

# Not from the range from which the kernel takes ports of those who dial (ip_local_port_range begins at 32768): whatever
# dials on this machine meanwhile, in a test that runs beside this one too, might be given the port that a test just found.
_RANGE = range(20_000, 32_768)
_chance = random.Random()  # of its own: pytest-randomly gives the shared one the same seed before each test
_given: set[int] = set()  # what this process was given, once each


def free_port() -> int:
    """Return a port free for TCP and UDP on every address here, outside the range of those who dial."""
    for _ in range(1000):
        port = _chance.choice(_RANGE)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no port of {_RANGE} is free")


def _is_free(port: int) -> bool:
    with ExitStack() as tried:
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                    sock = tried.enter_context(socket.socket(family, kind))
                    if family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    sock.bind((address, port))
        except OSError:
            return False
    return True
