"""reflector.py: what is known equals what the server has, whatever it does meanwhile, and it is asked as seldom as can be."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import trio
from msgspec import Struct, structs

from agent.kubernetes import reflector
from agent.kubernetes.api import ApiError
from agent.kubernetes.reflector import METADATA_LIST, METADATA_ONE, Features, Reflector, Timing
from nodeproxy.backoff import Backoff
from tests.agent.kubernetes.fake import Answer, Asked, FakeServer, api_of, serving, status

FAST = Timing(Backoff(0.01, 0.05, 1.0, 2.0), list_silence=0.1, short=0.05)
PATH = "/api/v1/pods"


class Meta(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Thing(Struct):
    metadata: Meta = Meta()
    value: str = ""


def thing(name: str, version: int, value: str = "") -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop", "resourceVersion": str(version), "managedFields": [{"manager": "x"}]}
    return {"metadata": meta, "value": value}


def bookmark(version: int, end: bool = False) -> dict[str, Any]:
    notes = {"annotations": {"k8s.io/initial-events-end": "true"}} if end else {}
    return {"metadata": {"resourceVersion": str(version), **notes}}


def listed(version: int, *items: Any, more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}


Act = Callable[[Asked, Answer], Any]
EXPIRED = status(410, "Expired", "too old resource version")
TOO_LARGE = status(504, "Timeout", "Too large resource version", causes=[{"reason": "ResourceVersionTooLarge"}])


class Play:
    """The server's part: one act for each request, in order; after the last one nothing is answered."""

    def __init__(self, *acts: Act) -> None:
        self.acts = list(acts)
        self.times: list[float] = []

    async def __call__(self, asked: Asked, answer: Answer) -> None:
        self.times.append(trio.current_time())
        if self.acts:
            await self.acts.pop(0)(asked, answer)
        else:
            await answer.begin()
            await trio.sleep_forever()


def reply(code: int, value: Any, **fields: str) -> Act:
    async def act(asked: Asked, answer: Answer) -> None:
        await answer.send(code, value, {name.replace("_", "-"): text for name, text in fields.items()})

    return act


def stream(*events: tuple[str, Any], then: str = "stay", first: float = 0.0) -> Act:
    async def act(asked: Asked, answer: Answer) -> None:
        await answer.begin()
        await trio.sleep(first)
        for kind, object in events:
            await answer.event(kind, object)
        if then == "end":
            await answer.end()
        elif then == "cut":
            await trio.aclose_forcefully(answer.stream)
        else:
            await trio.sleep_forever()

    return act


class Seen:
    """What a reflector has reported."""

    def __init__(self) -> None:
        self.store: dict[str, str] = {}
        self.reports: list[tuple[list[str], bool]] = []
        self.changed = trio.Event()

    def __call__(self, changes: Any, is_list: bool) -> None:
        for key, one in changes:
            if one is None:
                del self.store[key]
            else:
                self.store[key] = one.value
        self.reports.append(
            ([f"{'-' if one is None else ''}{key.removeprefix('shop/')}" for key, one in changes], is_list)
        )
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not condition():
                self.changed = trio.Event()
                with trio.move_on_after(0.01):
                    await self.changed.wait()


@contextlib.asynccontextmanager
async def reflecting(
    play: Play, *, watch_list: bool = False, ordered: bool = False, timing: Timing = FAST, **more: Any
) -> AsyncIterator[tuple[FakeServer, Seen, Reflector[Thing]]]:
    async with serving(play) as server:
        seen = Seen()
        decode = msgspec.json.Decoder(Thing).decode
        features = Features(watch_list, ordered=ordered, spread=0.1)
        chance = lambda: 0.5  # noqa: E731
        made = Reflector(api_of(server), PATH, decode, seen, features=features, timing=timing, chance=chance, **more)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield server, seen, made
            nursery.cancel_scope.cancel()


def queries(server: FakeServer) -> list[tuple[bool, str | None]]:
    """Of each request: whether it is a watch, and its resourceVersion."""
    return [("watch" in one.query, one.query.get("resourceVersion")) for one in server.asked]


# 1: the first list


