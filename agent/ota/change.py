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
        # It proved well, and ended before it served; or we are told to stop in the middle.
        if before is not None:
            with contextlib.suppress(ReleaseError):
                if (releases.current(), releases.previous()) != before:
                    releases.restore(*before)
        if isinstance(error, ReleaseError | HandoverError):
            raise ChangeError(f"release {name} did not take over: {error}", still) from error
        raise
