"""Filter that sends a copy of a request to another Service too (policy/route.py, RequestMirror).

A copy is what the server gets, after all filters. Its body is kept while it passes, up to a bound: a larger one is not
copied. The place for the request is taken before the first byte is kept. What holds a connection open for both sides (an
upgrade) is never copied.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from nodeproxy.codec.message import Body, RequestHead, ResponseHead
from nodeproxy.interfaces import Aside
from nodeproxy.protocols.http.interfaces import CallFilter
from policy.route import RequestMirror

if TYPE_CHECKING:
    from nodeproxy.context import Conn
    from nodeproxy.interfaces import Place
    from nodeproxy.protocols.http.interfaces import Acting

BODY = 65536  # bytes of a body that is copied
SECONDS = 30.0  # for a copy and its response


class Mirrors(CallFilter):
    """Decides which requests are copied."""

    def __init__(self, config: RequestMirror) -> None:
        self._config = config

    async def act(self, head: RequestHead, call: Acting) -> None:
        config = self._config
        if head.upgrade or head.method == b"CONNECT":
            return
        if random.randrange(config.whole) >= config.part:  # noqa: S311 - a share, no secret
            return
        asides = call.conn.context.asides
        if head.length > BODY:
            asides.lost()
        elif (place := asides.place(call.conn)) is not None:
            call.copy_to(Copy(config, place))

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """The response is left as it is."""


class Copy:
    """One copy of one request, which is sent when the last byte of its body has passed."""

    __slots__ = ("_config", "_pieces", "_place", "_room")

    def __init__(self, config: RequestMirror, place: Place) -> None:
        self._config = config
        self._place: Place | None = place  # None: it is not sent, or not any longer
        self._pieces: list[bytes] = []
        self._room = BODY

    def __repr__(self) -> str:
        return f"<Copy for {self._config.service}, {BODY - self._room} bytes>"

    def passed(self, piece: bytes, source: Body, conn: Conn, head: RequestHead, target: bytes, h2: bool) -> None:
        """Keep a piece of the body, and send the copy if it is the last one. `target`: as it is sent to the server."""
        if self._place is None:
            return
        self._room -= len(piece)
        if self._room < 0:
            conn.context.asides.lost()
            self.drop()
            return
        if piece:
            self._pieces.append(piece)
        if not source.complete:
            return
        place, self._place = self._place, None
        body = b"".join(self._pieces)
        config = self._config
        aside = Aside(config.service, config.port, copied(head, target, len(body)), body, h2, SECONDS)
        conn.context.asides.send(conn, aside, place)

    def drop(self) -> None:
        """Send no copy, if none was sent."""
        place, self._place = self._place, None
        self._pieces = []
        if place is not None:
            place.free()


_ENDS_HERE = frozenset((b"content-length", b"expect", b"x-forwarded-for"))


def copied(head: RequestHead, target: bytes, length: int) -> RequestHead:
    """Return a head like this one, for a body of that length."""
    copy = RequestHead(head.method, target, 1)
    copy.host = next((value for name, value in head.fields if name == b"host"), head.host)
    copy.length, copy.declared = length, head.declared or length > 0
    copy.trailers_ok, copy.bare = head.trailers_ok, head.bare
    copy.forwarded_for = head.forwarded_for
    copy.fields = [field for field in head.fields if field[0] not in _ENDS_HERE]
    copy.lines = [line for line in head.lines if not line.lower().startswith(b"expect:")]
    copy.size = head.size
    return copy
