"""What a caller is told when we say no."""

import h11
import pytest

from nodeproxy.codec.local_reply import answer, content, grpc_fields
from nodeproxy.errors import FLAGS, Refused


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
    data = answer(Refused(flag, "shop/store"), close=False, request_id="a" * 32)
    status, fields, body = read(data)
    assert status == FLAGS[flag].status
    assert data.split(b"\r\n")[0].split(b" ", 2)[2]  # a reason phrase
    assert fields[b"content-type"] == b"text/plain; charset=utf-8"
    assert b"connection" not in fields
    assert FLAGS[flag].meaning in body.decode()
    assert FLAGS[flag].hint in body.decode()
    if FLAGS[flag].private:
        assert b"shop/store" not in body
        assert f"edgemesh explain --request {'a' * 32}".encode() in body
    else:
        assert b"shop/store" in body
        assert body.count(b"\n") == (3 if FLAGS[flag].status in (403, 421) else 2)


OF_THE_CALLERS_OWN = {
    "bad-authority", "bad-path", "bad-proxy-header", "bad-request", "client-gone", "client-untrusted", "cut", "denied", "drained", "egress-denied", "head-timeout", "head-too-large",
    "idle", "misdirected", "no-identity", "not-connect", "own-port", "path-too-long", "plain-to-tls", "plain-to-tunnel", "unknown-workload",
}  # fmt: skip


def test_what_names_a_part_of_the_mesh_is_not_told_to_who_called() -> None:
    """Ports and endpoints of a Service, nodes, certificates: the detail goes out with those flags alone that speak of what was sent."""
    assert {flag for flag, row in FLAGS.items() if not row.private} == OF_THE_CALLERS_OWN
    refused = Refused("no-port", "shop/store has 80, 443, not 81")
    for told in (answer(refused, close=False), dict(grpc_fields(refused, "a" * 32))[b"grpc-message"]):
        assert b"443" not in told
    assert b"the service has no such port" in content(refused)


def test_the_reason_is_the_flag_or_for_a_denial_the_word_of_policy() -> None:
    assert read(answer(Refused("no-endpoint"), close=False))[1][b"x-edgemesh-reason"] == b"no-endpoint"
    assert (
        read(answer(Refused("denied", "no-rule: nothing admits it"), close=False))[1][b"x-edgemesh-reason"]
        == b"no-rule"
    )
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


def test_who_is_denied_is_told_what_asks_for_more_and_nothing_more():
    told = content(Refused("denied", "no-rule: TrafficTarget shop/secret"), "ab" * 16).decode()
    assert f"\nedgemesh explain --request {'ab' * 16} says more, on this node (in a cluster: --all-nodes)\n" in told
    assert "SRC" not in told
    assert "--request" not in content(Refused("denied", "no-rule")).decode()
    assert "--request" not in content(Refused("bad-request", "two lengths"), "ab" * 16).decode(), "its detail is in it"
