"""Which fields travel on: hop-by-hop ones end here, ours cannot be forged."""

import pytest

from nodeproxy.codec.fields import agreed, read_request_fields, read_response_fields
from nodeproxy.codec.message import CHUNKED, UNTIL_CLOSE, RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits


def request(lines: bytes, minor: int = 1) -> RequestHead:
    head = RequestHead(b"GET", b"/", minor)
    read_request_fields(head, b"Host: h\r\n" + lines, Limits())
    return head


def response(*lines: bytes) -> ResponseHead:
    head = ResponseHead(200, b"OK", 1)
    read_response_fields(head, list(lines))
    return head


def names(head: RequestHead | ResponseHead) -> list[bytes]:
    return [line.partition(b":")[0].lower() for line in head.lines]


def test_hop_by_hop_fields_end_here() -> None:
    head = request(
        b"Connection: keep-alive, X-Private ,close\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nUpgrade: x\r\n"
        b"X-Private: 1\r\nX-Public: 2\r\n"
    )
    assert names(head) == [b"x-public", b"x-forwarded-proto"]
    assert [name for name, _ in head.fields] == [b"host", b"x-public", b"x-forwarded-proto"]
    assert head.close
    answer = response(
        b"Connection: X-Private",
        b"Keep-Alive: 5",
        b"Transfer-Encoding: chunked",
        b"Upgrade: h2c",
        b"X-Private: 1",
        b"Server: s",
    )
    assert answer.lines == [b"Server: s"]


def test_connection_cannot_drop_what_we_rely_on() -> None:
    head = request(
        b"Connection: host, content-length, x-forwarded-for\r\nContent-Length: 3\r\nX-Forwarded-For: 1.1.1.1\r\n"
    )
    assert (head.host, head.length, head.forwarded_for) == (b"h", 3, b"1.1.1.1")
    answer = response(b"Connection: content-length", b"Content-Length: 3")
    assert answer.length == 3


def test_policy_sees_only_what_is_sent_on() -> None:
    head = request(b"X-Role: admin\r\nConnection: X-Role\r\nX-Edgemesh-Identity: root\r\n")
    assert b"x-role" not in dict(head.fields)
    assert b"x-edgemesh-identity" not in dict(head.fields)
    assert b"x-edgemesh-identity" not in names(head)


def test_a_server_cannot_speak_for_us() -> None:
    assert response(b"X-Edgemesh-Reason: denied", b"A: b").lines == [b"A: b"]


def test_several_connection_fields_count_together() -> None:
    head = request(b"Connection: a\r\nConnection: b, upgrade\r\nA: 1\r\nB: 2\r\nC: 3\r\nUpgrade: websocket\r\n")
    assert names(head) == [b"c", b"x-forwarded-proto"]
    assert head.upgrade == b"websocket"


def test_forwarded_fields() -> None:
    head = request(b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: https\r\n")
    assert head.forwarded_for == b"1.1.1.1, 2.2.2.2"
    assert head.lines == [b"X-Forwarded-Proto: https"]
    assert request(b"").lines == [b"x-forwarded-proto: http"]


def test_expect_is_for_http_1_1() -> None:
    assert request(b"Expect: 100-Continue\r\n").expect
    assert names(request(b"Expect: 100-continue\r\n")) == [b"expect", b"x-forwarded-proto"]
    old = request(b"Expect: 100-continue\r\n", minor=0)
    assert not old.expect
    assert b"expect" not in names(old)


def test_te_trailers_is_remembered() -> None:
    assert request(b"TE: Trailers\r\n").trailers_ok
    assert not request(b"TE: gzip\r\n").trailers_ok


@pytest.mark.parametrize(
    ("lines", "minor", "upgrade"),
    [
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", 1, b"websocket"),
        (b"Connection: upgrade\r\nUpgrade: h2c, websocket, TLS/1.0\r\n", 1, b"websocket"),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\n", 1, b""),  # requests inside would be decided by nobody
        (b"Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n", 1, b""),
        (b"Upgrade: websocket\r\n", 1, b""),
        (b"Connection: upgrade\r\n", 1, b""),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n", 0, b""),
        (b"Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n", 1, b"a, b"),
    ],
)
def test_upgrade(lines: bytes, minor: int, upgrade: bytes) -> None:
    head = request(lines, minor)
    assert head.upgrade == upgrade
    assert dict(head.fields).get(b"upgrade", b"") == upgrade


def test_a_server_may_switch_only_to_what_was_offered() -> None:
    head = request(b"Connection: upgrade\r\nUpgrade: WebSocket, other\r\n")
    for upgrade, good in ((b"websocket", True), (b"Other", True), (b"h2c", False), (b"", False)):
        answer = ResponseHead(101, b"", 1)
        answer.upgrade = upgrade
        assert agreed(head, answer) is good
    assert not agreed(request(b""), answer)


def test_a_server_that_says_identity_means_no_coding() -> None:
    head = response(b"Transfer-Encoding: Identity", b"Content-Length: 5")
    assert (head.length, head.declared, head.lines) == (5, 5, [])
    assert head.close, "its framing is faulty: one response, and no other on that connection"
    assert response(b"transfer-encoding: identity").length == UNTIL_CLOSE
    assert response(b"transfer-encoding: identity", b"transfer-encoding: chunked").length == CHUNKED


def test_faulty_framing_of_a_server_closes_its_connection() -> None:
    assert response(b"Content-Length: 5", b"Transfer-Encoding: chunked").close
    assert not response(b"Transfer-Encoding: chunked").close
    for lines in (
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Transfer-Encoding: gzip",),
        (b"Transfer-Encoding: chunked",) * 2,
    ):
        with pytest.raises(Refused) as caught:
            response(*lines)
        assert caught.value.flag == "upstream-broken"
