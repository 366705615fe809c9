"""Events: bounded in number, and never worth a failure."""

from __future__ import annotations

from typing import Any

import trio

from agent.kubernetes.api import ApiError, ApiUnreachable
from agent.kubernetes.events import BURST, EACH, Events

POD = {"kind": "Pod", "apiVersion": "v1", "namespace": "edgemesh-system", "name": "agent-a", "uid": "1"}


class Server:
    def __init__(self) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self.error:
            raise self.error
        self.made.append((path, body))
        return body


async def test_an_event_says_what_happened_to_what() -> None:
    server = Server()
    assert await Events(server, "n-a").tell(POD, "NotOnThisNode", "x" * 5000)  # type: ignore[arg-type]
    ((path, event),) = server.made
    assert path == "/api/v1/namespaces/edgemesh-system/events"
    assert event["involvedObject"] == POD
    assert event["source"] == {"component": "edgemesh", "host": "n-a"}
    assert (event["type"], event["reason"], len(event["message"])) == ("Warning", "NotOnThisNode", 1024)
    assert event["metadata"]["name"].startswith("agent-a.")


async def test_they_are_bounded_and_come_back(autojump_clock: object) -> None:
    server = Server()
    events = Events(server, "n-a")  # type: ignore[arg-type]
    written = [await events.tell(POD, "Why", "what") for _ in range(BURST + 5)]
    assert written == [True] * BURST + [False] * 5
    assert events.dropped == 5
    await trio.sleep(EACH)
    assert await events.tell(POD, "Why", "what")
    assert not await events.tell(POD, "Why", "what")


async def test_a_failure_to_write_one_is_no_failure() -> None:
    server = Server()
    for error in (ApiError(403, "Forbidden", "no"), ApiUnreachable("gone")):
        server.error = error
        assert not await Events(server, "n-a").tell(POD, "Why", "what")  # type: ignore[arg-type]


async def test_one_of_an_object_without_a_namespace_is_in_default() -> None:
    server = Server()
    await Events(server, "n-a").tell({"kind": "Node", "name": "n-a"}, "Why", "what")  # type: ignore[arg-type]
    assert server.made[0][0] == "/api/v1/namespaces/default/events"
