"""The server of the chapters: it responds as its path says, and counts what reaches it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from agent.demo.application import Answer, Application, Settings

LONGEST = 10_000  # milliseconds


class Web(Application):
    """`/status/N`: with that status. `/slow/N`: after so many milliseconds. Everything else: 200.

    The body says who responds to what: its name, method, path, and each field that begins with "x-".
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.asked = 0

    def raw(self) -> dict[str, int]:
        return {"asked": self.asked}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if path == "/raw":
            return Answer(200, f'{{"asked": {self.asked}}}', "application/json")
        with self.lock:
            self.asked += 1
        _, what, number, *_ = [*path.split("/"), "", ""]
        status = 200
        if number.isascii() and number.isdecimal():
            if what == "status" and 200 <= int(number) <= 599:
                status = int(number)
            elif what == "slow":
                time.sleep(min(int(number), LONGEST) / 1000)
        fields = "".join(f"{name}: {value}\n" for name, value in sorted(headers.items()) if name.startswith("x-"))
        return Answer(status, f"{self.settings.identity} {method} {path}\n{fields}")
