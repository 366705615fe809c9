"""Every page of the admin API, asked of a daemon that is not running."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.admin.api import ACTIONS, SCRAPED, VIEWS, handler
from agent.admin.daemon import UpdateError
from agent.http.server import HttpRequest
from nodeproxy.telemetry.record import Record
from policy.snapshot import Snapshot


async def get(daemon: Any, path: str, *query: tuple[str, str]) -> tuple[int, Any]:
    reply = await handler(daemon)(HttpRequest(path, query))
    return reply.status, msgspec.json.decode(reply.body)


async def test_every_page_answers(daemon: Any) -> None:
    for path in VIEWS:
        if path not in ("/explain", "/refusals", "/metrics"):
            status, document = await get(daemon, path)
            assert (path, status, type(document)) == (
                path,
                200,
                list if path in ("/routes", "/connections", "/problems") else dict,
            )


async def test_a_refusal_is_found_by_its_id(daemon: Any) -> None:
    record = Record(
        "request",
        "outbound",
        0.0,
        0.0,
        None,
        "10.0.0.1",
        None,
        "",
        "10.0.0.2:80",
        "",
        "http",
        flag="peer-refused",
        id="ab" * 16,
    )
    daemon.refusals(record)
    status, (found,) = await get(daemon, "/refusals", ("id", "ab" * 16))
    assert (status, found["node"], found["refused_by"], found["flag"]) == (
        200,
        "edge-1",
        "the other node",
        "peer-refused",
    )
    status, document = await get(daemon, "/refusals", ("id", "0" * 32))
    assert (status, "ask the other nodes" in document["hint"]) == (404, True)


async def test_before_the_first_build_nothing_is_pretended(daemon: Any) -> None:
    daemon.published, daemon.state, daemon.settled = None, "starting", False
    for path in ("/ready", "/routes", "/snapshot", "/explain"):
        assert (await get(daemon, path))[0] == 503
    status, document = await get(daemon, "/status")
    assert (status, document["mode"], document["workloads"]) == (200, "starting", [])


async def test_ready(daemon: Any) -> None:
    assert await get(daemon, "/ready") == (200, {"ready": True})
    daemon.state = "starting"
    status, document = await get(daemon, "/ready")
    assert (status, document["error"]) == (503, "starting: the node's workloads are not all captured yet")
    daemon.state = "degraded"
    status, document = await get(daemon, "/ready")
    assert (status, document["error"]) == (503, "degraded: a workload of this node is not captured")


async def test_problems(daemon: Any, problem: Any) -> None:
    daemon.problems = [problem]
    assert (await get(daemon, "/problems"))[1] == [
        {
            "severity": "error",
            "file": "/etc/edgemesh/shop.yaml",
            "line": 12,
            "object": "TrafficTarget shop/buying",
            "message": "unknown field spec.sourcs",
            "hint": "did you mean sources?",
            "unmet": False,
        }
    ]


async def test_the_snapshot_is_its_own_bytes(daemon: Any) -> None:
    reply = await handler(daemon)(HttpRequest("/snapshot"))
    assert msgspec.json.decode(reply.body, type=Snapshot) == daemon.published.snapshot


async def test_explain(daemon: Any) -> None:
    query = [("src", "shop/buyer"), ("dst", "workload:shop/store-v1"), ("path", "/buy"), ("method", "GET")]
    status, document = await get(daemon, "/explain", *query)
    assert (status, document["allowed"], document["rule"]) == (200, True, "TrafficTarget shop/buying")
    status, document = await get(daemon, "/explain", ("src", "shop/nobody"), ("dst", "store"))
    assert (status, document["error"]) == (404, "there is no workload 'shop/nobody'")
    assert "shop/buyer" in document["hint"]


async def test_metrics_and_what_a_scraper_may_ask(daemon: Any) -> None:
    public = handler(daemon, SCRAPED)
    reply = await public(HttpRequest("/metrics"))
    assert reply.content_type.startswith("text/plain")
    assert b"process_cpu_seconds_total" in reply.body
    reply = await public(HttpRequest("/snapshot"))
    assert (reply.status, msgspec.json.decode(reply.body)["hint"]) == (404, "there are /metrics /ready")


# what changes something


async def post(daemon: Any, path: str, *query: tuple[str, str]) -> tuple[int, Any]:
    reply = await handler(daemon, actions=tuple(ACTIONS))(HttpRequest(path, query, "POST"))
    return reply.status, msgspec.json.decode(reply.body)


async def test_an_update_is_asked_for_by_post(daemon: Any) -> None:
    asked = []

    async def update(name: str) -> str:
        asked.append(name)
        if name == "bad":
            raise UpdateError("release bad did not take over: it ended", "edgemesh 0.1.0 goes on as before")
        return "2.0"

    daemon.update = update
    assert await post(daemon, "/update", ("release", "2.0-abc")) == (200, {"version": "2.0"})
    expected = {"error": "release bad did not take over: it ended", "hint": "edgemesh 0.1.0 goes on as before"}
    assert await post(daemon, "/update", ("release", "bad")) == (409, expected)
    await post(daemon, "/update")
    assert asked == ["2.0-abc", "bad", ""]


async def test_nothing_else_is_done_by_post_and_nothing_by_get(daemon: Any) -> None:
    for path in (*VIEWS, "/", "/Update", "/update/"):
        assert (await post(daemon, path))[0] == 405
    assert (await get(daemon, "/update"))[0] == 404


async def test_nobody_changes_anything_where_everybody_may_ask(daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTIONS, "/update", None)  # type: ignore[arg-type]  # it would be called
    for answer in (handler(daemon, SCRAPED), handler(daemon)):
        assert (await answer(HttpRequest("/update", method="POST"))).status == 405
