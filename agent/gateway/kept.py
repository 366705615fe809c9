"""What was read of Secrets, kept for a start without the API server: one file that nobody else may read.

The state directory holds the keys of this node's workloads already. A file that others could read, or that is damaged,
is not used. Only the daemon that leads writes.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.gateway.content import MOST, MOST_BYTES, Followed, Ref
from agent.system import state_files
from agent.system.files import replace_file

log = logging.getLogger("edgemesh.gateway")

FILE = "gateway.json"  # in the state directory
_MOST_BYTES = 16 * MOST_BYTES  # of the file


class _One(Struct, frozen=True):
    ref: Ref
    content: dict[str, bytes]


class Kept:
    """The file. `save` writes only what has changed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._written = b""

    def __repr__(self) -> str:
        return f"<Kept {self._path}>"

    def load(self) -> dict[Ref, Followed]:
        """Return what an earlier run has read; nothing if there is no file that is as we wrote it."""
        try:
            with state_files.opened(self._path, os.O_NOFOLLOW) as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    log.warning("%s could be read by others, and is not used: renew the keys in it", self._path)
                    return {}
                data = state_files.read_from(file, _MOST_BYTES)
            found = msgspec.json.decode(state_files.unseal(data), type=list[_One])
        except FileNotFoundError:
            return {}
        except state_files.UNREADABLE as error:
            log.warning("%s is not used: %s", self._path, state_files.why(error))
            return {}
        self._written = data
        return {one.ref: Followed(one.content, "") for one in found[:MOST]}

    def save(self, known: Mapping[Ref, Followed]) -> None:
        """Keep what was read. What cannot be written is logged: the daemon runs on."""
        kept = [_One(ref, dict(one.content)) for ref, one in sorted(known.items()) if one.content is not None]
        data = state_files.seal(msgspec.json.encode(kept))
        if data == self._written or len(data) > _MOST_BYTES:
            return
        try:
            if kept:
                replace_file(self._path, data, 0o600)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
            return
        self._written = data
