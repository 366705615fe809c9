"""Keys of filters, by name: files in a folder of this node, FOLDER/NAMESPACE/NAME.

A namespace's filters get keys of that namespace only. A key is read again at most once in a few seconds, so a new one is
in force without a restart. It is never shown: no log, no snapshot and no `repr` has it.
"""

from __future__ import annotations

import logging
import os
import re
import stat

import trio

log = logging.getLogger("edgemesh.http")

AGAIN = 5.0  # seconds between two reads of a key
MOST = 4096  # bytes of a key
_LEAST = 16
_KEPT = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Keys:
    """The keys in one folder; "" for none."""

    def __init__(self, folder: str = "") -> None:
        self._folder = folder
        self._read: dict[str, tuple[float, bytes | None]] = {}  # by name: when it was read, and the key

    def __repr__(self) -> str:
        return f"<Keys in {self._folder or 'no folder'}>"

    def get(self, name: str) -> bytes | None:
        """Return the key of this name, "NAMESPACE/NAME"; None if this node has none that may be used."""
        now = trio.current_time()
        when, key = self._read.get(name, (-AGAIN, None))
        if now - when < AGAIN:
            return key
        key = self._load(name)
        if len(self._read) >= _KEPT:
            self._read.clear()
        self._read[name] = now, key
        return key

    def _load(self, name: str) -> bytes | None:
        parts = name.split("/")
        if not self._folder or len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
            return None
        path = os.path.join(self._folder, *parts)
        try:
            # Not blocking: what is there may be no file
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise ValueError("it is no file")
                if found.st_mode & 0o007 or found.st_uid not in (0, os.geteuid()):
                    raise ValueError("others than its owner may read it, or it is not root's: chmod 600")
                key = file.read(MOST + 1).strip(b"\r\n")
        except (OSError, ValueError) as error:
            log.warning("key %s of a filter cannot be read: %s", path, getattr(error, "strerror", None) or error)
            return None
        if not _LEAST <= len(key) <= MOST:
            log.warning("key %s of a filter has %d bytes, and keys have %d to %d", path, len(key), _LEAST, MOST)
            return None
        return key