async def test_a_watch_list_is_one_request() -> None:
    play = Play(
        stream(
            ("ADDED", thing("a", 1)),
            ("ADDED", thing("b", 2)),
            ("BOOKMARK", bookmark(5, True)),
            ("ADDED", thing("c", 6)),
        )
    )
    async with reflecting(play, watch_list=True) as (server, seen, _):
        await seen.until(lambda: len(seen.store) == 3)
        assert seen.reports == [(["a", "b"], True), (["c"], False)]
        assert len(server.asked) == 1
        query = server.asked[0].query
        assert query.pop("timeoutSeconds") == "450"
        assert query == {
            "watch": "1",
            "sendInitialEvents": "true",
            "allowWatchBookmarks": "true",
            "resourceVersionMatch": "NotOlderThan",
            "resourceVersion": "",
        }


@pytest.mark.parametrize("code", [400, 403, 422])
async def test_a_server_that_refuses_watch_lists_is_asked_once(code: int) -> None:
    play = Play(
        reply(code, status(code, "Invalid", "sendInitialEvents is forbidden")),
        reply(200, listed(3)),
        stream(then="end"),
    )
    async with reflecting(play, watch_list=True) as (server, seen, made):
        await seen.until(lambda: len(server.asked) > 3)
        assert queries(server)[:3] == [(True, ""), (False, "0"), (True, "3")]
        assert made._features.watch_list is False


async def test_missing_rights_say_nothing_of_watch_lists() -> None:
    forbidden = reply(403, status(403, "Forbidden", "pods is forbidden: cannot watch"))
    play = Play(forbidden, stream(("BOOKMARK", bookmark(5, True))))
    async with reflecting(play, watch_list=True) as (server, _, made):
        await made.synced.wait()
        assert queries(server) == [(True, ""), (True, "")]
        assert made._features.watch_list is True


async def test_a_server_that_sends_no_end_of_the_list_is_asked_for_a_list() -> None:
    play = Play(stream(("ADDED", thing("a", 1))), reply(200, listed(3, thing("a", 1), thing("b", 2))))
    async with reflecting(play, watch_list=True) as (server, seen, made):
        await seen.until(lambda: len(seen.store) == 2)
        assert seen.reports == [(["a", "b"], True)]
        assert made._features.watch_list is False
        assert "silent for 0.1 s" in made._features.gave_up
        assert [kind for kind, _ in queries(server)][:2] == [True, False]


async def test_a_watch_list_that_trickles_is_given_up_for_pages() -> None:
    """It is never silent, and never whole."""

    async def trickles(asked: Asked, answer: Answer) -> None:
        await answer.begin()
        for number in itertools.count():
            await answer.event("ADDED", thing(f"t{number}", number))
            await trio.sleep(0.02)

    play = Play(
        trickles,
        reply(200, listed(7, thing("a", 1), more="x")),
        reply(200, listed(7, thing("b", 2))),
        stream(("ADDED", thing("c", 8))),
        reply(410, EXPIRED),
        reply(200, listed(9)),
    )
    timing = structs.replace(FAST, list_total=0.3)
    async with reflecting(play, watch_list=True, timing=timing) as (server, seen, made):
        await seen.until(lambda: len(seen.store) == 3)
        assert seen.reports == [(["a", "b"], True), (["c"], False)]
        assert [one.query.get("limit") for one in server.asked] == [None, "500", "500", None]
        assert "after 0.3 s" in made.figures.slow
        assert made._features.watch_list is True, "others may be quicker"


async def test_the_deadline_of_a_list_is_none_of_its_watch() -> None:
    timing = structs.replace(FAST, list_total=0.1)
    play = Play(stream(("BOOKMARK", bookmark(5, True))))
    async with reflecting(play, watch_list=True, timing=timing) as (server, _, made):
        await made.synced.wait()
        await trio.sleep(0.3)
        assert len(server.asked) == 1
        assert made.figures.slow == ""


# an API server that lags behind the others


