"""Applications that know nothing of the mesh: servers, a web server, and a caller; and the sockets that they are made of."""

from __future__ import annotations

import contextlib
import socket

import h11
import trio

PORT = 14001


def unbound(family, kind):
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock


def bound(address, kind, port=0, backlog=0):
    sock = unbound(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
        if backlog:
            sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


class Server:
    """A listener of a workload: `handler(stream)` for each connection. Counts them; `stop` refuses further ones and cuts those open."""

    def __init__(self, nursery, address, port, handler):
        self.nursery = nursery
        self.address = address
        self.port = port
        self.handler = handler
        self.peers = []  # source address of each connection, in order
        self.open = 0
        self.start()

    def start(self):
        self.listener = trio.SocketListener(
            trio.socket.from_stdlib_socket(bound(self.address, socket.SOCK_STREAM, self.port, 100))
        )
        self.scope = trio.CancelScope()
        self.nursery.start_soon(self.run)

    async def run(self):
        with self.scope:
            await trio.serve_listeners(self.serve, [self.listener])

    async def serve(self, stream):
        with contextlib.suppress(OSError):  # already gone
            self.peers.append(stream.socket.getpeername()[0])
        self.open += 1
        try:
            await self.handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # what the proxy or the caller did to it is for the test to judge
        finally:
            self.open -= 1

    def stop(self):
        self.listener.socket.close()
        self.scope.cancel()


class Web(Server):
    """An HTTP/1.1 server. `answers` maps a path to (status, body); others get 200 and the server's name."""

    def __init__(self, nursery, address, port, name):
        self.name = name
        self.answers = {}
        self.requests = []  # (number of its connection, method, target, headers, body)
        super().__init__(nursery, address, port, self.talk)

    async def talk(self, stream):
        number = len(self.peers)
        http = h11.Connection(h11.SERVER)
        while True:
            request = await next_event(http, stream)
            if not isinstance(request, h11.Request):
                return
            body = b""
            while isinstance(event := await next_event(http, stream), h11.Data):
                body += event.data
            assert isinstance(event, h11.EndOfMessage)
            path = request.target.decode()
            self.requests.append((number, request.method.decode(), path, dict(request.headers), body))
            status, content = self.answers.get(path, (200, self.name.encode()))
            await stream.send_all(
                http.send(h11.Response(status_code=status, headers=[("content-length", str(len(content)))]))
            )
            await stream.send_all(http.send(h11.Data(content)) + http.send(h11.EndOfMessage()))
            if http.our_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()


async def next_event(http, stream):
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await stream.receive_some(65536))
    return event


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def reason(self):
        return self.headers.get("x-edgemesh-reason", "")


class Caller:
    """One connection of a workload, as its application has it."""

    def __init__(self, stream, host):
        self.stream = stream
        self.host = host
        self.http = h11.Connection(h11.CLIENT)
        self.end = ""

    async def get(self, path="/", method="GET", body=b"", **headers):
        """One request; its answer. The connection stays open when the answer says so."""
        fields = {
            "host": self.host,
            "user-agent": "test",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if body:
            fields["content-length"] = str(len(body))
        await self.stream.send_all(
            self.http.send(h11.Request(method=method, target=path, headers=list(fields.items())))
        )
        if body:
            await self.stream.send_all(self.http.send(h11.Data(body)))
        self.http.send(h11.EndOfMessage())
        response = await next_event(self.http, self.stream)
        content = b""
        while isinstance(event := await next_event(self.http, self.stream), h11.Data):
            content += event.data
        if self.http.our_state is h11.DONE:
            self.http.start_next_cycle()
        names = {name.decode(): value.decode() for name, value in response.headers}
        return Answer(response.status_code, names, content.decode())

    async def send(self, data):
        await self.stream.send_all(data)

    async def read(self, count):
        """Exactly so many bytes; what there was when the stream ends before."""
        data = b""
        while len(data) < count and (more := await self.stream.receive_some(count - len(data))):
            data += more
        return data

    async def is_over(self):
        """Wait for the end, whether clean or not: "closed" or "reset"."""
        try:
            while not self.end:
                if not await self.stream.receive_some(65536):
                    self.end = "closed"
        except trio.BrokenResourceError:
            self.end = "reset"
        return self.end


# handlers: what a server does with one connection


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def greets(stream):
    """A server that speaks first."""
    await stream.send_all(b"hello ")
    await echo(stream)


async def head_of(stream):
    """Read a request head; all that has come when the caller ended before."""
    data = b""
    while b"\r\n\r\n" not in data and (more := await stream.receive_some()):
        data += more
    return data
