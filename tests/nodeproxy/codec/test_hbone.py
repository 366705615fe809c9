"""What is asked of a tunnel door and what it answers, field by field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.hbone import Asked, check_answer, connect_fields, read, read_authority, refusal_fields
from nodeproxy.errors import FLAGS, Refused
from policy.model import Endpoint, Hop

HOP = Hop("10.9.0.2", 15008, "spiffe://cluster.local/node/there", "there")
HERE = Endpoint("10.0.0.2", 80)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("10.0.0.2:80", "10.0.0.2", 80),
        ("10.0.0.2:65535", "10.0.0.2", 65535),
        ("[fd00::2]:80", "fd00::2", 80),
        ("[FD00:0:0:0:0:0:0:2]:80", "fd00::2", 80),
    ],
)
def test_authorities(text, address, port):
    assert read_authority(text) == (address, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "store:80",
        "store.shop.svc.cluster.local:80",
        "10.0.0.2",
        "10.0.0.2:",
        "10.0.0.2:0",
        "10.0.0.2:080",
        "10.0.0.2:65536",
        "10.0.0.2:-1",
        "10.0.0.2:8 0",
        "10.0.0.2:٨٠",
        "010.0.0.2:80",
        "10.0.2:80",
        "0x0a.0.0.2:80",
        "fd00::2:80",
        "[fd00::2]",
        "[fd00::2]80",
        "[fe80::1%eth0]:80",
        "[10.0.0.2]:80",
        "user@10.0.0.2:80",
        "10.0.0.2:80/",
        "10.0.0.2:80\n",
    ],
)
def test_what_is_no_authority(text):
    with pytest.raises(Refused) as error:
        read_authority(text)
    assert error.value.flag == "bad-authority"


@given(st.ip_addresses(), st.integers(1, 65535))
def test_what_a_client_asks_for_is_what_a_door_reads(address, port):
    fields = connect_fields(Endpoint(str(address), port), (str(address), port), "a" * 32, b"\1" * 8)
    assert read(fields, native=False) == Asked(True, str(address), port, False, (str(address), port), "a" * 32)


@pytest.mark.parametrize(
    ("name", "value", "caller"),
    [
        (b"forwarded", b'for="10.0.0.1:1234"', ("10.0.0.1", 1234)),
        (b"forwarded", b'for="10.0.0.1:1234";host=store.shop', ("10.0.0.1", 1234)),
        (b"forwarded", b"by=x;For=10.0.0.1", ("10.0.0.1", 0)),
        (b"forwarded", b'for="[fd00::1]:9"', ("fd00::1", 9)),
        (b"forwarded", b"for=10.0.0.66, for=10.0.0.1", ("10.0.0.1", 0)),
        (b"forwarded", b"for=unknown", None),
        (b"forwarded", b'for="_hidden"', None),
        (b"forwarded", b"xfor=10.0.0.1", None),
        (b"forwarded", b"for=10.0.0.1x", None),
        (b"x-forwarded-for", b"10.0.0.66, 10.0.0.1", ("10.0.0.1", 0)),
        (b"x-forwarded-for", b"fd00::1", ("fd00::1", 0)),
        (b"x-forwarded-for", b"me", None),
    ],
)
def test_who_calls_as_the_peer_says(name, value, caller):
    fields = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.2:80"), (name, value)]
    assert read(fields, native=False).caller == caller


def test_a_request_between_nodes():
    fields = [
        (b":method", b"GET"),
        (b":path", b"/"),
        (b":authority", b"store"),
        (b"x-edgemesh-destination", b"10.0.0.2:80;h2"),
    ]
    assert read(fields, native=True) == Asked(False, "10.0.0.2", 80, True)
    with pytest.raises(Refused, match="not-connect"):
        read(fields, native=False)
    with pytest.raises(Refused, match="bad-authority"):
        read(fields[:3], native=True)


def test_every_flag_has_an_answer_that_the_other_end_can_read():
    for flag in FLAGS:
        refused = Refused(flag, "no-rule: because" if flag == "denied" else "because")
        answer = refusal_fields(refused, "b" * 32)
        assert answer[0][1] in (b"400", b"401", b"503")
        with pytest.raises(Refused) as error:
            check_answer(answer, HOP, HERE, None)
        assert error.value.request_id == "b" * 32
        assert ("no-rule" if flag == "denied" else flag) in error.value.detail
        assert error.value.flag == ("connect-failed" if answer[0][1] == b"503" else "peer-refused")


def test_answers_of_others():
    check_answer([(b":status", b"200"), (b"baggage", b"x=y")], HOP, HERE, None)
    with pytest.raises(Refused) as error:
        check_answer([(b":status", b"401"), (b"x-edgemesh-request", b"<script>")], HOP, HERE, None)
    assert (error.value.flag, error.value.request_id) == ("peer-refused", "")
