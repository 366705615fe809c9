"""Who may read a node's pages through the API server: tokens that it vouches for, and what others cost."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import trio

from agent.admin.viewers import ReviewError, Viewers, audience

USER = "system:serviceaccount:edgemesh-system:edgemesh-viewer"


def token(node: str = "n1", sub: str = USER, signature: str = "good", **claims: Any) -> str:
    said = {"aud": [audience(node)], "sub": sub, **claims}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b'=').decode()}.{signature}"


class Server:
    """An API server that vouches for tokens whose signature is "good", each under the name that it claims."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fault = ""
        self.slow = 0.0

    async def __call__(self, token: str, wanted: str) -> str:
        self.asked.append(token)
        await trio.sleep(self.slow)
        if self.fault:
            raise ReviewError(self.fault)
        _, claims, signature = token.split(".")
        assert wanted == audience("n1")
        if not signature.startswith("good"):
            return ""
        return str(json.loads(base64.urlsafe_b64decode(claims + "==="))["sub"])


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def viewers(server: Server) -> Viewers:
    return Viewers("n1", "edgemesh-system", server, trio.current_time)


async def status(viewers: Viewers, shown: str, source: str = "10.0.0.1") -> int:
    refusal = await viewers.refusal(shown, source)
    return 200 if refusal is None else refusal.status


async def test_a_token_that_the_api_server_vouches_for_is_asked_about_once_a_minute(
    viewers: Viewers, server: Server, autojump_clock: Any
) -> None:
    assert await status(viewers, token()) == 200
    await trio.sleep(59)
    assert await status(viewers, token()) == 200
    assert len(server.asked) == 1
    await trio.sleep(2)
    assert await status(viewers, token()) == 200
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "x",
        "a.b.c",
        "a.b.c.d",
        "e30.bnVsbA.good",  # null
        "e30.W10.good",  # a list
        token("n2"),  # of another node
        token(sub="system:serviceaccount:edgemesh-system:edgemesh-agent"),
        token(sub="system:serviceaccount:default:edgemesh-viewer"),
        token(sub="system:admin"),
        token(aud="https://kubernetes.default.svc.cluster.local"),
        token(aud=None),
        token(aud={audience("n1"): 1}),
        token(more="x" * 5000),
    ],
)
async def test_what_does_not_even_claim_to_be_for_us_is_refused_without_a_question(
    viewers: Viewers, server: Server, shown: str, autojump_clock: Any
) -> None:
    assert await status(viewers, shown) == 401
    assert server.asked == []


async def test_a_forged_token_is_refused_and_asked_about_once_in_ten_seconds(
    viewers: Viewers, server: Server, autojump_clock: Any
) -> None:
    forged = token(signature="forged")
    assert [await status(viewers, forged) for _ in range(20)] == [403] * 20
    assert len(server.asked) == 1
    await trio.sleep(11)
    assert await status(viewers, forged) == 403
    assert len(server.asked) == 2


async def test_a_token_of_another_user_whose_claims_lie_is_refused(
    server: Server, viewers: Viewers, autojump_clock: Any
) -> None:
    async def another(shown: str, wanted: str) -> str:
        return "system:serviceaccount:shop:till"

    viewers._review = another
    assert await status(viewers, token()) == 403


async def test_the_api_server_is_asked_seldom_however_many_tokens_come(
    viewers: Viewers, server: Server, autojump_clock: Any
) -> None:
    found = [await status(viewers, token(signature=f"forged{n}")) for n in range(100)]
    assert found == [403] * 5 + [429] * 95
    # another source, such as the API server's, has turns of its own
    assert await status(viewers, token(), "10.0.0.2") == 200
    await trio.sleep(1)
    assert [await status(viewers, token(signature=f"later{n}")) for n in range(2)] == [403, 429]


async def test_all_sources_together_are_limited_too(viewers: Viewers, server: Server, autojump_clock: Any) -> None:
    for n in range(200):
        await viewers.refusal(token(signature=f"forged{n}"), f"10.0.{n}.1")
    assert len(server.asked) == 10


async def test_hosts_of_one_ipv6_network_are_one_source(viewers: Viewers, server: Server, autojump_clock: Any) -> None:
    for n in range(50):
        await viewers.refusal(token(signature=f"forged{n}"), f"fd00::{n:x}")
    assert len(server.asked) == 5


async def test_what_is_remembered_is_bounded(viewers: Viewers, server: Server, autojump_clock: Any) -> None:
    for n in range(2000):
        await viewers.refusal(token(signature=f"{'good' if n % 2 else 'bad'}{n}"), f"10.{n % 250}.{n // 250}.1")
        await trio.sleep(1)
    assert len(server.asked) == 2000
    assert len(viewers._good) <= 128
    assert len(viewers._bad) <= 128
    assert len(viewers._sources) <= 256


async def test_one_token_on_many_connections_is_one_question(
    viewers: Viewers, server: Server, autojump_clock: Any
) -> None:
    server.slow = 1.0
    found: list[int] = []

    async def ask() -> None:
        found.append(await status(viewers, token()))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert found == [200] * 3
    assert len(server.asked) == 1


async def test_without_the_api_server_nobody_new_is_admitted(
    viewers: Viewers, server: Server, autojump_clock: Any
) -> None:
    assert await status(viewers, token(signature="good1")) == 200
    server.fault = "it is gone"
    assert await status(viewers, token(signature="good1")) == 200  # it was vouched for within the minute
    refusal = await viewers.refusal(token(), "10.0.0.1")
    assert refusal is not None
    assert refusal.status == 503
    assert b"cannot be checked: it is gone" in refusal.body
    server.fault, server.slow = "", 60.0
    refusal = await viewers.refusal(token(), "10.0.0.1")
    assert refusal is not None
    assert b"did not answer within 5 s" in refusal.body
    server.slow = 0.0
    assert await status(viewers, token()) == 200  # a failure is not remembered
