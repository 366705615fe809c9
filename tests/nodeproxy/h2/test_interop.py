"""The same HTTP/2 with somebody else's implementation at the other end: that of Node.js (nghttp2). Skipped where there is none."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess

import pytest
import trio

from nodeproxy.codec.message import Fields
from nodeproxy.h2.connection import Bounds, Channel, Connection
from tests.nodeproxy.h2.test_connection import CONNECT, GET, OK, POST, everything

pytestmark = [
    pytest.mark.usefixtures("machine"),
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js"),
]

SERVER = """
const server = require('http2').createServer();
server.on('stream', (stream, headers) => {
  if (headers[':method'] === 'CONNECT') {
    stream.respond({':status': 200});
    stream.pipe(stream);
    return;
  }
  const asked = [];
  stream.on('trailers', (trailers) => asked.push(trailers['x-check']));
  let size = 0;
  stream.on('data', (data) => { size += data.length; });
  stream.on('end', () => {
    stream.additionalHeaders({':status': 103, link: '</a>'});
    stream.respond({':status': 200, 'x-size': size, 'set-cookie': ['a=1', 'b=2']}, {waitForTrailers: true});
    stream.on('wantTrailers', () => stream.sendTrailers({'x-asked': asked.join()}));
    stream.end(Buffer.alloc(size, 'y'));
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""

CLIENT = """
const http2 = require('http2');
const session = http2.connect('http://127.0.0.1:' + process.argv[1]);
const said = {};
const call = (headers, body, then) => {
  const stream = session.request(headers, {waitForTrailers: body !== null, endStream: body === null});
  const heard = {headers: {}, trailers: {}, interim: [], body: 0, reset: 0};
  stream.on('wantTrailers', () => stream.sendTrailers({'x-check': 'sum'}));
  stream.on('headers', (h) => heard.interim.push(h[':status']));
  stream.on('response', (h) => { heard.headers = {...h}; });
  stream.on('trailers', (h) => { heard.trailers = {...h}; });
  stream.on('data', (data) => { heard.body += data.length; });
  stream.on('error', () => {});
  stream.on('close', () => { heard.reset = stream.rstCode; then(heard); });
  if (body !== null) stream.end(body);
};
call({':path': '/post', ':method': 'POST'}, Buffer.alloc(3000000, 'x'), (post) => {
  call({':path': '/get'}, null, (get) => {
    call({':method': 'CONNECT', ':authority': '10.0.0.2:80'}, Buffer.alloc(500000, 'z'), (connect) => {
      console.log(JSON.stringify([post, get, connect]));
      session.close();
    });
  });
});
"""


async def test_a_node_server() -> None:
    process = await trio.lowlevel.open_process(["node", "-e", SERVER], stdout=subprocess.PIPE)
    assert process.stdout is not None
    stream = await trio.open_tcp_stream("127.0.0.1", int(await process.stdout.receive_some(100)))
    async with stream, process.stdout:
        async with trio.open_nursery() as nursery:
            connection = Connection(stream, client=True, bounds=Bounds(), name="node")
            nursery.start_soon(connection.run)

            posted = await connection.open(POST)

            async def send() -> None:
                await posted.send_all(bytes(3 << 20))
                await posted.send_trailers([(b"x-check", b"sum")])

            nursery.start_soon(send)
            assert dict((await posted.head())[0])[b":status"] == b"103"
            head = (await posted.head())[0]
            assert (b"x-size", b"%d" % (3 << 20)) in head
            assert [value for name, value in head if name == b"set-cookie"] == [b"a=1", b"b=2"]
            assert len(await everything(posted)) == 3 << 20
            assert posted.trailers == [(b"x-asked", b"sum")]

            tunnel = await connection.open(CONNECT)
            assert (await tunnel.head())[0][0] == (b":status", b"200")
            nursery.start_soon(tunnel.send_all, bytes(1 << 20))
            received = 0
            while received < 1 << 20:
                received += len(await tunnel.receive_some())
            await tunnel.send_eof()
            assert await tunnel.receive_some() == b""

            assert await connection.ping(5)
            assert connection.streams == 0
            connection.drain()
        process.kill()
        await process.wait()


async def test_a_node_client() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listener.socket.getsockname()[1]
        process = await trio.lowlevel.open_process(["node", "-e", CLIENT, str(port)], stdout=subprocess.PIPE)
        try:
            stream = await listener.accept()
            stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            heard: list[tuple[Fields, int, Fields]] = []

            async def serve(channel: Channel) -> None:
                tunnel = channel.tunnel
                if not tunnel:
                    await channel.send_head([(b":status", b"103"), (b"link", b"</a>")])
                await channel.send_head([*OK, (b"x-a", b"1")])
                size = 0
                while data := await channel.receive_some(100000):
                    size += len(data)
                    await channel.send_all(data)
                heard.append((channel.fields, size, channel.trailers))
                if tunnel:
                    await channel.send_eof()
                else:
                    await channel.send_trailers([(b"grpc-status", b"0")])
                channel.close()

            connection = Connection(stream, client=False, bounds=Bounds(), name="node")
            await connection.run(lambda channel: nursery.start_soon(serve, channel))
            assert process.stdout is not None
            post, get, connect = json.loads(bytes(await process.stdout.receive_some(10000)))
            assert (post["body"], post["trailers"]["grpc-status"], post["interim"]) == (3000000, "0", [103])
            assert (get["body"], get["trailers"]["grpc-status"], get["headers"]["x-a"]) == (0, "0", "1")
            assert (connect["body"], connect["reset"]) == (500000, 0)
            assert [size for _, size, _ in heard] == [3000000, 0, 500000]
            assert [trailers for _, _, trailers in heard] == [[(b"x-check", b"sum")], [], [(b"x-check", b"sum")]]
            assert dict(heard[1][0])[b":path"] == dict(GET)[b":path"] + b"get"
        finally:
            process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()
            await listener.aclose()
            await stream.aclose()
