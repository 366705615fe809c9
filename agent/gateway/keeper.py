"""Follows what the listeners of this node's Gateways name, and gives the data plane what can be used of it.

A renewed certificate that cannot be used (another's key, half of a file) leaves the one before in force, and is a
Problem until it is mended. An object that is gone takes its certificate with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from agent.gateway.content import MOST, Followed, Holder, Ref, dated
from nodeproxy.tls.certificates import Certificates, ServerCertificate
from policy.gateway import Listener
from policy.model import Problem, Where

Now = Callable[[], float]


class Keeper:
    """The certificates and roots of all listeners. `holder` None: nowhere to read them from."""

    def __init__(self, holder: Holder | None, certificates: Certificates, now: Now) -> None:
        self._holder = holder
        self._certificates = certificates
        self._now = now
        self._users: dict[Ref, str] = {}  # by object: a listener that names it
        self._left_out = 0
        self._read: dict[Ref, Followed] = {}  # what the values below were made of
        self._made: dict[Ref, ServerCertificate | bytes] = {}
        self._faults: dict[Ref, str] = {}

    def __repr__(self) -> str:
        return f"<Keeper of {len(self._users)} objects>"

    def follow(self, listeners: Sequence[Listener]) -> None:
        """Follow what these listeners name."""
        users: dict[Ref, str] = {}
        for listener in listeners:
            for ref in named_by(listener):
                users.setdefault(ref, f"{listener.source}, listener {listener.name}")
        self._left_out = max(len(users) - MOST, 0)
        self._users = dict(list(users.items())[:MOST])
        if self._holder is not None:
            self._holder.want(frozenset(self._users))
        self.take()

    async def run(self) -> None:
        if self._holder is not None:
            await self._holder.run(self.take)

    def take(self) -> None:
        """Make what can be used of what is known now, and give it to the data plane."""
        self._made = {ref: made for ref, made in self._made.items() if ref in self._users}
        self._faults = {}
        for ref in self._users:
            known = self._known(ref)
            if known.content is None:
                self._made.pop(ref, None)
                self._read.pop(ref, None)
                continue
            if ref in self._made and self._read.get(ref) == known:
                continue
            made = _made(ref, known.content)
            if isinstance(made, str):
                self._faults[ref] = made
            else:
                self._made[ref] = made
                self._read[ref] = known
        self._certificates.take(
            [made for made in self._made.values() if isinstance(made, ServerCertificate)],
            {str(ref): made for ref, made in self._made.items() if isinstance(made, bytes)},
        )

    def fault(self, ref: Ref) -> tuple[str, str]:
        """Return why an object cannot be used, and what to do; ("", "") if it can."""
        known = self._known(ref)
        if known.content is None:
            return known.why, known.hint
        return self._faults.get(ref, ""), ""

    @property
    def problems(self) -> Iterable[Problem]:
        for ref, user in self._users.items():
            why, hint = self.fault(ref)
            if why:
                held = "; the one before is presented on" if ref in self._made else ""
                yield Problem("error", Where(), user, f"{ref} cannot be used: {why}{held}", hint)
                continue
            made = self._made.get(ref)
            if isinstance(made, ServerCertificate) and (said := dated(made, self._now())):
                yield Problem("warning", Where(), user, f"{ref}: {said}", "renew it in its place: it is taken at once")
        if self._left_out:
            message = (
                f"listeners of this node name {self._left_out} certificates more than the {MOST} that are followed"
            )
            yield Problem("error", Where(), "", message, "let several hosts share a certificate")

    def _known(self, ref: Ref) -> Followed:
        if self._holder is None:
            return Followed(None, "this node has no folder of certificates", "set gateway.certificates in NodeConfig")
        return self._holder.known(ref)


def _made(ref: Ref, content: Mapping[str, bytes]) -> ServerCertificate | bytes | str:
    """Return what can be used of an object, or why nothing can."""
    from agent.gateway.material import Unusable, certificate_of, roots_of  # it loads the certificate library

    try:
        return roots_of(content) if ref.kind == "ConfigMap" else certificate_of(ref.key, content)
    except Unusable as error:
        return str(error)


def named_by(listener: Listener) -> Iterable[Ref]:
    """Yield the objects that a listener names."""
    for key in listener.certificates:
        namespace, _, name = key.partition("/")
        yield Ref("Secret", namespace, name)
    for title in listener.clients.roots if listener.clients is not None else ():
        kind, _, key = title.partition(" ")
        namespace, _, name = key.partition("/")
        if kind == "ConfigMap":
            yield Ref("ConfigMap", namespace, name)
