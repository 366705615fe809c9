"""sign.py: the signed lines, byte for byte; over sockets: journeys/test_http_filters.py."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead
from nodeproxy.errors import Refused
from nodeproxy.protocols.http import sign
from nodeproxy.protocols.http.sign import Signs, Verifies
from policy.route import Sign, Signature, Verify

KEY = b"0123456789abcdef"
WHAT = Signature("shop/till", ("host", "x-a", "x-none"), True)


class Call:
    """A call and its connection, its context and their keys, in one."""

    def __init__(self, body: bytes | None = b"hello", key: bytes | None = KEY) -> None:
        self.conn: Any = self
        self.context = self.keys = self
        self._body, self._key = body, key

    def get(self, name: str) -> bytes | None:
        assert name == "shop/till"
        return self._key

    async def body(self, most: int) -> bytes | None:
        return self._body

    def copy_to(self, copy: object) -> None:
        raise AssertionError


def head() -> RequestHead:
    head = RequestHead(b"POST", b"/a?b=c", 1)
    head.host = b"store"
    head.fields = [(b"host", b"other"), (b"x-a", b"1"), (b"x-a", b"2")]
    return head


async def test_the_lines_that_are_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign.time, "time", lambda: 1700000000.9)
    asked = head()
    await Signs(Sign(WHAT)).act(asked, Call())
    body = hashlib.sha256(b"hello").hexdigest()
    lines = f"1700000000\nPOST\n/a?b=c\nhost: store\nx-a: 1, 2\nx-none\n{body}\n".encode()
    mac = hmac.new(KEY, lines, "sha256").hexdigest()
    assert asked.fields[-1] == (b"x-signature", f"t=1700000000, v1={mac}".encode())
    await Verifies(Verify(WHAT)).act(asked, Call())
    monkeypatch.setattr(sign.time, "time", lambda: 1700000301.5)
    with pytest.raises(Answered, match="another time"):
        await Verifies(Verify(WHAT)).act(asked, Call())


@pytest.mark.parametrize("value", [b"", b"t=1", b"t=1, v1=" + b"g" * 64, b"t=1, v1=" + b"0" * 63, b"v1=" + b"0" * 64])
async def test_what_is_no_signature(value: bytes) -> None:
    asked = head()
    asked.fields.append((b"x-signature", value))
    with pytest.raises(Answered) as caught:
        await Verifies(Verify(WHAT)).act(asked, Call())
    assert caught.value.status == 401


async def test_two_signatures_are_none() -> None:
    asked = head()
    await Signs(Sign(WHAT)).act(asked, Call())
    asked.fields.append(asked.fields[-1])
    with pytest.raises(Answered, match="malformed"):
        await Verifies(Verify(WHAT)).act(asked, Call())


async def test_without_key_or_with_too_much_body_nothing_passes() -> None:
    with pytest.raises(Refused, match="no key shop/till"):
        await Signs(Sign(WHAT)).act(head(), Call(key=None))
    with pytest.raises(Answered) as caught:
        await Signs(Sign(WHAT)).act(head(), Call(body=None))
    assert caught.value.status == 413
