"""The interface of the demo's applications: ordinary HTTP programs that know nothing of the mesh.

They behave as in osm-edge's bookstore demo.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from http import HTTPStatus

from msgspec import Struct

PORT = 14001
B3 = ("x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags")
TRACING = ("x-request-id", *B3, "uber-trace-id", "x-ot-span-context")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings that `key=value` words on the command line give. Durations in seconds."""

    control: str = ""  # path of the Unix socket; "" for none
    port: int = PORT
    identity: str = ""  # the name that a bookstore gives itself
    store: str = "bookstore.bookstore.svc.cluster.local:14001"
    warehouse: str = "bookwarehouse.bookwarehouse:14001"
    database: str = "mysql.bookwarehouse:3306"
    client: str = ""  # path of the mariadb program; "": the database is the stand-in
    interval: float = 1.0  # between two rounds of a shopper
    pause_least: float = 0.150  # time that a bookstore takes for a sale
    pause_most: float = 0.749
    retry: float = 10.0  # before a lost database is dialled again
    denied: int = 403  # the status of a denial, as bookthief sees it (BOOKTHIEF_EXPECTED_RESPONSE_CODE)


class Answer(Struct, frozen=True):
    status: int = 200
    body: str = ""
    kind: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()


class Tally:
    """The results of one application's calls. Thread-safe.

    Answered: 200. Refused: any other status. Failed: no response.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = self.refused = self.failed = 0
        self.last = ""

    def record(self, status: int, why: str = "") -> None:
        """Count a result. `status` 0: there was no response, and `why` says what happened instead."""
        with self._lock:
            self.calls += 1
            self.refused += status not in (0, 200)
            self.failed += status == 0
            self.last = why or f"{status} {http.client.responses.get(status, '')}".strip()

    def report(self) -> dict[str, int | str]:
        with self._lock:
            return {"calls": self.calls, "refused": self.refused, "failed": self.failed, "last": self.last}


class Application:
    """One program: it serves requests, and may make some of its own between `start` and the end of the process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tally = Tally()

    def start(self) -> None:
        """Start what runs beside serving."""

    def raw(self) -> dict[str, int]:
        """Return the counters, in the field names of the original."""
        raise NotImplementedError

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the response. `headers` has names in lower case; `path` has no query."""
        raise NotImplementedError


class Caller:
    """One HTTP client that keeps its connection, as Go's default client does. Not thread-safe."""

    def __init__(self, authority: str, timeout: float = 5.0) -> None:
        self._connection = http.client.HTTPConnection(authority, timeout=timeout)

    def call(
        self, tally: Tally, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPMessage | None:
        """Return the response's headers when it was 200, else None. Either way the tally counts it."""
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
