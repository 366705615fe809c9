"""The demo's applications: ordinary HTTP programs that know nothing of the mesh, and the frame that runs one in its own process.

Behaviour as in osm-edge's bookstore demo. Each serves HTTP on its port, and the same on a Unix socket: that is how the demo reads
counters over a path that is no mesh traffic. On that socket only, `/calls` tells how the application's own calls fared.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import FrameType

import msgspec
from msgspec import Struct

PORT = 14001
B3 = ("x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags")
TRACING = ("x-request-id", *B3, "uber-trace-id", "x-ot-span-context")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """What `key=value` words on the command line can say. Durations in seconds."""

    control: str = ""  # path of the Unix socket; "" = none
    port: int = PORT
    identity: str = ""  # who a bookstore says it is
    store: str = "bookstore.bookstore.svc.cluster.local:14001"
    warehouse: str = "bookwarehouse.bookwarehouse:14001"
    database: str = "mysql.bookwarehouse:3306"
    client: str = ""  # path of the mariadb program; "" = the database is the stand-in
    interval: float = 1.0  # between two rounds of a shopper
    pause_least: float = 0.150  # how long a bookstore takes over a sale
    pause_most: float = 0.749
    retry: float = 10.0  # before a lost database is dialled again
    denied: int = 403  # what a denial looks like to bookthief (BOOKTHIEF_EXPECTED_RESPONSE_CODE)


class Answer(Struct, frozen=True):
    status: int = 200
    body: str = ""
    kind: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()


class Tally:
    """How one application's calls fared: answered 200, refused (any other answer), failed (no answer). Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = self.refused = self.failed = 0
        self.last = ""

    def record(self, status: int, why: str = "") -> None:
        """`status` 0 = there was no answer, and `why` says what happened instead."""
        with self._lock:
            self.calls += 1
            self.refused += status not in (0, 200)
            self.failed += status == 0
            self.last = why or f"{status} {http.client.responses.get(status, '')}".strip()

    def report(self) -> dict[str, int | str]:
        with self._lock:
            return {"calls": self.calls, "refused": self.refused, "failed": self.failed, "last": self.last}


class Application:
    """One program: answers requests, and perhaps makes some of its own between `start` and the end of the process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tally = Tally()

    def start(self) -> None:
        """Begin what runs beside answering."""

    def raw(self) -> dict[str, int]:
        """The counters, in the field names of the original."""
        raise NotImplementedError

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """`headers` has names in lower case; `path` has no query."""
        raise NotImplementedError


class Bookstore(Application):
    """Sells books, and asks the warehouse for another one after each sale, without waiting for it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.sold = 0

    def raw(self) -> dict[str, int]:
        return {"booksSold": self.sold}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        status, text, kind = 200, "", "text/html"
        match method, path:
            case "GET", "/" | "/books-bought":
                text = f"<html><h1>{self.settings.identity}</h1><p>Books sold: {self.sold}</p></html>\n"
            case "POST", "/books-bought":
                try:
                    self.sold = msgspec.json.decode(body, type=int)
                except msgspec.DecodeError as error:
                    status, text = 400, f"the body must be a JSON integer: {error}\n"
            case "GET", "/buy-a-book/new":
                with self.lock:
                    self.sold += 1
                threading.Thread(target=self._restock, daemon=True).start()
                time.sleep(random.uniform(self.settings.pause_least, self.settings.pause_most))
                text = "Thank you for buying a book\n"
            case "GET", "/reset":
                self.sold = 0
            case "GET", "/raw":
                text, kind = json.dumps(self.raw()), "application/json"
            case "GET", "/liveness" | "/readiness" | "/startup":
                text = "OK\n"
            case _:
                status, text = 404, "not found\n"
        copied = tuple((name, headers[name]) for name in TRACING if name in headers)
        return Answer(status, text, kind, (("Booksbought", str(self.sold)), ("Identity", self.settings.identity), *copied))

    def _restock(self) -> None:
        with contextlib.closing(Caller(self.settings.warehouse)) as caller:
            caller.call(self.tally, "POST", "/", {"Host": "bookwarehouse.bookwarehouse"}, b"1")


