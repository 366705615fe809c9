"""Programs that nobody here wrote speak HTTP/2 with prior knowledge through both lanes: Node.js as server and as caller, nghttp and h2load.

In CI none of these may be missing: nghttp2-client and nodejs of Debian.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest
import trio

from nodeproxy.downstream import accept
from tests.journeys.test_two_lanes_streams import NAME, PORT, SERVICE

SERVER = """
const http2 = require('http2');
const [address, port] = process.argv.slice(1);
const server = http2.createServer();
server.on('stream', (stream, headers) => {
  const ok = {':status': 200, 'content-type': 'application/grpc'};
  stream.on('error', () => {});
  if (headers[':path'] === '/books/none') {
    stream.respond({...ok, 'grpc-status': '5', 'grpc-message': 'no such book'}, {endStream: true});
    return;
  }
  stream.respond(ok, {waitForTrailers: true});
  stream.on('wantTrailers', () => stream.sendTrailers({'grpc-status': '0', 'x-peer': headers['x-forwarded-for']}));
  if (headers[':path'] === '/books/early') stream.end('early');
  else stream.pipe(stream);
});
server.listen(Number(port), address, () => console.log('ready'));
"""

CALLER = """
const http2 = require('http2');
const [door, calls] = process.argv.slice(1);
const session = http2.connect('http://' + door);
const heard = [];
const call = ([path, body]) => new Promise((done) => {
  const stream = session.request({':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers'});
  const one = {status: 0, size: 0, last: '', grpc: '', peer: '', error: ''};
  stream.on('response', (h) => { one.status = h[':status']; one.grpc = h['grpc-status'] || ''; });
  stream.on('trailers', (h) => { one.grpc = h['grpc-status']; one.peer = h['x-peer']; });
  stream.on('data', (data) => { one.size += data.length; one.last = (one.last + data).slice(-20); });
  stream.on('error', (error) => { one.error = error.code; });
  stream.on('close', () => { heard.push(one); done(); });
  stream.end(typeof body === 'number' ? Buffer.alloc(body, 'x') : body);
});
session.on('error', (error) => { console.log(JSON.stringify({error: error.code})); process.exit(); });
session.on('connect', async () => {
  for (const one of JSON.parse(calls)) await (Array.isArray(one[0]) ? Promise.all(one.map(call)) : call(one));
  console.log(JSON.stringify(heard));
  process.exit();
});
"""


def needs(program):
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} may not be missing in CI")
        pytest.skip(f"no {program}")


@pytest.fixture
async def door(mesh, monkeypatch):
    """Where the buyer reaches the Node.js server: his outbound door, as ADDRESS:PORT."""
    needs("node")
    mesh.publish(streams=SERVICE)
    aimed = mesh.proxy.context.snapshot.named(NAME, "bookbuyer").addresses[0], PORT
    monkeypatch.setattr(accept, "original_destination", lambda sock: aimed)
    server = await trio.lowlevel.open_process(
        ["node", "-e", SERVER, mesh.addresses["store-v1"], str(PORT)], stdout=subprocess.PIPE
    )
    assert await server.stdout.receive_some(100) == b"ready\n"
    address, port = mesh.outbound["buyer"]
    yield f"{address}:{port}"
    server.kill()
    await server.wait()


async def run(*command):
    with trio.fail_after(30):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def test_node_js_calls_node_js(mesh, door):
    calls = [
        ["/books/echo", "hello"],
        ["/books/echo", "hello"],
        ["/books/none", "x"],
        ["/books/early", "x"],
        ["/books/echo", 3_000_000],
        [["/books/echo", 100_000 + number] for number in range(20)],
        ["/admin", "x"],
        ["/books/echo", "bye"],
    ]
    heard = json.loads(await run("node", "-e", CALLER, door, json.dumps(calls)))
    hello, again, none, early, much, *many, admin, bye = heard
    buyer = mesh.addresses["buyer"]
    for one in (hello, again):
        assert (one["status"], one["last"], one["grpc"], one["peer"], one["error"]) == (200, "hello", "0", buyer, "")
    assert (none["status"], none["grpc"], none["size"]) == (200, "5", 0)
    assert (early["last"], early["grpc"]) == ("early", "0")
    assert (much["size"], much["grpc"]) == (3_000_000, "0")
    assert sorted(one["size"] for one in many) == [100_000 + number for number in range(20)]
    assert {one["grpc"] for one in many} == {"0"}
    assert (admin["status"], admin["grpc"]) == (200, "7")
    assert (bye["last"], bye["grpc"]) == ("bye", "0")
    await mesh.until(lambda: len([r for r in mesh.records if r.kind == "request"]) == 27)
    assert {(r.flag, r.path) for r in mesh.records if r.kind == "request" and r.flag} == {("denied", "/admin")}
    if mesh.proxy.fast.stats().compiled:
        assert mesh.proxy.fast.lane.stats["served"] >= 24


async def test_h2load_calls_node_js(mesh, door, tmp_path):
    needs("h2load")
    message = tmp_path / "message"
    message.write_bytes(b"\0\0\0\0\x5f" + bytes(95))
    fields = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    out = await run("h2load", "-n1000", "-c4", "-m25", "-d", str(message), *fields, f"http://{door}/books/echo")
    assert re.search(r"1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout", out), out
    await mesh.until(lambda: len([r for r in mesh.records if r.kind == "request"]) == 1000)
    assert {(r.status, r.flag, r.bytes_out > 100) for r in mesh.records if r.kind == "request"} == {(200, "", True)}
    if mesh.proxy.fast.stats().compiled:
        assert mesh.proxy.fast.lane.stats["served"] >= 800


async def test_nghttp_hears_trailers(mesh, door, tmp_path):
    needs("nghttp")
    message = tmp_path / "message"
    message.write_bytes(b"hello")
    for _ in range(3):
        out = await run("nghttp", "-nv", "-H", "te: trailers", "-d", str(message), f"http://{door}/books/echo")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
        assert "grpc-status: 0" in plain, out
        assert plain.count(":status: 200") == 1
