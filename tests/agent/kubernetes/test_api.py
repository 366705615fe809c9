"""api.py: what a request sends and gets; refusals in words; renewed tokens; bounds; watches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.kubernetes import api
from agent.kubernetes.access import Access, Material
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of, plural
from agent.kubernetes.pace import Pace
from tests.agent.kubernetes.fake import Answer, Asked, api_of, serving, status


async def echo(asked: Asked, answer: Answer) -> None:
    await answer.send(200, {"method": asked.method, "path": asked.path})


async def test_a_request_carries_the_token_and_connections_are_kept() -> None:
    async with serving(echo) as server:
        kube = api_of(server)
        for _ in range(3):
            assert (await kube.get("/api/v1/pods", query={"a": "b c"}))["path"] == "/api/v1/pods"
        assert server.connections == 1
        asked = server.asked[0]
        assert asked.query == {"a": "b c"}
        assert asked.fields["authorization"] == "Bearer secret-token"
        assert asked.fields["user-agent"].startswith("edgemesh/")
        assert kube.reach.connected
        assert kube.reach.requests == 3
        await kube.aclose()


async def test_the_verbs() -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        await answer.send(200, asked.json if asked.body else {})

    async with serving(answers) as server:
        kube = api_of(server)
        await kube.create("/x", {"a": 1})
        await kube.replace("/x/y", {"a": 2})
        assert await kube.patch("/x/y", {"a": 3}) == {"a": 3}
        await kube.patch("/x/y/status", {"a": 4}, apply="edgemesh")
        await kube.delete("/x/y")
        said = [(one.method, one.path, one.fields.get("content-type"), one.query) for one in server.asked]
        assert said == [
            ("POST", "/x", "application/json", {}),
            ("PUT", "/x/y", "application/json", {}),
            ("PATCH", "/x/y", "application/merge-patch+json", {}),
            ("PATCH", "/x/y/status", "application/apply-patch+yaml", {"fieldManager": "edgemesh", "force": "true"}),
            ("DELETE", "/x/y", None, {}),
        ]


async def test_a_list_is_read_in_pages() -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        page = int(asked.query.get("continue", "0"))
        await answer.send(200, {"metadata": {"continue": str(page + 1) if page < 2 else ""}, "items": [{"n": page}]})

    async with serving(answers) as server:
        assert await api_of(server).list("/x") == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert {one.query["limit"] for one in server.asked} == {"500"}
        with pytest.raises(ApiUnreachable, match="more than 1 objects"):
            await api_of(server).list("/x", most=1)


async def test_a_refusal_says_why() -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        match asked.path:
            case "/status":
                details = {"causes": [{"reason": "ResourceVersionTooLarge"}]}
                await answer.send(504, status(504, "Timeout", "Too large resource version", **details))
            case "/slow":
                await answer.send(429, status(429, "TooManyRequests"), {"retry-after": "7"})
            case "/html":
                await answer.send(502, b"<html>\r\nbad gateway\x1b")
            case _:
                await answer.send(403, status(403, "Forbidden", retryAfterSeconds=2))

    async with serving(answers) as server:
        kube = api_of(server)
        for path, expected in (
            ("/status", (504, "Timeout", None, ("ResourceVersionTooLarge",))),
            ("/slow", (429, "TooManyRequests", 7.0, ())),
            ("/html", (502, "", None, ())),
            ("/x", (403, "Forbidden", 2.0, ())),
        ):
            with pytest.raises(ApiError) as caught:
                await kube.get(path)
            error = caught.value
            assert (error.status, error.reason, error.retry_after, error.causes) == expected
        assert kube.reach.failures == 4
        assert "403 Forbidden" in kube.reach.error
        with pytest.raises(ApiError, match=r"bad gateway\\x1b"):
            await kube.get("/html")


async def test_what_answers_and_is_no_api_server() -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        await answer.send(200, b"hello")

    async with serving(answers) as server:
        with pytest.raises(ApiUnreachable, match="makes no sense"):
            await api_of(server).get("/x")


async def test_a_renewed_token_is_read_on_401(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    async def answers(asked: Asked, answer: Answer) -> None:
        if asked.fields["authorization"] == "Bearer old":
            token.write_text("new\n")
            await answer.send(401, status(401, "Unauthorized"))
        elif asked.query.get("watch"):
            await answer.begin()
            await answer.end()
        else:
            await answer.send(200, {})

    async with serving(answers) as server:
        kube = api_of(server, token=Material(file=token))
        await kube.get("/x")
        assert [one.fields["authorization"] for one in server.asked] == ["Bearer old", "Bearer new"]
        token.write_text("old\n")
        kube = api_of(server, token=Material(file=token))
        async with kube.watch("/x", {"watch": "1"}) as lines:
            assert [line async for line in lines] == []


async def test_a_token_that_stays_refused_is_an_error_at_once() -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        await answer.send(401, status(401, "Unauthorized"))

    async with serving(answers) as server:
        with pytest.raises(ApiError, match="401"):
            await api_of(server).get("/x")
        assert len(server.asked) == 1


async def test_a_token_that_could_end_its_line_is_not_sent() -> None:
    async with serving(echo) as server:
        kube = api_of(server, token=Material(b"a\r\nx: y"))
        with pytest.raises(ApiUnreachable) as caught:
            await kube.get("/x")
        assert "x: y" not in str(caught.value)
        assert server.asked == []


async def test_a_connection_that_the_server_closed_meanwhile_is_no_failure() -> None:
    async with serving(echo) as server:
        kube = api_of(server)
        await kube.get("/x")
        server.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert await kube.get("/x")
        assert server.connections == 2
        assert kube.reach.failures == 0


async def test_a_post_is_never_sent_twice() -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        if asked.method == "POST":
            await trio.aclose_forcefully(answer.stream)
        else:
            await answer.send(200, {})

    async with serving(answers) as server:
        kube = api_of(server)
        await kube.get("/x")
        with pytest.raises(ApiUnreachable):
            await kube.create("/x", {})
        assert [one.method for one in server.asked] == ["GET", "POST"]


async def test_nobody_there_and_there_again() -> None:
    async with serving(echo) as server:
        pass
    kube = api_of(server, wall=lambda: 17.0)
    with pytest.raises(ApiUnreachable, match=r"http://127\.0\.0\.1:\d+ cannot be reached: Connection refused"):
        await kube.get("/x")
    assert kube.reach.connected is False
    assert (kube.reach.since, kube.reach.error_at) == (17.0, 17.0)


async def test_silence_ends_at_the_deadline() -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        await trio.sleep_forever()

    async with serving(answers) as server:
        with pytest.raises(ApiUnreachable, match=r"no answer within 0\.05 s"):
            await api_of(server).request("GET", "/x", deadline=0.05)


async def test_clients_of_one_budget_wait_for_each_other(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody listens there: what counts is when they ask."""
    pace, asked = Pace(5.0, 10), list[float]()

    async def refuse(*_: Any) -> Any:
        asked.append(trio.current_time())
        raise ConnectionRefusedError

    one, two = (ApiServer(Access("x", 1, "a test", plain=True), pace, dial=refuse) for _ in range(2))
    urgent = ApiServer(Access("x", 1, "a test", plain=True), pace, urgent=True, dial=refuse)
    began = trio.current_time()
    for kube in (one, two) * 10:
        with pytest.raises(ApiUnreachable):
            await kube.get("/x")
        with pytest.raises(ApiUnreachable):
            async with kube.watch("/x"):
                pass
    assert asked[-1] - began == pytest.approx((40 - 10) / 5.0)
    with pytest.raises(ApiUnreachable):
        await urgent.get("/x")
    assert asked[-1] == asked[-2]
    assert pace.requests == 41


