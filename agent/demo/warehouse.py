"""bookwarehouse: counts the books that stores request back, and keeps the total in its database.

With MariaDB it drives the unmodified `mariadb` program over one long-lived connection, so that the mesh carries a real
server-first protocol. With the stand-in it speaks that one's two words.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from agent.demo.application import Answer, Application, Settings

SCHEMA = "CREATE DATABASE IF NOT EXISTS booksdemo;CREATE TABLE IF NOT EXISTS booksdemo.restocks (id INT PRIMARY KEY, total BIGINT NOT NULL);\n"
QUESTION = "SELECT total FROM booksdemo.restocks WHERE id = 1;\n"


class Storage(Protocol):
    def store(self, total: int) -> int:
        """Keep `total`. Return what the database now holds.

        Raise OSError when it cannot be reached; the next call dials again.
        """
        ...


class Bookwarehouse(Application):
    def __init__(self, settings: Settings, storage: Storage | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.restocked = 0
        self.stored = 0  # the total that the database has confirmed
        self.changed = threading.Event()
        host, _, port = settings.database.rpartition(":")
        self.storage = storage or (
            MariaDb(settings.client, host, port) if settings.client else StandInClient(host, int(port))
        )

    def start(self) -> None:
        threading.Thread(target=self._keep, daemon=True).start()

    def raw(self) -> dict[str, int]:
        return {"restocked": self.restocked, "stored": self.stored}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        match method, path:
            case "POST", "/" | "/restock-books":
                try:
                    books = int(body)
                except ValueError:
                    return Answer(400, "the body must be a number of books\n")
                with self.lock:
                    self.restocked += books
                self.changed.set()
                return Answer(200, json.dumps({"restocked": self.restocked}), "application/json")
            case "GET", "/raw":
                return Answer(200, json.dumps(self.raw()), "application/json")
            case "GET", "/liveness" | "/readiness" | "/startup":
                return Answer(200, "OK\n")
            case _:
                return Answer(404, "not found\n")

    def keep(self) -> bool:
        """Store the newest total; sales may share a statement. Return False when the database is out of reach."""
        try:
            self.stored = self.storage.store(self.restocked)
        except OSError as error:
            self.tally.record(0, str(error))
            return False
        self.tally.record(200)
        return True

    def _keep(self) -> None:
        while True:
            self.changed.wait()
            self.changed.clear()
            while not self.keep():
                time.sleep(self.settings.retry)


class MariaDb:
    """The `mariadb` program as a child, one statement after another on its standard input."""

    def __init__(self, program: str, host: str, port: str) -> None:
        # TLS off: newer clients ask for a verified certificate, and this server has none.
        options = (
            "--no-defaults",
            "--skip-ssl",
            "--connect-timeout=5",
            "--skip-reconnect",
            "--protocol=tcp",
            "--user=root",
        )
        output = ("--batch", "--skip-column-names", "--unbuffered")
        self._command = [program, *options, *output, f"--host={host}", f"--port={port}"]
        self._client: subprocess.Popen[str] | None = None

    def store(self, total: int) -> int:
        statement = f"REPLACE INTO booksdemo.restocks VALUES (1, {total:d});{QUESTION}"  # noqa: S608 - a number
        try:
            if self._client is None:
                pipe = subprocess.PIPE
                self._client = subprocess.Popen(
                    self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1
                )
                statement = SCHEMA + statement
            assert self._client.stdin is not None and self._client.stdout is not None
            self._client.stdin.write(statement)
            self._client.stdin.flush()
            line = self._client.stdout.readline()
        except OSError:
            self.close()
            raise
        if not line.strip().isdecimal():
            self.close()
            raise ConnectionError("the mariadb client ended: the server is out of reach or cut the connection")
        return int(line)

    def close(self) -> None:
        if self._client is not None:
            self._client.kill()
            self._client.wait()
            for pipe in (self._client.stdin, self._client.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:  # unsent data for a client that is gone
                        continue
            self._client = None


class StandInClient:
    """The client of database.py's stand-in: waits for its greeting, then STORE n, OK n."""

    def __init__(self, host: str, port: int, timeout: float = 5.0) -> None:
        self._address = (host, port)
        self._timeout = timeout
        self._socket: socket.socket | None = None

    def store(self, total: int) -> int:
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, self._timeout)
                self._line(self._socket)
            self._socket.sendall(b"STORE %d\n" % total)
            word, _, number = self._line(self._socket).partition(b" ")
            if word != b"OK":
                raise ConnectionError("the database stand-in did not understand")
        except OSError:
            self.close()
            raise
        return int(number)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @staticmethod
    def _line(sock: socket.socket) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            more = sock.recv(256)
            if not more:
                raise ConnectionError("the database closed the connection")
            line += more
        return line.strip()
