"""The daemon's part of an update: a staged release takes over, and becomes the installed one; or nothing changes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from agent.handover import HandoverError
from agent.ota.releases import ReleaseError, Releases

if TYPE_CHECKING:
    from agent.status import Daemon


class ChangeError(Exception):
    """The release did not take over; the message says why, `hint` what is so now."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


async def take_up(daemon: Daemon, name: str) -> str:
    """Let the release of that name take over from `daemon`. Answers its version. Raises ChangeError."""
    releases = Releases(Path(daemon.config.state_dir))
    before = releases.current(), releases.previous()
    still = f"edgemesh {daemon.version} goes on as before"

    def commit(version: str) -> None:
        try:
            releases.switch(name)
        except ReleaseError as error:
            raise HandoverError(str(error)) from error

    try:
        command = await trio.to_thread.run_sync(releases.command, name)
        return await daemon.hand_over(command, commit)
    except (ReleaseError, HandoverError) as error:
        if releases.current() != before[0]:  # it proved well, and ended before it served
            with contextlib.suppress(ReleaseError):
                await trio.to_thread.run_sync(releases.restore, *before)
        raise ChangeError(f"release {name} did not take over: {error}", still) from error