async def test_a_list_is_not_older_than_what_is_known() -> None:
    """The server is told; one that has not come so far says so, and the list that follows is not from a cache."""
    play = Play(reply(504, TOO_LARGE), reply(200, listed(9, thing("a", 8))))
    async with reflecting(play, since="7") as (server, seen, made):
        assert made.version == "7"
        await seen.until(lambda: bool(seen.store))
        assert queries(server)[:2] == [(False, "7"), (False, None)]
        await seen.until(lambda: len(server.asked) > 2)
        assert made.version == "9"


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_older_list_is_not_taken_where_versions_have_an_order(ordered: bool) -> None:
    play = Play(reply(200, listed(5, thing("old", 4))), reply(200, listed(6, thing("a", 6))))
    async with reflecting(play, since="7", ordered=ordered) as (_, seen, _):
        await seen.until(lambda: bool(seen.store))
        # a list that is not from a cache is the truth, even if it is older: the server was restored
        assert seen.reports[0] == ((["a"] if ordered else ["old"]), True)


@pytest.mark.parametrize("event", [("MODIFIED", thing("a", 6, "stale")), ("BOOKMARK", bookmark(6))])
async def test_a_watch_that_goes_back_is_ended_and_the_truth_is_listed(event: tuple[str, Any]) -> None:
    play = Play(
        reply(200, listed(3)),
        stream(("ADDED", thing("a", 8, "new")), then="end"),
        stream(event, ("MODIFIED", thing("a", 7, "stale too"))),
        reply(200, listed(9, thing("a", 8, "new"))),
    )
    async with reflecting(play, ordered=True) as (server, seen, made):
        await seen.until(lambda: len(server.asked) > 4)
        assert seen.reports == [([], True), (["a"], False), ([], True)]
        assert seen.store == {"shop/a": "new"}
        assert queries(server)[2:4] == [(True, "8"), (False, None)]
        assert made.figures.failures == 1


# lists of names


async def test_where_names_are_enough_lists_are_tables_and_watches_have_metadata() -> None:
    rows = {"metadata": {"resourceVersion": "3"}, "rows": [{"cells": ["a", "2026"], "object": None}]}

    def decode(raw: bytes | msgspec.Raw) -> Thing:
        found = json.loads(bytes(raw))
        return Thing(Meta(found["cells"][0])) if "cells" in found else msgspec.json.decode(raw, type=Thing)

    play = Play(reply(200, rows), stream(("ADDED", thing("b", 4)), ("DELETED", {"metadata": {"name": "a"}})))
    async with serving(play) as server, trio.open_nursery() as nursery:
        seen = Seen()
        made = Reflector(api_of(server), PATH, decode, seen, features=Features(True), timing=FAST, tabled=True)
        nursery.start_soon(made.run)
        await seen.until(lambda: list(seen.store) == ["shop/b"])
        assert [one.fields["accept"] for one in server.asked] == [reflector.TABLE, METADATA_ONE]
        assert server.asked[0].query == {"resourceVersion": "0", "includeObject": "None"}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("then", ["end", "cut"])
async def test_a_watch_list_that_breaks_off_says_nothing_and_is_begun_anew(then: str) -> None:
    play = Play(
        stream(("ADDED", thing("a", 1)), then=then), stream(("ADDED", thing("b", 2)), ("BOOKMARK", bookmark(5, True)))
    )
    async with reflecting(play, watch_list=True) as (_, seen, made):
        await made.synced.wait()
        assert seen.reports == [(["b"], True)]
        assert made._features.watch_list is True


async def test_nothing_there_is_a_report_too() -> None:
    for watch_list, act in ((True, stream(("BOOKMARK", bookmark(5, True)))), (False, reply(200, listed(3)))):
        async with reflecting(Play(act), watch_list=watch_list) as (_, seen, made):
            await made.synced.wait()
            assert seen.reports == [([], True)]


# 2: lists in pages


async def test_pages_are_one_list() -> None:
    pages = [
        reply(410, status(410, "Expired")),
        reply(200, listed(7, thing("a", 1), more="x")),
        reply(200, listed(7, thing("b", 2))),
    ]
    async with reflecting(Play(*pages)) as (server, seen, _):
        await seen.until(lambda: len(seen.store) == 2)
        assert seen.reports == [(["a", "b"], True)]
        asked = [
            (one.query.get("limit"), one.query.get("continue"), one.query.get("resourceVersion"))
            for one in server.asked
        ]
        # from the cache without a bound, which it ignores; after 410 in pages and not from the cache
        assert asked[:3] == [(None, None, "0"), ("500", None, None), ("500", "x", None)]


