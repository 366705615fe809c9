"""Who may read a node's pages through the API server: whoever shows a token that the API server vouches for.

Theory of operation. The API server passes requests for a pod on (`pods/proxy`), but keeps the caller's own
authorization to itself. So the reader brings a second token, in the field `edgemesh-token`: one of the ServiceAccount
edgemesh-viewer, made for this node alone (its audience names the node, so that a node that was taken over can do
nothing with it at other nodes). Who may make such tokens, and may use `pods/proxy`, is said by RBAC. We have the API
server check the token (TokenReview) and remember the result for a minute at most. A token that does not even claim to
be for us costs no request, and the requests of one source, and of all, are limited.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import trio

from agent.http.server import HttpResponse, failure
from nodeproxy.tls.unauthenticated import Pace
from nodeproxy.tls.unauthenticated import source as source_of

if TYPE_CHECKING:
    from agent.kubernetes.api import ApiServer

ACCOUNT = "edgemesh-viewer"
FIELD = "edgemesh-token"
_AUDIENCE = "edgemesh.io/status/"

_LONGEST = 4096  # bytes of a token; those of Kubernetes have about 1,000
_REMEMBERED = 60.0  # seconds that a good token is not asked about again
_REFUSED = 10.0  # the same for a bad one
_TOKENS = 128  # good ones that are remembered, and as many bad ones
_SOURCES = 256  # whose requests are counted
# TokenReviews at once, and a second, for one source, and for all together: a small part of what the daemon may ask the
# API server (agent/kubernetes/api.py)
_OF_SOURCE, _OF_ALL = (5, 1.0), (10, 2.0)
_AT_ONCE = 4  # TokenReviews under way
_PATIENCE = 5.0  # seconds for one TokenReview

Review = Callable[[str, str], Awaitable[str]]
"""Return the user that the API server knows a token as, for an audience; "" when it does not vouch for it.

Raise ReviewError when it could not be asked.
"""


class ReviewError(Exception):
    """The API server could not be asked about a token."""


def audience(node: str) -> str:
    """Return the audience of tokens for one node's pages."""
    return _AUDIENCE + node


class Viewers:
    """Decides whether a token may read the pages of `node`. `namespace`: that of edgemesh-viewer."""

    def __init__(self, node: str, namespace: str, review: Review, now: Callable[[], float] = trio.current_time) -> None:
        self._audience = audience(node)
        self._user = f"system:serviceaccount:{namespace}:{ACCOUNT}"
        self._review = review
        self._now = now
        self._good: OrderedDict[bytes, float] = OrderedDict()  # digest of a token -> until when that is known
        self._bad: OrderedDict[bytes, float] = OrderedDict()
        self._sources: OrderedDict[str, Pace] = OrderedDict()
        self._all = Pace(_OF_ALL, 0.0)
        self._turns = trio.CapacityLimiter(_AT_ONCE)
        self._asking: dict[bytes, trio.Event] = {}

    def __repr__(self) -> str:
        return f"<Viewers of {self._audience}, {len(self._good)} admitted>"

    async def refusal(self, token: str, source: str) -> HttpResponse | None:
        """Return why this token may not read, as an answer; None: it may. `source`: the address that it came from."""
        if not token:
            return failure(401, f"no {FIELD}", f"a token of ServiceAccount {ACCOUNT} is needed; edgemesh makes one")
        if not self._claims_to_be_ours(token):
            return failure(401, f"the {FIELD} is not for this node's pages", "edgemesh asks for the right one")
        digest = hashlib.sha256(token.encode()).digest()
        if (known := self._known(digest)) is not None:
            return None if known else _not_admitted()
        async with self._turns:
            while (asking := self._asking.get(digest)) is not None:  # another connection asks about the same one
                await asking.wait()
            if (known := self._known(digest)) is None:
                if not self._may_ask(source):
                    return failure(429, "too many tokens to check", "ask again in a few seconds")
                self._asking[digest] = trio.Event()
                try:
                    with trio.fail_after(_PATIENCE):
                        known = await self._review(token, self._audience) == self._user
                except trio.TooSlowError:
                    return _cannot_ask(f"it did not answer within {_PATIENCE:.0f} s")
                except ReviewError as error:
                    return _cannot_ask(str(error))
                finally:
                    self._asking.pop(digest).set()
                self._remember(digest, known)
        return None if known else _not_admitted()

    def _claims_to_be_ours(self, token: str) -> bool:
        """Return whether it is worth a request. This proves nothing: anybody can write such claims."""
        parts = token.split(".")
        if len(token) > _LONGEST or len(parts) != 3:
            return False
        try:
            claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        except (ValueError, binascii.Error, RecursionError):
            return False
        if not isinstance(claims, dict):
            return False
        audiences = claims.get("aud")
        audiences = audiences if isinstance(audiences, list) else [audiences]
        return self._audience in audiences and claims.get("sub") == self._user

    def _known(self, digest: bytes) -> bool | None:
        now = self._now()
        for known, value in ((self._good, True), (self._bad, False)):
            if digest in known and now < known[digest]:
                return value
            known.pop(digest, None)
        return None

    def _remember(self, digest: bytes, good: bool) -> None:
        known, seconds = (self._good, _REMEMBERED) if good else (self._bad, _REFUSED)
        known[digest] = self._now() + seconds
        if len(known) > _TOKENS:
            known.popitem(last=False)

    def _may_ask(self, source: str) -> bool:
        now, name = self._now(), source_of(source)
        pace = self._sources.get(name)
        if pace is None:
            pace = self._sources[name] = Pace(_OF_SOURCE, now)
            if len(self._sources) > _SOURCES:
                self._sources.popitem(last=False)
        return pace.take(now) and self._all.take(now)


def reviewer(api: ApiServer) -> Review:
    """Return the Review that asks the API server."""
    from agent.kubernetes.api import ApiError, ApiUnreachable

    async def review(token: str, audience: str) -> str:
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        try:
            found: Any = await api.create("/apis/authentication.k8s.io/v1/tokenreviews", asked)
        except ApiError as error:
            if error.status == HTTPStatus.FORBIDDEN:
                raise ReviewError("this node's account may not create TokenReviews") from error
            raise ReviewError(f"the API server answered {error.status}") from error
        except ApiUnreachable as error:
            raise ReviewError(str(error)) from error
        status = found.get("status") or {}
        if status.get("authenticated") is not True or audience not in (status.get("audiences") or ()):
            return ""
        return str((status.get("user") or {}).get("username", ""))

    return review


def _not_admitted() -> HttpResponse:
    return failure(
        403, "the API server does not vouch for this token", "it may have expired: edgemesh asks for another"
    )


def _cannot_ask(why: str) -> HttpResponse:
    return failure(503, f"the token cannot be checked: {why}", "on the node itself, the admin socket answers")
