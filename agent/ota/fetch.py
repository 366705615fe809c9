"""Get a bundle from a file or over HTTP(S): resumed where it broke off, bounded, not faster than asked.

What was fetched is kept on disk until it is complete, with the server's ETag, which names that version of the bundle.
So a link that fails every few minutes completes in the end, and no byte is paid for twice. Nothing here is trusted: the
signature decides.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from agent.ota.bundle import FAMILIES, MOST_FILE
from agent.system.files import make_directory
from nodeproxy.backoff import Backoff

_BLOCK = 1 << 16
_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 5  # tries in a row without a new byte
_PAUSE = Backoff(2.0, 30.0)  # pause between tries
_SPOKEN = ("https://", "http://")
_MOST = len(FAMILIES) * MOST_FILE + (1 << 20)


class FetchError(Exception):
    """The bundle cannot be fetched; the message says why. What was fetched is kept."""


class Fetched(Struct):
    path: Path
    received: int  # bytes that came over the network
    resumed: int  # bytes that an earlier call had received


def fetch(
    source: str, folder: Path, rate: int = 0, told: Callable[[int, int], None] = lambda done, whole: None
) -> Fetched:
    """Fetch `source`, a path or a URL, into `folder`. Raise FetchError.

    `rate`: bytes a second, 0 = unlimited. `told(bytes, total or 0)` is called with the progress.
    """
    if "://" not in source:
        path = Path(source)
        if not path.is_file():
            raise FetchError(f"{source}: there is no such file")
        return Fetched(path, 0, 0)
    if not source.startswith(_SPOKEN):
        raise FetchError(f"{source}: only https:// and http:// are spoken")
    if not source.isascii() or not source.isprintable() or " " in source:
        raise FetchError(f"{source!r}: this is no URL")
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    try:
        make_directory(folder, 0o700)
        forget(folder, but=f"fetched-{name}")  # other bundles, whose download was given up
        return _Transfer(source, folder / f"fetched-{name}", rate, told).run()
    except OSError as error:
        raise FetchError(f"{folder}: {error.strerror or error}") from error


def forget(folder: Path, but: str = "nothing") -> None:
    """Remove what was fetched, once it is installed or unusable. Raise OSError."""
    for path in folder.glob("fetched-*"):
        if not path.name.startswith(but):
            path.unlink()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https:// and http:// only.

    A redirect from https:// to http:// is followed too, since the signature decides.
    """

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(_SPOKEN):
            raise FetchError(f"{req.full_url}: it leads to {newurl[:200]}, and only https:// and http:// are spoken")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Transfer:
    """The download of one URL into one file, over as many connections as it takes."""

    def __init__(self, url: str, path: Path, rate: int, told: Callable[[int, int], None]) -> None:
        self._url, self.path, self._rate, self._told = url, path, rate, told
        self._mark = path.with_name(f"{path.name}.etag")
        self._opener = urllib.request.build_opener(_Redirects)
        self._received = 0
        self._resumed = 0

    def run(self) -> Fetched:
        self._resumed = self._have()
        failures = 0
        while True:
            before = self._received
            try:
                self._once()
                return Fetched(self.path, self._received, self._resumed)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416:
                    if self._is_whole(error.headers.get("Content-Range", "")):
                        return Fetched(self.path, self._received, self._resumed)
                    self._begin_anew()
                elif error.code < 500:
                    raise FetchError(f"{self._url}: the server says {error.code} {error.reason}") from error
                reason = f"{error.code} {error.reason}"
            except (ValueError, http.client.InvalidURL) as error:
                raise FetchError(f"{self._url}: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", "") or error)
            failures = failures + 1 if self._received == before else 0
            if failures >= _TRIES:
                raise FetchError(
                    f"{self._url}: {reason}; {self._have()} bytes are kept, and the next update goes on there"
                )
            time.sleep(_PAUSE.after(failures) if failures else 0.2)

    def _have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _is_whole(self, told: str) -> bool:
        """Return whether, after status 416, the file is complete.

        The server still has our version, or it would have answered 200 (RFC 9110 sections 13.1.5, 14.4).
        """
        return told.replace(" ", "") == f"bytes*/{self._have()}"

    def _begin_anew(self) -> None:
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)
        self._resumed = 0

    def _once(self) -> None:
        """Download over one connection. Raise OSError when it breaks off."""
        have = self._have()
        mark = self._mark.read_text("utf-8") if have and self._mark.exists() else ""
        request = urllib.request.Request(self._url, headers={"User-Agent": "edgemesh", "Accept-Encoding": "identity"})  # noqa: S310 - fetch looked at the scheme
        if have and mark:  # without an ETag the server may have another version now
            request.add_header("Range", f"bytes={have}-")  # RFC 9110 section 14.2
            request.add_header("If-Range", mark)
        with self._opener.open(request, timeout=_TIMEOUT) as answer:
            tag = answer.headers.get("ETag", "")
            if answer.status != 206:
                self._begin_anew()
                have = 0
            elif tag != mark or not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self._begin_anew()
                raise ConnectionError("the server sent another part than was asked for")
            length = answer.headers.get("Content-Length", "")
            whole = have + int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0
            if whole > _MOST:
                raise FetchError(f"{self._url}: {whole} bytes are no bundle")
            if whole - have > (free := shutil.disk_usage(self.path.parent).free):
                raise FetchError(
                    f"{self._url}: {(whole - have) >> 10} KiB are to come, and {free >> 10} are free in {self.path.parent}"
                )
            # The ETag is written after the old bytes are gone: it must never stand beside those of another version.
            self._mark.write_text("" if tag.startswith("W/") else tag, "utf-8")  # a weak ETag does not allow resuming
            with open(self.path, "ab") as out:
                self._copy(answer, out, have, whole)

    def _copy(self, answer: http.client.HTTPResponse, out: BinaryIO, have: int, whole: int) -> None:
        began, got = time.monotonic(), 0
        # a slow link is read in small pieces
        most = min(_BLOCK, max(self._rate // 4, 1024)) if self._rate else _BLOCK
        while block := answer.read1(most):
            self._received += len(block)
            got += len(block)
            if have + got > _MOST:
                self._begin_anew()
                raise FetchError(f"{self._url}: it does not end")
            try:
                out.write(block)
                out.flush()
            except OSError as error:  # another try would only pay for the bytes again
                raise FetchError(f"{self.path}: {error.strerror}") from error
            self._told(have + got, whole)
            if self._rate:
                time.sleep(max(0.0, got / self._rate - (time.monotonic() - began)))
        if whole and have + got < whole:
            raise ConnectionError("the connection broke off")
