"""The calls of the soak, of one workload. Runs in its namespace; prints what came of them as JSON.

    python callers.py '{"seconds": ..., "durations": [...], "silences": {KIND: ...}, "addresses": [...]}'

Each way to call is tried on each server, busy and quiet, for each duration, over and over until the time is over; a call that would
not end in time is not begun, nor one that is silent for longer than its kind may be. Whatever ends before it should, or answers
something else, is a failure.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import grpc
from server import DATABASE, ECHO, GRPC, UNSAID, WEB

TICK = 0.5  # seconds between two messages of what is busy
SOON = 30.0  # seconds in which everything that needs not wait has to happen
Call = Callable[[str, float, bool], Awaitable[None]]  # server's address, seconds, quiet


class Wrong(Exception):  # noqa: N818 - it is what was seen
    """Not what was expected."""


class Wire:
    """A connection with a deadline for each step."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.over = False  # the last answer said that there is none after it

    @classmethod
    async def dial(cls, address: str, port: int) -> Wire:
        return cls(*await asyncio.wait_for(asyncio.open_connection(address, port), SOON))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), SOON)

    async def read(self, size: int, seconds: float = SOON) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), seconds)

    async def ask(self, path: str, method: str = "GET", fields: str = "") -> None:
        await self.send(f"{method} {path} HTTP/1.1\r\nhost: store\r\n{fields}\r\n".encode())

    async def head(self, seconds: float = SOON) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), seconds)

    async def answer(self, expected: str, seconds: float = SOON) -> None:
        head = await self.head(seconds)
        size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await self.read(size)
        self.over = b"\r\nconnection: close\r\n" in head.lower()
        if not head.startswith(b"HTTP/1.1 200 ") or expected not in body.decode():
            raise Wrong(f"{head[:200]!r} {body[:200]!r}")

    async def echoes(self, word: bytes) -> None:
        await self.send(word)
        if (heard := await self.read(len(word))) != word:
            raise Wrong(f"{heard!r} for {word!r}")

    async def rest(self, seconds: float) -> None:
        """Nothing comes, and it does not end: what a pool asks of a connection before it hands it out."""
        try:
            data = await asyncio.wait_for(self.reader.read(1), seconds)
        except TimeoutError:
            return
        raise Wrong(f"{data!r} while it rested" if data else "it was closed while it rested")

    def close(self) -> None:
        self.writer.close()


async def talk(
    step: Callable[[bytes], Awaitable[None]], seconds: float, quiet: bool, rest: Callable[[float], Awaitable[None]]
) -> None:
    """A word each tick, or one before and one after a silence."""
    until = time.monotonic() + seconds
    number = 0
    while True:
        await step(b"word %06d" % number)
        number += 1
        left = until - time.monotonic()
        if left <= 0:
            return
        await rest(left if quiet else min(left, TICK))


async def tcp(address: str, seconds: float, quiet: bool, port: int = ECHO) -> None:
    wire = await Wire.dial(address, port)
    try:
        if port == DATABASE and (greeting := await wire.read(6)) != b"ready\n":
            raise Wrong(repr(greeting))
        await talk(wire.echoes, seconds, quiet, wire.rest)
    finally:
        wire.close()


async def database(address: str, seconds: float, quiet: bool) -> None:
    await tcp(address, seconds, quiet, DATABASE)


async def websocket(address: str, seconds: float, quiet: bool) -> None:
    wire = await Wire.dial(address, WEB)
    try:
        await wire.ask("/soak/ws", fields="connection: Upgrade\r\nupgrade: websocket\r\n")
        if not (head := await wire.head()).startswith(b"HTTP/1.1 101 "):
            raise Wrong(repr(head[:200]))
        await talk(wire.echoes, seconds, quiet, wire.rest)
    finally:
        wire.close()


async def events(address: str, seconds: float, quiet: bool) -> None:
    wire = await Wire.dial(address, WEB)
    try:
        every = seconds if quiet else TICK
        count = 2 if quiet else int(seconds / TICK) + 1
        await wire.ask(f"/soak/events?count={count}&every={every}")
        if not (head := await wire.head()).startswith(b"HTTP/1.1 200 ") or b"chunked" not in head.lower():
            raise Wrong(repr(head[:200]))
        heard = b""
        while not heard.endswith(b"0\r\n\r\n"):
            piece = await asyncio.wait_for(wire.reader.read(65536), every + SOON)
            if not piece:
                raise Wrong(f"ended after {heard[-60:]!r}")
            heard += piece
        if heard.count(b"data: ") != count:
            raise Wrong(f"{heard.count(b'data: ')} of {count} events")
    finally:
        wire.close()


async def poll(address: str, seconds: float, quiet: bool) -> None:
    """An answer that takes its time. `quiet` False: the second one of its connection."""
    wire = await Wire.dial(address, WEB)
    try:
        if not quiet:
            await _once(wire, "/soak/short")
        if not wire.over:
            await wire.ask(f"/soak/poll?wait={seconds}")
            await wire.answer("GET /soak/poll 0", seconds + SOON)
    finally:
        wire.close()


async def _once(wire: Wire, path: str) -> None:
    await wire.ask(path)
    await wire.answer(f"GET {path} 0")


async def upload(address: str, seconds: float, quiet: bool) -> None:
    """`quiet`: all but the last bytes at once, those after a silence, with a length; else a chunk each tick."""
    wire = await Wire.dial(address, WEB)
    try:
        if quiet:
            size = 300_000
            await wire.ask("/soak/upload", "POST", f"content-length: {size}\r\n")
            await wire.send(b"x" * (size - 10))
            await wire.rest(seconds)
            await wire.send(b"x" * 10)
        else:
            size = 0
            await wire.ask("/soak/upload", "POST", "transfer-encoding: chunked\r\n")
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                await wire.send(b"400\r\n" + b"y" * 1024 + b"\r\n")
                size += 1024
                await wire.rest(min(left, TICK))
            await wire.send(b"0\r\n\r\n")
        await wire.answer(f"POST /soak/upload {size}")
    finally:
        wire.close()


