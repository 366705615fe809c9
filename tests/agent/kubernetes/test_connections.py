"""connections.py: connections are kept for a while, files are read again, and what breaks is said in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from agent.kubernetes import connections
from agent.kubernetes.access import Access, AccessError, Material
from agent.kubernetes.connections import BROKEN, Connections, in_words
from nodeproxy.errors import Refused
from tests.agent.kubernetes.fake import Answer, Asked, api_of, serving


async def echo(asked: Asked, answer: Answer) -> None:
    await answer.send(200, {})


async def test_the_token_is_read_again_each_minute(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    async with serving(echo) as server:
        kube = api_of(server, token=Material(file=token))
        await kube.get("/x")
        token.write_text("two")
        await kube.get("/x")
        kube._connections._read_at -= 61
        await kube.get("/x")
        token.unlink()  # while it is replaced, the one before serves
        kube._connections._read_at -= 61
        await kube.get("/x")
        assert [one.fields["authorization"][7:] for one in server.asked] == ["one", "one", "two", "two"]


def test_a_token_that_was_never_there(tmp_path: Path) -> None:
    made = Connections(Access("x", 1, "a test", token=Material(file=tmp_path / "token")), trio.open_tcp_stream)
    with pytest.raises(AccessError, match="cannot be read"):
        assert made.token


async def test_few_connections_are_kept_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(echo) as server:
        made = Connections(Access("127.0.0.1", server.port, "a test", plain=True), trio.open_tcp_stream)
        streams = [await made.open() for _ in range(3)]
        for stream in streams:
            await made.give_back(stream, True)
        assert await made.kept() is streams[1]
        monkeypatch.setattr(connections, "_IDLE", 0.0)
        assert await made.kept() is None
        await made.give_back(streams[1], False)
        await made.aclose()


async def test_a_server_that_does_not_shake_hands(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def never(host: str, port: int) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    made = Connections(Access("x", 1, "a test"), never)
    with pytest.raises(BROKEN) as caught:
        await made.open()
    assert in_words(caught.value) == "no connection within 10 s"


def test_what_broke_in_words() -> None:
    assert in_words(OSError(111, "x")) == "Connection refused"
    assert in_words(Refused("upstream-broken", "it is no HTTP")) == "it is no HTTP"
    assert in_words(trio.ClosedResourceError()) == "the connection broke"
    several = OSError("all attempts failed")
    several.__cause__ = ExceptionGroup("", [OSError(111, "x"), OSError(113, "x"), OSError(111, "x")])
    assert in_words(several) == "Connection refused, No route to host"