async def test_a_page_that_expired_begins_the_list_anew() -> None:
    expired = status(410, "Expired")
    expired["metadata"] = {"continue": "fresh"}
    play = Play(
        reply(200, listed(7, thing("a", 1), more="x")), reply(410, expired), reply(200, listed(9, thing("b", 8)))
    )
    async with reflecting(play) as (server, seen, made):
        await made.synced.wait()
        assert seen.reports == [(["b"], True)]
        assert "continue" not in server.asked[2].query


# 3: where a watch goes on


async def test_a_watch_goes_on_from_the_last_event_or_bookmark() -> None:
    play = Play(
        reply(200, listed(3)),
        stream(("ADDED", thing("a", 17)), then="end"),
        stream(("BOOKMARK", bookmark(40)), then="end"),
        stream(("DELETED", thing("a", 41)), then="end"),
    )
    async with reflecting(play) as (server, seen, _):
        await seen.until(lambda: len(server.asked) > 4)
        assert [version for _, version in queries(server)] == ["0", "3", "17", "40", "41"]
        assert seen.reports == [([], True), (["a"], False), (["-a"], False)]
        assert all(one.query["allowWatchBookmarks"] == "true" for one in server.asked[1:])


# 4 and 5: a version that the server does not know


@pytest.mark.parametrize(
    "act",
    [reply(410, EXPIRED), stream(("ERROR", EXPIRED)), reply(504, TOO_LARGE), stream(("ERROR", TOO_LARGE))],
    ids=["410", "410 in the stream", "504", "504 in the stream"],
)
async def test_an_unknown_version_leads_to_one_new_list(act: Act) -> None:
    play = Play(
        reply(200, listed(3, thing("a", 1), thing("b", 2))), act, reply(200, listed(9, thing("b", 2), thing("c", 8)))
    )
    async with reflecting(play) as (server, seen, _):
        await seen.until(lambda: len(server.asked) > 3)
        assert queries(server) == [(False, "0"), (True, "3"), (False, None), (True, "9")]
        # 10: what was deleted meanwhile is reported, and what is equal is not
        assert seen.reports == [(["a", "b"], True), (["-a", "c"], True)]
        assert play.times[2] - play.times[1] >= 0.01


async def test_a_server_that_knows_no_version_is_asked_less_and_less_often() -> None:
    async def forever(asked: Asked, answer: Answer) -> None:
        if "watch" in asked.query:
            await answer.begin()
            await answer.event("ERROR", EXPIRED)
            await answer.end()
        else:
            await answer.send(200, listed(100))

    play = Play(*[forever] * 1000)
    async with reflecting(play) as (server, _, made):
        await trio.sleep(0.5)
        assert len(server.asked) < 25
        with trio.fail_after(5):  # no error is shown while a list is good and its watch not yet ended
            while "too old resource version" not in made.figures.error:
                await trio.sleep(0.005)


# 6: busy and broken servers


async def test_a_busy_server_says_when() -> None:
    play = Play(
        reply(200, listed(3)),
        reply(429, status(429, "TooManyRequests"), retry_after="0"),
        reply(429, status(429, "TooManyRequests", retryAfterSeconds=0.3)),
        stream(("ADDED", thing("a", 4))),
    )
    async with reflecting(play) as (server, seen, _):
        await seen.until(lambda: "shop/a" in seen.store)
        assert queries(server) == [(False, "0"), (True, "3"), (True, "3"), (True, "3")]
        assert play.times[3] - play.times[2] >= 0.3


async def test_one_cause_is_logged_once_for_all_kinds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgemesh.kubernetes")

    async def starts(asked: Asked, answer: Answer) -> None:
        await answer.send(429, status(429, "TooManyRequests", "storage is (re)initializing"), {"retry-after": "0"})

    features = Features()
    async with serving(starts) as server, trio.open_nursery() as nursery:
        kinds = [
            Reflector(
                api_of(server), f"{PATH}{n}", msgspec.json.Decoder(Thing).decode, Seen(), features=features, timing=FAST
            )
            for n in range(5)
        ]
        for one in kinds:
            nursery.start_soon(one.run)
        with trio.fail_after(60):
            while not all(one.figures.failures > 1 for one in kinds):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert [one.message.partition(": ")[2] for one in caplog.records] == [
        "429 TooManyRequests: storage is (re)initializing"
    ]
    assert all("initializing" in one.figures.error for one in kinds)


