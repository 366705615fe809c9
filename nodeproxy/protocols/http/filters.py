"""Filters of a Route's rule act on a request and on its response (policy/route.py, `Rule.filters`).

To add one: its configuration, a subclass of policy.route.Filter; a class with the two methods below; a row of FILTERS.
One that needs more of a call than its head is a CallFilter (interfaces.py).

A filter that fails refuses the request: no request passes a filter that could not act. The fast path learns a rule with
filters only if each is `replayable`, or one that it applies itself (nodeproxy/fastpath/changes.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from nodeproxy.errors import Refused
from nodeproxy.protocols.http import change_fields, change_target, cors, ext_auth, fault, mirror, sign, user
from nodeproxy.protocols.http.interfaces import CallFilter
from policy import route

if TYPE_CHECKING:
    from nodeproxy.codec.message import RequestHead, ResponseHead
    from nodeproxy.protocols.http.interfaces import Acting

log = logging.getLogger("edgemesh.http")


class Filter(Protocol):
    """What one filter of a rule does. It serves many requests at the same time, and keeps no state of any.

    Both methods may raise Refused, or Answered (codec/local_reply.py) to respond in place of the server. No filter sees
    such a response, or a refusal.
    """

    async def request(self, head: RequestHead) -> None:
        """Change what will be sent to the server, once for all attempts: fields, `head.target` and `head.host`."""
        ...

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """Change the fields that the caller receives. `head`: of the request. Not called for 1xx and 101."""
        ...


AnyActing = Filter | CallFilter

# The function that makes a filter from its configuration.
FILTERS: dict[type[route.Filter], Callable[[Any], AnyActing]] = {
    route.RequestFields: change_fields.ChangesRequest,
    route.ResponseFields: change_fields.ChangesResponse,
    route.Rewrite: change_target.Rewrites,
    route.Redirect: change_target.Redirects,
    route.RequestMirror: mirror.Mirrors,
    route.Cors: cors.Shares,
    route.Fault: fault.Faults,
    route.Degrade: fault.Degrades,
    route.Sign: sign.Signs,
    route.Verify: sign.Verifies,
    route.ExternalAuth: ext_auth.Asks,
    route.User: user.Runs,
}


def made(filters: tuple[route.Filter, ...]) -> tuple[AnyActing, ...]:
    """Return the filters of a rule, made when the rule first applies. Raise Refused if one cannot be made."""
    try:
        return _made(filters)
    except Exception as error:
        raise _failed(filters) from error


@lru_cache(maxsize=1024)
def _made(filters: tuple[route.Filter, ...]) -> tuple[AnyActing, ...]:
    return tuple(FILTERS[type(one)](one) for one in filters)


async def on_request(filters: tuple[AnyActing, ...], head: RequestHead, call: Acting) -> None:
    """Apply each filter to the request, in the rule's order. Raise Refused if one refuses or fails."""
    for one in filters:
        try:
            if isinstance(one, CallFilter):
                await one.act(head, call)
            else:
                await one.request(head)
        except Refused:
            raise
        except Exception as error:
            raise _failed(one) from error


def on_response(filters: tuple[AnyActing, ...], head: RequestHead, response: ResponseHead) -> None:
    """Apply each filter to the response, the last of the rule first. Raise Refused if one refuses or fails."""
    for one in reversed(filters):
        try:
            one.response(head, response)
        except Refused:
            raise
        except Exception as error:
            raise _failed(one) from error


def _failed(what: object) -> Refused:
    """Log the exception being handled, and return the refusal.

    Elsewhere some of these exceptions mean that the caller is gone, so they must not leave a filter.
    """
    log.exception("filter %r", what)
    return Refused("filter-failed", type(what).__name__)
