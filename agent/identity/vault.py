"""What a node keeps of its identity on disk: its certificates with their keys, the roots it believes, and where its authority is.

One file for each certificate holds key and chain together, so that no stop tears them apart, with a digest, since cheap flash rots.
Files are replaced whole and only when they changed (see folder.py), so whenever the power fails the older or the newer is there.
What cannot be read is left out with a Problem: the keeper asks for it anew. Nothing here needs a library of certificates.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from agent.identity.folder import Folder, FolderError
from agent.identity.protocol import Bundle
from nodeproxy.credentials import Credentials
from policy.model import Problem, Where

_S = TypeVar("_S", bound=Struct)

FOLDER = "identity"  # in the state directory
JOINED = "joined.json"
BUNDLE = "bundle.json"
_PAIR = ".pair"
_MOST = 1024 * 1024  # bytes of one file: a pair has 2 KiB
_NAME = 80  # characters of an identity in the name of its file
_DAY = 86400.0

_OPEN = "could be read by others; it is ours alone now"
_OPENED = "if others use this box, revoke the certificates of this node and enrol it anew: edgemesh join --again"


class Joined(Struct, frozen=True):
    """Which mesh this node belongs to."""

    authority: str  # HOST:PORT
    node: str
    version: int = 1


class Pair(Struct, frozen=True):
    """A certificate with its key. `root`: fingerprint of the root that it leads to."""

    credentials: Credentials
    root: str


class _Envelope(Struct, frozen=True):
    """What every file holds."""

    digest: str
    content: msgspec.Raw


class VaultError(Exception):
    """The folder is not to be used; the message says why and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Vault:
    """One node's folder. `open`, then `load` once, then keep and drop. Everything here blocks on the disk."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = Folder(state_dir / FOLDER)
        self._problems: dict[str, Problem] = {}  # by file name
        self._written: dict[str, str] = {}  # digest by file name
        self._bundle: Bundle | None = None  # that is on the disk

    def __repr__(self) -> str:
        return f"<Vault {self.folder.path}>"

    @property
    def problems(self) -> list[Problem]:
        return sorted(self._problems.values())

    def open(self) -> None:
        """Make the folder, or see that it is ours alone. Raises VaultError."""
        path = self.folder.path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.lstat()
        except OSError as error:
            raise VaultError(f"{path} cannot be made: {error.strerror}", "run as root, or set another state directory") from error
        if not stat.S_ISDIR(found.st_mode):
            raise VaultError(f"{path} is no folder", "keys of this node belong there; move away what is in its place")
        if found.st_uid != os.geteuid():
            raise VaultError(
                f"{path} belongs to user {found.st_uid}, and edgemesh runs as {os.geteuid()}", f"if it should be ours: chown -R {path}"
            )
        if found.st_mode & 0o077:
            try:
                path.chmod(0o700)
            except OSError as error:
                raise VaultError(
                    f"{path} could be read by others, and that cannot be changed: {error.strerror}", f"chmod 700 {path}"
                ) from error
            self._tell("", _OPEN, _OPENED)

    def load(self) -> tuple[Joined | None, Bundle | None, list[Pair]]:
        """What was kept. What cannot be used is left out, and a Problem."""
        try:
            names = sorted(os.listdir(self.folder.path))
        except OSError as error:
            self._tell("", f"cannot be listed, so no certificate is known: {error.strerror}", "make it readable, then restart edgemesh")
            names = []
        pairs = []
        for name in names:
            if name.endswith(".new"):
                self._remove(name)  # what a stop in the middle of writing left
            elif name.endswith(_PAIR) and (pair := self._read(name, Pair)) is not None:
                if name == _name(pair.credentials.spiffe):
                    pairs.append(pair)
                else:
                    self._tell(name, f"is the file of another identity than {pair.credentials.spiffe}, and is left out", "remove it")
        self._bundle = self._read(BUNDLE, Bundle)
        return self._read(JOINED, Joined), self._bundle, pairs

    def keep(self, pair: Pair) -> None:
        """Instead of what was kept for this identity. What goes wrong is a Problem: the node runs on with what is in memory."""
        self._write(_name(pair.credentials.spiffe), pair)

    def drop(self, spiffe: str) -> None:
        """This identity runs here no more."""
        self._remove(_name(spiffe))

    def keep_bundle(self, bundle: Bundle) -> None:
        """The roots, and at most once a day, for the sake of the flash, that the authority's clock went on."""
        held = self._bundle
        if held is None or abs(bundle.now - held.now) >= _DAY or msgspec.structs.replace(bundle, now=held.now) != held:
            self._write(BUNDLE, bundle)
            self._bundle = bundle

    def keep_joined(self, joined: Joined) -> None:
        self._write(JOINED, joined)

    # files

    def _read(self, name: str, kind: type[_S]) -> _S | None:
        """None when there is no such file, or none that can be used."""
        again = "it is asked for anew; when it comes back the disk is failing"
        try:
            data = self._bytes(name)
            envelope = msgspec.json.decode(data, type=_Envelope)
            value = msgspec.json.decode(envelope.content, type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # No word of what was read: there are keys in it.
            why = error.strerror if isinstance(error, OSError) else "it is not what edgemesh wrote"
            self._tell(name, f"cannot be read, and is left out: {why}", again)
            return None
        if envelope.digest != _digest(bytes(envelope.content)):
            self._tell(name, "is damaged, and is left out", again)
            return None
        self._written[name] = envelope.digest
        return value

    def _bytes(self, name: str) -> bytes:
        path = self.folder.path / name
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise OSError(errno.EPERM, "it is not a file of ours")
            if found.st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
                self._tell(name, _OPEN, _OPENED)
            return file.read(_MOST)

    def _write(self, name: str, value: Struct) -> None:
        content = msgspec.json.encode(value)
        digest = _digest(content)
        if self._written.get(name) == digest:
            return
        try:
            self.folder.replace(name, msgspec.json.encode(_Envelope(digest, msgspec.Raw(content))))
        except FolderError as error:
            self._written.pop(name, None)
            self._problems[name] = Problem(
                "warning", Where(), "identity", str(error), "a restart will not know it; free or replace the disk"
            )
            return
        self._written[name] = digest
        self._problems.pop(name, None)

    def _remove(self, name: str) -> None:
        self._written.pop(name, None)
        self._problems.pop(name, None)
        try:
            self.folder.remove(name)
        except FolderError as error:
            self._problems[name] = Problem("warning", Where(), "identity", str(error), "remove it by hand: there may be a key in it")

    def _tell(self, name: str, what: str, hint: str) -> None:
        self._problems[name] = Problem("warning", Where(), "identity", f"{self.folder.path / name} {what}", hint)


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _name(spiffe: str) -> str:
    """Of the file: for people to read, and for each identity another one."""
    path = spiffe.partition("://")[2].partition("/")[2]
    told = re.sub(r"[^A-Za-z0-9._-]", "-", path.removeprefix("ns/").replace("/sa/", "."))[:_NAME]
    return f"{told}-{_digest(spiffe.encode())}{_PAIR}"
