"""Files that are complete at every moment: whenever the power fails, the old content or the new one is on the disk.

A file is never written in place. The new content goes to a temporary file beside it, `.NAME.new`, is flushed to the
disk, and is then renamed over the old one. The directory is flushed last, since the rename changes the directory. Modes
are set explicitly, not left to the umask. One process writes a path at a time: callers that share one hold a lock.

Every function raises OSError; then the old content is still there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Put `data` at `path`, on the disk when this returns. A symbolic link at `path` is replaced, not followed."""
    new = _temporary(path)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        new.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    sync_directory(path.parent)


def replace_link(path: Path, target: Path | str) -> None:
    """Put a symbolic link at `path`, on the disk when this returns."""
    new = _temporary(path)
    new.symlink_to(target)
    try:
        new.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    sync_directory(path.parent)


def make_directory(path: Path, mode: int) -> None:
    """Make a directory and its missing parents, all with `mode`, on the disk when this returns.

    A directory that exists keeps its mode.
    """
    if path.is_dir():
        return
    make_directory(path.parent, mode)
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if not path.is_dir():
            raise
        return  # another process made it meanwhile
    path.chmod(mode)  # restore what the umask removed
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush a directory to the disk: the names made, renamed or removed in it before."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    """Return the name for the new content. Remove what a crash left there, or a link that another user laid there."""
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    return new
