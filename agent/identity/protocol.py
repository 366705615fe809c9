"""What a node and its authority exchange: documents over HTTPS, and the one interface that a CertificateManager needs.

    GET  /v1/bundle                          -> Bundle    public: roots are no secret
    POST /v1/join   JoinRequest              -> Issued    once, with a token; the node's own certificate
    POST /v1/sign   SignRequest, mTLS (node) -> Issued    the node's next certificate, or one of a workload on it

Anything else gets a Refusal and status 400, 403, 404, 413 or 429.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Bundle(Struct, frozen=True):
    """The roots to trust. Certificates under a root that is not `issuer` are to be renewed soon."""

    trust_domain: str
    roots: tuple[str, ...]  # PEM, one certificate each
    issuer: str  # SHA-256 of the root (DER, hexadecimal) that new certificates lead to
    now: float  # the authority's clock, seconds since the epoch: a node whose clock is far off can report it


class Issued(Struct, frozen=True):
    chain: str  # PEM: the certificate, then its intermediates; no root
    bundle: Bundle


class JoinRequest(Struct, frozen=True, forbid_unknown_fields=True):
    node: str
    token: str
    csr: str  # PEM

    def __repr__(self) -> str:
        return f"<JoinRequest of {self.node!r}>"  # without the token


class SignRequest(Struct, frozen=True, forbid_unknown_fields=True):
    spiffe: str
    csr: str  # PEM


class Refusal(Struct, frozen=True):
    error: str
    hint: str = ""


class AuthorityRefused(Exception):  # noqa: N818 - it is an answer
    """The authority refused. The same request again soon will not help."""

    def __init__(self, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.hint = hint


class AuthorityUnreachable(Exception):  # noqa: N818 - it is a state of the world
    """No server responded, or one that could not prove to be the authority."""


class Signer(Protocol):
    """An authority, local (in this process) or remote (over HTTPS)."""

    async def sign(self, spiffe: str, csr: str) -> Issued:
        """Raise AuthorityRefused or AuthorityUnreachable."""
        ...

    async def bundle(self) -> Bundle:
        """Raise AuthorityUnreachable."""
        ...
