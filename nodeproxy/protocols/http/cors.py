"""Filter that says which origins may read responses, and responds to browsers' preflights (policy/route.py, Cors).

Browsers do what it says (Fetch, "CORS protocol"); a program that is no browser calls as before, so this protects pages'
users and no server. What the server itself says of it is replaced: the rule decides. Where the answer depends on the
origin, `Vary` says so, so that a cache keeps them apart. A wildcard means "all" only without credentials; with them the
caller's own words are given back, as Fetch asks.
"""

from __future__ import annotations

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import Fields, RequestHead, ResponseHead
from policy.route import Cors

_PORTS = {"http": 80, "https": 443}
_ORIGIN = b"access-control-allow-origin"
_EXPOSE = b"access-control-expose-headers"
_CREDENTIALS = b"access-control-allow-credentials"
_METHOD = b"access-control-request-method"
_HEADERS = b"access-control-request-headers"
_LONGEST = 1024  # bytes of an origin
_MOST_EXPOSED = 100  # names of fields that are told of one response


class Shares:
    """Responds to preflights, and marks the responses of servers."""

    def __init__(self, config: Cors) -> None:
        self._config = config
        self._every = config.origins == ("*",)
        self._origins = [_split(one) for one in config.origins if one != "*"]
        self._expose = ", ".join(config.expose).encode()

    async def request(self, head: RequestHead) -> None:
        origin, method = _field(head, b"origin"), _field(head, _METHOD)
        if head.method != b"OPTIONS" or origin is None or method is None:
            return
        config = self._config
        found: Fields = [(b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")]
        if (shared := self._shared(origin)) is None:
            raise Answered(204, found, detail="CORS: the origin is not allowed")
        found += [(_ORIGIN, shared), *self._credentials()]
        if methods := self._allowed(config.methods, method):
            found.append((b"access-control-allow-methods", methods))
        if headers := self._allowed(config.headers, _field(head, _HEADERS)):
            found.append((b"access-control-allow-headers", headers))
        if self._expose and not (config.credentials and b"*" in self._expose):
            found.append((_EXPOSE, self._expose))
        found.append((b"access-control-max-age", b"%d" % config.max_age))
        raise Answered(204, found, detail="CORS: the origin is allowed")

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        for name in (_ORIGIN, _CREDENTIALS, _EXPOSE):
            response.remove_field(name)
        if not self._every or self._config.credentials:
            _vary(response)
        origin = _field(head, b"origin")
        if origin is None or (shared := self._shared(origin)) is None:
            return
        response.set_field(_ORIGIN, shared)
        for name, value in self._credentials():
            response.set_field(name, value)
        if self._expose:
            told = self._expose
            if self._config.credentials and "*" in self._config.expose:
                names = dict.fromkeys(line.partition(b":")[0].lower() for line in response.lines)
                told = b", ".join([name for name in names if not name.startswith(b"access-control-")][:_MOST_EXPOSED])
            response.set_field(_EXPOSE, told)

    def _shared(self, origin: bytes) -> bytes | None:
        """Return what is told to a page of this origin; None: it is not allowed."""
        config = self._config
        if self._every and not config.credentials:
            return b"*"
        if len(origin) > _LONGEST or origin == b"null":  # any page can get the origin null
            return None
        try:
            scheme, host, port = _split(origin.decode("ascii").lower())
        except ValueError:
            return None
        if self._every:
            return origin
        for one in self._origins:
            if (scheme, port) == (one[0], one[2]) and _fits(one[1], host):
                return origin
        return None

    def _credentials(self) -> Fields:
        return [(_CREDENTIALS, b"true")] if self._config.credentials else []

    def _allowed(self, listed: tuple[str, ...], asked: bytes | None) -> bytes:
        """Return the methods or fields that are told; b"" for none."""
        if listed != ("*",):
            return ", ".join(listed).encode()
        return (asked or b"") if self._config.credentials else b"*"


def _field(head: RequestHead, name: bytes) -> bytes | None:
    """Return the value of a field; None where it is absent, or there are several."""
    values = [value for field, value in head.fields if field == name]
    return values[0] if len(values) == 1 else None


def _split(origin: str) -> tuple[str, str, int]:
    """Return scheme, host and port. Raise ValueError if this is no origin."""
    scheme, mark, rest = origin.partition("://")
    host, colon, number = rest.rpartition(":")
    if not colon or number.endswith("]"):
        host, number = rest, ""
    if not mark or not host or any(one in host for one in "/?#@ ,"):
        raise ValueError(f"{origin!r} is no origin")
    return scheme, host, int(number) if number else _PORTS.get(scheme, 0)


def _fits(pattern: str, host: str) -> bool:
    if not pattern.startswith("*"):
        return pattern == host
    return len(host) >= len(pattern) and host.endswith(pattern[1:])


def _vary(response: ResponseHead) -> None:
    for line in response.lines:
        name, _, value = line.partition(b":")
        words = [word.strip() for word in value.lower().split(b",")]
        if name.lower() == b"vary" and (b"origin" in words or b"*" in words):
            return
    response.add_field(b"vary", b"Origin")
