"""Tokens that enrol a node: random, for one node by name, good once and for a while. Only their hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets

import msgspec
from msgspec import Struct

from agent.identity.folder import Folder
from agent.system import state_files

log = logging.getLogger("edgemesh.authority")

FILE = "tokens.json"
OUTSTANDING = 64  # outstanding at once
_CLOCK = 300.0  # seconds that our clock may have been set back since a token was made


class TooMany(Exception):  # noqa: N818 - it is an answer
    """The bound on outstanding tokens is reached."""


class _Token(Struct, frozen=True):
    digest: str  # SHA-256 of the secret, hexadecimal: 256 random bits need no salt and no slow hash
    node: str
    made: float
    ends: float


class _File(Struct):
    version: int
    tokens: tuple[_Token, ...]


class Tokens:
    """The outstanding tokens. The caller holds the folder's lock."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._tokens: tuple[_Token, ...] = ()

    def __repr__(self) -> str:
        return f"<Tokens {len(self._tokens)} outstanding>"

    def load(self) -> None:
        """Read the tokens again. An unreadable file counts as empty: the nodes need new tokens. Raise FolderError."""
        data = self._folder.read(FILE)
        try:
            self._tokens = msgspec.json.decode(state_files.unseal(data), type=_File).tokens if data is not None else ()
        except state_files.UNREADABLE as error:
            why = state_files.why(error)
            log.warning(
                "%s cannot be read; tokens that were made before are not known any more: %s",
                self._folder.path / FILE,
                why,
            )
            self._tokens = ()

    def make(self, node: str, seconds: float, now: float) -> str:
        """Make a secret for `node`. Only this return value ever shows it. Raise TooMany, FolderError."""
        kept = tuple(token for token in self._tokens if _lives(token, now))
        if len(kept) >= OUTSTANDING:
            raise TooMany(
                f"{OUTSTANDING} tokens are outstanding; the first of them ends in {min(t.ends for t in kept) - now:.0f} s"
            )
        secret = secrets.token_urlsafe(32)
        self._write((*kept, _Token(_digest(secret), node, now, now + seconds)))
        return secret

    def outstanding(self, now: float) -> list[tuple[str, float]]:
        """Return the nodes that may still enrol, and until when."""
        return [(token.node, token.ends) for token in self._tokens if _lives(token, now)]

    def admits(self, secret: str, node: str, now: float) -> bool:
        """Return whether this is a valid token of `node`. It takes equally long whatever is wrong with the token."""
        found = False
        digest = _digest(secret)
        for token in self._tokens:
            same = hmac.compare_digest(token.digest, digest)
            found |= same & hmac.compare_digest(token.node.encode(), node.encode()) & _lives(token, now)
        return found

    def use_up(self, secret: str) -> None:
        """Make the token invalid: on the disk when this returns. Raise FolderError."""
        digest = _digest(secret)
        self._write(tuple(token for token in self._tokens if not hmac.compare_digest(token.digest, digest)))

    def _write(self, tokens: tuple[_Token, ...]) -> None:
        self._folder.replace(FILE, state_files.seal(msgspec.json.encode(_File(1, tokens))))
        self._tokens = tokens


def _lives(token: _Token, now: float) -> bool:
    """Return whether the token is valid. It is not before it was made: a clock set back must not prolong it."""
    return token.made - _CLOCK <= now < token.ends


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
