"""HTTP/2 fields to messages and back: what a request means must not depend on what it came over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.http1 import Incoming
from nodeproxy.codec.http2 import request_fields, request_head, response_fields, response_head, trailer_lines
from nodeproxy.codec.message import CHUNKED, UNTIL_CLOSE, Fields
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits

PSEUDO: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a?b"), (b":authority", b"store:80")]
LIMITS = Limits()


def test_a_request_is_read_as_http1_would_be() -> None:
    head = request_head([*PSEUDO, (b"accept", b"*/*"), (b"te", b"trailers")], ended=True, limits=LIMITS)
    incoming = Incoming("bad-request")
    incoming.feed(b"GET /a?b HTTP/1.1\r\naccept: */*\r\nte: trailers\r\nhost: store:80\r\n\r\n")
    same = incoming.request_head(LIMITS)
    assert same is not None
    for name in ("method", "target", "host", "length", "fields", "lines", "trailers_ok", "expect", "close", "bare"):
        assert getattr(head, name) == getattr(same, name), name


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ([*PSEUDO, (b"host", b"other")], "bad-request"),  # Host and :authority differ
        ([*PSEUDO, (b"host", b"store:80"), (b"host", b"store:80")], "bad-request"),
        ([*PSEUDO, (b"x", b"a\r\nevil: 1")], "bad-request"),
        ([*PSEUDO, (b"X", b"a")], "bad-request"),
        ([*PSEUDO, (b"x y", b"a")], "bad-request"),
        ([*PSEUDO, (b"transfer-encoding", b"gzip")], "bad-request"),
        ([*PSEUDO, (b"content-length", b"1"), (b"content-length", b"2")], "bad-request"),
        ([*PSEUDO[:2], (b":path", b"http://x/"), PSEUDO[3]], "bad-request"),
        ([*PSEUDO[:2], (b":path", b"/ HTTP/1.1\r\nx:"), PSEUDO[3]], "bad-request"),
        ([(b":method", b"GE T"), *PSEUDO[1:]], "bad-request"),
        ([*PSEUDO[:3]], "bad-request"),  # no host at all
        ([*PSEUDO, (b"x", b"a" * 70000)], "head-too-large"),
        ([*PSEUDO, *[(b"x", b"a")] * 101], "head-too-large"),
    ],
)
def test_what_could_mean_two_things_is_refused(fields: Fields, flag: str) -> None:
    with pytest.raises(Refused) as refused:
        request_head(fields, ended=True, limits=LIMITS)
    assert refused.value.flag == flag


def test_the_framing_of_a_request() -> None:
    post: Fields = [(b":method", b"POST"), *PSEUDO[1:]]
    assert request_head(post, False, LIMITS).length == CHUNKED
    assert request_head([*post, (b"content-length", b"5")], False, LIMITS).length == 5
    assert request_head(post, True, LIMITS).length == 0
    with pytest.raises(Refused):
        request_head([*post, (b"content-length", b"5")], True, LIMITS)
    assert request_head(PSEUDO, False, LIMITS).bare  # a GET with a body: not every server reads it


def test_cookie_crumbs_are_joined() -> None:
    head = request_head([*PSEUDO, (b"cookie", b"a=1"), (b"cookie", b"b=2")], True, LIMITS)
    assert (b"cookie", b"a=1; b=2") in head.fields


def test_nobody_but_us_says_x_edgemesh() -> None:
    head = request_head([*PSEUDO, (b"x-edgemesh-destination", b"10.0.0.9:80")], True, LIMITS)
    assert not any(name.startswith(b"x-edgemesh") for name, _ in head.fields)
    response = response_head([(b":status", b"200"), (b"x-edgemesh-reason", b"denied")], False, b"GET", from_node=False)
    assert (response.told, response.lines) == ("", [])
    response = response_head([(b":status", b"403"), (b"x-edgemesh-reason", b"no-rule")], False, b"GET", from_node=True)
    assert (response.told, response.lines) == ("no-rule", [b"x-edgemesh-reason: no-rule"])


@pytest.mark.parametrize(
    ("status", "fields", "ended", "method", "length", "declared"),
    [
        (b"200", [], False, b"GET", CHUNKED, UNTIL_CLOSE),
        (b"200", [], True, b"GET", 0, 0),
        (b"200", [(b"content-length", b"7")], False, b"GET", 7, 7),
        (b"200", [(b"content-length", b"7")], True, b"HEAD", 0, 7),
        (b"204", [], True, b"GET", 0, UNTIL_CLOSE),
        (b"304", [(b"content-length", b"7")], True, b"GET", 0, 7),
    ],
)
def test_the_framing_of_a_response(
    status: bytes, fields: Fields, ended: bool, method: bytes, length: int, declared: int
) -> None:
    head = response_head([(b":status", status), *fields], ended, method, from_node=False)
    assert (head.length, head.declared) == (length, declared)
    assert dict(response_fields(head)).get(b"content-length") == (b"%d" % declared if declared >= 0 else None)


@pytest.mark.parametrize(
    "raw", [[], [(b"x", b"1")], [(b":status", b"20")], [(b":status", b"2x0")], [(b":status", b"101")]]
)
def test_a_response_without_a_status_is_none(raw: Fields) -> None:
    with pytest.raises(Refused, match="upstream-broken"):
        response_head(raw, False, b"GET", from_node=False)


def test_trailers_that_would_change_the_message_stay_behind() -> None:
    assert trailer_lines(
        [(b"grpc-status", b"0"), (b"content-length", b"5"), (b"x-edgemesh-reason", b"x"), (b"a", b"\r\n")]
    ) == [b"grpc-status: 0"]


NAMES = st.sampled_from(
    [b"accept", b"x-a", b"cookie", b"user-agent", b"te", b"expect", b"x-forwarded-for", b"x-forwarded-proto"]
)
VALUES = st.text("abz019 ,;=-\t", max_size=20).map(lambda text: text.strip().encode())


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_a_request_that_is_sent_on_reads_the_same_again(extra: Fields) -> None:
    head = request_head([*PSEUDO, *extra], True, LIMITS)
    sent = request_fields(head, b"/a?b", b"store:80", b"10.0.0.1")
    again = request_head(sent, True, LIMITS)
    drop = (b"x-forwarded-for",)
    assert sorted(f for f in again.fields if f[0] not in drop) == sorted(f for f in head.fields if f[0] not in drop)
    assert (again.target, again.host, again.forwarded_for) == (b"/a?b", b"store:80", b"10.0.0.1")


def test_what_a_node_adds_does_not_count_against_its_caller() -> None:
    """100 fields are let in at the first node, which adds who calls, over what, and whither; likewise bytes."""
    asked = [*PSEUDO, *[(b"x", b"a")] * 99]
    added = [
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-proto", b"http"),
        (b"x-edgemesh-destination", b"1.2.3.4:80"),
    ]
    assert request_head(asked, True, LIMITS)
    assert request_head(asked + added, True, LIMITS, from_node=True)
    large = [*PSEUDO, (b"x", b"a" * 65400)]
    assert request_head(large, True, LIMITS)
    assert request_head(large + added, True, LIMITS, from_node=True)
    for fields, from_node in (
        (asked + added, False),
        ([*asked, *added, (b"y", b"b")], True),
        (large + added, False),
        ([*PSEUDO, (b"x", b"a" * 66100)], True),
    ):
        with pytest.raises(Refused) as caught:
            request_head(fields, True, LIMITS, from_node)
        assert caught.value.flag == "head-too-large"
