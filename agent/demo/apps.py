"""APPS: the demo's applications by name. `run` is one of them in a process of its own."""

from __future__ import annotations

import contextlib
import signal
import socketserver
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import msgspec

from agent.demo.application import Application, Settings
from agent.demo.servers import ControlServer, Handler, TcpServer


def run(words: Sequence[str]) -> int:
    """Run the application words[0] until SIGTERM; the other words are `key=value` settings."""
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
    from agent.demo.bookstore import Bookstore

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


def _web(settings: Settings) -> tuple[Application, type[socketserver.BaseRequestHandler]]:
    from agent.demo.web import Web

    return Web(settings), Handler


APPS: dict[str, Callable[[Settings], tuple[Application, type[socketserver.BaseRequestHandler]]]] = {
    "bookstore": _bookstore,
    "bookbuyer": _bookbuyer,
    "bookthief": _bookthief,
    "bookwarehouse": _bookwarehouse,
    "database": _database,
    "web": _web,
}
