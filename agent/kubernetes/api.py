"""Requests to an API server, and watches, over HTTP/1.1.

A request takes an idle connection or opens one; a watch has its own until it ends. All requests together are bounded in
number per second, whoever makes them (agent/kubernetes/pace.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import trio
from msgspec import Struct, field

import agent
from agent.http.client import JSON, Exchange, Response, begin, fetch, more
from agent.kubernetes.access import Access, AccessError
from agent.kubernetes.connections import BROKEN, Connections, Dial, in_words
from agent.kubernetes.pace import Pace

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML
DEADLINE = 30.0  # seconds for one request, from the look-up of a name to the last byte of the response
MOST = 64 * 1024 * 1024  # bytes of one response
MAX_LINE = 8 * 1024 * 1024  # bytes of one event of a watch; an object in etcd has 1.5 MiB at most
PAGE = 500  # objects of one response to a list: client-go has the same
_SHOWN = 300  # characters of an answer that is no Status

Query = Mapping[str, str]
Pairs = Query | Sequence[tuple[str, str]]  # where one name may come several times
_T = TypeVar("_T")


class ApiError(Exception):
    """The API server refused a request.

    `reason` is Kubernetes' word for it, as "NotFound"; "" if there is none. `retry_after`: seconds, if the server asks
    for it. `causes`: reasons of details.causes. `body`: what came instead of a Status, as from a pod behind pods/proxy.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after: float | None = None,
        causes: tuple[str, ...] = (),
        body: bytes = b"",
    ) -> None:
        super().__init__(f"{status} {reason}: {message}" if reason else f"{status}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.causes = causes
        self.body = body


class ApiUnreachable(Exception):  # noqa: N818 - it is a state of the world
    """The API server cannot be reached, or what answers is none."""


class ApiTooLarge(ApiUnreachable):
    """A response was larger than it may be."""


class ApiSilent(ApiUnreachable):
    """A watch was silent for longer than it may be."""


class _Cause(Struct):
    reason: str = ""


class _Details(Struct, rename="camel"):
    causes: list[_Cause] | None = None
    retry_after_seconds: float = 0.0


class Status(Struct):
    """What an API server says of a request that it did not carry out."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None

    def error(self, retry_after: float | None = None) -> ApiError:
        details = self.details or _Details()
        causes = tuple(cause.reason for cause in details.causes or ())
        after = retry_after if retry_after is not None else details.retry_after_seconds or None
        return ApiError(self.code, self.reason, self.message, after, causes)


class Reach(Struct):
    """Whether the API server can be reached, and what was exchanged; times are seconds since the epoch, 0: never."""

    since: float = 0.0  # that it is as it is now
    connected: bool | None = None  # None: not tried yet
    error: str = ""  # the last one; it may be over
    error_at: float = 0.0
    requests: int = 0  # watches included
    failures: int = 0  # of them, those that were refused or got no answer
    received: int = 0  # bytes of bodies


class ApiServer:
    """One API server. `pace`: the budget of requests that this client shares; None: its own. `urgent`: none waits."""

    def __init__(
        self,
        access: Access,
        pace: Pace | None = None,
        *,
        urgent: bool = False,
        dial: Dial = trio.open_tcp_stream,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.access = access
        self.pace = pace or Pace()
        self.reach = Reach()
        self.date = 0.0  # the server's clock in its last answer, in seconds since the epoch; 0: it did not say
        self._urgent = urgent
        self._connections = Connections(access, dial)
        self._wall = wall
        self._back = trio.Event()  # set when the server answers after it could not be reached

    def __repr__(self) -> str:
        return f"<ApiServer {self.access.place}, {'connected' if self.reach.connected else 'not connected'}>"

    # requests

    async def request(
        self,
        method: str,
        path: str,
        query: Pairs | None = None,
        body: bytes | Any = b"",
        content_type: str = JSON,
        accept: str = JSON,
        *,
        most: int = MOST,
        deadline: float = DEADLINE,
        fields: Query | None = None,
    ) -> Response:
        """Return the response, whose status is below 400. `body`: bytes, or a value that becomes JSON.

        `fields`: further fields of the request; their values may be secrets.

        Raise ApiError if the server refuses, ApiUnreachable if there is no answer within `deadline` seconds. A request
        that found its connection closed is made again, except a POST, which takes a new one.
        """
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.reach.requests += 1
        try:
            await self.pace.admit(self._urgent)
            with trio.fail_after(deadline):
                for again in (True, False):
                    exchange, response = await self._ask(
                        method, path, query, content, content_type, accept, most, fields
                    )
                    self._answered()
                    self.reach.received += len(response.body)
                    self.date = _date(exchange.field(b"date"))
                    if response.status == 401 and again and self._renewed():
                        continue
                    break
        except trio.TooSlowError as error:
            raise self._unreachable(f"no answer within {deadline:g} s") from error
        if response.status >= 400:
            raise self._refused(_error(response, exchange))
        return response

    async def get(
        self, path: str, type: Callable[..., _T] | Any = Any, query: Query | None = None, accept: str = JSON
    ) -> Any:
        """Return the object, decoded as `type`. Raise ApiError, ApiUnreachable."""
        return self._decoded(await self.request("GET", path, query, accept=accept), type)

    async def list(self, path: str, query: Query | None = None, most: int = 100_000) -> list[dict[str, Any]]:
        """Return all objects of a collection, in pages. Raise ApiError, ApiUnreachable, also for more than `most`."""
        found: list[dict[str, Any]] = []
        asked = {**(query or {}), "limit": str(PAGE)}
        while True:
            page = await self.get(path, dict[str, Any], asked)
            found += page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            if len(found) > most:
                raise self._unreachable(f"{path} has more than {most} objects")
            asked["continue"] = token

    async def create(self, path: str, object: Any) -> dict[str, Any]:
        """Create an object in the collection `path`, and return it. Raise ApiError, ApiUnreachable."""
        made: dict[str, Any] = self._decoded(await self.request("POST", path, body=object), dict[str, Any])
        return made

    async def replace(self, path: str, object: Any) -> dict[str, Any]:
        """Replace the object at `path`; with its resourceVersion, only that one. Raise ApiError, ApiUnreachable."""
        made: dict[str, Any] = self._decoded(await self.request("PUT", path, body=object), dict[str, Any])
        return made

    async def patch(self, path: str, object: Any, *, apply: str = "", force: bool = True) -> dict[str, Any]:
        """Merge `object` into the one at `path` (RFC 7396), and return the result. Raise ApiError, ApiUnreachable.

        `apply`: the field manager of a server-side apply instead, which creates what is not there. `force`: it takes
        fields that another manager holds.
        """
        query = {"fieldManager": apply, "force": str(force).lower()} if apply else None
        kind = APPLY_PATCH if apply else MERGE_PATCH
        response = await self.request("PATCH", path, query, msgspec.json.encode(object), kind)
        made: dict[str, Any] = self._decoded(response, dict[str, Any])
        return made

    async def delete(self, path: str, body: Any = None) -> None:
        """Delete an object. `body`: DeleteOptions. Raise ApiError (404: it is not there), ApiUnreachable."""
        await self.request("DELETE", path, body=b"" if body is None else body)

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, query: Query | None = None, accept: str = JSON, account: Callable[[int], None] = lambda _: None
    ) -> AsyncIterator[Lines]:
        """Yield the lines of a stream without an end, as Lines. `account` is called with the bytes that came.

        Raise ApiError, ApiUnreachable.
        """
        self.reach.requests += 1
        stream: trio.abc.Stream | None = None
        try:
            try:
                await self.pace.admit(self._urgent)
                with trio.fail_after(DEADLINE):
                    for again in (True, False):
                        exchange = self._exchange("GET", path, query, b"", JSON, accept, MOST, keep=False)
                        stream = await self._connections.open()
                        head = await begin(stream, exchange)
                        self._answered()
                        if head.status < 400:
                            break
                        pieces = [piece async for piece in _pieces(stream, exchange)]
                        if head.status == 401 and again and self._renewed():
                            await trio.aclose_forcefully(stream)
                            continue
                        raise self._refused(_error(Response(head.status, b"".join(pieces)), exchange))
            except trio.TooSlowError as error:
                raise self._unreachable(f"no answer within {DEADLINE:g} s") from error
            except BROKEN as error:
                raise self._unreachable(in_words(error)) from error
            assert stream is not None

            def came(number: int) -> None:
                self.reach.received += number
                account(number)

            yield Lines(stream, exchange, came, self._unreachable)
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def wait_until_back(self, seconds: float) -> bool:
        """Wait so long, or until a server that could not be reached has answered somebody. Return whether it has."""
        with trio.move_on_after(seconds):
            await self._back.wait()
            return True
        return False

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._connections.aclose()

    # one exchange

    async def _ask(
        self,
        method: str,
        path: str,
        query: Pairs | None,
        body: bytes,
        content_type: str,
        accept: str,
        most: int,
        extra: Query | None,
    ) -> tuple[Exchange, Response]:
        for again in (True, False):
            exchange = self._exchange(method, path, query, body, content_type, accept, most, keep=True, extra=extra)
            kept = await self._connections.kept() if again and method != "POST" else None
            stream, reusable = kept, False
            try:
                stream = stream or await self._connections.open()
                response = await fetch(stream, exchange)
                reusable = exchange.reusable
            except BROKEN as error:
                if kept is not None and not exchange.begun:
                    continue  # the server has closed it meanwhile
                unreachable = self._unreachable(in_words(error))
                if exchange.too_large:
                    raise ApiTooLarge(str(unreachable)) from error
                raise unreachable from error
            finally:
                if stream is not None:
                    await self._connections.give_back(stream, reusable)
            return exchange, response
        raise AssertionError("the second connection is never a kept one")

    def _exchange(
        self,
        method: str,
        path: str,
        query: Pairs | None,
        body: bytes,
        content_type: str,
        accept: str,
        most: int,
        keep: bool,
        extra: Query | None = None,
    ) -> Exchange:
        access = self.access
        target = quote(f"{access.prefix}{path}", safe="/:%") + (f"?{urlencode(query)}" if query else "")
        host = f"[{access.host}]" if ":" in access.host else access.host
        fields = {**(extra or {}), "user-agent": f"edgemesh/{agent.__version__}"}
        try:
            if token := self._connections.token:
                fields["authorization"] = f"Bearer {token}"
            return Exchange(
                method,
                target,
                f"{host}:{access.port}",
                body,
                most,
                accept=accept,
                content_type=content_type,
                fields=fields,
                keep=keep,
            )
        except AccessError as error:
            raise self._unreachable(error.message) from error
        except ValueError:
            # not the error itself, which may quote the token
            raise self._unreachable(f"the token or the path {path!r} cannot be sent") from None

    def _renewed(self) -> bool:
        """Return whether the files of our access have something new, after an answer of 401. Raise ApiUnreachable."""
        try:
            return self._connections.renew(at_once=True)
        except AccessError as error:
            raise self._unreachable(error.message) from error

    # what is said of it

    def _decoded(self, response: Response, type: Any) -> Any:
        try:
            return msgspec.json.decode(response.body, type=type)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._unreachable(f"what answers ({response.status}) makes no sense: {error}") from error

    def _answered(self) -> None:
        reach = self.reach
        if not reach.connected:
            reach.connected, reach.since = True, self._wall()
            self._back.set()
            self._back = trio.Event()

    def _refused(self, error: ApiError) -> ApiError:
        self.reach.failures += 1
        if error.status not in (404, 409, 410):  # ordinary answers
            self.reach.error, self.reach.error_at = str(error), self._wall()
        return error

    def _unreachable(self, why: str) -> ApiUnreachable:
        reach = self.reach
        now = self._wall()
        reach.failures += 1
        reach.error, reach.error_at = why, now
        if reach.connected is not False:
            reach.connected, reach.since = False, now
        return ApiUnreachable(f"the API server {self.access.place} cannot be reached: {why}")


class Lines:
    """The lines of a watch. Iteration ends with the stream.

    `silence`: seconds without a byte after which the stream counts as dead; it may be changed at any time.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        exchange: Exchange,
        came: Callable[[int], None],
        unreachable: Callable[[str], ApiUnreachable],
    ) -> None:
        self.silence = 630.0  # the longest watch that is asked for, and some
        self._stream = stream
        self._exchange = exchange
        self._came = came
        self._unreachable = unreachable
        self._held: list[bytes] = []  # of the line that is not whole
        self._size = 0
        self._ready: list[bytes] = []  # last first

    def __repr__(self) -> str:
        return f"<Lines {len(self._ready)} ready, {self._size} bytes of the next>"

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes:
        """Return the next line. Raise ApiUnreachable if the stream breaks, falls silent, or a line is too long."""
        while not self._ready:
            if self._size > MAX_LINE:
                raise self._unreachable(f"an event of a watch is larger than {MAX_LINE // 1024 // 1024} MiB")
            try:
                with trio.fail_after(self.silence):
                    piece = await more(self._stream, self._exchange)
            except trio.TooSlowError as error:
                words = f"a watch was silent for {self.silence:g} s"
                raise ApiSilent(str(self._unreachable(words))) from error
            except BROKEN as error:
                raise self._unreachable(in_words(error)) from error
            if not piece:
                raise StopAsyncIteration  # half a line that is left says nothing
            self._came(len(piece))
            self._take(piece)
        return self._ready.pop()

    def _take(self, piece: bytes) -> None:
        *whole, rest = piece.split(b"\n")
        if whole:
            whole[0] = b"".join((*self._held, whole[0]))
            self._ready = [line for line in reversed(whole) if line]
            self._held, self._size = [], 0
        if rest:
            self._held.append(rest)
            self._size += len(rest)


