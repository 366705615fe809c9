"""What a caller is told when we say no."""

import h11
import pytest

from nodeproxy.errors import FLAGS, Refused
from nodeproxy.http.answers import answer


def read(data: bytes, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return head.status_code, dict(head.headers), body


@pytest.mark.parametrize("flag", sorted(set(FLAGS) - {"client-gone"}))
def test_every_flag_has_an_answer(flag: str) -> None:
    data = answer(Refused(flag, "shop/store"), close=False)
    status, fields, body = read(data)
    assert status == FLAGS[flag].status
    assert data.split(b"\r\n")[0].split(b" ", 2)[2]  # a reason phrase
    assert fields[b"content-type"] == b"text/plain; charset=utf-8"
    assert b"connection" not in fields
    assert FLAGS[flag].meaning in body.decode()
    assert FLAGS[flag].hint in body.decode()
    assert b"shop/store" in body
    assert body.count(b"\n") == 2


def test_the_reason_is_the_flag_or_for_a_denial_the_word_of_policy() -> None:
    assert read(answer(Refused("no-endpoint"), close=False))[1][b"x-edgemesh-reason"] == b"no-endpoint"
    assert read(answer(Refused("denied", "no-rule: nothing admits it"), close=False))[1][b"x-edgemesh-reason"] == b"no-rule"
    assert read(answer(Refused("denied"), close=False))[1][b"x-edgemesh-reason"] == b"denied"


def test_close_is_announced() -> None:
    assert read(answer(Refused("bad-request"), close=True))[1][b"connection"] == b"close"


def test_head_gets_the_length_without_the_body() -> None:
    whole = answer(Refused("denied", "x: y"), close=False)
    head = answer(Refused("denied", "x: y"), close=False, head_only=True)
    assert whole.startswith(head)
    assert read(head, "HEAD")[2] == b""


def test_what_a_caller_sent_cannot_break_the_answer() -> None:
    _, _, body = read(answer(Refused("misdirected", "evil\udc80\r\nx: y"), close=False))
    assert b"evil" in body
