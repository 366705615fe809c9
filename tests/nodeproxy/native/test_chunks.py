"""Chunked bodies in the native lane: read as Python reads them, wherever they are cut, and sent on in the same bytes."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nodeproxy.codec.http1 import Incoming, framed
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.native import AVAILABLE
from tests.compiled import needs_lane
from tests.nodeproxy.fastpath.test_path import GET, Place

if AVAILABLE:
    from nodeproxy.native import FAILED

pytestmark = needs_lane

REQUEST = b"POST /books HTTP/1.1\r\nhost: store\r\ntransfer-encoding: chunked\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
FLAGS = {True: "upstream-broken", False: "bad-request"}

BODIES = (
    b"3\r\nabc\r\n0\r\n\r\n",
    b"3;x=y\r\nabc\r\nA ;x\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nhost: evil\r\n\r\n",
    b"0\r\n\r\n",
    b"000000000000000a\r\n0123456789\r\n0000000000000000\r\n\r\n",  # 16 digits
    b"0000000000000000a\r\n0123456789\r\n0\r\n\r\n",  # 17
    b"ffffffffffffffff\r\nabc",
    b"1" + b"0" * 16 + b"\r\n",
    b"3;" + b"x" * 1021 + b"\r\nabc\r\n0\r\n\r\n",  # a line of 1,023 bytes
    b"3;" + b"x" * 1022 + b"\r\nabc\r\n0\r\n\r\n",
    b"3;" + b"x" * 5000,
    b'3 ;a b=\xff\t"c\r\nabc\r\n0\r\n\r\n',
    b"3;a\x01\r\nabc\r\n0\r\n\r\n",
    b"3;a\x00\r\n",
    b"3 \t\r\nabc\r\n0 \r\n\r\n",  # padded: forgiven to servers alone
    b"3" + b" " * 1022 + b"\r\nabc\r\n0\r\n\r\n",
    b"3" + b" " * 1023 + b"\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"\r\n3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b";x\r\nabc\r\n",
    b"3\nabc\n0\n\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\r\nabc\r0\r\n\r\n",
    b"3\rabc\r\n0\r\n\r\n",
    b"0\r\nX: 1\n\r\n\r\n",
    b"0\r\nX: 1\r\n folded\r\n\r\n",
    b"0\r\nX : 1\r\n\r\n",
    b"0\r\n: 1\r\n\r\n",
    b"0\r\nX\r\n\r\n",
    b"0\r\nX: \x00\r\n\r\n",
    b"0\r\nContent-Length: 3\r\nTransfer-Encoding: x\r\nx-y:  z \r\n\r\n",
    b"0\r\nX: " + b"y" * 8187 + b"\r\n\r\n",  # a section of 8,192 bytes
    b"0\r\nX: " + b"y" * 8188 + b"\r\n\r\n",
    b"0\r\nX: " + b"y" * 9000,
)


def as_python(pieces, of_server):
    """What Python sends on, and the detail of the fault that it finds ("" for none)."""
    incoming = Incoming(FLAGS[of_server])
    incoming.feed(RESPONSE if of_server else REQUEST)
    assert incoming.response_head(b"GET", Limits()) if of_server else incoming.request_head(Limits())
    sent = b""
    try:
        for piece in pieces:
            if not incoming.complete:
                incoming.feed(piece)
                data = incoming.body()
                if data is not None:
                    sent += framed(data, incoming, True)
    except Refused as refused:
        return sent, refused.detail
    return sent, ""


def as_lane(pieces, of_server):
    place = Place()
    try:
        head = RESPONSE if of_server else REQUEST
        if of_server:
            place.say(GET)
        far = place.a if of_server else place.d
        (place.d if of_server else place.a).sendall(head)
        heard = place.heard(far)
        assert heard.endswith(b"transfer-encoding: chunked\r\n\r\n")
        sent = b""
        for piece in pieces:
            (place.d if of_server else place.a).sendall(piece)
            sent += place.heard(far)
            ups = place.lane.ups()
            if ups:
                ((_, what, flag, detail, *_),) = ups
                assert (what, flag) == (FAILED, FLAGS[of_server])
                return sent, detail
        return sent, ""
    finally:
        place.close()


CUTS = {"at once": lambda body: [body], "byte by byte": lambda body: [body[i : i + 1] for i in range(len(body))]}


@pytest.mark.parametrize("of_server", [False, True], ids=["request", "response"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("body", BODIES)
def test_chunks_are_read_alike(body, cut, of_server):
    pieces = CUTS[cut](body)
    slow, fast = as_python(pieces, of_server), as_lane(pieces, of_server)
    assert fast[0] == slow[0]
    # Python looks at a line when it is whole, or when nothing could complete it: what it says of a part may come later.
    assert fast[1] == slow[1] or (not slow[1] and not body.endswith(b"\r\n\r\n"))


def test_how_a_body_is_cut_changes_nothing():
    for body in BODIES:
        for of_server in (False, True):
            whole, parts = (as_python(cut(body), of_server) for cut in CUTS.values())
            assert bool(whole[1]) == bool(parts[1]), body[:60]


PARTS = st.sampled_from(
    [
        b"3\r\nabc\r\n",
        b"0\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b"a;x\r\n",
        b" ",
        b"\t",
        b"0123456789",
        b"X-Y: z\r\n",
        b";",
        b"00",
        b"\x00",
        b"f",
    ]
)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=200)
@example([b"3\r\nabc\r\n", b"\r\n"], [9], False)
@given(st.lists(PARTS, max_size=10), st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_any_chunks_are_read_alike(parts, cuts, of_server):
    body = b"".join(parts)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    slow, fast = as_python(pieces, of_server), as_lane(pieces, of_server)
    if fast[1]:
        # The lane looks at a line before it is whole, and finds a fault a piece earlier; what is before it in that piece goes nowhere.
        assert slow[1] in (fast[1], "")
        assert slow[0].startswith(fast[0])
    else:
        assert fast == slow


@pytest.mark.parametrize(
    ("more", "alive"), [(b"3;xxx", False), (b"3", False), (b"0\r\nX: y", False), (b"3\r\na", True)]
)
@pytest.mark.parametrize("of_server", [False, True], ids=["request", "response"])
def test_a_body_moves_by_its_bytes_and_by_nothing_else(of_server, more, alive):
    """Extensions and trailers without end, a byte at a time, keep nothing alive that silence would not."""
    place = Place(idle_timeout=0.1)
    if of_server:
        place.say(GET)
    say = place.answer if of_server else place.say
    say((RESPONSE if of_server else REQUEST) + b"1\r\na\r\n")
    time.sleep(0.08)
    say(more)
    time.sleep(0.06)
    place.lane.tick()
    assert [(what, flag) for _, what, flag, *_ in place.ups()] == ([] if alive else [(FAILED, "idle")])
    place.close()
