"""tls.py: the server's certificate is checked by its name, a client certificate is shown, and renewed roots are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.kubernetes import connections
from agent.kubernetes.access import Access, AccessError, Material
from agent.kubernetes.api import ApiUnreachable
from agent.kubernetes.tls import context_of
from tests.agent.kubernetes.fake import Answer, Asked, api_of, certified, serving


async def ok(asked: Asked, answer: Answer) -> None:
    if asked.query.get("watch"):
        await answer.begin()
        await answer.event("ADDED", {"n": 1})
        await answer.end()
    else:
        await answer.send(200, {"path": asked.path})


async def test_a_request_and_a_watch_over_tls(tmp_path: Path) -> None:
    theirs, ours = certified("127.0.0.1"), certified("client")
    async with serving(ok, theirs.server(tmp_path, client_root=ours.root)) as server:
        kube = api_of(
            server,
            plain=False,
            roots=Material(theirs.root),
            certificate=Material(ours.chain),
            key=Material(ours.key),
        )
        for _ in range(2):
            assert await kube.get("/x") == {"path": "/x"}
        assert server.connections == 1
        async with kube.watch("/x", {"watch": "1"}) as lines:
            assert [line async for line in lines] == [b'{"type": "ADDED", "object": {"n": 1}}']


@pytest.mark.parametrize(
    ("name", "expected"), [("api.test", ""), ("other.test", "api.test"), ("127.0.0.2", "other.test")]
)
async def test_the_name_is_checked(tmp_path: Path, name: str, expected: str) -> None:
    theirs = certified(name)
    async with serving(ok, theirs.server(tmp_path)) as server:
        kube = api_of(server, plain=False, roots=Material(theirs.root), server_name=expected or name)
        if expected:
            with pytest.raises(ApiUnreachable, match="certificate does not hold"):
                await kube.get("/x")
            assert server.asked == []
        else:
            assert await kube.get("/x")


async def test_another_root_is_no_proof_and_a_renewed_one_is(tmp_path: Path) -> None:
    theirs = certified("127.0.0.1")
    roots = tmp_path / "ca.crt"
    roots.write_bytes(certified("127.0.0.1").root)
    async with serving(ok, theirs.server(tmp_path)) as server:
        kube = api_of(server, plain=False, roots=Material(file=roots))
        with pytest.raises(ApiUnreachable, match="certificate does not hold"):
            await kube.get("/x")
        assert server.asked == []
        roots.write_bytes(theirs.root)
        assert await kube.get("/x")


async def test_a_server_that_speaks_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECT", 0.1)
    async with serving(ok) as server:
        kube = api_of(server, plain=False, roots=Material(certified("x").root))
        with pytest.raises(ApiUnreachable):
            await kube.get("/x")


def test_what_is_no_certificate() -> None:
    with pytest.raises(AccessError, match="roots of the API server cannot be read"):
        context_of(Access("x", 1, "a test", roots=Material(b"none")))
    root = certified("x").root
    with pytest.raises(AccessError, match="client certificate cannot be used"):
        context_of(Access("x", 1, "a test", roots=Material(root), certificate=Material(root), key=Material(b"none")))
