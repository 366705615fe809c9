"""The kernel has none just now: each call of each task of the daemon fails once, and the daemon lives on and does its work."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.admin.listener import AdminSocket
from agent.config.schema import AuthorityConfig
from agent.config.settings import Settings
from agent.daemon import leader
from agent.daemon import node as app
from agent.daemon.node import Node
from agent.http import server
from agent.identity.authority import ca
from agent.identity.authority.state import AuthorityState
from agent.sources.directory import ManifestDirectory
from agent.store.disk import LAST_GOOD
from agent.system import memory
from nodeproxy import housekeeping
from nodeproxy.backoff import Backoff
from tests.agent.conftest import MANIFESTS
from tests.agent.daemon.conftest import FakeCapture
from tests.agent.lacks import Lacks

NUMBERS = (errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN, errno.EINTR, errno.ENFILE)


class Life:
    """One daemon: with an authority, metrics, a service manager that watches over it, an access log; from its start to its end."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.manifests = path / "manifests"
        self.manifests.mkdir()
        (self.manifests / "shop.yaml").write_text(MANIFESTS)
        AuthorityState(path / "state" / "authority", time.time).create(
            ca.make_root("cluster.local", time.time(), 1 << 120), "cluster.local"
        )
        self.settings = Settings(
            {
                "node": "edge-1",
                "state_dir": str(path / "state"),
                "admin_socket": str(path / "admin"),
                "metrics_address": "127.0.0.1:0",
                "access_log": "all",
                "authority": AuthorityConfig(listen="127.0.0.1:0"),
            }
        )
        self.ended = False

    async def live(self, lacks: Lacks) -> None:
        """Everything that a daemon does by itself, while `lacks` listens; raises where it does not do it in the end."""
        node = Node([ManifestDirectory(self.manifests)], self.settings, hold_authority=True)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                admin = AdminSocket(self.path / "admin")
                with lacks():
                    nursery.start_soon(self._run, node, admin)
                    await until(lambda: node.published is not None and node.published.number >= 1)
                    await until(lambda: node.membership.keeper.node() is not None)
                    record(node)
                    assert b"edge-1" in await ask(self.path / "admin", b"/status")
                    with (self.manifests / "more.yaml").open("w") as file:
                        file.write("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: more, namespace: shop}\n")
                    await until(lambda: node.published is not None and node.published.objects > MANIFESTS.count("---"))
                    await until(lambda: (self.path / "state" / LAST_GOOD).exists() or node.store.problems)
                # What was asked for once more is done.
                assert not self.ended, "the daemon ended"
                assert b"edge-1" in await ask(self.path / "admin", b"/status")
                assert node.settled
                nursery.cancel_scope.cancel()

    async def _run(self, node: Node, admin: AdminSocket) -> None:
        try:
            await node.run(admin)
        finally:
            self.ended = True
            with trio.CancelScope(shield=True):
                admin.close()


async def until(condition: Any) -> None:
    while not condition():
        await trio.sleep(0.01)


async def ask(path: Path, page: bytes) -> bytes:
    """Until it is answered: whoever is not, asks again."""
    while True:
        data = b""
        try:
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(b"GET " + page + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                async for piece in stream:
                    data += piece
        except (OSError, trio.BrokenResourceError):
            pass
        if data.startswith(b"HTTP/1.1 200"):
            return data
        await trio.sleep(0.02)


def record(node: Node) -> None:
    from tests.agent.telemetry.test_access_log import record as made

    node.sinks.take(made())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "CaptureManager", FakeCapture)
    monkeypatch.setattr(leader, "_SETTLED", 0.0)
    monkeypatch.setattr(housekeeping, "_PAUSE", Backoff(0.02, 60.0))
    monkeypatch.setattr(server, "_REQUEST_TIMEOUT", 0.5)  # of an answer that the kernel did not take
    monkeypatch.setattr(gc, "freeze", lambda: None)  # these daemons end before we do


@pytest.mark.slow
async def test_no_lack_of_the_kernels_ends_the_daemon_or_its_work(tmp_path: Path, quick: None, capfd: Any) -> None:
    whole = Lacks()
    await Life(tmp_path / "whole").live(whole)
    places = sorted(whole.seen)
    functions = {place.function for place in places}
    assert {"_accept", "dup", "open", "fsync", "start_new_thread", "register", "send", "recv", "write"} <= functions, (
        functions
    )
    ended = []
    for number, (place, lack) in enumerate(zip(places, itertools.cycle(NUMBERS), strict=False)):
        try:
            await Life(tmp_path / str(number)).live(Lacks(place, lack))
        except (Exception, BaseExceptionGroup) as error:
            ended.append(f"{place} {errno.errorcode[lack]}: {error!r}")
    assert not ended, "\n".join(ended)


async def test_memory_of_the_start_that_cannot_be_given_back_is_kept(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def give_back() -> None:
        tried.append(1)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc/self/maps")

    monkeypatch.setattr(memory, "give_back", give_back)
    await Life(tmp_path / "life").live(Lacks())
    assert tried
