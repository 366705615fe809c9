"""The authority's state in one folder: its issuers, the rotation of its root, its journal and its tokens.

rotation.json alone says which issuer has which role, so each step of a rotation is one rename. Issuers are files that
never change, named after their certificate: `issuers/ID.crt` (its own certificate first, the root last) and
`issuers/ID.key`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agent.identity.authority import ca, journal, tokens
from agent.identity.authority.ca import Issuer
from agent.identity.authority.journal import Journal
from agent.identity.authority.tokens import Tokens
from agent.identity.csr import Unusable, fingerprint
from agent.identity.folder import Folder, FolderError, Stamp
from agent.system import state_files

log = logging.getLogger("edgemesh.authority")

FOLDER = "authority"  # in the state directory
FILE = "rotation.json"
ISSUERS = "issuers"
RETIRED = "retired"

Step = Literal["idle", "added", "issuing"]


class RotationState(Struct, frozen=True):
    """The state of the root's rotation. Issuers are given by their file names."""

    trust_domain: str
    issuer: str  # signs
    step: Step = "idle"
    other: str = ""  # "added": the new one, which does not sign yet; "issuing": the old one, which is still trusted
    retired: str = ""  # "idle": the one that was retired last
    since: float = 0.0
    asked: str = ""  # in a cluster: which request of a person has led here
    version: int = 1


class AuthorityState:
    """The folder of one authority. Everything else is read and changed inside `held`."""

    def __init__(self, folder: Path | Folder, clock: Callable[[], float]) -> None:
        """Nothing is read yet."""
        self.folder = folder if isinstance(folder, Folder) else Folder(folder)
        self.clock = clock
        self.ledger = Journal(self.folder)
        self.tokens = Tokens(self.folder)
        self.standing: RotationState
        self.issuer: Issuer
        self.other: Issuer | None
        self._stamps: dict[str, Stamp | None] = {}

    def __repr__(self) -> str:
        return f"<AuthorityState {self.folder.path}>"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder and read what is on the disk now. Raise FolderError."""
        if not self.folder.exists():
            raise _none(self.folder.path)
        with self.folder.locked():
            self._refresh()
            yield
            # Skipped after a failure: the next call then reads the files again, whatever was written.
            self._stamps = {name: self.folder.stamp(name) for name in self._stamps}

    def create(self, issuer: Issuer, trust_domain: str) -> None:
        """Begin with this issuer. Raise FolderError when there is an authority already."""
        self.folder.make()
        with self.folder.locked():
            # Issuers alone are the rest of a crash in the middle of this; nothing was issued with them.
            if self.folder.stamp(FILE) or self.folder.read(journal.FILE):
                message = f"{self.folder.path} holds an authority already"
                raise FolderError(message, "edgemesh ca show says which; edgemesh ca rotate gives it a new root")
            self.ledger.begin()
            self.keep(issuer)
            self.write(RotationState(trust_domain, name_of(issuer), since=self.clock()))

    # what is trusted

    def roots(self) -> tuple[str, ...]:
        """Return the trusted roots as PEM, each once, the issuer's first."""
        return tuple(dict.fromkeys(issuer.root for issuer in (self.issuer, self.other) if issuer is not None))

    def fingerprints(self) -> tuple[str, ...]:
        return tuple(fingerprint(root) for root in self.roots())

    def issuers(self) -> tuple[str, ...]:
        """Return the fingerprints of the own certificates of the issuers that sign, or did and are still trusted."""
        return tuple(issuer.own_fingerprint for issuer in (self.issuer, self.other) if issuer is not None)

    # changes, inside `held`

    def keep(self, issuer: Issuer) -> None:
        """Write an issuer to the disk. It has no role until `write` names it."""
        name = name_of(issuer)
        self.folder.replace(f"{ISSUERS}/{name}.key", issuer.key)
        self.folder.replace(f"{ISSUERS}/{name}.crt", "".join(issuer.certificates).encode())

    def write(self, standing: RotationState) -> None:
        """Put this state of the rotation in force, for the daemon too. Raise FolderError; then nothing has changed."""
        issuer, other = self.find(standing.issuer), self.find(standing.other) if standing.other else None
        self.folder.replace(FILE, state_files.seal(msgspec.json.encode(standing)))
        self.standing, self.issuer, self.other = standing, issuer, other

    def find(self, name: str) -> Issuer:
        """Return an issuer by its file name, also one that was retired. Raise FolderError."""
        key, certificates = self._found(f"{name}.key"), self._found(f"{name}.crt")
        try:
            issuer = ca.restore(certificates.decode("utf-8", "replace"), key)
        except Unusable as error:
            raise FolderError(
                f"{name}.crt and {name}.key in {self.folder.path}: {error}", "restore them from a backup"
            ) from error
        if name_of(issuer) != name:
            raise FolderError(
                f"{name}.crt in {self.folder.path} is another certificate than was written there",
                "restore it from a backup",
            )
        return issuer

    def _found(self, name: str) -> bytes:
        for place in (ISSUERS, RETIRED):
            if (data := self.folder.read(f"{place}/{name}")) is not None:
                return data
        raise FolderError(f"{self.folder.path}/{ISSUERS}/{name} is not there", "restore the folder from a backup")

    def put(self, name: str, place: str) -> None:
        """Move an issuer's files to `place`. Their place decides nothing, so a crash in the middle costs nothing."""
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
        for name, load in ((FILE, self._load), (journal.FILE, self._load_ledger), (tokens.FILE, self.tokens.load)):
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

    def _read(self) -> RotationState:
        data = self.folder.read(FILE)
        path = self.folder.path / FILE
        if data is None and not self.folder.read(journal.FILE):
            raise _none(self.folder.path)
        try:
            standing = msgspec.json.decode(state_files.unseal(data or b""), type=RotationState)
            if standing.step != "idle" and not standing.other:
                raise msgspec.ValidationError(f"it stands at {standing.step!r} and does not name the other root")
            return standing
        except state_files.UNREADABLE as error:
            hint = f"restore it from a backup; the keys in {self.folder.path / ISSUERS} are not touched"
            raise FolderError(f"{path} cannot be read: {error}", hint) from error


def name_of(issuer: Issuer) -> str:
    """Return the name of an issuer's files."""
    return issuer.own_fingerprint[:16]


def _none(path: Path) -> FolderError:
    return FolderError(
        f"there is no authority in {path}", "edgemesh ca init makes one; --state names another state directory"
    )
