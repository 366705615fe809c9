"""Filter that is Python on this node (policy/route.py, User; nodeproxy/user_filters.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead, ResponseHead, check_field
from nodeproxy.errors import Refused
from nodeproxy.protocols.http.interfaces import CallFilter
from nodeproxy.user_filters import Head
from policy.route import User

if TYPE_CHECKING:
    from nodeproxy.protocols.http.interfaces import Acting

_PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]


class Runs(CallFilter):
    """Gives the head of a request to it, and makes the changes that it asks for: all of them, or none."""

    def __init__(self, config: User) -> None:
        self._name = config.name

    async def act(self, head: RequestHead, call: Acting) -> None:
        users = call.conn.context.user_filters
        one = users.get(self._name)
        if one is None:
            raise Refused("filter-failed", f"this node's NodeConfig names no filter {self._name}")
        identity = call.conn.identity
        view = Head(
            head.method.decode("ascii"),
            head.target.decode("latin-1"),
            (head.host or b"").decode("latin-1"),
            str(identity) if identity is not None else "",
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.fields],
        )
        try:
            answer = await users.run(one, view)
            changes = [(what, name.encode("latin-1"), value.encode("latin-1")) for what, name, value in view.changes]
            for _, name, value in changes:
                check_field(name, value)
            answered = Answered(answer[0], _PLAIN, answer[1], f"filter {one.name}") if answer is not None else None
        except Exception as error:
            users.failed(one, error)
            if one.on_error == "pass":
                return
            raise Refused("filter-failed", f"filter {one.name}: {type(error).__name__}") from error
        if answered is not None:
            raise answered
        for what, name, value in changes:
            if what == "set":
                head.set_field(name, value)
            elif what == "add":
                head.add_field(name, value)
            else:
                head.remove_field(name)

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """The response is left as it is."""
