"""Fixtures for the demo: its applications on loopback ports that the kernel chooses, and a wait for what other threads do."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agent.demo.application import Application
from agent.demo.servers import Handler, TcpServer

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(application, handler=Handler) -> "127.0.0.1:PORT", answering until the test ends."""
    running: list[tuple[TcpServer, threading.Thread]] = []

    def start(application: Application, handler: type[socketserver.BaseRequestHandler] = Handler) -> str:
        server = TcpServer(0, handler, application)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """eventually(condition): wait for another thread to make it true, five seconds at most."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, "it did not become true"
            time.sleep(0.005)

    return wait
