"""Filters that send a request to another path or Host, or its caller somewhere else (policy/route.py, Rewrite, Redirect)."""

from __future__ import annotations

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead, ResponseHead
from policy.route import PathChange, Redirect, Rewrite

_PORTS = {"http": 80, "https": 443}


def _changed(change: PathChange | None, target: bytes) -> bytes:
    """Return the target with another path, and the same query."""
    if change is None:
        return target
    path, mark, query = target.partition(b"?")
    return change.of(path.decode("ascii")).encode("ascii") + mark + query


class Rewrites:
    """Changes path and Host of the request. A path that may not be sent refuses it, as a caller's own would be."""

    def __init__(self, config: Rewrite) -> None:
        self._path = config.path
        self._host = config.host.encode("ascii")

    async def request(self, head: RequestHead) -> None:
        if head.target.startswith(b"/"):  # not OPTIONS *
            head.target = _changed(self._path, head.target)
        if self._host:
            head.host = self._host

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """The response is left as it is."""


class Redirects:
    """Responds with a redirect."""

    def __init__(self, config: Redirect) -> None:
        self._config = config

    async def request(self, head: RequestHead) -> None:
        location = self._location(head)
        raise Answered(self._config.status, [(b"location", location)], detail=location.decode("latin-1"))

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """There is none: no server is asked."""

    def _location(self, head: RequestHead) -> bytes:
        config = self._config
        host, port = _split(head.host or b"")
        scheme = config.scheme or "http"
        number = config.port or (0 if config.scheme else port)
        if number == _PORTS.get(scheme):
            number = 0
        named = config.host.encode("ascii") or host
        target = _changed(config.path, head.target) if head.target.startswith(b"/") else b"/"
        return b"%b://%b%b%b" % (scheme.encode("ascii"), named, b":%d" % number if number else b"", target)


def _split(host: bytes) -> tuple[bytes, int]:
    """Return a Host field's host and port; 0: it names none."""
    name, colon, port = host.rpartition(b":")
    if colon and not port.endswith(b"]"):
        return name, int(port or b"0")
    return host, 0
