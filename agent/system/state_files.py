"""State files: whatever is at their path must not block the reader, and is trusted only if it is as written."""

from __future__ import annotations

import errno
import os
import stat
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

MAX_BYTES = 64 * 1024 * 1024
# what reading and decoding such a file may raise
UNREADABLE = (
    OSError,
    ValueError,
    msgspec.MsgspecError,
    RecursionError,
)
_MARK = b'{"digest"'


class NotAFileError(OSError):
    """The path is no regular file, or the file is too large; `strerror` says which."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(0, why, str(path))


class DamagedError(ValueError):
    """The content is not what was written."""

    def __init__(self) -> None:
        super().__init__("it is damaged; when that comes again the disk is failing")


class _Envelope(Struct, frozen=True):
    digest: str
    content: msgspec.Raw


def read(path: Path, most: int = MAX_BYTES) -> bytes:
    """Return all of a regular file. Never blocks, as open(2) of a named pipe would.

    Raise OSError: FileNotFoundError when there is no file.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise NotAFileError(path, f"it is larger than {most >> 20} MiB and was not written by edgemesh")
        return read_from(file, most)


def read_from(file: BinaryIO, most: int) -> bytes:
    """Read as `file.read` does. Raise BlockingIOError for a kernel file that looks regular and has no data just now."""
    data: bytes | None = file.read(most)
    if data is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return data


def opened(path: Path, flags: int = 0) -> BinaryIO:
    """Open a regular file for reading. Raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)  # os.fdopen would leave the descriptor of a directory open
    raise NotAFileError(path, "it is no file")


def seal(content: bytes) -> bytes:
    """Return JSON with its digest: cheap flash rots, and a name with one wrong letter would be trusted."""
    return msgspec.json.encode(_Envelope(digest_of(content), msgspec.Raw(content)))


def unseal(data: bytes) -> bytes:
    """Return what was sealed. Raise what UNREADABLE lists.

    The content that an earlier release wrote has no digest and is returned as it is.
    """
    if not data.startswith(_MARK):
        return data
    envelope = msgspec.json.decode(data, type=_Envelope)
    content = bytes(envelope.content)
    if envelope.digest != digest_of(content):
        raise DamagedError
    return content


def digest_of(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def why(error: BaseException) -> str:
    """Return what an error of UNREADABLE says, without the path and without any content of the file."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, DamagedError) else "it is not what edgemesh wrote"
