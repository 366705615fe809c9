"""Serves an application over HTTP on its port, and on a Unix socket.

The demo reads counters over the socket, which is no mesh traffic. Only there, `/calls` gives the results of the
application's own calls.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import socketserver
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from agent.demo.application import Answer, Application


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
            self._send(
                application.answer(
                    self.command, path, {name.lower(): value for name, value in self.headers.items()}, body
                )
            )

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
        """Do nothing: the demo's table is the log."""


class TcpServer(socketserver.ThreadingTCPServer):
    """Listens on every address of both families, or of IPv4 where the kernel has no IPv6."""

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
        """Ignore a caller that hung up, or a connection that the mesh cut: both are normal."""


class ControlServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, application: Application) -> None:
        Path(path).unlink(missing_ok=True)
        self.application = application
        super().__init__(path, Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore that the demo stopped reading: it is ending."""


class ControlClient(http.client.HTTPConnection):
    """One request to an application over its Unix socket."""

    def __init__(self, path: Path, timeout: float = 2.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(control: Path, page: str) -> dict[str, int | str]:
    """Return the JSON page of an application's control socket. Raise OSError or HTTPException if there is none."""
    with contextlib.closing(ControlClient(control)) as connection:
        connection.request("GET", page)
        answer: dict[str, int | str] = json.loads(connection.getresponse().read())
        return answer
