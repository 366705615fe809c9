"""The daemon's part of an update: a staged release takes over and is installed, or nothing changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from agent.admin.daemon import UpdateError
from agent.daemon.handover import HandoverError
from agent.ota.releases import ReleaseError, Releases

if TYPE_CHECKING:
    from agent.config.schema import NodeConfig


class Replaceable(Protocol):
    """A daemon that another one can take over from."""

    @property
    def version(self) -> str: ...
    @property
    def config(self) -> NodeConfig: ...
    async def hand_over(self, command: Sequence[str], commit: Callable[[str], None]) -> str: ...


async def take_up(daemon: Replaceable, name: str) -> str:
    """Let the release of that name take over from `daemon`. Return its version. Raise UpdateError."""
    releases = Releases(Path(daemon.config.state_dir))
    still = f"edgemesh {daemon.version} goes on as before"
    before: tuple[str, str] | None = None

    def commit(version: str) -> None:
        try:
            releases.switch(name)
        except ReleaseError as error:
            raise HandoverError(str(error)) from error

    try:
        before = releases.current(), releases.previous()
        command = await trio.to_thread.run_sync(releases.command, name)
        return await daemon.hand_over(command, commit)
    except BaseException as error:
        # It reported healthy, and ended before it served; or we are cancelled in the middle.
        if before is not None:
            with contextlib.suppress(ReleaseError):
                if (releases.current(), releases.previous()) != before:
                    releases.restore(*before)
        if isinstance(error, ReleaseError | HandoverError):
            raise UpdateError(f"release {name} did not take over: {error}", still) from error
        raise