async def test_a_watch_yields_lines_however_they_come() -> None:
    events = [{"type": "ADDED", "object": {"n": n, "text": "x" * n}} for n in range(40)]
    data = b"".join(json.dumps(event).encode() + b"\n" for event in events)

    async def answers(asked: Asked, answer: Answer) -> None:
        await answer.begin()
        size = int(asked.query["size"])
        for at in range(0, len(data), size):
            await answer.chunk(data[at : at + size])
        await answer.chunk(b'{"half')
        await answer.end()

    async with serving(answers) as server:
        kube = api_of(server)
        for size in (7, 100, 100_000):
            counted: list[int] = []
            async with kube.watch("/x", {"size": str(size)}, account=counted.append) as lines:
                assert [json.loads(line) async for line in lines] == events
            assert sum(counted) == len(data) + 6


async def test_a_watch_that_is_refused() -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        await answer.send(410, status(410, "Expired"))

    async with serving(answers) as server:
        with pytest.raises(ApiError) as caught:
            async with api_of(server).watch("/x"):
                pass
        assert (caught.value.status, caught.value.reason) == (410, "Expired")


@pytest.mark.parametrize("how", ["silent", "cut", "long"])
async def test_a_watch_that_dies(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_LINE", 1000)

    async def answers(asked: Asked, answer: Answer) -> None:
        await answer.begin()
        await answer.event("ADDED", {})
        if how == "cut":
            await trio.aclose_forcefully(answer.stream)
        elif how == "long":
            await answer.chunk(b"x" * 1001)
        await trio.sleep_forever()

    words = {"silent": r"silent for 0\.05 s", "cut": "middle of a body|broke|reset", "long": "larger than"}
    async with serving(answers) as server:
        kube = api_of(server)
        async with kube.watch("/x") as lines:
            lines.silence = 0.05
            assert await anext(lines)
            with pytest.raises(ApiUnreachable, match=words[how]):
                await anext(lines)
        assert kube.reach.connected is False


def test_plurals() -> None:
    kinds = ("Pod", "Gateway", "GatewayClass", "BackendTLSPolicy", "AccessControl")
    assert [plural(kind) for kind in kinds] == [
        "pods",
        "gateways",
        "gatewayclasses",
        "backendtlspolicies",
        "accesscontrols",
    ]


def test_paths() -> None:
    assert path_of("v1", "pods") == "/api/v1/pods"
    assert path_of("v1", "nodes", name="n1") == "/api/v1/nodes/n1"
    assert path_of("v1", "pods", "a/b", "../c?d") == "/api/v1/namespaces/a%2Fb/pods/..%2Fc%3Fd"
    assert path_of("v1", "pods", "shop", "https:p:1", "proxy/x") == "/api/v1/namespaces/shop/pods/https:p:1/proxy/x"
    assert path_of("apps/v1", "deployments", "shop", "store", "status") == (
        "/apis/apps/v1/namespaces/shop/deployments/store/status"
    )


def test_nothing_secret_is_shown() -> None:
    access: Any = Access("x", 1, "a test", token=Material(b"secret"), key=Material(b"secret"))
    assert "secret" not in repr(access)
    assert "secret" not in repr(ApiServer(access))


@pytest.mark.parametrize(
    ("said", "date"), [("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0), ("yesterday", 0.0), ("", 0.0)]
)
async def test_the_servers_clock(said: str, date: float) -> None:
    async def act(asked: Asked, answer: Answer) -> None:
        await answer.send(200, {}, {"date": said} if said else {})

    async with serving(act) as server:
        made = api_of(server)
        await made.get("/version")
        assert made.date == date