def test_a_cause_that_comes_back_later_is_news() -> None:
    features = Features()
    assert [features.is_news("busy", now) for now in (0.0, 50.0, 100.0, 161.0)] == [True, False, False, True]
    assert features.is_news("down", 161.0)


@pytest.mark.parametrize(
    "act",
    [
        reply(500, status(500, "InternalError")),
        reply(503, b"down"),
        stream(then="cut"),
        stream(("ERROR", status(500, "x"))),
    ],
)
async def test_a_broken_server_is_not_asked_for_a_list(act: Act) -> None:
    play = Play(reply(200, listed(3)), act, act, stream(("ADDED", thing("a", 4))))
    async with reflecting(play) as (server, seen, made):
        await seen.until(lambda: "shop/a" in seen.store)
        assert queries(server) == [(False, "0"), (True, "3"), (True, "3"), (True, "3")]
        assert made.figures.failures == 2
        assert made.figures.error == ""


async def test_a_server_that_is_gone_for_a_while() -> None:
    play = Play(reply(200, listed(3)), stream())
    async with serving(play) as server, trio.open_nursery() as nursery:
        seen = Seen()
        made = Reflector(api_of(server), PATH, msgspec.json.Decoder(Thing).decode, seen, timing=FAST)
        nursery.start_soon(made.run)
        await seen.until(lambda: len(server.asked) == 2)
        server.stop()
        await seen.until(lambda: "Connection refused" in made.figures.error)
        play.acts[:] = [stream(("ADDED", thing("a", 4)))]
        async with server.again():
            await seen.until(lambda: "shop/a" in seen.store)
            assert queries(server)[-1] == (True, "3")
            assert made._api.reach.connected
        nursery.cancel_scope.cancel()


async def test_when_the_server_is_back_nobody_waits_out_a_long_pause() -> None:
    play = Play(reply(200, listed(3)), stream())
    async with serving(play) as server, trio.open_nursery() as nursery:
        seen = Seen()
        api = api_of(server)
        timing = Timing(Backoff(0.01, 60.0))
        features = Features(spread=0.01)
        made = Reflector(api, PATH, msgspec.json.Decoder(Thing).decode, seen, timing=timing, features=features)
        nursery.start_soon(made.run)
        await seen.until(lambda: len(server.asked) == 2)
        server.stop()
        await seen.until(lambda: made.figures.failures > 5)
        made._trouble.failures = 30
        failures = made.figures.failures
        await seen.until(lambda: made.figures.failures > failures)  # and now it would wait for a minute
        play.acts[:] = [reply(200, {}), stream(("ADDED", thing("a", 4)))]
        async with server.again():
            await api.get("/version")
            await seen.until(lambda: "shop/a" in seen.store)
        nursery.cancel_scope.cancel()


async def test_troubles_before_do_not_delay_the_list_after_an_unknown_version() -> None:
    broken = reply(500, status(500, "x"))
    timing = Timing(Backoff(0.02, 60.0))
    play = Play(reply(200, listed(3)), *[broken] * 6, reply(410, EXPIRED), reply(200, listed(9, thing("b", 2))))
    async with reflecting(play, timing=timing) as (_, seen, _):
        await seen.until(lambda: "shop/b" in seen.store)
        assert play.times[7] - play.times[6] >= 0.64
        assert play.times[8] - play.times[7] < 0.5


async def test_a_kind_that_the_server_does_not_know() -> None:
    async with serving(Play(reply(404, status(404, "NotFound")))) as server:
        made = Reflector(api_of(server), PATH, msgspec.json.Decoder(Thing).decode, Seen(), timing=FAST)
        with pytest.raises(ApiError, match="404"):
            await made.run()


# 7 and 8: how long, and how soon again


async def test_a_watch_ends_by_itself_after_a_random_time() -> None:
    lifetimes = []
    for chance in (0.0, 0.5, 1.0):
        async with reflecting(Play(reply(200, listed(3)))) as (server, seen, made):
            made._chance = lambda chance=chance: chance  # type: ignore[misc]
            await seen.until(lambda: len(server.asked) == 2)
            lifetimes.append(server.asked[1].query["timeoutSeconds"])
    assert lifetimes == ["300", "450", "600"]


