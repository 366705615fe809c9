"""What bookbuyer and bookthief send, and how they count."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Mapping

import pytest

from agent.demo.application import Answer, Application, Caller, Settings
from agent.demo.bookstore import Bookstore
from agent.demo.shoppers import Shopper


class Recorder(Application):
    """A store that keeps what it was asked."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.status = status
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    def raw(self) -> dict[str, int]:
        return {}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.seen.append((method, path, dict(headers)))
        return Answer(self.status, headers=(("Identity", "bookstore-v2-7c9f"),))


def shop(shopper: Shopper, authority: str, rounds: int = 1) -> None:
    with contextlib.closing(Caller(authority)) as caller:
        for _ in range(rounds):
            shopper.round(caller)


def test_a_round_asks_for_the_list_and_for_a_book_with_the_original_headers(serve):
    store = Recorder()
    authority = serve(store)
    shop(Shopper("booksBought", Settings()), authority)
    agent = {"host": authority, "user-agent": "Go-http-client/1.1"}
    assert store.seen == [
        ("GET", "/books-bought", agent | {"client-app": "bookbuyer"}),
        ("GET", "/buy-a-book/new", agent),
    ]


def test_books_count_by_the_identity_of_who_sold_them(serve):
    shopper = Shopper("booksBought", Settings())
    shop(
        shopper,
        serve(Bookstore(Settings(identity="bookstore-v1", pause_least=0, pause_most=0, warehouse="127.0.0.1:9"))),
        rounds=2,
    )
    shop(shopper, serve(Recorder()))
    assert shopper.raw() == {"booksBought": 3, "booksBoughtV1": 2, "booksBoughtV2": 1}
    assert shopper.tally.report() == {"calls": 6, "refused": 0, "failed": 0, "last": "200 OK"}


def test_a_refused_book_does_not_count(serve):
    shopper = Shopper("booksStolen", Settings())
    shop(shopper, serve(Recorder(status=403)), rounds=2)
    assert shopper.raw() == {"booksStolen": 0, "booksStolenV1": 0, "booksStolenV2": 0}
    assert shopper.tally.report() == {"calls": 4, "refused": 4, "failed": 0, "last": "403 Forbidden"}


def test_a_shopper_goes_on_by_itself(serve, eventually):
    store = Recorder()
    shopper = Shopper("booksBought", Settings(store=serve(store), interval=0.0))
    shopper.start()
    eventually(lambda: shopper.total >= 3)
    store.status = 403  # it stops counting
    seen = len(store.seen)
    eventually(lambda: len(store.seen) > seen)
    shopper.stop()
    eventually(lambda: not [thread for thread in threading.enumerate() if "_shop" in thread.name])


@pytest.mark.parametrize(("page", "status"), [("/", 200), ("/raw", 200), ("/reset", 200), ("/buy-a-book/new", 404)])
def test_a_shoppers_own_pages(serve, page, status):
    shopper = Shopper("booksBought", Settings())
    shopper.total, shopper.versions["bookstore-v1"] = 2, 2
    connection = http.client.HTTPConnection(serve(shopper), timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", page)
        response = connection.getresponse()
        text = response.read().decode()
    assert response.status == status
    if page == "/":
        assert "booksBought: 2" in text and "booksBoughtV1: 2" in text
    if page == "/raw":
        assert json.loads(text) == {"booksBought": 2, "booksBoughtV1": 2, "booksBoughtV2": 0}
    if page == "/reset":
        assert shopper.raw() == {"booksBought": 0, "booksBoughtV1": 0, "booksBoughtV2": 0}
