"""The bookstore: sells books, and requests another one from the warehouse after each sale."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Mapping

import msgspec

from agent.demo.application import TRACING, Answer, Application, Caller, Settings


class Bookstore(Application):
    """Sells books, and requests another one from the warehouse after each sale, without waiting for it."""

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
        return Answer(
            status, text, kind, (("Booksbought", str(self.sold)), ("Identity", self.settings.identity), *copied)
        )

    def _restock(self) -> None:
        with contextlib.closing(Caller(self.settings.warehouse)) as caller:
            caller.call(self.tally, "POST", "/", {"Host": "bookwarehouse.bookwarehouse"}, b"1")
