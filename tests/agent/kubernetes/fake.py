"""An API server for tests: real sockets, plain or with TLS; a test says what each request gets."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

from agent.kubernetes.access import Access, Material
from agent.kubernetes.api import ApiServer
from agent.kubernetes.pace import Pace


class Asked(Struct):
    method: str
    path: str
    query: dict[str, str]
    fields: dict[str, str]
    body: bytes
    connection: int  # which one, counted from 0
    target: str = ""  # path and query, as they came

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answer:
    """One answer, to be written as it likes."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def send(self, status: int, value: Any, fields: Mapping[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        more = "".join(f"{name}: {text}\r\n" for name, text in (fields or {}).items())
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}content-length: {len(body)}\r\n\r\n"
        await self.stream.send_all(head.encode() + body)

    async def begin(self) -> None:
        await self.stream.send_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.stream.send_all(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, type: str, object: Any) -> None:
        await self.chunk(json.dumps({"type": type, "object": object}).encode() + b"\n")

    async def end(self) -> None:
        await self.stream.send_all(b"0\r\n\r\n")


Handler = Callable[[Asked, Answer], Awaitable[None]]


class FakeServer:
    """Serves `handler`. `asked` has all requests, in their order."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self.handler = handler
        self.asked: list[Asked] = []
        self.connections = 0
        self.port = 0
        self._tls = tls
        self.scopes: set[trio.CancelScope] = set()  # one for each open connection
        self.clients: list[ApiServer] = []

    def cut(self) -> None:
        """Close every connection, as a killed server does."""
        for scope in self.scopes:
            scope.cancel()

    def stop(self) -> None:
        """Stop to listen, and close every connection."""
        self._listening.cancel()
        self.cut()

    @contextlib.asynccontextmanager
    async def again(self) -> AsyncIterator[None]:
        """Listen once more, on the same port."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.run)
            yield
            nursery.cancel_scope.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        with trio.CancelScope() as self._listening:
            await trio.serve_listeners(self._serve, listeners, task_status=task_status)  # type: ignore[arg-type]

    async def _serve(self, plain: trio.SocketStream) -> None:
        number, self.connections = self.connections, self.connections + 1
        stream: trio.abc.Stream = plain
        if self._tls:
            stream = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            try:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while await self._one(stream, number):
                        pass
            finally:
                self.scopes.discard(scope)
                await trio.aclose_forcefully(stream)

    async def _one(self, stream: trio.abc.Stream, number: int) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some(65536)
            if not more:
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, target, _ = first.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(fields.get("content-length", "0")):
            body += await stream.receive_some(65536)
        parts = urlsplit(target)
        asked = Asked(
            method,
            parts.path,
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            fields,
            bytes(body),
            number,
            target,
        )
        self.asked.append(asked)
        await self.handler(asked, Answer(stream))
        return fields.get("connection") != "close"


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeServer]:
    server = FakeServer(handler, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        for client in server.clients:
            await client.aclose()
        nursery.cancel_scope.cancel()


def api_of(
    server: FakeServer, *, rate: float = 1000.0, burst: int = 1000, wall: Callable[[], float] = time.time, **access: Any
) -> ApiServer:
    """Return a client of the server, which is closed with it. `access`: fields of Access."""
    given = {"plain": True, "token": Material(b"secret-token"), **access}
    made = ApiServer(Access("127.0.0.1", server.port, "a test", **given), Pace(rate, burst), wall=wall)
    server.clients.append(made)
    return made


def status(code: int, reason: str, message: str = "no", **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


class Certified(Struct):
    """A root, and a certificate with its key that it has signed; PEM."""

    root: bytes
    chain: bytes
    key: bytes

    def server(self, folder: Path, client_root: bytes = b"") -> ssl.SSLContext:
        (folder / "chain").write_bytes(self.chain)
        (folder / "key").write_bytes(self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "chain", folder / "key")
        if client_root:
            context.load_verify_locations(cadata=client_root.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def certified(name: str) -> Certified:
    """Make a root and a certificate for a name or an address."""
    now = datetime.datetime.now(datetime.UTC)

    def build(subject: str, key: Any, issuer: str, signer: Any, authority: bool) -> x509.Certificate:
        names = [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
        by = [x509.NameAttribute(NameOID.COMMON_NAME, issuer)]
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(subject))
        except ValueError:
            alternative = x509.DNSName(subject)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name(names))
            .issuer_name(x509.Name(by))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .sign(signer, hashes.SHA256())
        )

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = build("root", root_key, "root", root_key, True)
    leaf = build(name, key, "root", root_key, False)
    pem = serialization.Encoding.PEM
    return Certified(
        root.public_bytes(pem),
        leaf.public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
