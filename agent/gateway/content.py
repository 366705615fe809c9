"""Objects that listeners name, what is known of each, and what is to be said of a certificate's dates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from msgspec import Struct

from nodeproxy.tls.certificates import ServerCertificate

CERTIFICATE, KEY, ROOTS = "tls.crt", "tls.key", "ca.crt"
MOST_BYTES = 1 << 20  # of one object: the API server takes no larger Secret
MOST_ROOTS = 256 * 1024
MOST = 256  # objects that are followed for all listeners of a node
_SOON = 7 * 86400.0  # seconds before the end of a certificate that are told


class Ref(Struct, frozen=True, order=True):
    """An object that a listener names."""

    kind: Literal["Secret", "ConfigMap"]
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class Followed(Struct, frozen=True):
    """What is known of an object. `content` None: nothing, for the reason `why`."""

    content: Mapping[str, bytes] | None = None
    why: str = "it was not read yet"
    hint: str = ""

    def __repr__(self) -> str:
        return f"<Followed {', '.join(sorted(self.content)) if self.content is not None else self.why}>"


class Holder(Protocol):
    """Where objects come from. `want` replaces what is followed; `run` calls `told` after each change."""

    def want(self, refs: frozenset[Ref]) -> None: ...
    def known(self, ref: Ref) -> Followed: ...
    async def run(self, told: Callable[[], None]) -> None: ...


def dated(certificate: ServerCertificate, now: float) -> str:
    """Return what is to be said of a certificate's dates; "" for nothing. It is presented all the same."""
    if now > certificate.not_after:
        return "its certificate has ended: clients refuse it"
    if now < certificate.not_before:
        return "its certificate is not valid yet: clients refuse it"
    left = certificate.not_after - now
    whole = certificate.not_after - certificate.not_before
    return f"its certificate ends in {left / 86400:.1f} days" if left < min(_SOON, whole / 4) else ""
