"""The daemon's part of an update: what is staged takes over and becomes the installed one, or nothing changes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agent.admin.daemon import UpdateError
from agent.daemon.handover import HandoverError
from agent.daemon.update import take_up
from agent.ota.releases import PROGRAM, Releases
from tests.agent.ota.made import file, manifest


class FakeDaemon:
    """agent.daemon.node.Node as far as an update asks it. `hands`: what its handing over does with `commit`."""

    def __init__(self, state: Path) -> None:
        self.config = SimpleNamespace(state_dir=str(state))
        self.version = "1.0"
        self.commands: list[list[str]] = []
        self.hands: Callable[[Callable[[str], None]], Any] = self.good

    async def hand_over(self, command: Sequence[str], commit: Callable[[str], None]) -> str:
        self.commands.append(list(command))
        await trio.lowlevel.checkpoint()
        version: str = await self.hands(commit)
        return version

    async def good(self, commit: Callable[[str], None]) -> str:
        await trio.to_thread.run_sync(commit, "2.0")
        return "2.0"


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    return FakeDaemon(tmp_path)


def stage(releases: Releases, version: str) -> str:
    data = f"#!/bin/sh\n# {version}\n".encode()
    return releases.stage(io.BytesIO(data), file("x86_64", data), manifest(version, 1, {"x86_64": data}))


@pytest.fixture
def installed(releases: Releases) -> tuple[str, str]:
    """(current, previous)"""
    for version in ("0.9", "1.0"):
        releases.switch(stage(releases, version))
    return releases.current(), releases.previous()


def links(releases: Releases) -> tuple[str, str]:
    return releases.current(), releases.previous()


async def test_it_takes_over(releases: Releases, daemon: Any, installed: tuple[str, str]) -> None:
    name = stage(releases, "2.0")
    assert await take_up(daemon, name) == "2.0"
    assert links(releases) == (name, installed[0])
    assert daemon.commands == [[str(releases.folder / name / PROGRAM)]]


@pytest.mark.parametrize("name", ["", "gone", "../x", "/bin/sh", "."])
async def test_what_is_no_release_is_not_started(
    releases: Releases, daemon: Any, installed: tuple[str, str], name: str
) -> None:
    with pytest.raises(UpdateError) as caught:
        await take_up(daemon, name)
    assert caught.value.hint == "edgemesh 1.0 goes on as before"
    assert daemon.commands == []


async def test_what_was_altered_since_is_not_started(
    releases: Releases, daemon: Any, installed: tuple[str, str]
) -> None:
    name = stage(releases, "2.0")
    (releases.folder / name / PROGRAM).write_bytes(b"#!/bin/sh\n# altered\n")
    with pytest.raises(UpdateError, match="damaged"):
        await take_up(daemon, name)
    assert daemon.commands == []


async def test_one_that_does_not_prove_well_changes_nothing(
    releases: Releases, daemon: Any, installed: tuple[str, str]
) -> None:
    async def bad(commit: Callable[[str], None]) -> str:
        raise HandoverError("it ended with exit code 3")

    daemon.hands = bad
    with pytest.raises(UpdateError, match=r"did not take over: it ended with exit code 3"):
        await take_up(daemon, stage(releases, "2.0"))
    assert links(releases) == installed


async def test_one_that_ends_after_it_proved_well_is_taken_back(
    releases: Releases, daemon: Any, installed: tuple[str, str]
) -> None:
    async def ends(commit: Callable[[str], None]) -> str:
        commit("2.0")
        assert releases.current() != installed[0]
        raise HandoverError("it ended")

    daemon.hands = ends
    with pytest.raises(UpdateError):
        await take_up(daemon, stage(releases, "2.0"))
    assert links(releases) == installed


async def test_one_that_ends_where_nothing_was_installed(releases: Releases, daemon: Any) -> None:
    async def ends(commit: Callable[[str], None]) -> str:
        commit("2.0")
        raise HandoverError("it ended")

    daemon.hands = ends
    with pytest.raises(UpdateError):
        await take_up(daemon, stage(releases, "2.0"))
    assert links(releases) == ("", "")


async def test_a_stop_in_the_middle_takes_it_back(releases: Releases, daemon: Any, installed: tuple[str, str]) -> None:
    """Its successor is killed then, so what goes on at the next start is what ran."""
    name = stage(releases, "2.0")
    committed = trio.Event()

    async def waits(commit: Callable[[str], None]) -> str:
        commit("2.0")
        committed.set()
        await trio.sleep_forever()
        return ""

    daemon.hands = waits
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_up, daemon, name)
        await committed.wait()
        assert releases.current() == name
        nursery.cancel_scope.cancel()
    assert links(releases) == installed


async def test_a_link_that_cannot_be_moved_is_a_failure(
    releases: Releases, daemon: Any, installed: tuple[str, str]
) -> None:
    name = stage(releases, "2.0")
    (releases.folder / ".current.new").mkdir()
    with pytest.raises(UpdateError, match="did not take over"):
        await take_up(daemon, name)
    assert links(releases) == installed, "the one that can be gone back to is the same too"


async def test_links_that_cannot_be_read_are_told(releases: Releases, daemon: Any, installed: tuple[str, str]) -> None:
    (releases.folder / "current").unlink()
    (releases.folder / "current").write_text("no link")
    with pytest.raises(UpdateError):
        await take_up(daemon, installed[0])
    assert daemon.commands == []
