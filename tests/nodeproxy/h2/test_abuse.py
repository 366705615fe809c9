"""Peers that break HTTP/2, or make us work or remember for nothing: raw frames against one running connection."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
import trio.testing
from hpack import Encoder
from hyperframe.frame import (
    AltSvcFrame,
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.message import Fields
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Channel, Code, Connection
from nodeproxy.h2.machine import Machine
from nodeproxy.h2.owner import of_all
from nodeproxy.limits import Limits, Owner
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.protocols.http.http2 import StreamCaller
from tests.nodeproxy.protocols.http.conftest import Pipe, pipes

GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"store")]
POST: Fields = [(b":method", b"POST"), *GET[1:]]
CONNECT: Fields = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.2:8080")]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

pytestmark = pytest.mark.usefixtures("machine")  # each test with both


class Raw:
    """The other end of a running connection, frame by frame."""

    def __init__(self, bounds: Bounds, client: bool, owner: Owner | None = None) -> None:
        self.pipe, ours = pipes()
        self.connection = Connection(ours, client=client, bounds=bounds, name="raw", owner=owner)
        self.ours = ours
        self.channels: list[Channel] = []
        self.received = bytearray()
        self.encoder = Encoder()
        self.reads = True  # takes what is sent
        self.ended = False
        self.refused: Refused | None = None

    async def run(self) -> None:
        try:
            await self.connection.run(None if self.connection.client else self.channels.append)
        except Refused as refused:
            self.refused = refused
        self.ended = True
        self.ours.close()

    async def read(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self.pipe.receive_some():
                self.received += data

    async def send(self, *frames: Frame | bytes) -> None:
        await self.pipe.send_all(b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames))
        await trio.testing.wait_all_tasks_blocked()

    async def greet(self, **settings: int) -> None:
        values = {getattr(SettingsFrame, name): value for name, value in settings.items()}
        await self.send(b"" if self.connection.client else PREFACE, SettingsFrame(settings=values))

    def headers(self, number: int, fields: Fields = GET, end: bool = True) -> HeadersFrame:
        return HeadersFrame(
            number, self.encoder.encode(fields), flags=["END_HEADERS", *(["END_STREAM"] if end else [])]
        )

    def frames(self) -> list[Frame]:
        rest = memoryview(bytes(self.received))
        if rest[: len(PREFACE)] == PREFACE:
            rest = rest[len(PREFACE) :]
        frames = []
        while rest:
            frame, size = Frame.parse_frame_header(rest[:9])
            frame.parse_body(rest[9 : 9 + size])
            frames.append(frame)
            rest = rest[9 + size :]
        return frames

    def goaway(self) -> int:
        """Its error code. It was the last thing that came."""
        frame = self.frames()[-1]
        assert isinstance(frame, GoAwayFrame)
        return frame.error_code

    def resets(self) -> dict[int, int]:
        return {frame.stream_id: frame.error_code for frame in self.frames() if isinstance(frame, RstStreamFrame)}

    @property
    def native(self) -> bool:
        return not isinstance(self.connection.machine, Machine)

    def abused(self, rule: str, code: Code = Code.ENHANCE_YOUR_CALM, native: tuple[str, Code] | None = None) -> None:
        """It was refused for this rule, and told so. `native`: how the compiled machine says it, where that is not the same."""
        assert self.refused is not None
        if native is not None and self.native:
            rule, code = native
        assert (self.refused.flag, rule in self.refused.detail) == ("http2-abuse", True), self.refused
        assert self.goaway() == code
        assert self.connection.closed


@contextlib.asynccontextmanager
async def raw(
    bounds: Bounds = Bounds(),  # noqa: B008
    client: bool = False,
    greeted: bool = True,
    reads: bool = True,
    owner: Owner | None = None,
) -> AsyncIterator[Raw]:
    made = Raw(bounds, client, owner)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        if reads:
            nursery.start_soon(made.read)
        if greeted:
            await made.greet()
        yield made
        nursery.cancel_scope.cancel()


# The beginning


async def test_what_we_say_first() -> None:
    async with raw(Bounds(max_streams=7, connection_window=100000)) as peer:
        settings, window, ack = peer.frames()
        assert isinstance(settings, SettingsFrame)
        assert settings.settings[SettingsFrame.ENABLE_PUSH] == 0
        assert settings.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 7
        assert settings.settings[SettingsFrame.MAX_HEADER_LIST_SIZE] == 65536
        assert settings.settings[SettingsFrame.MAX_FRAME_SIZE] == 16384
        assert isinstance(window, WindowUpdateFrame)
        assert (window.stream_id, window.window_increment) == (0, 100000 - 65535)
        assert "ACK" in ack.flags


def test_windows_that_cannot_be_told_in_time() -> None:
    with pytest.raises(ValueError, match="65535"):
        Bounds(stream_window=1000)


@pytest.mark.parametrize("sent", [b"", PREFACE, PREFACE[:10], PREFACE + SettingsFrame().serialize()[:5]])
async def test_a_slow_preface(sent: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with raw(greeted=False) as peer:
        for byte in sent:
            await trio.sleep(0.1)
            await peer.send(bytes((byte,)))
        await trio.sleep_until(9.9)
        assert not peer.refused
        await trio.sleep(0.2)
        assert peer.refused is not None
        assert str(peer.refused.detail) == "raw: no SETTINGS within 10 s"


async def test_a_server_without_settings_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    async with raw(client=True, greeted=False) as peer:
        await trio.sleep(11)
        assert peer.refused is not None
        assert peer.refused.flag == "peer-lost"


async def test_after_the_preface_there_is_no_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with raw() as peer:
        await trio.sleep(10000)
        assert not peer.refused


async def test_another_protocol() -> None:
    async with raw(greeted=False) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: store\r\n\r\n")
        assert peer.refused is not None
        assert peer.refused.flag == "http2-abuse"


@pytest.mark.parametrize("frame", [PingFrame(), SettingsFrame(flags=["ACK"]), WindowUpdateFrame(0, 5)])
async def test_the_first_frame_is_settings(frame: Frame) -> None:
    async with raw(greeted=False) as peer:
        await peer.send(PREFACE, frame)
        peer.abused("the first frame is not SETTINGS", Code.PROTOCOL_ERROR)


# Floods


async def test_rapid_reset(autojump_clock: trio.testing.MockClock) -> None:
    async with raw(Bounds(reset_burst=50)) as peer:
        for number in range(1, 401, 2):
            if peer.ended:
                break
            await peer.send(peer.headers(number), RstStreamFrame(number, Code.CANCEL))
            for channel in peer.channels:
                channel.abort()  # our handler notices at once
        peer.abused("too many resets of streams")
        assert len(peer.channels) == 51


async def test_rapid_reset_in_one_piece(autojump_clock: trio.testing.MockClock) -> None:
    async with raw(Bounds(reset_burst=50)) as peer:
        await peer.send(
            *(
                frame
                for number in range(1, 1001, 2)
                for frame in (peer.headers(number), RstStreamFrame(number, Code.CANCEL))
            )
        )
        peer.abused("too many resets of streams")
        assert len(peer.channels) == 51


async def test_another_connection_does_not_renew_the_budget_of_resets(autojump_clock: trio.testing.MockClock) -> None:
    bounds = Bounds(owner_reset_burst=60, owner_reset_rate=10)
    owner = of_all(1000, bounds, trio.current_time())
    taken = 0
    for connection in range(5):
        async with raw(bounds, owner=owner) as peer:
            await peer.send(
                *(
                    frame
                    for number in range(1, 81, 2)
                    for frame in (peer.headers(number), RstStreamFrame(number, Code.CANCEL))
                )
            )
            taken += len(peer.channels)
            for channel in peer.channels:
                channel.abort()
            if connection:
                peer.abused("too many resets of streams")
    assert taken == 60 + 1 + 3, "one for each connection that finds the budget spent"
    assert owner.debt(trio.current_time()) > 0
    await trio.sleep(10)
    assert owner.debt(trio.current_time()) == 0
    async with raw(bounds, owner=owner) as peer:
        await peer.send(peer.headers(1), RstStreamFrame(1, Code.CANCEL))
        assert not peer.refused, "it was paid by waiting"
        peer.channels[0].abort()


@pytest.mark.parametrize("breaks", [False, True], ids=["it goes", "it breaks rules"])
async def test_whoever_goes_with_streams_open_had_us_work_for_nothing(breaks: bool) -> None:
    owner = of_all(1000, Bounds(owner_reset_burst=5, owner_reset_rate=1), trio.current_time())
    async with raw(owner=owner) as peer:
        await peer.send(*(peer.headers(number) for number in range(1, 17, 2)))
        assert owner.debt(trio.current_time()) == 0
        if breaks:
            await peer.send(b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x")  # DATA on stream 0
        else:
            await peer.pipe.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert owner.debt(trio.current_time()) == pytest.approx(13 if breaks else 3, abs=0.5)


async def test_a_connection_that_we_end_is_held_against_nobody() -> None:
    owner = of_all(1000, Bounds(owner_reset_burst=0, owner_reset_rate=1), trio.current_time())
    async with raw(owner=owner) as peer:
        await peer.send(*(peer.headers(number) for number in range(1, 17, 2)))
        peer.connection.drain()
        await trio.testing.wait_all_tasks_blocked()
        await peer.pipe.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert owner.debt(trio.current_time()) == 0


async def test_streams_are_counted_over_all_connections_of_one_owner() -> None:
    owner = of_all(5, Bounds(), trio.current_time())
    async with raw(owner=owner) as one, raw(owner=owner) as other:
        await one.send(*(one.headers(number) for number in (1, 3, 5)))
        await other.send(*(other.headers(number) for number in (1, 3, 5, 7)))
        assert (len(one.channels), len(other.channels)) == (3, 2)
        assert other.resets() == {5: Code.REFUSED_STREAM, 7: Code.REFUSED_STREAM}
        assert owner.streams == 5
        await one.send(RstStreamFrame(1, Code.CANCEL))
        await other.send(other.headers(9))
        assert other.resets()[9] == Code.REFUSED_STREAM, "its task is still at work"
        one.channels[0].abort()
        await other.send(other.headers(11))
        assert len(other.channels) == 3
        for channel in (*one.channels, *other.channels):
            channel.abort()
            channel.abort()
        assert owner.streams == 0


async def test_a_server_is_told_at_once_that_its_caller_wants_no_answer() -> None:
    gone: list[int] = []
    async with raw() as peer:
        await peer.send(peer.headers(1), peer.headers(3), peer.headers(5, POST, end=False))
        for channel in peer.channels:
            channel.on_gone = partial(gone.append, channel.id)
        await peer.send(RstStreamFrame(3, Code.CANCEL), RstStreamFrame(5, Code.CANCEL))
        assert gone == [3, 5]
    assert gone == [3, 5], "the end of the connection is its owner's affair"


async def test_streams_that_were_reset_count_while_their_owners_are_at_work() -> None:
    async with raw(Bounds(max_streams=10)) as peer:
        for number in range(1, 61, 2):
            await peer.send(peer.headers(number), RstStreamFrame(number, Code.CANCEL))
        assert len(peer.channels) == 20
        for channel in peer.channels:
            channel.close()
        await peer.send(peer.headers(61))
        assert len(peer.channels) == 21
        assert not peer.refused


async def test_a_client_that_cancels_now_and_then_is_served(autojump_clock: trio.testing.MockClock) -> None:
    async with raw(Bounds(reset_burst=20, reset_rate=5)) as peer:
        for number in range(1, 401, 2):
            await peer.send(peer.headers(number))
            channel = peer.channels[-1]
            if number % 4 == 1:
                await peer.send(RstStreamFrame(number, Code.CANCEL))
            else:
                await channel.send_head([(b":status", b"200")], end=True)
            channel.close()
        assert not peer.refused
        for number in range(401, 801, 2):  # all of them, but slowly
            await trio.sleep(0.3)
            await peer.send(peer.headers(number), RstStreamFrame(number, Code.CANCEL))
            peer.channels[-1].close()
        assert not peer.refused


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (WindowUpdateFrame(1, 2**31 - 1), "streams on which HTTP/2 was broken"),
        (DataFrame(1, b"more than announced"), "streams on which HTTP/2 was broken"),
        (HeadersFrame(1, b"\x88", flags=["END_HEADERS", "END_STREAM"]), "malformed trailers"),
    ],
)
async def test_resets_that_it_makes_us_send(wrong: Frame, rule: str) -> None:
    """CVE-2025-8671: the same as a rapid reset, only that the server sends the resets."""
    async with raw(Bounds(reset_burst=50)) as peer:
        for number in range(1, 401, 2):
            if peer.ended:
                break
            wrong.stream_id = number
            await peer.send(peer.headers(number, [*POST, (b"content-length", b"3")], end=False), wrong)
            for channel in peer.channels:
                channel.abort()
        peer.abused(f"too many {rule}", native=("too many streams on which HTTP/2 was broken", Code.ENHANCE_YOUR_CALM))


async def test_too_many_streams_are_refused() -> None:
    async with raw(Bounds(max_streams=5, reset_burst=50)) as peer:
        await peer.send(*(peer.headers(number) for number in range(1, 21, 2)))
        assert peer.resets() == dict.fromkeys(range(11, 21, 2), Code.REFUSED_STREAM)
        assert len(peer.channels) == 5
        await peer.send(*(peer.headers(number) for number in range(21, 221, 2)))
        peer.abused("too many streams beyond our limit")


async def test_streams_that_are_opened_and_left_cost_no_more_than_their_number(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with raw(Bounds(max_streams=5)) as peer:
        await peer.send(*(peer.headers(number, POST, end=False) for number in range(1, 11, 2)))
        await trio.sleep(100000)
        assert (peer.connection.streams, peer.connection.held) == (5, 0)
        await peer.send(peer.headers(11, POST, end=False))
        assert peer.resets() == {11: Code.REFUSED_STREAM}
        for channel in peer.channels:  # it is for their owners to lose patience
            channel.abort()
        assert peer.connection.streams == 0
        await peer.send(peer.headers(13))
        assert len(peer.channels) == 6


FLOODS = {
    "PING": PingFrame(),
    "SETTINGS": SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 70000}),
    "PRIORITY": PriorityFrame(1),
    "empty DATA": DataFrame(1),
    "padding alone": DataFrame(1, pad_length=50, flags=["PADDED"]),
    "WINDOW_UPDATE": WindowUpdateFrame(0, 1),
    "RST_STREAM": RstStreamFrame(1),
    "GOAWAY": GoAwayFrame(0),
    "an unknown one": ExtensionFrame(0xBE, 0),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_frames_that_carry_nothing(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    frame = FLOODS[kind]
    cost = 10 if kind == "SETTINGS" else 1
    async with raw(Bounds(control_burst=200, control_rate=20)) as peer:
        await peer.send(peer.headers(1, POST, end=False))
        for _ in range(500):  # slowly, for ever
            await trio.sleep(cost / 15)
            await peer.send(frame)
        assert not peer.refused
        await trio.sleep(1000)
        for _ in range(450 // cost):
            await peer.send(frame)
            if peer.ended:
                break
        peer.abused(f"carry nothing, the last one {kind.replace('padding alone', 'empty DATA')}")


async def test_windows_that_are_opened_for_what_we_send_are_no_flood() -> None:
    """Two for each frame of ours, as the most eager peers do."""
    async with raw(Bounds(control_burst=100)) as peer:
        await peer.send(peer.headers(1))
        (channel,) = peer.channels
        await channel.send_head([(b":status", b"200")])
        for _ in range(1000):
            await channel.send_all(b"x")
            await peer.send(WindowUpdateFrame(0, 1), WindowUpdateFrame(1, 1))
        assert not peer.refused


@pytest.mark.parametrize("kind", ["PING", "SETTINGS"])
async def test_a_peer_that_asks_and_does_not_read(kind: str) -> None:
    """Answers that nobody takes are bounded, even where the frames that ask for them are within the budget."""
    async with raw(Bounds(control_burst=10**9, queue_bytes=1000), reads=False) as peer:
        peer.pipe.peer.inner.send_all = never
        await peer.send(PingFrame())
        for _ in range(1000):
            if peer.refused:
                break
            await peer.send(FLOODS[kind])
            assert peer.connection.machine.queued < 4200
            if peer.ours.closed or peer.connection.closed:
                break
        else:
            pytest.fail("no bound")
        assert peer.connection._failure is not None
        assert "it does not read" in peer.connection._failure.detail


async def never(data: bytes) -> None:
    await trio.sleep_forever()


async def test_a_goaway_that_nobody_takes_does_not_hold_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with raw(reads=False) as peer:
        peer.pipe.peer.inner.send_all = never
        await peer.send(PingFrame(), DataFrame(1, b"x"))
        await trio.sleep(1.1)
        assert peer.refused is not None
        assert peer.refused.flag == "http2-abuse"


async def test_a_peer_that_takes_no_bytes_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    async with raw(Bounds(stall=60), reads=False) as peer:
        peer.pipe.peer.inner.send_all = never
        await peer.send(PingFrame())
        await trio.sleep(59)
        assert not peer.refused
        await trio.sleep(2)
        assert peer.refused is not None
        assert (peer.refused.flag, peer.refused.detail) == ("peer-lost", "raw: it took no bytes for 60 s")


# Field blocks


async def test_continuation_flood() -> None:
    async with raw() as peer:
        await peer.send(HeadersFrame(1, b""), *(ContinuationFrame(1) for _ in range(100)))
        peer.abused(
            "Too many continuation frames", Code.PROTOCOL_ERROR, ("Too many CONTINUATION frames", Code.PROTOCOL_ERROR)
        )


def field_block(block: bytes, number: int, *, padded: bool = False) -> bytes:
    """As HEADERS and CONTINUATIONs of 16 KiB, END_STREAM with the first."""
    first = HeadersFrame(number, block[:16000], flags=["END_STREAM"], pad_length=100 if padded else 0)
    if padded:
        first.flags.add("PADDED")
    rest = [block[at : at + 16384] for at in range(16000, len(block), 16384)]
    frames = [first, *(ContinuationFrame(number, piece) for piece in rest)]
    frames[-1].flags.add("END_HEADERS")
    return b"".join(frame.serialize() for frame in frames)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pieces", [1 << 20, 4999, 997])
@pytest.mark.parametrize("which", ["value", "name", "huffman"])
async def test_one_field_that_is_too_large_is_its_streams_fault(which: str, pieces: int, padded: bool) -> None:
    """RFC 9113 section 10.5.1: 431 for that request; the others, and the compression of fields that all share, are as before."""
    async with raw() as peer:
        other = HeadersFrame(1, peer.encoder.encode([*POST, (b"x-kept", b"1")]), flags=["END_HEADERS"])
        encoder = peer.encoder
        large = {
            "value": (b"x-large", b"y" * 70_000),
            "name": (b"y" * 70_000, b"1"),
            "huffman": (b"x-large", b'"' * 80_000),
        }[which]
        block = encoder.encode([*GET, large, (b"x-after", b"2")], huffman=which == "huffman")  # ten bits each
        after = HeadersFrame(
            5, encoder.encode([*GET, (b"x-after", b"2"), (b"x-kept", b"1")]), flags=["END_HEADERS", "END_STREAM"]
        )
        sent = other.serialize() + field_block(block, 3, padded=padded) + after.serialize()
        for at in range(0, len(sent), pieces):
            await peer.send(sent[at : at + pieces])
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.refused
        one, cut, last = peer.channels
        assert one.fields == [*POST, (b"x-kept", b"1")]
        assert last.fields == [*GET, (b"x-after", b"2"), (b"x-kept", b"1")]
        with pytest.raises(Refused, match="head-too-large"):
            await StreamCaller(cut).next_head(Limits(), Phase(trio.CancelScope()))
        assert not one.broken


async def test_a_field_block_is_bounded_before_it_is_decoded() -> None:
    async with raw() as peer:
        block = b"\x00\x01a\x7f\x81\xff\x00" + bytes(16300)
        await peer.send(HeadersFrame(1, block), *(ContinuationFrame(1, bytes(16384)) for _ in range(8)))
        if not peer.native:  # which counts while it comes
            assert not peer.refused
            await peer.send(ContinuationFrame(1, b"", flags=["END_HEADERS"]))
        peer.abused("a field block of")


async def test_a_bomb_in_a_field_block() -> None:
    """A large field is put into the table once, and then named by one byte each time."""
    async with raw() as peer:
        block = peer.encoder.encode([*GET, (b"bomb", b"x" * 3800)])
        await peer.send(HeadersFrame(1, block + b"\xbe" * 10000, flags=["END_HEADERS", "END_STREAM"]))
        peer.abused("Oversized header block", native=("a field block of more than", Code.ENHANCE_YOUR_CALM))


async def test_a_head_that_is_only_too_large_comes_to_the_room() -> None:
    """The room can say 431. Tables of both ends stay in step."""
    async with raw(Bounds(head_bytes=8192)) as peer:
        await peer.send(peer.headers(1, [*GET, (b"x-a", b"~" * 6200), (b"x-b", b"y" * 3000)]))
        assert len(peer.channels) == 1


async def test_a_response_head_that_is_too_large_breaks_its_stream() -> None:
    async with raw(Bounds(head_bytes=8192), client=True) as peer:
        channel, other = [await peer.connection.open(GET, end=True) for _ in range(2)]
        await peer.send(peer.headers(channel.id, [(b":status", b"200"), (b"x-a", b"y" * 9000)]))
        with pytest.raises(trio.BrokenResourceError, match="too large"):
            await channel.head()
        await peer.send(peer.headers(other.id, [(b":status", b"200")]))
        assert await other.head() == ([(b":status", b"200")], True)


@pytest.mark.parametrize(
    "block", [b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x80", b"\x00\x05ab", b"\x3f\xff\xff\x7f", b"\xc6"]
)
async def test_a_field_block_that_cannot_be_decoded(block: bytes) -> None:
    async with raw() as peer:
        await peer.send(HeadersFrame(1, block, flags=["END_HEADERS"]))
        peer.abused("", peer.goaway())
        assert peer.goaway() == Code.COMPRESSION_ERROR  # RFC 9113 section 4.3


async def test_trailers_that_cannot_be_decoded_end_the_connection() -> None:
    """The table is lost, so this is not an error of the stream alone."""
    async with raw() as peer:
        await peer.send(
            peer.headers(1, POST, end=False),
            HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=["END_HEADERS", "END_STREAM"]),
        )
        peer.abused(
            "Error decoding header block", Code.COMPRESSION_ERROR, ("COMPRESSION_ERROR", Code.COMPRESSION_ERROR)
        )


async def test_the_peer_cannot_have_us_keep_a_large_table_or_unknown_settings() -> None:
    async with raw() as peer:
        settings = [(1, 2**32 - 1), *((name, 1) for name in range(100, 2000))]
        body = b"".join(struct.pack(">HI", *setting) for setting in settings)
        await peer.send(struct.pack(">BHBBI", 0, len(body), 4, 0, 0) + body)
        machine = peer.connection.machine
        if isinstance(machine, Machine):
            assert not peer.refused
            assert machine.encoder.header_table_size == 4096
            assert len(machine.remote_settings) < 20
        else:
            peer.abused("too many setting entries")


BAD_REQUESTS = {
    "upper case": [*GET, (b"X-A", b"1")],
    "a space in a name": [*GET, (b"x a", b"1")],
    "a colon in a name": [*GET, (b"x:a", b"1")],
    "an empty name": [*GET, (b"", b"1")],
    "a name that is no token": [*GET, (b"x\xffa", b"1")],
    "CR LF": [*GET, (b"x-a", b"1\r\nx-b: 2")],
    "LF": [*GET, (b"x-a", b"1\n")],
    "NUL": [*GET, (b"x-a", b"\x00")],
    "another control character": [*GET, (b"x-a", b"a\x0bb")],
    "space around a value": [*GET, (b"x-a", b" 1")],
    "a tab after a value": [*GET, (b"x-a", b"1\t")],
    "CR LF in the path": [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/ HTTP/1.1\r\nx: y"),
        (b":authority", b"store"),
    ],
    "connection": [*GET, (b"connection", b"close")],
    "keep-alive": [*GET, (b"keep-alive", b"5")],
    "proxy-connection": [*GET, (b"proxy-connection", b"close")],
    "transfer-encoding": [*POST, (b"transfer-encoding", b"chunked")],
    "upgrade": [*GET, (b"upgrade", b"websocket")],
    "te": [*GET, (b"te", b"gzip")],
    "no method": GET[1:],
    "an empty method": [(b":method", b""), *GET[1:]],
    "no scheme": [GET[0], *GET[2:]],
    "a scheme that is none": [GET[0], (b":scheme", b"ht tp"), *GET[2:]],
    "no path": [*GET[:2], GET[3]],
    "an empty path": [*GET[:2], (b":path", b""), GET[3]],
    "a pseudo field twice": [*GET, GET[2]],
    "a pseudo field too late": [*GET[:3], (b"x-a", b"1"), GET[3]],
    "status in a request": [*GET, (b":status", b"200")],
    "an unknown pseudo field": [*GET, (b":version", b"1")],
    "extended CONNECT, which we did not offer": [*CONNECT, (b":protocol", b"websocket"), *GET[1:3]],
    "CONNECT with a path": [*CONNECT, (b":path", b"/")],
    "CONNECT without authority": CONNECT[:1],
    "CONNECT with a length": [*CONNECT, (b"content-length", b"5")],
    "a length that is no number": [*POST, (b"content-length", b"+5")],
    "two lengths": [*POST, (b"content-length", b"5"), (b"content-length", b"6")],
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
async def test_a_malformed_request_is_an_error_of_its_stream(what: str) -> None:
    async with raw() as peer:
        await peer.send(peer.headers(1, BAD_REQUESTS[what], end=False))
        assert peer.resets() == {1: Code.PROTOCOL_ERROR}
        assert not peer.channels
        await peer.send(peer.headers(3))
        assert len(peer.channels) == 1
        assert not peer.refused


@pytest.mark.parametrize(
    "fields",
    [
        [*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2")],
        [*GET, (b"te", b"trailers"), (b"x-a", b""), (b"x-b", b"a \t b"), (b"x-c", b"\xc3\xa9")],
        [GET[1], GET[3], GET[2], GET[0]],
        CONNECT,
    ],
)
async def test_well_formed_requests(fields: Fields) -> None:
    async with raw() as peer:
        await peer.send(peer.headers(1, fields))
        assert peer.channels[0].fields == fields
        assert peer.channels[0].tunnel == ((b":method", b"CONNECT") in fields)


@pytest.mark.parametrize("trailers", [[(b":path", b"/")], [(b"x-a", b"1\r\n")], [(b"transfer-encoding", b"chunked")]])
async def test_malformed_trailers(trailers: Fields) -> None:
    async with raw() as peer:
        await peer.send(peer.headers(1, POST, end=False), peer.headers(1, trailers))
        assert peer.resets() == {1: Code.PROTOCOL_ERROR}
        with pytest.raises(trio.BrokenResourceError):
            await peer.channels[0].receive_some()
        assert not peer.channels[0].complete
        assert not peer.refused


async def test_trailers_without_end() -> None:
    async with raw() as peer:
        await peer.send(peer.headers(1, POST, end=False), peer.headers(1, [(b"x-a", b"1")], end=False), peer.headers(3))
        assert peer.resets() == {1: Code.PROTOCOL_ERROR}
        assert len(peer.channels) == 2


@pytest.mark.parametrize("body", [b"1234", b"123456"])
async def test_a_body_of_another_length_than_announced(body: bytes) -> None:
    async with raw() as peer:
        await peer.send(
            peer.headers(1, [*POST, (b"content-length", b"5")], end=False), DataFrame(1, body, flags=["END_STREAM"])
        )
        assert peer.resets() == {1: Code.PROTOCOL_ERROR}
        with pytest.raises(trio.BrokenResourceError, match="broke HTTP/2"):
            await peer.channels[0].receive_some()
        await peer.send(peer.headers(3))
        assert len(peer.channels) == 2


BAD_RESPONSES = {
    "no status": [(b"x-a", b"1")],
    "a status of two digits": [(b":status", b"20")],
    "a status that is no number": [(b":status", b"2x0")],
    "a path": [(b":status", b"200"), (b":path", b"/")],
    "101": [(b":status", b"101")],
    "CR LF": [(b":status", b"200"), (b"x-a", b"1\r\nx-b: 2")],
    "transfer-encoding": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
}


@pytest.mark.parametrize("what", BAD_RESPONSES)
async def test_a_malformed_response_is_an_error_of_its_stream(what: str) -> None:
    async with raw(client=True) as peer:
        channel, other = [await peer.connection.open(GET, end=True) for _ in range(2)]
        await peer.send(
            peer.headers(channel.id, BAD_RESPONSES[what], end=False), peer.headers(other.id, [(b":status", b"200")])
        )
        with pytest.raises(trio.BrokenResourceError, match=r"malformed response|broke HTTP/2"):
            await channel.head()
        assert peer.resets() == {channel.id: Code.PROTOCOL_ERROR}
        assert await other.head() == ([(b":status", b"200")], True)


async def test_interim_responses_that_nobody_reads() -> None:
    async with raw(client=True) as peer:
        channel = await peer.connection.open(GET, end=True)
        await peer.send(*(peer.headers(channel.id, [(b":status", b"103")], end=False) for _ in range(50)))
        with pytest.raises(trio.BrokenResourceError, match="more interim responses"):
            await channel.head()
        assert not peer.refused


async def test_a_server_that_opens_streams() -> None:
    async with raw(client=True) as peer:
        channel = await peer.connection.open(GET, end=True)
        push = PushPromiseFrame(channel.id, 2, peer.encoder.encode(GET), flags=["END_HEADERS"])
        await peer.send(push)
        peer.abused("pushed", Code.PROTOCOL_ERROR, ("PUSH_PROMISE", Code.PROTOCOL_ERROR))
        with pytest.raises(trio.BrokenResourceError):
            await channel.head()


async def test_a_server_that_sends_a_request() -> None:
    async with raw(client=True) as peer:
        await peer.send(peer.headers(2))
        assert peer.refused is not None or peer.resets() == {2: Code.REFUSED_STREAM}


# Windows


async def test_more_than_the_window_of_a_stream() -> None:
    async with raw() as peer:
        await peer.send(peer.headers(1, POST, end=False), *(DataFrame(1, bytes(16384)) for _ in range(4)))
        if peer.native:  # RFC 9113 section 6.9.1 allows either
            assert peer.resets() == {1: Code.FLOW_CONTROL_ERROR}
        else:
            peer.abused("window", Code.FLOW_CONTROL_ERROR)


async def test_more_than_the_window_of_the_connection() -> None:
    async with raw(Bounds(connection_window=65535)) as peer:
        await peer.send(peer.headers(1, POST, end=False), *(DataFrame(1, bytes(16000)) for _ in range(4)))
        assert not peer.refused
        await peer.send(peer.headers(3, POST, end=False), DataFrame(3, bytes(2000)))
        peer.abused("window", Code.FLOW_CONTROL_ERROR, ("FLOW_CONTROL", Code.FLOW_CONTROL_ERROR))


async def test_small_pieces_cost_no_more_than_large_ones() -> None:
    """One byte a frame: what is held is one object, not thousands."""
    async with raw() as peer:
        await peer.send(peer.headers(1, POST, end=False), *(DataFrame(1, b"x") for _ in range(5000)))
        (channel,) = peer.channels
        assert channel.held == 5000
        assert len(channel.ready() or b"") == 5000


async def test_padding_is_given_back_at_once() -> None:
    async with raw() as peer:
        await peer.send(peer.headers(1, POST, end=False))
        for _ in range(2000):
            await peer.send(DataFrame(1, b"x", pad_length=255, flags=["PADDED"]))
        assert not peer.refused
        assert peer.channels[0].held == 2000


async def test_bytes_for_streams_that_were_reset_are_given_back() -> None:
    async with raw(Bounds(connection_window=65535)) as peer:
        opened = 65535
        for number in range(1, 101, 2):
            await peer.send(peer.headers(number, POST, end=False), DataFrame(number, bytes(5000)))
            peer.channels[-1].abort()
            await peer.send(DataFrame(number, bytes(5000)), DataFrame(number, bytes(5000), flags=["END_STREAM"]))
            opened -= 15000
            opened += sum(
                f.window_increment for f in peer.frames() if isinstance(f, WindowUpdateFrame) and f.stream_id == 0
            )
            peer.received.clear()
            assert opened > 0
        assert not peer.refused


async def test_bytes_of_malformed_messages_are_given_back() -> None:
    async with raw(Bounds(connection_window=65535)) as peer:
        opened = 65535
        for number in range(1, 41, 2):
            await peer.send(
                peer.headers(number, [*POST, (b"content-length", b"1")], end=False), DataFrame(number, bytes(10000))
            )
            peer.channels[-1].close()
            opened -= 10000
            opened += sum(
                f.window_increment for f in peer.frames() if isinstance(f, WindowUpdateFrame) and f.stream_id == 0
            )
            peer.received.clear()
        assert opened >= 20000
        assert not peer.refused


@pytest.mark.parametrize("window", [0, 1000])
async def test_a_peer_that_never_opens_its_window(window: int, autojump_clock: trio.testing.MockClock) -> None:
    async with raw(Bounds(stall=60)) as peer:
        await peer.send(
            SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: window}), peer.headers(1), peer.headers(3)
        )
        stalled, other = peer.channels
        await stalled.send_head([(b":status", b"200")])

        async def distract() -> None:
            for _ in range(100):
                await trio.sleep(1)
                await peer.send(WindowUpdateFrame(0, 1), WindowUpdateFrame(3, 1), SettingsFrame())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(distract)
            with pytest.raises(trio.BrokenResourceError, match="opened no window for 60 s"):
                await stalled.send_all(bytes(5000))
            assert trio.current_time() == 60
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert peer.resets() == {1: Code.CANCEL}
        await other.send_head([(b":status", b"200")], end=True)
        assert not peer.refused
        stalled.close()


async def test_a_window_that_shrinks_below_zero_and_opens_again() -> None:
    async with raw() as peer:
        await peer.send(peer.headers(1))
        (channel,) = peer.channels
        await channel.send_head([(b":status", b"200")])
        await channel.send_all(bytes(60000))
        await peer.send(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1000}))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send_all, b"x" * 100)
            await peer.send(WindowUpdateFrame(1, 59000))
            assert len(nursery.child_tasks) == 1
            await peer.send(WindowUpdateFrame(1, 100))


# Frames that are wrong


WRONG = {
    "too long": (struct.pack(">HBBBI", 0, 255, 0, 0, 1) + bytes(255), Code.PROTOCOL_ERROR),
    "longer than we said": (struct.pack(">HBBBI", 65, 0, 0, 0, 1) + bytes(16640), Code.FRAME_SIZE_ERROR),
    "DATA on a stream that was never opened": (DataFrame(5, b"x").serialize(), Code.PROTOCOL_ERROR),
    "a window increment of 0": (struct.pack(">HBBBII", 0, 4, 8, 0, 0, 0), Code.PROTOCOL_ERROR),
    "an even stream": (HeadersFrame(2, b"\x82", flags=["END_HEADERS"]).serialize(), Code.PROTOCOL_ERROR),
    "CONTINUATION without HEADERS": (ContinuationFrame(1, b"x").serialize(), Code.PROTOCOL_ERROR),
    "another frame inside of a field block": (
        HeadersFrame(1, b"\x82").serialize() + PingFrame().serialize(),
        Code.PROTOCOL_ERROR,
    ),
    "a window beyond 2**31": (WindowUpdateFrame(0, 2**31 - 1).serialize(), Code.FLOW_CONTROL_ERROR),
    "a setting out of range": (
        SettingsFrame(settings={SettingsFrame.MAX_FRAME_SIZE: 5}).serialize(),
        Code.PROTOCOL_ERROR,
    ),
    "padding longer than the frame": (
        struct.pack(">HBBBIB", 0, 1, 0, 8, 1, 200),
        Code.PROTOCOL_ERROR,
    ),
    "SETTINGS of 5 bytes": (struct.pack(">HBBBI", 0, 5, 4, 0, 0) + bytes(5), Code.FRAME_SIZE_ERROR),
    "PING of 7 bytes": (struct.pack(">HBBBI", 0, 7, 6, 0, 0) + bytes(7), Code.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("what", WRONG)
async def test_wrong_frames(what: str) -> None:
    data, _ = WRONG[what]
    async with raw() as peer:
        await peer.send(data)
        peer.abused("", peer.goaway())
        assert peer.goaway() in (Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.FLOW_CONTROL_ERROR)


async def test_a_stream_that_was_ended_and_is_used_again() -> None:
    async with raw() as peer:
        await peer.send(peer.headers(1), DataFrame(1, b"x"))
        if peer.native:
            peer.abused("half-closed", Code.STREAM_CLOSED)
        else:
            assert peer.resets() == {1: Code.STREAM_CLOSED}
            assert not peer.refused


async def test_unknown_and_deprecated_frames_are_ignored() -> None:
    async with raw() as peer:
        await peer.send(
            struct.pack(">HBBBIB", 0, 1, 0xBE, 0, 0, 0),
            AltSvcFrame(0, b"a", b"b"),
            PriorityFrame(1),
            PriorityFrame(5, depends_on=5),
            peer.headers(1),
        )
        assert len(peer.channels) == 1


async def test_a_late_frame_for_a_stream_that_we_reset_is_no_fault() -> None:
    async with raw() as peer:
        for number in range(1, 201, 2):
            await peer.send(peer.headers(number, POST, end=False))
            peer.channels[-1].abort()
            await peer.send(
                DataFrame(number, b"x"), WindowUpdateFrame(number, 1), peer.headers(number, [(b"x-t", b"1")])
            )
        assert not peer.refused


async def test_a_goaway_from_a_server_that_is_angry() -> None:
    async with raw(client=True) as peer:
        channels = [await peer.connection.open(GET) for _ in range(3)]
        await peer.send(GoAwayFrame(0, last_stream_id=3, error_code=Code.ENHANCE_YOUR_CALM))
        assert [channel.refused_unprocessed for channel in channels] == [False, False, True]
        peer.pipe.close()
        await trio.testing.wait_all_tasks_blocked()
        assert peer.refused is not None
        assert (
            peer.refused.detail == "raw: it closed the connection after GOAWAY with error code 11, 2 streams were open"
        )


# Whatever comes


FRAMES = st.tuples(
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x24, 0x25, 0x2D, 255]),
    st.sampled_from([0, 1, 1, 2, 3, 3, 5, 7, 2**31 - 1]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                GET,
                POST,
                CONNECT,
                [(b":status", b"200")],
                [(b":status", b"103")],
                [(b"x-t", b"1")],
                [*POST, (b"content-length", b"1")],
            ]
        ).map(lambda fields: Encoder().encode(fields, huffman=False).replace(b"\x40", b"\x00")),
    ),
)


@pytest.mark.slow
@given(frames=st.lists(FRAMES, max_size=12), client=st.booleans(), cut=st.integers(1, 400))
def test_whatever_comes_is_served_or_refused(frames: list[tuple[int, int, int, bytes]], client: bool, cut: int) -> None:
    """No other error than ours escapes, and all streams end."""

    async def main() -> None:
        made = Raw(Bounds(), client)
        data = b"" if client else PREFACE
        data += SettingsFrame().serialize()
        for kind, flags, number, body in frames:
            data += struct.pack(">HBBBI", 0, len(body), kind, flags, number) + body
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            nursery.start_soon(made.read)
            if client:
                made.channels += [await made.connection.open(fields) for fields in (GET, CONNECT, POST)]
            for start in range(0, len(data), cut):
                with contextlib.suppress(trio.BrokenResourceError):
                    await made.send(data[start : start + cut])
            for channel in made.channels:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    channel.ready()
                    if not client and not channel.sent_head:
                        await channel.send_head([(b":status", b"200")])
                    await channel.send_all(b"x")
                channel.close()
            assert not made.connection.streams
            made.pipe.close()
        assert made.ended
        assert isinstance(made.pipe, Pipe)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
