"""The routes of the authority over HTTP (documents: identity/protocol.py), for callers that server.py accepted.

authority.py decides each request, in a thread since it writes to the disk. agent/http/server.py bounds heads, bodies
and time.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TypeVar

import msgspec
import trio
from msgspec import Struct

from agent.http import server
from agent.http.server import HttpRequest, HttpResponse, failure, json_reply
from agent.identity.authority.authority import Authority, Exhausted, Malformed
from agent.identity.folder import FolderError
from agent.identity.protocol import AuthorityRefused, JoinRequest, SignRequest

log = logging.getLogger("edgemesh.authority")

_T = TypeVar("_T")

BODY_BYTES = 16 * 1024  # a request with a token and a signing request has about 1 KiB


class Caller(Struct, frozen=True):
    """The caller at the other end of the connection."""

    address: str
    node: str = ""  # the node that its certificate proved; "" for none
    serial: str = ""  # serial number of that certificate
    holds: bool = True  # that certificate is valid now, by its dates


async def converse(stream: trio.abc.Stream, who: Caller, authority: Authority) -> None:
    """Serve requests one after the other until one side ends. Raise as `agent.http.server.converse` does."""
    await server.converse(stream, partial(_answer, who, authority), ("GET", "POST"), BODY_BYTES)


async def _answer(who: Caller, authority: Authority, ask: HttpRequest) -> HttpResponse:
    """Return the response of the route that `ask` names."""
    route = f"{ask.method} {ask.path}"
    try:
        if route == "GET /v1/bundle":
            proved = (who.node, who.serial) if who.holds else ("", "")
            return json_reply(await trio.to_thread.run_sync(authority.bundle, *proved))
        if route == "POST /v1/join":
            return json_reply(await trio.to_thread.run_sync(authority.join, _read(ask.body, JoinRequest), who.address))
        if route == "POST /v1/sign":
            sign = partial(authority.sign, who.node, _read(ask.body, SignRequest), who.serial, who.address, who.holds)
            return json_reply(await trio.to_thread.run_sync(sign))
    except Malformed as refusal:
        return failure(400, refusal.error, refusal.hint)
    except Exhausted as refusal:
        return failure(429, refusal.error, refusal.hint)
    except AuthorityRefused as refusal:
        return failure(403, refusal.error, refusal.hint)
    except FolderError as error:
        log.error("%s: %s", route, error)  # the caller need not know our paths
        return failure(503, "the authority cannot use its folder just now", "its log says why; try again later")
    return failure(404, f"there is no {route[:100]} here", "GET /v1/bundle, POST /v1/join, POST /v1/sign")


def _read(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is no {kind.__name__} in JSON: {error}") from error
