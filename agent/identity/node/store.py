"""What a node keeps of its identity on disk: its certificates and keys, the trusted roots, the authority's address.

One file for each certificate holds key and chain together, so that no crash separates them, with a digest, since cheap
flash rots. Files are replaced whole and only when they changed (see folder.py), so after a power failure the older or
the newer file is there. A file that cannot be read is left out with a Problem: manager.py requests its certificate
again. Nothing here needs a certificate library.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from agent.identity.folder import Folder, FolderError
from agent.identity.protocol import Bundle
from agent.system import state_files
from agent.system.state_files import digest_of
from nodeproxy.tls.credentials import Credentials
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
    """The mesh that this node belongs to."""

    authority: str  # HOST:PORT
    node: str
    version: int = 1


class KeyPair(Struct, frozen=True):
    """A certificate with its key. `root`: fingerprint of the root that it leads to."""

    credentials: Credentials
    root: str


class IdentityStoreError(Exception):
    """The folder must not be used; the message says why and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class IdentityStore:
    """The folder of one node. `open`, then `load` once, `sweep`, then keep and drop. Everything here blocks on the disk."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = Folder(state_dir / FOLDER)
        self._problems: dict[str, Problem] = {}  # by file name
        self._written: dict[str, str] = {}  # digest by file name
        self._bundle: Bundle | None = None  # the one on the disk
        self._shut = False  # it must not be used: no key is written there

    def __repr__(self) -> str:
        return f"<IdentityStore {self.folder.path}>"

    @property
    def problems(self) -> list[Problem]:
        return sorted(self._problems.values())

    def open(self) -> None:
        """Make the folder, or check that it is ours alone. Raise IdentityStoreError; then nothing is written there."""
        self._shut = True
        self._open()
        self._shut = False

    def _open(self) -> None:
        path = self.folder.path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.lstat()
        except OSError as error:
            raise IdentityStoreError(
                f"{path} cannot be made: {error.strerror}", "run as root, or set another state directory"
            ) from error
        if not stat.S_ISDIR(found.st_mode):
            raise IdentityStoreError(
                f"{path} is no folder", "keys of this node belong there; move away what is in its place"
            )
        if found.st_uid != os.geteuid():
            raise IdentityStoreError(
                f"{path} belongs to user {found.st_uid}, and edgemesh runs as {os.geteuid()}",
                f"if it should be ours: chown -R {path}",
            )
        if found.st_mode & 0o077:
            try:
                path.chmod(0o700)
            except OSError as error:
                raise IdentityStoreError(
                    f"{path} could be read by others, and that cannot be changed: {error.strerror}", f"chmod 700 {path}"
                ) from error
            self._tell("", _OPEN, _OPENED)

    def load(self) -> tuple[Joined | None, Bundle | None, list[KeyPair]]:
        """Return what was kept. A file that cannot be used is left out and becomes a Problem."""
        try:
            names = sorted(os.listdir(self.folder.path))
        except OSError as error:
            self._tell(
                "",
                f"cannot be listed, so no certificate is known: {error.strerror}",
                "make it readable, then restart edgemesh",
            )
            names = []
        pairs = []
        for name in names:
            if name.endswith(_PAIR) and (pair := self._read(name, KeyPair)) is not None:
                if name == _name(pair.credentials.spiffe):
                    pairs.append(pair)
                else:
                    self._tell(
                        name,
                        f"is the file of another identity than {pair.credentials.spiffe}, and is left out",
                        "remove it",
                    )
        self._bundle = self._read(BUNDLE, Bundle)
        return self._read(JOINED, Joined), self._bundle, pairs

    def sweep(self) -> None:
        """Remove what a crash in the middle of writing left. Nobody else may write meanwhile."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder.path):
                if name.endswith(".new"):
                    self._remove(name)

    def find(self, spiffe: str) -> KeyPair | None:
        """Return what is on the disk now for this identity: another process of this node may have put it there."""
        return self._read(_name(spiffe), KeyPair)

    def keep(self, pair: KeyPair) -> None:
        """Replace what was kept for this identity.

        A failure becomes a Problem: the node runs on with what is in memory.
        """
        self._write(_name(pair.credentials.spiffe), pair)

    def drop(self, spiffe: str) -> None:
        """Remove the file of an identity that no longer runs here."""
        self._remove(_name(spiffe))

    def keep_bundle(self, bundle: Bundle) -> None:
        """Keep the roots. The authority's clock alone is written at most once a day, to spare the flash."""
        held = self._bundle
        if held is None or abs(bundle.now - held.now) >= _DAY or msgspec.structs.replace(bundle, now=held.now) != held:
            self._write(BUNDLE, bundle)
            self._bundle = bundle

    def keep_joined(self, joined: Joined) -> None:
        self._write(JOINED, joined)

    # files

    def _read(self, name: str, kind: type[_S]) -> _S | None:
        """Return the content; None when there is no such file, or none that can be used."""
        again = "it is asked for anew; when it comes back the disk is failing"
        if name == JOINED:
            again = "edgemesh join --again enrols this node; or say where its authority is, in NodeConfig identity.authority"
        try:
            content = state_files.unseal(self._bytes(name))
            value = msgspec.json.decode(content, type=kind)
        except FileNotFoundError:
            return None
        except state_files.DamagedError:
            self._tell(name, "is damaged, and is left out", again)
            return None
        except state_files.UNREADABLE as error:
            self._tell(name, f"cannot be read, and is left out: {state_files.why(error)}", again)
            return None
        self._written[name] = digest_of(content)
        return value

    def _bytes(self, name: str) -> bytes:
        with state_files.opened(self.folder.path / name, os.O_NOFOLLOW) as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.geteuid():
                raise OSError(errno.EPERM, "it is not a file of ours")
            if found.st_mode & 0o077:
                os.fchmod(file.fileno(), 0o600)
                self._tell(name, _OPEN, _OPENED)
            return state_files.read_from(file, _MOST)

    def _write(self, name: str, value: Struct) -> None:
        content = msgspec.json.encode(value)
        digest = digest_of(content)
        if self._shut or self._written.get(name) == digest:
            return
        try:
            self.folder.replace(name, state_files.seal(content))
        except FolderError as error:
            self._written.pop(name, None)
            self._problems[name] = Problem(
                "warning", Where(), "identity", str(error), "a restart will not know it; free or replace the disk"
            )
            return
        self._written[name] = digest
        self._problems.pop(name, None)

    def _remove(self, name: str) -> None:
        if self._shut:
            return
        self._written.pop(name, None)
        self._problems.pop(name, None)
        try:
            self.folder.remove(name)
        except FolderError as error:
            self._problems[name] = Problem(
                "warning", Where(), "identity", str(error), "remove it by hand: there may be a key in it"
            )

    def _tell(self, name: str, what: str, hint: str) -> None:
        self._problems[name] = Problem("warning", Where(), "identity", f"{self.folder.path / name} {what}", hint)


def _name(spiffe: str) -> str:
    """Return the name of an identity's file: readable, and different for each identity."""
    path = spiffe.partition("://")[2].partition("/")[2]
    told = re.sub(r"[^A-Za-z0-9._-]", "-", path.removeprefix("ns/").replace("/sa/", "."))[:_NAME]
    return f"{told}-{digest_of(spiffe.encode())}{_PAIR}"