class Caller:
    """One HTTP client with a connection that it keeps, as Go's default client does. Not thread-safe."""

    def __init__(self, authority: str, timeout: float = 5.0) -> None:
        self._connection = http.client.HTTPConnection(authority, timeout=timeout)

    def call(
        self, tally: Tally, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPMessage | None:
        """The response's headers when it was 200, else None; either way it is in the tally."""
        try:
            self._connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                self._connection.putheader(name, value)
            if body is not None:
                self._connection.putheader("Content-Length", str(len(body)))
            self._connection.endheaders(body)
            response = self._connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            tally.record(0, str(error) or type(error).__name__)
            return None
        tally.record(response.status)
        return response.headers if response.status == HTTPStatus.OK else None

    def close(self) -> None:
        self._connection.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body leave in one packet
    timeout = 300

    def _respond(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._send(Answer(411, "send a Content-Length\n"))
            return
        body = self.rfile.read(int(length))
        path = self.path.partition("?")[0]
        assert isinstance(self.server, TcpServer | ControlServer)
        application = self.server.application
        if path == "/calls" and isinstance(self.server, ControlServer):
            self._send(Answer(200, json.dumps(application.tally.report()), "application/json"))
        else:
            self._send(application.answer(self.command, path, {name.lower(): value for name, value in self.headers.items()}, body))

    do_GET = do_POST = _respond  # noqa: N815 - the names that http.server looks for

    def _send(self, answer: Answer) -> None:
        content = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the demo's table is the log."""


class TcpServer(socketserver.ThreadingTCPServer):
    """Every address of both families, or of IPv4 where the kernel has no IPv6."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[socketserver.BaseRequestHandler], application: Application) -> None:
        self.application = application
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        super().__init__(("::" if self.address_family == socket.AF_INET6 else "0.0.0.0", port), handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that hung up, or a connection that the mesh cut: an everyday thing."""


class ControlServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, application: Application) -> None:
        Path(path).unlink(missing_ok=True)
        self.application = application
        super().__init__(path, Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """The demo stopped reading: it is ending."""


class ControlClient(http.client.HTTPConnection):
    """One question to an application over its Unix socket."""

    def __init__(self, path: Path, timeout: float = 2.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(control: Path, page: str) -> dict[str, int | str]:
    """The JSON that an application answers on its control socket. OSError or HTTPException when it does not (it is not up yet)."""
    with contextlib.closing(ControlClient(control)) as connection:
        connection.request("GET", page)
        answer: dict[str, int | str] = json.loads(connection.getresponse().read())
        return answer


def run(words: Sequence[str]) -> int:
    """Be the application words[0] until SIGTERM; the other words are `key=value` settings."""
    name, *pairs = words
    settings = msgspec.convert(dict(pair.split("=", 1) for pair in pairs), Settings, strict=False)
    if name not in APPS:
        raise SystemExit(f"edgemesh demo: no application named {name!r}; there are {', '.join(APPS)}")
    application, handler = APPS[name](settings)
    signal.signal(signal.SIGTERM, _stop)
    if settings.control:
        control = ControlServer(settings.control, application)
        threading.Thread(target=control.serve_forever, daemon=True).start()
    application.start()
    with TcpServer(settings.port, handler, application) as server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    return 0


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _bookstore(settings: Settings) -> tuple[Application, type[socketserver.BaseRequestHandler]]:
    return Bookstore(settings), Handler


def _bookbuyer(settings: Settings) -> tuple[Application, type[socketserver.BaseRequestHandler]]:
    from agent.demo.shoppers import Shopper

    return Shopper("booksBought", settings), Handler


def _bookthief(settings: Settings) -> tuple[Application, type[socketserver.BaseRequestHandler]]:
    from agent.demo.shoppers import Shopper

    return Shopper("booksStolen", settings), Handler


def _bookwarehouse(settings: Settings) -> tuple[Application, type[socketserver.BaseRequestHandler]]:
    from agent.demo.warehouse import Bookwarehouse

    return Bookwarehouse(settings), Handler


def _database(settings: Settings) -> tuple[Application, type[socketserver.BaseRequestHandler]]:
    from agent.demo.database import StandIn, StandInHandler

    return StandIn(), StandInHandler


APPS: dict[str, Callable[[Settings], tuple[Application, type[socketserver.BaseRequestHandler]]]] = {
    "bookstore": _bookstore,
    "bookbuyer": _bookbuyer,
    "bookthief": _bookthief,
    "bookwarehouse": _bookwarehouse,
    "database": _database,
}
