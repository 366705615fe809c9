"""An API server that is gone for an hour, or killed again and again, while what it holds changes all the time.

Time is simulated and connections are in memory. The server keeps its history for five minutes, as etcd does by default,
and answers 410 for what is older, in both forms.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
import trio
import trio.testing

from agent.config.schema import NodeConfig
from agent.kubernetes.access import Access, Material
from agent.kubernetes.api import ApiServer
from agent.sources import Change
from agent.sources.kubernetes.cluster import Cluster
from tests.agent.kubernetes.fake import Answer, Asked, FakeServer, status
from tests.agent.sources.kubernetes.test_cluster import CORE, PLURALS, FakeCluster

_HISTORY = 300.0  # seconds
_BOOKMARKS = 60.0  # seconds


class Wire(trio.abc.Stream):
    """One end of a connection in memory, with what a socket has besides."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner

    def setsockopt(self, *_: Any) -> None: ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Truth(FakeCluster):
    """A server with history: a watch begins where it says, and is told everything once."""

    def __init__(self, *defined: str, minor: str) -> None:
        super().__init__(*defined, minor=minor)
        self.log: dict[str, list[tuple[float, int, str, Any]]] = defaultdict(list)  # time, version, type, object
        self.news: dict[str, trio.Event] = defaultdict(trio.Event)
        self.newest = 0
        self.busy = 0  # so many requests are told to come later

    async def _event(self, path: str, kind: str, one: dict[str, Any]) -> None:
        self.newest = int(one["metadata"]["resourceVersion"])
        self.log[path].append((trio.current_time(), self.newest, kind, one))
        self.news.pop(path, trio.Event()).set()

    async def __call__(self, asked: Asked, answer: Answer) -> None:
        if self.busy:
            self.busy -= 1
            await answer.send(429, status(429, "TooManyRequests"), {"retry-after": "1"})
        elif "watch" in asked.query and "sendInitialEvents" not in asked.query:
            await self._from(asked, answer, int(asked.query["resourceVersion"]))
        else:
            await super().__call__(asked, answer)

    async def live(self, path: str, answer: Answer) -> None:
        """Go on after the list of a watch-list, which has just been sent."""
        asked = Asked("GET", path, {"timeoutSeconds": "400"}, {}, b"", 0)
        await self._tell(asked, answer, self.newest)

    async def _from(self, asked: Asked, answer: Answer, version: int) -> None:
        old = trio.current_time() - _HISTORY
        forgotten = max((number for log in self.log.values() for at, number, *_ in log if at < old), default=0)
        if version < forgotten:
            expired = status(410, "Expired", "too old resource version")
            if version % 2:
                await answer.send(410, expired)
            else:
                await answer.begin()
                await answer.event("ERROR", expired)
                await answer.end()
            return
        await answer.begin()
        await self._tell(asked, answer, version)

    async def _tell(self, asked: Asked, answer: Answer, version: int) -> None:
        ends = trio.current_time() + float(asked.query["timeoutSeconds"])
        marked = trio.current_time() + _BOOKMARKS
        log = self.log[asked.path]
        told = sum(number <= version for _, number, *_ in log)
        while (now := trio.current_time()) < ends:
            newest, news = self.newest, self.news[asked.path]
            while told < len(log):
                told += 1
                await answer.event(*log[told - 1][2:])
            if now >= marked:
                await answer.event("BOOKMARK", {"metadata": {"resourceVersion": str(max(version, newest))}})
                marked = now + _BOOKMARKS
            with trio.move_on_after(max(0.0, min(marked, ends) - now)):
                await news.wait()
        await answer.end()

    def what_is_there(self) -> dict[str, Any]:
        """Return the truth as the source should say it: by origin, what changes."""
        found = {}
        kinds = {self.path(plural): kind for plural, (kind, _) in PLURALS.items() if plural in self.defined}
        kinds |= {"/api/v1/pods": "Pod", "/api/v1/services": "Service", "/api/v1/namespaces": "Namespace"}
        for at, one in self.objects.items():
            path, _, key = at.partition(" ")
            if path in kinds:
                found[f"kubernetes:{kinds[path]}/{key}"] = _value(one)
        return found


def _value(one: dict[str, Any]) -> Any:
    return one["metadata"].get("labels"), json.dumps(one.get("spec"), sort_keys=True)


