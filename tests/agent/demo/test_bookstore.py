"""The bookstore over loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping

import pytest

from agent.demo.application import Answer, Application, Settings
from agent.demo.bookstore import Bookstore


class FakeWarehouse(Application):
    """Remembers what it was sent."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.status = status
        self.seen: list[tuple[str, str, str, bytes]] = []

    def raw(self) -> dict[str, int]:
        return {"restocked": len(self.seen)}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.seen.append((method, path, headers["host"], body))
        return Answer(self.status)


def quick(**settings: object) -> Settings:
    return Settings(identity="bookstore-v1", pause_least=0.0, pause_most=0.0, **settings)  # type: ignore[arg-type]


@contextlib.contextmanager
def get(
    authority: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    with contextlib.closing(http.client.HTTPConnection(authority, timeout=5)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        yield connection.getresponse()


@pytest.mark.parametrize("path", ["/", "/books-bought", "/books-bought?page=2"])
def test_a_store_says_who_it_is_and_what_it_sold(serve, path):
    store = Bookstore(quick())
    store.sold = 7
    with get(serve(store), path) as response:
        text = response.read().decode()
        assert (response.status, response.headers["Identity"], response.headers["Booksbought"]) == (
            200,
            "bookstore-v1",
            "7",
        )
        assert "bookstore-v1" in text and "7" in text


@pytest.mark.parametrize(
    ("body", "status", "sold"), [(b"12", 200, 12), (b'"12"', 400, 3), (b"twelve", 400, 3), (b"", 400, 3)]
)
def test_the_counter_is_set_by_a_json_integer(serve, body, status, sold):
    store = Bookstore(quick())
    store.sold = 3
    with get(serve(store), "/books-bought", "POST", body) as response:
        assert response.status == status
    assert store.sold == sold


def test_a_sale_counts_and_asks_the_warehouse_for_another_book(serve, eventually):
    warehouse = FakeWarehouse()
    store = Bookstore(quick(warehouse=serve(warehouse)))
    with get(serve(store), "/buy-a-book/new") as response:
        assert (response.status, response.headers["Booksbought"]) == (200, "1")
    eventually(lambda: store.tally.calls == 1)
    assert warehouse.seen == [("POST", "/", "bookwarehouse.bookwarehouse", b"1")]
    assert store.tally.report() == {"calls": 1, "refused": 0, "failed": 0, "last": "200 OK"}


def test_a_sale_does_not_depend_on_the_warehouse(serve, eventually):
    store = Bookstore(quick(warehouse=serve(FakeWarehouse(status=403))))
    with get(serve(store), "/buy-a-book/new") as response:
        assert response.status == 200
    eventually(lambda: store.tally.calls == 1)
    assert store.tally.report() == {"calls": 1, "refused": 1, "failed": 0, "last": "403 Forbidden"}


def test_a_store_copies_tracing_headers_and_nothing_else(serve):
    with get(serve(Bookstore(quick())), "/", x_request_id="abc", x_b3_traceid="1f", x_secret="no") as response:
        assert (response.headers["x-request-id"], response.headers["x-b3-traceid"], response.headers["x-secret"]) == (
            "abc",
            "1f",
            None,
        )


def test_raw_reset_and_health(serve):
    store = Bookstore(quick())
    store.sold = 4
    authority = serve(store)
    with get(authority, "/raw") as response:
        assert json.loads(response.read()) == {"booksSold": 4}
    with get(authority, "/reset") as response:
        assert (response.status, store.sold) == (200, 0)
    for page, status in (
        ("/liveness", 200),
        ("/readiness", 200),
        ("/startup", 200),
        ("/nothing", 404),
        ("/calls", 404),
    ):
        with get(authority, page) as response:
            assert response.status == status, page


def test_a_body_of_unknown_length_is_refused(serve):
    with get(serve(Bookstore(quick())), "/books-bought", "POST", None, Transfer_Encoding="chunked") as response:
        assert response.status == 411
