"""mirror.py: which requests are copied, and what a copy is; journeys/test_mirrors.py has them over sockets."""

from __future__ import annotations

from typing import Any

import pytest

from nodeproxy.codec.message import RequestHead
from nodeproxy.interfaces import Aside
from nodeproxy.protocols.http.aside import Whole
from nodeproxy.protocols.http.mirror import BODY, Copy, Mirrors, copied
from policy.route import RequestMirror

MIRROR = RequestMirror("shop/other", 80)


class Notes:
    """Asides, a place and a connection in one: what is asked of each is noted."""

    def __init__(self, full: bool = False) -> None:
        self.context = self.asides = self.conn = self
        self.full = full
        self.sent: list[Aside] = []
        self.copies: list[Any] = []
        self.freed = self.missed = 0

    def place(self, conn: object) -> Any:
        return None if self.full else self

    def free(self) -> None:
        self.freed += 1

    def lost(self) -> None:
        self.missed += 1

    def send(self, conn: object, aside: Aside, place: object) -> None:
        self.sent.append(aside)

    def copy_to(self, copy: object) -> None:
        self.copies.append(copy)


class Part:
    """A body of which more is to come, or not."""

    trailers: list[bytes] = []  # noqa: RUF012 - there are none

    def __init__(self, complete: bool) -> None:
        self.complete = complete

    def body(self) -> bytes | None:
        return None


def head(method: bytes = b"POST", length: int = 0, upgrade: bytes = b"") -> RequestHead:
    head = RequestHead(method, b"/", 1)
    head.host, head.length, head.upgrade = b"store", length, upgrade
    head.fields = [(b"host", b"store"), (b"x-a", b"1"), (b"expect", b"100-continue"), (b"x-forwarded-for", b"10.0.0.1")]
    head.lines = [b"X-A: 1", b"Expect: 100-continue"]
    return head


@pytest.mark.parametrize(
    ("asked", "config", "copies", "missed"),
    [
        (head(), MIRROR, 1, 0),
        (head(length=BODY), MIRROR, 1, 0),
        (head(length=-1), MIRROR, 1, 0),
        (head(length=BODY + 1), MIRROR, 0, 1),
        (head(b"GET", upgrade=b"websocket"), MIRROR, 0, 0),
        (head(b"CONNECT"), MIRROR, 0, 0),
        (head(), RequestMirror("shop/other", 80, 0, 100), 0, 0),
    ],
)
async def test_which_requests_are_copied(asked: RequestHead, config: RequestMirror, copies: int, missed: int) -> None:
    notes: Any = Notes()
    await Mirrors(config).act(asked, notes)
    assert (len(notes.copies), notes.missed) == (copies, missed)
    full: Any = Notes(full=True)
    await Mirrors(config).act(asked, full)
    assert full.copies == []


def test_a_copy_is_sent_with_the_last_piece_and_once() -> None:
    notes: Any = Notes()
    copy = Copy(MIRROR, notes)
    asked = head(length=-1)
    for piece, last in ((b"one ", False), (b"", False), (b"two", True), (b"more", True)):
        copy.passed(piece, Part(last), notes, asked, b"/sent", True)
        assert len(notes.sent) == (last)
    copy.drop()
    (aside,) = notes.sent
    assert (aside.service, aside.port, aside.body, aside.h2, notes.freed) == ("shop/other", 80, b"one two", True, 0)


def test_a_copy_that_ends_early_or_is_too_large_gives_its_place_back_once() -> None:
    for pieces in ([], [b"a"], [b"a" * BODY, b"b"], [b"a" * (BODY + 1)]):
        notes: Any = Notes()
        copy = Copy(MIRROR, notes)
        for piece in pieces:
            copy.passed(piece, Part(False), notes, head(), b"/", False)
        copy.drop()
        copy.drop()
        assert (notes.freed, notes.sent) == (1, [])


def test_the_head_of_a_copy_is_framed_anew_and_nobody_waits_for_it() -> None:
    made = copied(head(length=-1), b"/sent?a=b", 7)
    assert (made.method, made.target, made.host, made.length, made.declared) == (
        b"POST",
        b"/sent?a=b",
        b"store",
        7,
        True,
    )
    assert made.fields == [(b"host", b"store"), (b"x-a", b"1")]
    assert made.lines == [b"X-A: 1"]
    assert not made.expect


def test_a_body_in_memory_is_taken_whole() -> None:
    assert Whole(b"").complete
    body = Whole(b"abc")
    assert not body.complete
    assert (body.body(), body.complete) == (b"abc", True)
