"""bookbuyer and bookthief: the same loop, which requests the bookstore's list and a book, round after round."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

from agent.demo.application import Answer, Application, Caller, Settings

# bookthief also claims to be bookbuyer: a header is no identity.
LIST_HEADERS = {"User-Agent": "Go-http-client/1.1", "client-app": "bookbuyer"}
BUY_HEADERS = {"User-Agent": "Go-http-client/1.1"}


class Shopper(Application):
    """Counts the books it got, in all and by the version of the store that sold them."""

    def __init__(self, counter: str, settings: Settings) -> None:
        super().__init__()
        self.counter = counter  # "booksBought" or "booksStolen"
        self.settings = settings
        self.versions = {"bookstore-v1": 0, "bookstore-v2": 0}
        self.total = 0
        self._over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._shop, daemon=True).start()

    def stop(self) -> None:
        """Stop after the current round."""
        self._over.set()

    def raw(self) -> dict[str, int]:
        with self.lock:
            v1, v2 = self.versions["bookstore-v1"], self.versions["bookstore-v2"]
            return {self.counter: self.total, f"{self.counter}V1": v1, f"{self.counter}V2": v2}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        match method, path:
            case "GET", "/":
                lines = "".join(f"<p>{name}: {count}</p>" for name, count in self.raw().items())
                return Answer(200, f"<html>{lines}</html>\n", "text/html")
            case "GET", "/raw":
                return Answer(200, json.dumps(self.raw()), "application/json")
            case "GET", "/reset":
                with self.lock:
                    self.total = 0
                    self.versions = dict.fromkeys(self.versions, 0)
                return Answer(200)
            case _:
                return Answer(404, "not found\n")

    def round(self, caller: Caller) -> None:
        caller.call(self.tally, "GET", "/books-bought", LIST_HEADERS)
        sold = caller.call(self.tally, "GET", "/buy-a-book/new", BUY_HEADERS)
        if sold is None:
            return
        with self.lock:
            self.total += 1
            for version in self.versions:
                if (sold.get("Identity") or "").startswith(version):
                    self.versions[version] += 1

    def _shop(self) -> None:
        caller = Caller(self.settings.store)
        while not self._over.wait(self.settings.interval):
            self.round(caller)
        caller.close()
