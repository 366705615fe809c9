"""Calls that last, and what they call: plain TCP, a WebSocket-like upgrade, a stream of HTTP/2 as gRPC uses it. Runs in a pod's network.

    python -m tests.kube.long_calls serve ADDRESS
    python -m tests.kube.long_calls call SECONDS ADDRESS...

`call` has one connection of each kind to each server, sends a word every 0.1 s and hears it back. Then it prints one line
of JSON: {"KIND ADDRESS": {"words": 600, "longest": 0.05, "fault": ""}}; a fault is why it ended before its time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import h2.config
import h2.connection
import h2.events
import hpack
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

TCP, UPGRADE, STREAM = 7001, 7002, 7003  # ports
TICK, SOON = 0.1, 10.0  # seconds between two words; until one is back
Echo = Callable[[bytes], Awaitable[bytes]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def upgraded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    await echo(reader, writer)


async def streamed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    machine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    machine.initiate_connection()
    writer.write(machine.data_to_send())
    while data := await reader.read(65536):
        for event in machine.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                machine.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
            elif isinstance(event, h2.events.DataReceived):
                machine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                machine.send_data(event.stream_id, event.data)
        writer.write(machine.data_to_send())
        await writer.drain()


async def call_tcp(address: str) -> Echo:
    return _echo(*await asyncio.open_connection(address, TCP))


def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Echo:
    async def one(word: bytes) -> bytes:
        writer.write(word)
        await writer.drain()
        return await reader.readexactly(len(word))

    return one


async def call_upgraded(address: str) -> Echo:
    reader, writer = await asyncio.open_connection(address, UPGRADE)
    writer.write(f"GET /talk HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(head.decode())
    return _echo(reader, writer)


async def call_streamed(address: str) -> Echo:
    """By frames of our own: h2 takes a GOAWAY, which a daemon sends that lets its streams end, for the end of all of them."""
    reader, writer = await asyncio.open_connection(address, STREAM)
    fields = [(":method", "POST"), (":path", "/calls.Talk/Bidi"), (":scheme", "http"), (":authority", address)]
    head = hpack.Encoder().encode([*fields, ("content-type", "application/grpc"), ("te", "trailers")])
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
    writer.write(HeadersFrame(1, head, flags=["END_HEADERS"]).serialize())
    decoder = hpack.Decoder()

    async def heard() -> bytes:
        """The data of one frame; "" for any other."""
        frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
        frame.parse_body(memoryview(await reader.readexactly(length)))
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            writer.write(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, HeadersFrame) and (":status", "200") not in (found := decoder.decode(frame.data)):
            raise ConnectionError(repr(found))
        elif isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags:
            raise ConnectionError(repr(frame))
        elif isinstance(frame, DataFrame) and frame.data:
            for stream in (0, 1):
                writer.write(WindowUpdateFrame(stream, window_increment=len(frame.data)).serialize())
            return bytes(frame.data)
        return b""

    async def one(word: bytes) -> bytes:
        writer.write(DataFrame(1, word).serialize())
        await writer.drain()
        whole = b""
        while len(whole) < len(word):
            whole += await heard()
        return whole

    return one


KINDS = {"TCP": call_tcp, "upgrade": call_upgraded, "stream": call_streamed}


async def talk(kind: str, address: str, seconds: float) -> dict[str, object]:
    words, longest, fault, until = 0, 0.0, "", time.monotonic() + seconds
    try:
        echoes = await asyncio.wait_for(KINDS[kind](address), SOON)
        while time.monotonic() < until:
            word, began = b"word %08d" % words, time.monotonic()
            heard = await asyncio.wait_for(echoes(word), SOON)
            if heard != word:
                raise ValueError(f"{heard!r} for {word!r}")
            words += 1
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(TICK)
    except (OSError, ValueError, EOFError, TimeoutError) as error:
        fault = repr(error)
    return {"words": words, "longest": longest, "fault": fault}


async def call(seconds: float, addresses: list[str]) -> None:
    names = [(kind, address) for kind in KINDS for address in addresses]
    found = await asyncio.gather(*(talk(kind, address, seconds) for kind, address in names))
    print(json.dumps({" ".join(name): one for name, one in zip(names, found, strict=True)}), flush=True)


async def serve(address: str) -> None:
    for port, handler in ((TCP, echo), (UPGRADE, upgraded), (STREAM, streamed)):
        await asyncio.start_server(_closing(handler), address, port)
    print("ready", flush=True)
    await asyncio.Event().wait()


def _closing(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    return handle


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[2]) if sys.argv[1] == "serve" else call(float(sys.argv[2]), sys.argv[3:]))