async def keepalive(address: str, seconds: float, quiet: bool) -> None:
    """Requests on one connection; `quiet`: two of them, as far apart as such a connection may rest. One that is told to go dials again."""
    wire = await Wire.dial(address, WEB)

    async def step(_: bytes) -> None:
        nonlocal wire
        if wire.over:
            wire.close()
            wire = await Wire.dial(address, WEB)
        await _once(wire, "/soak/kept")

    async def rest(seconds: float) -> None:
        await (asyncio.sleep(seconds) if wire.over else wire.rest(seconds))

    try:
        await talk(step, seconds, quiet, rest)
    finally:
        wire.close()


async def early(address: str, seconds: float, quiet: bool) -> None:
    """A connection to a port that declares nothing, opened before it is needed."""
    wire = await Wire.dial(address, UNSAID)
    try:
        await wire.rest(seconds)
        await _once(wire, "/soak/early")
    finally:
        wire.close()


def channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        f"{address}:{GRPC}", [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    )


async def grpc_unary(address: str, seconds: float, quiet: bool) -> None:
    """`quiet`: one call that takes its time; else many on one channel."""
    async with channel(address) as calls:
        ask = calls.unary_unary("/soak.Calls/Unary")

        async def step(word: bytes) -> None:
            if (heard := await ask(b"0 " + word, timeout=SOON)) != word:
                raise Wrong(repr(heard))

        if quiet:
            if (heard := await ask(b"%f late" % seconds, timeout=seconds + SOON)) != b"late":
                raise Wrong(repr(heard))
        else:
            await talk(step, seconds, False, asyncio.sleep)


async def grpc_bidi(address: str, seconds: float, quiet: bool) -> None:
    async with channel(address) as calls:
        stream = calls.stream_stream("/soak.Calls/Bidi")(timeout=seconds + 2 * SOON)

        async def step(word: bytes) -> None:
            await asyncio.wait_for(stream.write(word), SOON)
            if (heard := await asyncio.wait_for(stream.read(), SOON)) != word:
                raise Wrong(f"{heard!r} for {word!r}")

        await talk(step, seconds, quiet, asyncio.sleep)
        await stream.done_writing()
        if (
            await asyncio.wait_for(stream.read(), SOON) is not grpc.aio.EOF
            or (await stream.code()) is not grpc.StatusCode.OK
        ):
            raise Wrong(f"ended with {await stream.code()}")


async def short(address: str, seconds: float, quiet: bool) -> None:
    """A request on a connection of its own."""
    wire = await Wire.dial(address, WEB)
    try:
        await wire.ask("/soak/short", fields="connection: close\r\n")
        await wire.answer("GET /soak/short 0")
    finally:
        wire.close()
    await asyncio.sleep(0.2)


KINDS: dict[str, Call] = {
    "gRPC unary": grpc_unary,
    "gRPC bidi": grpc_bidi,
    "WebSocket": websocket,
    "event stream": events,
    "long poll": poll,
    "upload": upload,
    "TCP": tcp,
    "database": database,
    "keep-alive": keepalive,
    "early connection": early,
}
ALWAYS_QUIET = (early,)


class Pauses:
    """How long this machine kept a program waiting that wanted to run: what is slow then is not the mesh."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            due = time.monotonic() + 0.1
            await asyncio.sleep(0.1)
            self.longest = max(self.longest, time.monotonic() - due)


class Found:
    """What came of one kind of call."""

    def __init__(self) -> None:
        self.calls = 0
        self.longest = 0.0
        self.failures: list[str] = []

    async def one(self, what: str, call: Awaitable[None]) -> None:
        began = time.monotonic()
        self.calls += 1
        try:
            await call
        except Exception as error:
            code = error.code().name + " " + str(error.details()) if isinstance(error, grpc.RpcError) else repr(error)
            took = time.monotonic() - began
            self.failures.append(f"{time.strftime('%H:%M:%S')} {what}, after {took:.1f} s: {code[:300]}")
            await asyncio.sleep(1)
        else:
            self.longest = max(self.longest, time.monotonic() - began)


async def main() -> None:
    asked = json.loads(sys.argv[1])
    until = time.monotonic() + asked["seconds"]
    silences = asked["silences"]
    found = {name: Found() for name in (*KINDS, "short")}

    async def again(name: str, call: Call, address: str, duration: float, quiet: bool) -> None:
        mode = "quiet" if quiet else "busy"
        while time.monotonic() + duration < until:
            await found[name].one(f"{name} {mode} {duration:g} s to {address}", call(address, duration, quiet))

    pauses = Pauses()
    watching = asyncio.create_task(pauses.watch())
    async with asyncio.TaskGroup() as tasks:
        for address in asked["addresses"]:
            for _ in range(3):
                tasks.create_task(again("short", short, address, 0, False))
            for name, call in KINDS.items():
                for duration in asked["durations"]:
                    for quiet in (True,) if call in ALWAYS_QUIET else (False, True):
                        silent = quiet or call is poll
                        if not silent or duration < silences.get(name, silences[""]):
                            tasks.create_task(again(name, call, address, duration, quiet))
    watching.cancel()
    calls = {
        name: {"calls": one.calls, "longest": one.longest, "failures": one.failures} for name, one in found.items()
    }
    print(json.dumps({"calls": calls, "pause": pauses.longest}))


if __name__ == "__main__":
    asyncio.run(main())
