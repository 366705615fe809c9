"""Filter that asks a Service whether a request may pass (policy/route.py, ExternalAuth).

The question has the request's method, its target behind a path of the configuration, Host, Authorization and the fields
that are named; it has no body. It is a request of the caller: policy has to admit it. 2xx lets the request pass, with
named fields of the answer; any other answer is given to the caller. A named field is always the Service's: what the
caller sent under that name never passes, nor what CGI and those after it read as the same (RFC 3875 section 4.1.18): one
with an underscore for a hyphen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import Fields, RequestHead, ResponseHead
from nodeproxy.interfaces import Aside, Reply
from nodeproxy.protocols.http.interfaces import CallFilter
from policy.fields import bad_field
from policy.route import ExternalAuth

if TYPE_CHECKING:
    from nodeproxy.protocols.http.interfaces import Acting

BODY = 65536  # bytes of an answer that the caller gets
_MOST = 100  # fields of it
_PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]
# The Service could not be asked. Every other refusal is a decision, of policy or of edgemesh, and lets nothing pass.
_SILENT = frozenset(
    (
        *("connect-failed", "connect-timeout", "upstream-broken", "response-timeout", "route-timeout", "idle"),
        *("no-endpoint", "node-unreachable", "peer-lost"),
    )
)


class Asks(CallFilter):
    """Asks, and acts as the answer says."""

    def __init__(self, config: ExternalAuth) -> None:
        self._config = config
        self._path = config.path.rstrip("/").encode("ascii")
        self._sent = frozenset((b"authorization", *(name.encode("latin-1") for name in config.sent)))
        self._taken = [name.encode("latin-1") for name in config.taken]

    async def act(self, head: RequestHead, call: Acting) -> None:
        config = self._config
        aside = Aside(config.service, config.port, self._question(head), seconds=config.timeout, kept=BODY)
        reply = await call.conn.context.asides.ask(call.conn, aside)
        alike = {name.replace(b"_", b"-") for name in self._taken}
        for name in {name for name, _ in head.fields if name.replace(b"_", b"-") in alike}:
            head.remove_field(name)
        if reply.head is not None and 200 <= reply.head.status < 300:
            for name, value in _fields(reply.head):
                if name in self._taken:
                    head.add_field(name, value)
            return
        if reply.head is not None and reply.head.status < 500:
            raise Answered(reply.head.status, _told(reply.head), _body(reply), f"{config.service} says so")
        why = str(reply.refused) if reply.refused is not None else f"it answered {reply.head and reply.head.status}"
        if config.open and (reply.refused is None or reply.refused.flag in _SILENT):
            return
        detail = f"{config.service} could not say whether this may pass: {why}"
        raise Answered(503, _PLAIN, b"it could not be found out whether this may pass\n", detail)

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """The response is left as it is."""

    def _question(self, head: RequestHead) -> RequestHead:
        target = head.target if head.target.startswith(b"/") else b"/"
        method = head.method if head.method != b"CONNECT" else b"GET"
        question = RequestHead(method, self._path + target, 1)
        question.host = head.host
        question.forwarded_for = head.forwarded_for
        fields = [
            field for field in head.fields if field[0] in self._sent and not bad_field(field[0].decode("latin-1"))
        ]
        question.fields = [(b"host", head.host or b""), *fields, (b"x-forwarded-proto", b"http")]
        question.lines = [name + b": " + value for name, value in question.fields[1:]]
        return question


def _fields(head: ResponseHead) -> Fields:
    pairs = (line.partition(b":") for line in head.lines[:_MOST])
    return [(name.lower(), value.strip()) for name, _, value in pairs]


def _told(head: ResponseHead) -> Fields:
    """Return the fields of a refusal that the caller gets."""
    return [
        (name, value) for name, value in _fields(head) if not bad_field(name.decode("latin-1"), value.decode("latin-1"))
    ]


def _body(reply: Reply) -> bytes:
    assert reply.head is not None
    return b"" if reply.head.status in (204, 205, 304) else reply.body