class ListMetadata(Struct, rename="camel"):
    """The fields of a list's metadata that a client needs."""

    resource_version: str = ""
    continue_: str = field(name="continue", default="")


def plural(kind: str) -> str:
    """Return the name of a kind's collection, as its definition has it: gateways, gatewayclasses, backendtlspolicies."""
    word = kind.lower()
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith("s") else f"{word}s"


def path_of(version: str, plural: str, namespace: str = "", name: str = "", part: str = "") -> str:
    """Return the path of a collection, an object, or a part of one ("status").

    `version`: as in apiVersion: "v1", "apps/v1". `plural`: "pods". Names are quoted whole: one that somebody else chose
    never leads to another object.
    """
    pieces = ["apis" if "/" in version else "api", version]
    if namespace:
        pieces += ["namespaces", quote(namespace, safe="")]
    return "/" + "/".join(piece for piece in [*pieces, plural, quote(name, safe=":"), quote(part, safe="/")] if piece)


async def _pieces(stream: trio.abc.Stream, exchange: Exchange) -> AsyncIterator[bytes]:
    """Yield the body of a refusal, up to what is shown of one."""
    size = 0
    while size < MAX_LINE and (piece := await more(stream, exchange)):
        size += len(piece)
        yield piece


def _error(response: Response, exchange: Exchange) -> ApiError:
    after = exchange.field(b"retry-after")
    retry_after = float(after) if after.isdecimal() and len(after) < 7 else None
    try:
        status = msgspec.json.decode(response.body, type=Status)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        status = Status()
    if status.kind != "Status":
        text = response.body[:_SHOWN].decode("utf-8", "replace").strip()
        return ApiError(
            response.status, "", ascii(text)[1:-1] or "no reason was given", retry_after, body=response.body
        )
    error = status.error(retry_after)
    error.status = response.status
    return error


def _date(said: str) -> float:
    """Return the time that a Date field says (RFC 9110 section 5.6.7); 0 for none that can be read."""
    try:
        return datetime.strptime(said, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
