"""The bearer token of a metrics scraper (RFC 6750), read from a file that is not readable by every user."""

from __future__ import annotations

import hmac
import os
import stat
import time

_SHORTEST, _LONGEST = 16, 4096  # bytes
_LOOK = 1.0  # seconds between reads of the file: a changed token counts from then on


class BearerToken:
    """The token as the file has it. While the file cannot be used, no client is admitted, and `fault` says why."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._token = b""
        self._fault = ""
        self._looked = 0.0
        self._look()

    def __repr__(self) -> str:
        return f"<BearerToken of {self._path}>"

    @property
    def fault(self) -> str:
        """Return why the file cannot be used, with its path; "" for no fault."""
        self._look()
        return self._fault

    def accepts(self, authorization: str) -> bool:
        """Return whether this `Authorization` field's value has our token. The time that it takes reveals nothing."""
        self._look()
        scheme, _, shown = authorization.partition(" ")
        same = hmac.compare_digest(shown.strip().encode(), self._token)
        return same and bool(self._token) and scheme.lower() == "bearer"

    def _look(self) -> None:
        now = time.monotonic()
        if self._looked and now - self._looked < _LOOK:
            return
        self._looked = now
        try:
            self._token, self._fault = _read(self._path), ""
        except OSError as error:
            self._token, self._fault = b"", f"{self._path}: {error.strerror}"
        except ValueError as error:
            self._token, self._fault = b"", f"{self._path} {error}"


def _read(path: str) -> bytes:
    """Read the token. Raise OSError, and ValueError for a file that keeps no secret."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is no regular file")
        if status.st_mode & stat.S_IROTH:
            raise ValueError("may be read by everybody: chmod o= it")
        token = os.read(descriptor, _LONGEST + 1).strip()
    finally:
        os.close(descriptor)
    if not _SHORTEST <= len(token) <= _LONGEST:
        raise ValueError(
            f"holds {'no' if not token else 'too short a' if len(token) < _SHORTEST else 'too long a'} token: openssl rand -hex 32 makes one"
        )
    if not all(0x21 <= byte <= 0x7E for byte in token):
        raise ValueError("holds more than one word: a token has neither spaces nor lines")
    return token
