"""Whose signatures count on this box, and how far it has come: two small files, each replaced whole or not at all.

`update/keys`: the number of the list, and raw public keys in hexadecimal, a line each. `update/epoch`: the greatest epoch that ran
here. A bundle of a smaller one is somebody's old bundle with an old hole in it, until a person asks for it by its version.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from agent.ota.bundle import BundleError, Manifest

FOLDER = "update"


class TrustError(Exception):
    """Keys or epoch cannot be read or written; the message says which file, and what to do."""


class Keys(Struct, frozen=True):
    serial: int = 0
    keys: tuple[bytes, ...] = ()  # raw public keys


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Either what was there or `data` is there afterwards, whenever the power fails. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync(path.parent)


def make(folder: Path, mode: int) -> None:
    """A directory, and those above it, that are there after a power cut too. Raises OSError."""
    if not folder.is_dir():
        make(folder.parent, mode)
        folder.mkdir(mode=mode, exist_ok=True)
        sync(folder.parent)


def sync(folder: Path) -> None:
    """Make names in a directory last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Trust:
    """The files in STATE/update."""

    def __init__(self, state: Path) -> None:
        self.folder = state / FOLDER

    def keys(self) -> Keys:
        """Raises TrustError."""
        path = self.folder / "keys"
        try:
            first, *lines = path.read_text("ascii").split()
            found = Keys(int(first), tuple(bytes.fromhex(line) for line in lines))
        except FileNotFoundError:
            return Keys()
        except (OSError, ValueError) as error:
            raise TrustError(f"{path}: {error}; edgemesh update trust writes it anew") from error
        if any(len(key) != 32 for key in found.keys):
            raise TrustError(f"{path}: a line is no key; edgemesh update trust writes it anew")
        return found

    def write(self, keys: Keys) -> None:
        """Raises OSError."""
        make(self.folder, 0o700)
        write_whole(self.folder / "keys", "".join(f"{word}\n" for word in (keys.serial, *(key.hex() for key in keys.keys))).encode())

    def epoch(self) -> int:
        """Raises TrustError: an epoch that cannot be read must not pass for none."""
        path = self.folder / "epoch"
        try:
            return int(path.read_text("ascii"))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise TrustError(f"{path}: {error}; write the number of the release that runs into it") from error

    def came_to(self, manifest: Manifest) -> None:
        """A release has proved well: its epoch counts, and its list of keys when that is a newer one. Raises OSError, TrustError."""
        make(self.folder, 0o700)
        if manifest.epoch > self.epoch():
            write_whole(self.folder / "epoch", f"{manifest.epoch}\n".encode())
        if manifest.keys and manifest.key_serial > self.keys().serial:
            self.write(Keys(manifest.key_serial, tuple(map(bytes.fromhex, manifest.keys))))

    def admit(self, manifest: Manifest, running: int, by_name: str = "") -> None:
        """May this box change to it? `running`: the epoch that it runs; `by_name`: the version that a person asked for.

        Raises BundleError, TrustError.
        """
        if manifest.minimum > running:
            raise BundleError(
                f"edgemesh {manifest.version} can be taken from epoch {manifest.minimum} on, and this box runs {running}: take a release between first"
            )
        reached = max(self.epoch(), running)  # whoever was killed before he wrote it down
        if manifest.epoch < reached and by_name != manifest.version:
            raise BundleError(
                f"edgemesh {manifest.version} (epoch {manifest.epoch}) is older than what ran here (epoch {reached}); to go back to it, say --downgrade {manifest.version}"
            )
