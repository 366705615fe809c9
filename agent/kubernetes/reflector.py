"""All objects of one kind, kept current: a list and a watch, whatever the API server and the network do meanwhile.

Theory of operation. `run` repeats one step. Without a resourceVersion it makes a list, and with one it watches from
there. A server that can lists and watches in one stream ("watch-list"): the list ends at a bookmark that says so. What
follows depends on how a step ended. A watch that ran its time goes on at once. A server that is busy, broken or gone is
asked again after a pause, from the same resourceVersion, so that nothing is listed twice. Only a server that does not
know that version any more (410, or after it was restored: too large a version) is asked for a new list. A list
is compared with what is known: what is not in it was deleted while we could not see, and what is equal is not reported.

Several API servers may answer behind one address, and one of them may lag behind. No list is taken that is older than
what is known: the server is told what the list must not be older than, and one that has not come so far refuses. Sizes
of resourceVersions are compared only where the server's version promises an order; elsewhere they are opaque.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import trio
from msgspec import Struct, field

from agent.http.client import JSON
from agent.kubernetes.api import (
    PAGE,
    ApiError,
    ApiServer,
    ApiSilent,
    ApiTooLarge,
    ApiUnreachable,
    Lines,
    ListMetadata,
    Status,
)
from agent.kubernetes.nesting import shallow
from nodeproxy.backoff import Backoff

log = logging.getLogger("edgemesh.kubernetes")

_END = "k8s.io/initial-events-end"  # annotation of the bookmark that ends the list of a watch-list
_TOO_LARGE = "ResourceVersionTooLarge"
_REPEATED = 60.0  # seconds in which the same failure, of whatever kind, is logged once
METADATA_ONE = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
TABLE = f"application/json;as=Table;g=meta.k8s.io;v=v1,{METADATA_LIST}"
MOST_BYTES = 16 * 1024 * 1024  # of one response to a list
MOST = 200_000  # objects of one kind; a cluster within Kubernetes' own bounds has 150,000 pods


class Meta(Protocol):
    name: str
    namespace: str
    resource_version: str


class Object(Protocol):
    """An object as a reflector needs it: a struct with metadata."""

    @property
    def metadata(self) -> Any: ...  # Meta


T = TypeVar("T", bound=Object)
D = TypeVar("D")


class Timing(Struct, frozen=True):
    """Seconds."""

    # client-go's numbers: at most 0.22 requests a second in the long run
    backoff: Backoff = Backoff(0.8, 30.0, 1.0, 2.0)
    forgotten: float = 120.0  # after so long without a failure, the pauses begin at the first again
    shortest: float = 300.0  # a watch ends by itself after a random time between these two
    longest: float = 600.0
    grace: float = 30.0  # and for the server's part in that
    short: float = 1.0  # a watch that ends sooner, without an event, has failed
    list_silence: float = 10.0  # without a byte while a watch-list lists: the server does not know how
    list_total: float = 120.0  # for a watch-list to be whole; what is slower is listed in pages
    silence: float = 180.0  # without a byte, from a server that sends bookmarks, which come each minute


class _Rest(Struct):
    """How often one kind of failure came in a row."""

    failures: int = 0
    at: float = -1e9  # when the last pause ended

    def next(self, now: float, timing: Timing, chance: float) -> float:
        """Return the pause after another failure."""
        self.failures = self.failures + 1 if now - self.at < timing.forgotten else 1
        pause = timing.backoff.after(self.failures, chance)
        self.at = now + pause
        return pause


class Features(Struct):
    """What an API server can and what is wrong with it, shared by all reflectors.

    `watch_list`: it lists and watches in one stream. `gave_up`: why it is not asked to any more, although its version
    can. `ordered`: its resourceVersions have an order. `spread`: seconds over which requests of all nodes are spread
    when the server comes back. `told`: when each failure was last logged, by its words.
    """

    watch_list: bool = False
    gave_up: str = ""
    ordered: bool = False
    spread: float = 1.0
    told: dict[str, float] = field(default_factory=dict)

    def is_news(self, why: str, now: float) -> bool:
        """Return whether a failure is to be logged: all kinds fail for one cause, such as a server that starts."""
        self.told = {words: at for words, at in self.told.items() if now - at < _REPEATED}
        fresh = why not in self.told
        self.told[why] = now
        return fresh


class Figures(Struct):
    """What one reflector did since the start."""

    objects: int = 0
    received: int = 0  # bytes
    events: int = 0
    lists: int = 0
    watches: int = 0
    failures: int = 0
    slow: str = ""  # why this kind is listed in pages; "" while it need not be
    error: str = ""  # why nothing is heard of this kind now; "" while it is watched


class _Bookmark(Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _BookmarkObject(Struct):
    metadata: _Bookmark = _Bookmark()


class _Event(Struct):
    type: str
    object: msgspec.Raw


class _List(Struct):
    metadata: ListMetadata
    items: list[msgspec.Raw] | None = None
    rows: list[msgspec.Raw] | None = None  # of a table


class _Anew(Exception):  # noqa: N818 - it is a step's result
    """The server does not know our resourceVersion: another list is needed, and not from its cache."""


class _Later(Exception):  # noqa: N818 - likewise
    """The server asks for a pause of so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


