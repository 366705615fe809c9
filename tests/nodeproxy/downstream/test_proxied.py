"""A PROXY header on a stream: taken off whole, whatever comes with it, and never waited for without end."""

import pytest
import trio
from trio.testing import memory_stream_pair

from nodeproxy.downstream.proxied import hear_proxy
from nodeproxy.errors import Refused
from nodeproxy.stream import Peeked

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n"
BINARY = bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 000c c0000207 c6336401 c350 01bb")


@pytest.mark.parametrize("header", [HEADER, BINARY])
async def test_what_follows_the_header_is_left(header):
    ours, theirs = memory_stream_pair()
    stream = Peeked(theirs)
    await ours.send_all(header + b"GET / HTTP/1.1\r\n")
    assert (await hear_proxy(stream, 5)).source == ("192.0.2.7", 50000)
    assert await stream.receive_some() == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize("header", [HEADER, BINARY])
async def test_byte_by_byte(header, autojump_clock):
    ours, theirs = memory_stream_pair()
    stream = Peeked(theirs)

    async def send():
        for at in range(len(header)):
            await ours.send_all(header[at : at + 1])
            await trio.sleep(0.01)
        await ours.send_all(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert (await hear_proxy(stream, 5)).destination == ("198.51.100.1", 443)
        assert await stream.receive_some() == b"x"


async def test_what_is_no_header_or_does_not_come_is_refused(autojump_clock):
    for sent, why in (
        (b"GET / HTTP/1.1\r\n", "does not begin with"),
        (HEADER[:9], "not whole in 5 s"),
        (b"", "in 5 s"),
    ):
        ours, theirs = memory_stream_pair()
        if sent:
            await ours.send_all(sent)
        with pytest.raises(Refused, match="bad-proxy-header") as refused:
            await hear_proxy(Peeked(theirs), 5)
        assert why in refused.value.detail


async def test_an_end_within_the_header_is_refused():
    ours, theirs = memory_stream_pair()
    await ours.send_all(BINARY[:20])
    await ours.send_eof()
    with pytest.raises(Refused, match="ended before its header was whole"):
        await hear_proxy(Peeked(theirs), 5)
