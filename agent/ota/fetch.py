"""A bundle from a file or over HTTP(S): resumed where it broke off, counted, not faster than asked.

What was fetched of it is kept beside until it is whole, with the server's word for which version of it that is (ETag), so that a link
that fails every few minutes gets there in the end, and no byte is paid for twice. Nothing here is believed: the signature decides.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from agent.ota.bundle import FAMILIES, MOST_FILE

_BLOCK = 1 << 16
_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 5  # times in a row without one byte more
_MOST = len(FAMILIES) * MOST_FILE + (1 << 20)


class FetchError(Exception):
    """The bundle cannot be had; the message says why. What was fetched is kept."""


class Fetched(Struct):
    path: Path
    received: int  # bytes that came over the network
    resumed: int  # bytes that had come before


def fetch(source: str, folder: Path, rate: int = 0, told: Callable[[int, int], None] = lambda done, whole: None) -> Fetched:
    """`source`: a path or a URL. `folder`: where what is fetched is kept. `rate`: bytes a second, 0 = as they come.

    `told(bytes, of how many or 0)` hears of progress. Raises FetchError.
    """
    if "://" not in source:
        path = Path(source)
        if not path.is_file():
            raise FetchError(f"{source}: there is no such file")
        return Fetched(path, 0, 0)
    if not source.startswith(("https://", "http://")):
        raise FetchError(f"{source}: only https:// and http:// are spoken")
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.glob("fetched-*"):  # of other bundles, begun and given up
            if name not in path.name:
                path.unlink()
        return _Transfer(source, folder / f"fetched-{name}", rate, told).run()
    except OSError as error:
        raise FetchError(f"{folder}: {error.strerror or error}") from error


class _Transfer:
    """One URL into one file, in as many connections as it takes."""

    def __init__(self, url: str, path: Path, rate: int, told: Callable[[int, int], None]) -> None:
        self._url, self.path, self._rate, self._told = url, path, rate, told
        self._mark = path.with_name(f"{path.name}.etag")
        self._received = 0

    def run(self) -> Fetched:
        resumed = self._have()
        failures = 0
        while True:
            before = self._received
            try:
                self._once()
                return Fetched(self.path, self._received, resumed)
            except urllib.error.HTTPError as error:
                if error.code == 416:  # it has another length now (RFC 9110 section 15.5.17)
                    self.path.unlink(missing_ok=True)
                elif error.code < 500:
                    raise FetchError(f"{self._url}: the server says {error.code} {error.reason}") from error
                reason = f"{error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", "") or error)
            failures = failures + 1 if self._received == before else 0
            if failures >= _TRIES:
                raise FetchError(f"{self._url}: {reason}; {self._have()} bytes are kept, and the next update goes on there")
            time.sleep(min(2.0**failures, 30.0) if failures else 0.2)

    def _have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _once(self) -> None:
        """One connection. Raises OSError when it broke off."""
        have = self._have()
        mark = self._mark.read_text("utf-8") if have and self._mark.exists() else ""
        if have and not mark:  # the server gave no name to that version: it may be another now
            have = 0
        request = urllib.request.Request(self._url, headers={"User-Agent": "edgemesh", "Accept-Encoding": "identity"})  # noqa: S310 - fetch looked at the scheme
        if have:
            request.add_header("Range", f"bytes={have}-")  # RFC 9110 section 14.2
            request.add_header("If-Range", mark)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            if answer.status != 206:
                have = 0
            length = answer.headers.get("Content-Length", "")
            whole = have + int(length) if length.isdigit() else 0
            if whole > _MOST:
                raise FetchError(f"{self._url}: {whole} bytes are no bundle")
            tag = answer.headers.get("ETag", "")
            self._mark.write_text("" if tag.startswith("W/") else tag)  # a weak one cannot be resumed by
            with open(self.path, "ab" if have else "wb") as out:
                self._copy(answer, out.fileno(), have, whole)

    def _copy(self, answer: http.client.HTTPResponse, out: int, have: int, whole: int) -> None:
        began, got = time.monotonic(), 0
        while block := answer.read1(_BLOCK):
            os.write(out, block)
            got += len(block)
            self._received += len(block)
            if have + got > _MOST:
                raise FetchError(f"{self._url}: it does not end")
            self._told(have + got, whole)
            if self._rate:
                time.sleep(max(0.0, got / self._rate - (time.monotonic() - began)))
        if whole and have + got < whole:
            raise ConnectionError("the connection broke off")