async def test_very_short_watches_are_failures_and_those_with_events_are_not() -> None:
    short = [stream(then="end")] * 1000
    patient = structs.replace(FAST, short=5.0)  # however slow the machine is
    async with reflecting(Play(reply(200, listed(3)), *short), timing=patient) as (server, _, made):
        with trio.fail_after(10):
            while made.figures.failures <= 3:
                await trio.sleep(0.05)
        assert len(server.asked) < 20
        assert "ended at once" in made.figures.error
    events = [stream(("BOOKMARK", bookmark(4 + n)), then="end") for n in range(5)]
    async with reflecting(Play(reply(200, listed(3)), *events)) as (server, seen, made):
        await seen.until(lambda: len(server.asked) == 7)
        assert made.figures.failures == 0


def test_the_pauses_are_those_of_client_go() -> None:
    backoff = Timing().backoff
    assert [backoff.after(n, 0.0) for n in range(1, 9)] == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert backoff.after(1, 1.0) == 1.6


async def test_after_a_time_without_failures_pauses_begin_at_the_first() -> None:
    broken = reply(500, status(500, "x"))
    timing = Timing(Backoff(0.4, 10.0), forgotten=0.5, short=0.0)
    play = Play(reply(200, listed(3)), broken, broken, stream(then="end", first=0.6), broken, stream())
    async with reflecting(play, timing=timing) as (server, seen, _):
        await seen.until(lambda: len(server.asked) == 6)
        pauses = [play.times[n + 1] - play.times[n] for n in (1, 2, 4)]
        assert 0.4 <= pauses[0] < 0.8 <= pauses[1]
        assert 0.4 <= pauses[2] < 0.8


# 9: silence


async def test_a_deaf_watch_ends_where_bookmarks_are_known_to_come() -> None:
    timing = Timing(Backoff(0.01, 0.05), silence=0.1)
    play = Play(reply(200, listed(3)), stream(("BOOKMARK", bookmark(4))), stream(("ADDED", thing("a", 5))))
    async with reflecting(play, timing=timing) as (server, seen, made):
        await seen.until(lambda: "shop/a" in seen.store)
        assert [version for _, version in queries(server)] == ["0", "3", "4"]
        assert made.figures.failures == 1


async def test_a_slow_stream_is_no_silence_and_ends_at_its_time() -> None:
    async def drips(asked: Asked, answer: Answer) -> None:
        await answer.begin()
        data = json.dumps({"type": "ADDED", "object": thing("a", 5)}).encode()
        for at in range(0, len(data), 10):
            await answer.chunk(data[at : at + 10])
            await trio.sleep(0.1)  # in all longer than the silence that is allowed
        await answer.chunk(b"\n")
        await trio.sleep_forever()

    timing = Timing(Backoff(0.01, 0.05), silence=1.0, short=0.05)
    play = Play(reply(200, listed(3)), stream(("BOOKMARK", bookmark(4)), then="end"), drips)
    async with reflecting(play, timing=timing) as (server, seen, made):
        await seen.until(lambda: "shop/a" in seen.store)
        assert made.figures.failures == 0
    timing = Timing(Backoff(0.01, 0.05), shortest=0.1, longest=0.1, grace=0.1, short=0.05)
    async with reflecting(Play(reply(200, listed(3)), stream(), stream()), timing=timing) as (server, seen, made):
        await seen.until(lambda: len(server.asked) > 3)
        assert queries(server)[:3] == [(False, "0"), (True, "3"), (True, "3")]


# 10: nothing twice


async def test_an_event_that_is_known_is_not_reported_again() -> None:
    play = Play(
        reply(200, listed(3, thing("a", 1))),
        stream(
            ("ADDED", thing("a", 1)), ("MODIFIED", thing("a", 4)), ("DELETED", thing("x", 5)), ("ADDED", thing("b", 6))
        ),
    )
    async with reflecting(play) as (_, seen, made):
        await seen.until(lambda: "shop/b" in seen.store)
        assert seen.reports == [(["a"], True), (["a"], False), (["b"], False)]
        assert made.figures.objects == 2


# 11 and 12: what is asked for


