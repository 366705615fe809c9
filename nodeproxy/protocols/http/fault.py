"""Filters that make calls late or fail, and one that answers in the place of the server (policy/route.py)."""

from __future__ import annotations

import random

import trio

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead, ResponseHead
from policy.route import Degrade, Fault


class Faults:
    """Delays and refuses shares of the calls."""

    def __init__(self, config: Fault) -> None:
        self._config = config

    async def request(self, head: RequestHead) -> None:
        config = self._config
        if config.delay and _drawn(config.delayed):
            await trio.sleep(config.delay)
        if config.status and _drawn(config.aborted):
            raise Answered(config.status, _PLAIN, b"fault injected\n", "a fault that an HTTPFilter asks for")

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """The response is left as it is."""


class Degrades:
    """Answers every call. Raise ValueError for an answer that cannot be one."""

    def __init__(self, config: Degrade) -> None:
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in config.fields]
        body = config.body.encode()
        if body and not any(name == b"content-type" for name, _ in fields):
            fields += _PLAIN
        self._answer = (config.status, fields, body, "an HTTPFilter answers in the place of the server")
        Answered(*self._answer)

    async def request(self, head: RequestHead) -> None:
        raise Answered(*self._answer)

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """There is none: no server is asked."""


_PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]


def _drawn(percent: int) -> bool:
    return percent >= 100 or random.randrange(100) < percent  # noqa: S311 - a share, no secret