class Told:
    """What the source has said, added up, with every change that changed nothing."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.twice = 0
        self.changes = 0

    def __call__(self, changes: Sequence[Change], whole: bool) -> None:
        for change in changes:
            self.changes += 1
            if change.gone:
                self.twice += self.said.pop(change.origin, None) is None
            else:
                (raw,) = change.objects or ()
                value = _value(raw.data)
                self.twice += self.said.get(change.origin) == value
                self.said[change.origin] = value


class Play:
    """A server that can be killed, a source that follows it, and churn."""

    def __init__(self, minor: str) -> None:
        self.truth = Truth("traffictargets", "meshnodes", minor=minor)
        self.server = FakeServer(self.truth)
        self.up = True
        self.dialled: list[float] = []
        self.told = Told()
        self.random = random.Random(7)
        self._names = itertools.count()
        access = Access("x", 1, "a test", plain=True, token=Material(b"t"))
        self.api = ApiServer(access, dial=cast(Any, self._dial))
        self.source = Cluster(self.api)

    async def _dial(self, host: str, port: int) -> Wire:
        self.dialled.append(trio.current_time())
        if not self.up:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self.server._serve, cast(Any, theirs))
        return Wire(ours)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.source.run, self.told, lambda: NodeConfig(node="n1"))
            yield
            await self.api.aclose()
            nursery.cancel_scope.cancel()

    def kill(self) -> None:
        self.up = False
        self.server.cut()

    async def churn(self, seconds: float, each: float) -> None:
        """Make, change and delete objects, one after each pause."""
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            await trio.sleep(each)
            await self._change()

    async def _change(self) -> None:
        truth, chance = self.truth, self.random
        plural = chance.choice(["pods", "pods", "pods", "services", "traffictargets", "meshnodes"])
        path = truth.path(plural)
        there = [at.partition(" ")[2] for at in truth.objects if at.startswith(f"{path} ")]
        number = next(self._names)
        spec: dict[str, Any] = {"nodeName": "n1", "serviceAccountName": f"account-{number}"}
        if plural != "pods":
            spec = {"addresses": [f"10.0.0.{number}"]} if plural == "meshnodes" else {"ports": [{"port": number}]}
        if there and (len(there) > 30 or chance.random() < 0.4):
            await truth.remove(plural, chance.choice(there))
        elif there and chance.random() < 0.5:
            await truth.put(plural, chance.choice(there), spec=spec)
        else:
            name = f"o{number}"
            await truth.put(plural, name if plural == "meshnodes" else f"shop/{name}", spec=spec)

    async def equal(self, within: float) -> float:
        """Wait until the source says what is there. Return after how many seconds it did."""
        began = trio.current_time()
        with trio.fail_after(within):
            while self.told.said != self.truth.what_is_there():
                await trio.sleep(0.1)
        return trio.current_time() - began

    def most_in(self, seconds: float, times: Sequence[float]) -> int:
        return max(Counter(int(at / seconds) for at in times).values(), default=0)


@pytest.fixture(params=["37", "20"])
def play(request: pytest.FixtureRequest, autojump_clock: trio.testing.MockClock) -> Play:
    """With watch-lists, and without."""
    return Play(request.param)


WATCHES = len(CORE) + 4  # the core kinds, EndpointSlices, two kinds of ours, and definitions


async def test_a_server_that_is_gone_for_an_hour_while_everything_changes(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play.running():
        await play.churn(60, 1.0)
        await play.equal(5)
        play.kill()
        began = trio.current_time()
        await play.churn(3600, 4.0)
        tries = [at for at in play.dialled if at >= began]
        # each of the watches waits half a minute and some
        assert len(tries) < 3600 / 30 * WATCHES + 8 * WATCHES
        assert play.most_in(60.0, tries[len(tries) // 2 :]) <= 2.5 * WATCHES
        before = len(play.server.asked)
        play.up = True
        took = await play.equal(70)
        assert took < 65, "half a minute's pause, doubled by chance, and a second"
        # a watch that is told 410 and a list with its watch, for each kind; the kinds are asked for; some chance
        assert len(play.server.asked) - before <= 4 * WATCHES + 10
        assert play.told.twice == 0


async def test_a_server_that_is_killed_again_and_again(play: Play, autojump_clock: trio.testing.MockClock) -> None:
    async with play.running():
        await play.churn(30, 0.5)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play.churn, 3600.0, 3.0)
            for _ in range(24):
                await trio.sleep(play.random.uniform(5, 200))
                play.kill()
                await trio.sleep(play.random.choice([0.0, 2.0, 40.0]))
                play.truth.busy = play.random.choice([0, 0, 10])
                play.up = True
        await play.equal(70)
        assert play.told.twice == 0
        assert play.told.changes > 500
        times = [at for at in play.dialled if at >= began]
        assert len(times) / (trio.current_time() - began) < 1.0, "requests a second"
        assert play.most_in(1.0, times) <= 60
        assert not play.source.problems
