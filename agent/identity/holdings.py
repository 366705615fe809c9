"""What an authority holds: its issuers, where the rotation of its root stands, its ledger and its tokens, in one folder.

rotation.json alone says which issuer counts for what, so each step of a rotation is one rename. Issuers are files that never
change, named after their certificate: `issuers/ID.crt` (its own certificate first, the root last) and `issuers/ID.key`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agent.identity import ca, ledger, tokens
from agent.identity.ca import Issuer
from agent.identity.csr import Unusable, fingerprint
from agent.identity.folder import Folder, FolderError, Stamp
from agent.identity.ledger import Ledger
from agent.identity.tokens import Tokens

log = logging.getLogger("edgemesh.authority")

FOLDER = "authority"  # in the state directory
FILE = "rotation.json"
ISSUERS = "issuers"
RETIRED = "retired"

Step = Literal["idle", "added", "issuing"]


class Standing(Struct, frozen=True):
    """Where the rotation of the root stands. Issuers by their file names."""

    trust_domain: str
    issuer: str  # it signs
    step: Step = "idle"
    other: str = ""  # "added": the new one, which does not sign yet; "issuing": the old one, which is still believed
    retired: str = ""  # "idle": the one that was retired last
    since: float = 0.0
    version: int = 1


class Holdings:
    """One authority's folder. Everything else is read and changed inside `held`."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """`path` is the folder itself. Nothing is read yet."""
        self.folder = Folder(path)
        self.clock = clock
        self.ledger = Ledger(self.folder)
        self.tokens = Tokens(self.folder)
        self.standing: Standing
        self.issuer: Issuer
        self.other: Issuer | None
        self._stamps: dict[str, Stamp | None] = {}

    def __repr__(self) -> str:
        return f"<Holdings {self.folder.path}>"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is on the disk now, and nobody changes it meanwhile. Raises FolderError."""
        if not self.folder.exists():
            raise _none(self.folder.path)
        with self.folder.locked():
            self._refresh()
            yield
            # Not after a failure: what was written then, or not, is read anew the next time.
            self._stamps = {name: self.folder.stamp(name) for name in self._stamps}

    def create(self, issuer: Issuer, trust_domain: str) -> None:
        """Begin with this issuer. Raises FolderError when there is an authority already."""
        self.folder.make()
        with self.folder.locked():
            # Issuers alone are what a stop in the middle of this left; nothing was issued by them.
            if self.folder.stamp(FILE) or self.folder.read(ledger.FILE):
                message = f"{self.folder.path} holds an authority already"
                raise FolderError(message, "edgemesh ca show says which; edgemesh ca rotate gives it a new root")
            self.ledger.begin()
            self.keep(issuer)
            self.write(Standing(trust_domain, name_of(issuer), since=self.clock()))

    # what is believed

    def roots(self) -> tuple[str, ...]:
        """PEM, each once, that of the issuer first."""
        return tuple(dict.fromkeys(issuer.root for issuer in (self.issuer, self.other) if issuer is not None))

    def fingerprints(self) -> tuple[str, ...]:
        return tuple(fingerprint(root) for root in self.roots())

    # changes, inside `held`

    def keep(self, issuer: Issuer) -> None:
        """Put an issuer on the disk. It counts for nothing until `write` names it."""
        name = name_of(issuer)
        self.folder.replace(f"{ISSUERS}/{name}.key", issuer.key)
        self.folder.replace(f"{ISSUERS}/{name}.crt", "".join(issuer.certificates).encode())

    def write(self, standing: Standing) -> None:
        """From now on it stands so, for the daemon too. Raises FolderError, and then nothing has changed."""
        issuer, other = self.find(standing.issuer), self.find(standing.other) if standing.other else None
        self.folder.replace(FILE, msgspec.json.encode(standing))
        self.standing, self.issuer, self.other = standing, issuer, other

    def find(self, name: str) -> Issuer:
        """An issuer by its file name, also one that was retired. Raises FolderError."""
        key, certificates = self._found(f"{name}.key"), self._found(f"{name}.crt")
        try:
            return ca.restore(certificates.decode("utf-8", "replace"), key)
        except Unusable as error:
            raise FolderError(f"{name}.crt in {self.folder.path}: {error}", "restore it from a backup") from error

    def _found(self, name: str) -> bytes:
        for place in (ISSUERS, RETIRED):
            if (data := self.folder.read(f"{place}/{name}")) is not None:
                return data
        raise FolderError(f"{self.folder.path}/{ISSUERS}/{name} is not there", "restore the folder from a backup")

    def put(self, name: str, place: str) -> None:
        """Move an issuer's files to where they belong. Where they are decides nothing, so a stop in the middle costs nothing."""
        for suffix in ("crt", "key"):
            for other in {ISSUERS, RETIRED} - {place}:
                if self.folder.stamp(f"{other}/{name}.{suffix}"):
                    self.folder.move(f"{other}/{name}.{suffix}", f"{place}/{name}.{suffix}")

    def forget(self, name: str) -> None:
        """Remove an issuer for ever, its key first."""
        for suffix in ("key", "crt"):
            for place in (ISSUERS, RETIRED):
                self.folder.remove(f"{place}/{name}.{suffix}")

    # reading

    def _refresh(self) -> None:
        for name, load in ((FILE, self._load), (ledger.FILE, self._load_ledger), (tokens.FILE, self.tokens.load)):
            stamp = self.folder.stamp(name)
            if name not in self._stamps or self._stamps[name] != stamp:
                load()
                self._stamps[name] = stamp

    def _load_ledger(self) -> None:
        self.ledger.load(self.clock())

    def _load(self) -> None:
        standing = self._read()
        self.issuer = self.find(standing.issuer)
        self.other = self.find(standing.other) if standing.other else None
        self.standing = standing

    def _read(self) -> Standing:
        data = self.folder.read(FILE)
        path = self.folder.path / FILE
        if data is None and not self.folder.read(ledger.FILE):
            raise _none(self.folder.path)
        try:
            return msgspec.json.decode(data or b"", type=Standing)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            hint = f"restore it from a backup; the keys in {self.folder.path / ISSUERS} are not touched"
            raise FolderError(f"{path} cannot be read: {error}", hint) from error


def name_of(issuer: Issuer) -> str:
    """What its files are called."""
    return issuer.own_fingerprint[:16]


def _none(path: Path) -> FolderError:
    return FolderError(f"there is no authority in {path}", "edgemesh ca init makes one; --state names another state directory")