async def test_only_metadata_where_that_is_enough_and_only_what_is_selected() -> None:
    play = Play(reply(200, listed(3)))
    async with reflecting(play, metadata_only=True, query={"fieldSelector": "spec.nodeName=n1"}) as (server, seen, _):
        await seen.until(lambda: len(server.asked) == 2)
        assert [one.fields["accept"] for one in server.asked] == [METADATA_LIST, METADATA_ONE]
        assert {one.query["fieldSelector"] for one in server.asked} == {"spec.nodeName=n1"}


# 13: figures


async def test_bytes_are_counted() -> None:
    play = Play(reply(200, listed(3, thing("a", 1))), stream(("ADDED", thing("b", 6))))
    async with reflecting(play) as (_, seen, made):
        await seen.until(lambda: "shop/b" in seen.store)
        events = len(json.dumps({"type": "ADDED", "object": thing("b", 6)})) + 1
        assert made.figures.received == len(json.dumps(listed(3, thing("a", 1)))) + events
        assert (made.figures.lists, made.figures.watches, made.figures.events) == (1, 1, 1)


@pytest.mark.parametrize(
    "act",
    [reply(200, b"{"), reply(200, {"items": 7}), reply(200, listed(3, {"metadata": 7}))],
    ids=["cut", "shape", "object"],
)
async def test_nonsense_withdraws_nothing(act: Act) -> None:
    play = Play(reply(200, listed(3, thing("a", 1))), reply(410, EXPIRED), act, reply(200, listed(9, thing("a", 1))))
    async with reflecting(play) as (server, seen, _):
        await seen.until(lambda: len(server.asked) > 4)
        assert seen.reports == [(["a"], True), ([], True)]


DEEP = b"[" * 5000 + b"]" * 5000


async def test_an_object_that_is_nested_too_deep_keeps_no_other_from_being_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever may write one object of a kind could otherwise end what every node hears of that kind."""

    def deep(name: str, version: int) -> bytes:
        return json.dumps({**thing(name, version), "more": 7}).encode().replace(b"7}", DEEP + b"}")

    async def event(asked: Asked, answer: Answer) -> None:
        await answer.begin()
        await answer.chunk(b'{"type": "ADDED", "object": %b}\n' % deep("c", 4))
        await answer.event("ADDED", thing("d", 5))
        await trio.sleep_forever()

    whole = b'{"metadata": {"resourceVersion": "3"}, "items": [%b, %b]}'
    play = Play(reply(200, whole % (json.dumps(thing("a", 1)).encode(), deep("b", 2))), event)
    async with reflecting(play) as (_, seen, _):
        await seen.until(lambda: len(seen.store) == 4)
        assert seen.reports == [(["a", "b"], True), (["c"], False), (["d"], False)]
        assert "nested too deep" in caplog.text


async def test_a_list_that_is_too_large_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "MOST_BYTES", 3000)
    large = thing("a", 1, "x" * 2000), thing("b", 2, "x" * 2000)

    async def pages(asked: Asked, answer: Answer) -> None:
        if "watch" in asked.query:
            await answer.begin()
            await trio.sleep_forever()
        items = large[int(asked.query.get("continue", "0")) :][: int(asked.query.get("limit", "9"))]
        more = "" if items[-1] is large[-1] else "1"
        await answer.send(200, listed(3, *items, more=more))

    async with reflecting(pages) as (server, seen, _):
        await seen.until(lambda: len(seen.store) == 2)
        asked = [one.query.get("limit", "-") for one in server.asked if "watch" not in one.query]
        assert asked == ["-", "500", "62", "7", "1", "1"]


@pytest.mark.parametrize(
    "line", [b"{\n", b'{"type": "NONE", "object": {}}\n', b'{"type": "ADDED", "object": {"metadata": 7}}\n']
)
async def test_an_event_that_makes_no_sense_ends_the_watch(line: bytes) -> None:
    async def odd(asked: Asked, answer: Answer) -> None:
        await answer.begin()
        await answer.chunk(line)
        await trio.sleep_forever()

    play = Play(reply(200, listed(3)), odd, stream(("ADDED", thing("a", 4))))
    async with reflecting(play) as (server, seen, _):
        await seen.until(lambda: "shop/a" in seen.store)
        assert queries(server) == [(False, "0"), (True, "3"), (True, "3")]
