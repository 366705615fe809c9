"""PROXY protocol: both versions, whole, byte by byte, with what follows, and everything that is no header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.proxy_protocol import MOST_1, MOST_2, Proxied, read_proxy_header

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def second(command=0x21, family=0x11, rest=bytes((192, 0, 2, 7, 198, 51, 100, 1)) + b"\xc3\x50\x01\xbb", length=None):
    return SIGNATURE + bytes((command, family)) + (len(rest) if length is None else length).to_bytes(2) + rest


FOUR = (("192.0.2.7", 50000), ("198.51.100.1", 443))
SIX_REST = bytes.fromhex("20010db800000000000000000000000720010db8000000000000000000000001") + b"\xc3\x50\x01\xbb"
SIX = (("2001:db8::7", 50000), ("2001:db8::1", 443))
MAPPED_REST = bytes.fromhex("00000000000000000000ffffc000020720010db8000000000000000000000001") + b"\xc3\x50\x01\xbb"

HEADERS = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n", FOUR),
    (b"PROXY TCP6 2001:db8::7 2001:DB8::1 50000 443\r\n", SIX),
    (b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 50000 443\r\n", (FOUR[0], SIX[1])),
    (b"PROXY UNKNOWN\r\n", (None, None)),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", (None, None)),
    (second(), FOUR),
    (second(family=0x21, rest=SIX_REST), SIX),
    (second(family=0x21, rest=MAPPED_REST), (FOUR[0], SIX[1])),
    (second(rest=second()[16:] + b"\x03\0\x04\x01\x02\x03\x04" + b"\x04\0\x10" + bytes(16)), FOUR),
    (second(command=0x20, family=0, rest=b""), (None, None)),
    (second(command=0x20), (None, None)),
    (second(family=0, rest=b"\x04\0\x01x"), (None, None)),
]


@pytest.mark.parametrize(("header", "said"), HEADERS)
@pytest.mark.parametrize("after", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
def test_a_header_is_read_whole_and_byte_by_byte(header, said, after):
    assert read_proxy_header(header + after) == Proxied(*said, len(header))
    for size in range(len(header)):
        assert read_proxy_header(header[:size]) is None, size


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"P0",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\n",
        b"PROXY  TCP4 192.0.2.7 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443 \r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 050 443\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 50000 443\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 50000 443\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 50000 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN " + b"x" * MOST_1,
        SIGNATURE + b"\x11",  # version 1 in binary
        SIGNATURE + b"\x22",  # neither LOCAL nor PROXY
        second(family=0x12),  # datagrams
        second(family=0x31, rest=bytes(216)),  # a Unix socket
        second(family=0x21),  # too short for IPv6
        second(rest=b"\0" * 11),
        second(length=MOST_2 - 15),
    ],
)
def test_what_is_no_header_is_refused(data):
    with pytest.raises(ValueError, match=r"\S"):
        read_proxy_header(data)


def test_a_header_of_the_most_bytes_is_read():
    header = second(rest=second()[16:] + bytes(MOST_2 - 28))
    assert len(header) == MOST_2
    assert read_proxy_header(header) == Proxied(*FOUR, MOST_2)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_any_bytes_are_a_header_or_refused_and_never_wait_without_end(data, begin):
    data = begin + data
    try:
        said = read_proxy_header(data)
    except ValueError:
        return
    if said is None:
        assert len(data) < MOST_2
    else:
        assert said.size <= len(data)
