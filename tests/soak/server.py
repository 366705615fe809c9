"""What the callers of the soak call: HTTP/1.1, WebSocket-like upgrades, a database that greets, an echo, and gRPC. Runs in a workload's namespace.

    python server.py ADDRESS NAME

It closes nothing by itself, so that whatever ends early was ended by something between.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.parse

import grpc

WEB, GRPC, DATABASE, ECHO, UNSAID = 8080, 50051, 3306, 7007, 9090  # ports, as their Service declares them or does not


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await _head(reader):
        line, *fields = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        said = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields if field)}
        path, _, query = target.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        if said.get("upgrade", "").lower() == "websocket":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            await echo(reader, writer)
            return
        size = await _body(reader, said) if method == "POST" else 0
        if path.endswith("/events"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(int(asked["count"])):
                if number:
                    await asyncio.sleep(float(asked["every"]))
                writer.write(b"%x\r\n%b\r\n" % (len(event := b"data: %d\n\n" % number), event))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            continue
        await asyncio.sleep(float(asked.get("wait", 0)))
        body = f"{sys.argv[2]} {method} {path} {size}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        if said.get("connection") == "close":
            return


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def _body(reader: asyncio.StreamReader, said: dict[str, str]) -> int:
    if "content-length" in said:
        return len(await reader.readexactly(int(said["content-length"])))
    size = 0
    while length := int(await reader.readline(), 16):
        size += len(await reader.readexactly(length))
        await reader.readline()
    await reader.readline()
    return size


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def database(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"ready\n")
    await echo(reader, writer)


def closing(handler):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # what ended it is for the caller to judge
        finally:
            writer.close()

    return serve


async def unary(request: bytes, context: object) -> bytes:
    wait, _, rest = request.partition(b" ")
    await asyncio.sleep(float(wait))
    return rest


async def bidi(requests, context):
    async for request in requests:
        yield request


async def main() -> None:
    address = sys.argv[1]
    for handler, ports in ((http, (WEB, UNSAID)), (database, (DATABASE,)), (echo, (ECHO,))):
        for port in ports:
            await asyncio.start_server(closing(handler), address, port, backlog=1024)
    server = grpc.aio.server()
    methods = {"Unary": grpc.unary_unary_rpc_method_handler(unary), "Bidi": grpc.stream_stream_rpc_method_handler(bidi)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("soak.Calls", methods),))
    server.add_insecure_port(f"{address}:{GRPC}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