Emit = Callable[[Sequence[tuple[str, T | None]], bool], None]


class Reflector(Generic[T]):
    """One kind. `run` reports by `emit`: pairs of key and object, None for one that is gone; and whether that is a list.

    The first report is the first list, even if it is empty; a key is "namespace/name", or "name" of what has no
    namespace. `decode` makes an object of JSON. `since`: a resourceVersion that the first list must not be older than.
    `tabled`: only names are of interest, so lists come as tables, of which `decode` gets the rows.
    """

    def __init__(
        self,
        api: ApiServer,
        path: str,
        decode: Callable[[bytes | msgspec.Raw], T],
        emit: Emit[T],
        *,
        features: Features | None = None,
        query: Mapping[str, str] | None = None,
        metadata_only: bool = False,
        tabled: bool = False,
        since: str = "",
        timing: Timing = Timing(),  # noqa: B008 - frozen
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.path = path
        self.figures = Figures()
        self.synced = trio.Event()
        self._api = api
        self._decode = decode
        self._emit = emit
        self._features = features or Features()
        self._query = dict(query or {})
        self._accept_one, self._accept_list = (METADATA_ONE, METADATA_LIST) if metadata_only else (JSON, JSON)
        self._tabled = tabled
        if tabled:
            self._accept_one, self._accept_list = METADATA_ONE, TABLE
        self._timing = timing
        self._chance = chance
        self._event = msgspec.json.Decoder(_Event)
        self._versions: dict[str, str] = {}  # by key: resourceVersion of what was reported
        self._version = ""  # where to go on watching; "": list
        self._since = since
        self._from_cache = True  # whether a list may come from the server's cache, which may be old
        self._page = 0  # objects of one response; 0: PAGE, or all of them where it comes from the cache
        self._bookmarks = False  # whether the server sends them
        self._trouble = _Rest()  # failures since the last event or list
        self._expired = _Rest()  # versions that the server did not know; a list is no success here, nor is a watch

    def __repr__(self) -> str:
        return f"<Reflector {self.path}, {len(self._versions)} objects{'' if self.synced.is_set() else ', not synced'}>"

    @property
    def version(self) -> str:
        """The newest resourceVersion that is known; "" before the first list, if none was given."""
        return self._since

    async def run(self) -> None:
        """List and watch until cancelled. Raise ApiError 404 when the server does not know the kind."""
        while True:
            pause = 0.0
            rest = self._trouble
            gone = False
            try:
                await self._step()
                continue
            except ApiError as error:
                if error.status == 404:
                    raise
                why = str(error)
                if error.status == 410 or _TOO_LARGE in error.causes:
                    rest = self._expired
                elif error.status == 429:
                    pause = error.retry_after or 0.0
            except ApiUnreachable as error:
                why, gone = str(error), True
            except _Anew as error:
                why, rest = str(error), self._expired
            except _Later as error:
                why, pause = "the server is busy", error.seconds
            if rest is self._expired:
                self._version = ""
                self._from_cache = False
            figures = self.figures
            figures.failures += 1
            if figures.error != why:
                figures.error = why
                news = self._features.is_news(why, trio.current_time())
                log.log(logging.INFO if news else logging.DEBUG, "%s: %s", self.path, why)
            pause = max(pause, rest.next(trio.current_time(), self._timing, self._chance()))
            if not gone:
                await trio.sleep(pause)
            elif await self._api.wait_until_back(pause):
                self._trouble.failures = 0  # what follows is trouble of a server that starts
                await trio.sleep(self._features.spread * self._chance())

    async def _step(self) -> None:
        if self._version:
            await self._watch()
        elif self._features.watch_list and not self.figures.slow and not self._tabled:
            await self._watch_list()
        else:
            await self._list()

    # lists

    async def _list(self) -> None:
        found: dict[str, T] = {}
        query = dict(self._query)
        if self._from_cache and not self._page:
            query["resourceVersion"] = self._since or "0"  # with which a server knows no pages
        else:
            query["limit"] = str(self._page or PAGE)
        if self._tabled:
            query["includeObject"] = "None"
        self.figures.lists += 1
        while True:
            try:
                response = await self._api.request(
                    "GET", self.path, query, accept=self._accept_list, most=MOST_BYTES, deadline=120.0
                )
            except ApiTooLarge as error:
                if self._page == 1:
                    raise
                self._page = PAGE if "limit" not in query else max(1, int(query["limit"]) // 8)
                raise _Anew(f"{error}; {self._page} objects at a time are asked for") from error
            self.figures.received += len(response.body)
            page = await self._sense(response.body, msgspec.json.Decoder(_List), "the list")
            for raw in (*(page.rows or ()), *(page.items or ())):
                self._collect(found, raw)
            if not page.metadata.continue_:
                break
            if len(found) > MOST:
                raise ApiUnreachable(f"{self.path} has more than {MOST} objects")
            # an expired token is 410: then all begins anew, since the rest would be of another moment
            query["continue"] = page.metadata.continue_
            query.pop("resourceVersion", None)
        version = page.metadata.resource_version
        if query.get("resourceVersion") and self._is_older(version):
            raise _Anew(f"{self.path}: the list is older than what is known")
        self._replace(found, version)

    async def _watch_list(self) -> None:
        query = {
            **self._query,
            "watch": "1",
            "sendInitialEvents": "true",
            "allowWatchBookmarks": "true",
            "resourceVersionMatch": "NotOlderThan",
            "resourceVersion": "",
        }
        seconds = self._lifetime(query)
        self.figures.lists += 1
        found: dict[str, T] = {}
        try:
            async with self._api.watch(self.path, query, self._accept_one, self._account) as lines:
                lines.silence = self._timing.list_silence
                with trio.move_on_after(self._timing.list_total):
                    await self._listed(lines, found)
                if not self._version:
                    self.figures.slow = f"its list was not whole after {self._timing.list_total:g} s"
                    self._page = PAGE
                    log.info("%s: %s; it is listed in pages", self.path, self.figures.slow)
                    return
                self.figures.watches += 1
                await self._live(lines, seconds)
                return
        except ApiError as error:
            refused = error.status in (400, 422) or (error.status == 403 and "sendInitialEvents" in error.message)
            if self._version or not refused:
                raise
        except ApiSilent as error:
            if self._version:
                raise
            self._features.gave_up = str(error)
        # A server that does not know watch-lists says so, or sends all objects and no end of the list.
        log.info("%s: the API server has no watch-lists; it is asked for lists", self.path)
        self._features.watch_list = False

    async def _listed(self, lines: Lines, found: dict[str, T]) -> None:
        """Read the list of a watch-list, and report it. Raise ApiUnreachable if it does not come to its end."""
        async for line in lines:
            event = await self._sense(line, self._event, "an event")
            if event.type == "BOOKMARK":
                mark = msgspec.json.decode(event.object, type=_BookmarkObject).metadata
                if (mark.annotations or {}).get(_END) == "true":
                    self._bookmarks = True
                    self._replace(found, mark.resource_version)
                    return
            elif event.type == "DELETED":
                # deleted while the list is being sent
                found.pop(_key(self._one(event.object)), None)
            elif event.type in ("ADDED", "MODIFIED"):
                self._collect(found, event.object)
                if len(found) > MOST:
                    raise ApiUnreachable(f"{self.path} has more than {MOST} objects")
            else:
                self._raise(event)
        raise ApiUnreachable(f"the list of {self.path} ended before it was whole")

    def _collect(self, found: dict[str, T], raw: msgspec.Raw) -> None:
        one = self._one(raw)
        found[_key(one)] = one

    def _one(self, raw: msgspec.Raw) -> T:
        try:
            return self._decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApiUnreachable(f"an object of {self.path} makes no sense: {error}") from error

    def _replace(self, found: Mapping[str, T], version: str) -> None:
        """Report what a list says and we did not know."""
        changes: list[tuple[str, T | None]] = [(key, None) for key in self._versions if key not in found]
        changes += [
            (key, one) for key, one in found.items() if self._versions.get(key) != one.metadata.resource_version
        ]
        self._versions = {key: one.metadata.resource_version for key, one in found.items()}
        self._version = self._since = version
        self._from_cache = True
        self._trouble.failures = 0
        self._heard()
        self._emit(changes, True)
        self.synced.set()

    # watches

    async def _watch(self) -> None:
        query = {**self._query, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": self._version}
        seconds = self._lifetime(query)
        self.figures.watches += 1
        async with self._api.watch(self.path, query, self._accept_one, self._account) as lines:
            await self._live(lines, seconds)

    def _lifetime(self, query: dict[str, str]) -> float:
        timing = self._timing
        seconds = round(timing.shortest + (timing.longest - timing.shortest) * self._chance())
        query["timeoutSeconds"] = str(seconds)
        return seconds + timing.grace

    async def _live(self, lines: Lines, seconds: float) -> None:
        """Read events until the stream ends, or should have."""
        self._heard()
        began, events = trio.current_time(), self.figures.events
        with trio.move_on_after(seconds):
            lines.silence = self._timing.silence if self._bookmarks else seconds
            async for line in lines:
                self._take(await self._sense(line, self._event, "an event"))
                lines.silence = self._timing.silence if self._bookmarks else seconds
        if trio.current_time() - began < self._timing.short and self.figures.events == events:
            raise ApiUnreachable(f"the watch of {self.path} ended at once")

    def _take(self, event: _Event) -> None:
        """Take one event of a live stream."""
        self.figures.events += 1
        if event.type != "ERROR":
            self._trouble.failures = 0
        if event.type == "BOOKMARK":
            self._bookmarks = True
            self._advance(msgspec.json.decode(event.object, type=_BookmarkObject).metadata.resource_version)
            return
        if event.type not in ("ADDED", "MODIFIED", "DELETED"):
            self._raise(event)
        one = self._one(event.object)
        key, version = _key(one), one.metadata.resource_version
        self._advance(version)
        if event.type == "DELETED":
            if self._versions.pop(key, None) is not None:
                self._told(key, None)
        elif self._versions.get(key) != version:
            self._versions[key] = version
            self._told(key, one)

    def _advance(self, version: str) -> None:
        """Note how far the watch has come. Raise _Anew if it went back: the server lags behind, or was restored."""
        if self._is_older(version):
            raise _Anew(f"{self.path}: the watch went back from {self._version} to {version}")
        self._version = self._since = version

    def _is_older(self, version: str) -> bool:
        before = self._since
        return self._features.ordered and version.isdecimal() and before.isdecimal() and int(version) < int(before)

    def _told(self, key: str, one: T | None) -> None:
        self.figures.objects = len(self._versions)
        self._emit([(key, one)], False)

    async def _sense(self, data: bytes, decoder: msgspec.json.Decoder[D], what: str) -> D:
        """Decode what the server sent. Raise ApiUnreachable."""
        try:
            try:
                found = decoder.decode(data)
            except RecursionError:
                log.warning("%s: %s has an object that is nested too deep, and is cut off there", self.path, what)
                found = decoder.decode(await trio.to_thread.run_sync(shallow, data))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApiUnreachable(f"{what} of {self.path} makes no sense: {error}") from error
        return found

    def _raise(self, event: _Event) -> None:
        """Raise what an ERROR event says."""
        if event.type != "ERROR":
            raise ApiUnreachable(f"{self.path}: the server sent an event of type {ascii(event.type)[:40]}")
        status = msgspec.json.decode(event.object, type=Status)
        error = status.error()
        if status.code == 410 or status.reason in ("Expired", "Gone") or _TOO_LARGE in error.causes:
            raise _Anew(str(error))
        if status.code == 429:
            raise _Later(error.retry_after or 0.0)
        raise ApiUnreachable(f"{self.path}: {error}")

    def _heard(self) -> None:
        self.figures.error = ""
        self.figures.objects = len(self._versions)

    def _account(self, size: int) -> None:
        self.figures.received += size


def _key(one: Any) -> str:
    metadata = one.metadata
    return f"{metadata.namespace}/{metadata.name}" if metadata.namespace else str(metadata.name)
