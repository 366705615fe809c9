"""ext_auth.py: the question, and what each reply means; over sockets: journeys/test_http_filters.py."""

from __future__ import annotations

from typing import Any

import pytest

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead, ResponseHead
from nodeproxy.errors import FLAGS, Refused
from nodeproxy.interfaces import Aside, Reply
from nodeproxy.protocols.http.ext_auth import Asks
from policy.route import ExternalAuth

AUTH = ExternalAuth("shop/door", 80, "/check/", sent=("cookie", "x-forwarded-for"), taken=("x-user",))


class Call:
    """A call, its connection, its context and who asks, in one."""

    def __init__(self, reply: Reply) -> None:
        self.conn: Any = self
        self.context = self.asides = self
        self.reply = reply
        self.asked: list[Aside] = []

    async def ask(self, conn: object, aside: Aside) -> Reply:
        self.asked.append(aside)
        return self.reply

    async def body(self, most: int) -> bytes | None:
        raise AssertionError

    def copy_to(self, copy: object) -> None:
        raise AssertionError


def head(target: bytes = b"/a?b=c") -> RequestHead:
    head = RequestHead(b"POST", target, 1)
    head.host, head.length = b"store", 5
    pairs = [(b"cookie", b"a=1"), (b"x-user", b"root"), (b"x-b", b"2"), (b"authorization", b"x"), (b"expect", b"y")]
    head.fields = [(b"host", b"store"), *pairs, (b"x-forwarded-for", b"10.0.0.9")]
    head.lines = [name + b": " + value for name, value in pairs]
    return head


def says(status: int, *lines: bytes, body: bytes = b"") -> Reply:
    response = ResponseHead(status, b"", 1)
    response.lines = list(lines)
    return Reply(response, body)


async def test_the_question() -> None:
    call = Call(says(200, b"X-User: ann", b"x-b: 3"))
    asked = head()
    await Asks(AUTH).act(asked, call)
    (aside,) = call.asked
    question = aside.head
    assert (question.method, question.target, question.host, question.length) == (b"POST", b"/check/a?b=c", b"store", 0)
    assert question.lines == [b"cookie: a=1", b"authorization: x", b"x-forwarded-proto: http"]
    assert (aside.body, aside.seconds) == (b"", 5.0)
    assert [field for field in asked.fields if field[0] in (b"x-user", b"x-b")] == [(b"x-b", b"2"), (b"x-user", b"ann")]
    await Asks(AUTH).act(head(b"*"), call)
    assert call.asked[-1].head.target == b"/check/"


async def test_what_servers_read_as_a_field_of_the_answer_does_not_pass() -> None:
    asked = head()
    for name in b"X_User", b"x_b":
        asked.fields.append((name.lower(), b"root"))
        asked.lines.append(name + b": root")
    await Asks(AUTH).act(asked, Call(says(200, b"X-User: ann")))
    assert [field for field in asked.fields if b"user" in field[0]] == [(b"x-user", b"ann")]
    assert [line for line in asked.lines if b"user" in line.lower()] == [b"x-user: ann"]
    assert (b"x_b", b"root") in asked.fields


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429])
async def test_a_refusal_is_given_to_the_caller(status: int) -> None:
    call = Call(says(status, b"Location: /login", b"x-edgemesh-reason: lie", b"Content-Length: 3", body=b"no!"))
    with pytest.raises(Answered) as caught:
        await Asks(AUTH).act(head(), call)
    answered = caught.value
    assert (answered.status, answered.fields, answered.body) == (status, [(b"location", b"/login")], b"no!")


@pytest.mark.parametrize("is_open", [False, True])
async def test_only_silence_opens_and_only_where_it_is_said(is_open: bool) -> None:
    config = ExternalAuth("shop/door", 80, open=is_open)
    for reply in (says(500), says(503), *(Reply(refused=Refused(flag)) for flag in FLAGS)):
        flag = reply.refused.flag if reply.refused else ""
        opens = is_open and flag in (
            *("", "connect-failed", "connect-timeout", "upstream-broken", "response-timeout", "route-timeout", "idle"),
            *("no-endpoint", "node-unreachable", "peer-lost"),
        )
        try:
            await Asks(config).act(head(), Call(reply))
            assert opens, flag
        except Answered as answered:
            assert not opens, flag
            assert answered.status == 503
