"""Forwarded fields at the edge: ours from anybody, a trusted proxy's own kept, and nothing that two readers read in two ways."""

import pytest

from nodeproxy.codec.fields import read_request_fields
from nodeproxy.codec.forwarded import at_edge
from nodeproxy.codec.http1 import write_request
from nodeproxy.codec.message import RequestHead
from nodeproxy.limits import Limits


def edge(*sent, scheme=b"https", trusted=False):
    head = RequestHead(b"GET", b"/", 1)
    lines = (b"Host: shop.example", *sent)
    read_request_fields(head, b"".join(line + b"\r\n" for line in lines), Limits())
    at_edge(head, b"shop.example", scheme, trusted)
    return head


def forwarded(head):
    """What a server gets, as (name, value), of all fields but Host and x-forwarded-for; both versions of HTTP agree."""
    written = write_request(head, b"/", b"shop.example", b"").split(b"\r\n")[2:]
    found = sorted((line.partition(b": ")[0].lower(), line.partition(b": ")[2]) for line in written if b": " in line)
    found = [field for field in found if field[0] not in (b"host", b"x-forwarded-for")]
    assert sorted(field for field in head.fields if field[0] not in (b"host", b"x-forwarded-for")) == found
    return found


OURS = [(b"x-forwarded-host", b"shop.example"), (b"x-forwarded-proto", b"https")]


@pytest.mark.parametrize(
    "sent",
    [
        (),
        (b"X-Forwarded-Proto: http",),
        (b"X-Forwarded-Host: admin.internal", b"X-Forwarded-Port: 1", b"x-forwarded-prefix: /a"),
        (b"Forwarded: for=10.0.0.1;proto=https", b"X-Real-IP: 10.0.0.1"),
        (b"X-Forwarded-Client-Cert: By=spiffe://x",),
        (b"X-Forwarded-For: 10.0.0.1", b"x-forwarded-for: 10.0.0.2"),
        (b"X_Forwarded_For: 10.0.0.1", b"X-Forwarded_Proto: http", b"x_real_ip: 10.0.0.1"),
    ],
)
def test_a_clients_own_are_dropped(sent):
    head = edge(*sent)
    assert forwarded(head) == OURS
    assert head.forwarded_for == b""


def test_a_trusted_proxys_with_underscores_are_dropped():
    head = edge(b"X_Forwarded_For: 10.0.0.1", b"X_Real_IP: 10.0.0.1", b"X_A: b", trusted=True)
    assert forwarded(head) == [*OURS, (b"x_a", b"b")]


def test_other_fields_stay():
    head = edge(b"X-Forwarded: a", b"Accept: */*")
    assert forwarded(head) == [(b"accept", b"*/*"), (b"x-forwarded", b"a"), *OURS]


def test_a_trusted_proxys_are_kept():
    head = edge(
        b"X-Forwarded-For: 203.0.113.9",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: www.shop.example",
        b"X-Real-IP: 203.0.113.9",
        scheme=b"http",
        trusted=True,
    )
    assert forwarded(head) == [
        (b"x-forwarded-host", b"www.shop.example"),
        (b"x-forwarded-proto", b"https"),
        (b"x-real-ip", b"203.0.113.9"),
    ]
    assert head.forwarded_for == b"203.0.113.9"


@pytest.mark.parametrize(
    "sent",
    [
        (),
        (b"X-Forwarded-Proto: gopher", b"X-Forwarded-Host: a b"),
        (b"X-Forwarded-Proto: http", b"X-Forwarded-Proto: http"),
        (b"X-Forwarded-Host: a.example", b"X-Forwarded-Host: b.example"),
        (b"X-Forwarded-For: " + b"1" * 1025,),
    ],
)
def test_of_a_trusted_proxy_only_what_has_one_reading_is_kept(sent):
    head = edge(*sent, trusted=True)
    assert forwarded(head) == OURS
    assert head.forwarded_for == b""


def test_without_a_host_there_is_no_forwarded_host():
    head = RequestHead(b"GET", b"/", 0)
    read_request_fields(head, b"", Limits())
    at_edge(head, b"", b"http", False)
    assert forwarded(head) == [(b"x-forwarded-proto", b"http")]
