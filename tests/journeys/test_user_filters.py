"""Filters in Python of a node's administrator, one of each shape: over sockets, in both lanes."""

import time

import pytest

from nodeproxy.user_filters import UserFilter, UserFilters
from tests.journeys.test_http_filters import http_filter, post, uses
from tests.journeys.test_http_routes import ask, route, stores

CODE = """
import time

class Changes:
    def request(self, head):
        head.set("X-Caller", head.caller)
        head.add("x-more", head.method + " " + head.target + " " + head.host)
        head.remove("x-secret")

class Answers:
    def request(self, head):
        return 418, "short and stout: " + head.get("x-a")

class Refuses:
    def request(self, head):
        return 403

class Passes:
    def request(self, head):
        head.fields.clear()
        head.method = "DELETE"

class Raises:
    def request(self, head):
        head.set("x-a", "lost")
        raise RuntimeError("no")

class Sleeps:
    def request(self, head):
        head.set("x-a", "late")
        time.sleep(0.4)

class Spins:
    def request(self, head):
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            pass

class Lies:
    def request(self, head):
        head.set("x-a", "1")
        head.set("host", "elsewhere")

class Nonsense:
    def request(self, head):
        return "maybe"

class Broken:
    def __init__(self):
        raise ValueError("never made")
"""
BAD = ("Raises", "Sleeps", "Spins", "Lies", "Nonsense", "Broken", "Absent")


@pytest.fixture
def said(mesh, tmp_path):
    """Put one filter in force: its class, and what is to become of errors."""
    tmp_path.chmod(0o755)
    (tmp_path / "mine.py").write_text(CODE)

    def said(name, on_error="refuse", timeout=0.2):
        configured = UserFilter("f", "mine", name, on_error, timeout)
        mesh.proxy.context.user_filters = UserFilters((configured,), str(tmp_path))

    mesh.publish(route=route(uses()), filter=http_filter(user="f"))
    return said


async def test_it_changes_fields_of_the_request(mesh, said):
    one, _ = stores(mesh)
    said("Changes")
    for _ in range(3):
        assert (await ask(mesh, "/books?q=1", x_caller="root", x_secret="1"))[0].status == 200
    assert (await post(mesh, body=b"hello"))[0] == 200
    for *_, headers, _ in one.requests[:3]:
        assert headers[b"x-caller"] == b"bookbuyer/bookbuyer"
        assert headers[b"x-more"] == b"GET /books?q=1 bookstore.bookstore:14001"
        assert b"x-secret" not in headers
    assert one.requests[3][4] == b"hello"


async def test_it_answers_in_the_place_of_the_server(mesh, said):
    one, _ = stores(mesh)
    said("Answers")
    (answer,) = await ask(mesh, x_a="tea")
    assert (answer.status, answer.body) == (418, "short and stout: tea")
    said("Refuses")
    assert (await ask(mesh))[0].status == 403
    assert one.requests == []


async def test_what_it_does_to_its_copy_of_the_head_changes_nothing(mesh, said):
    one, _ = stores(mesh)
    said("Passes")
    assert (await ask(mesh, x_a="1"))[0].status == 200
    assert one.requests[0][1] == "GET"
    assert one.requests[0][3][b"x-a"] == b"1"


@pytest.mark.parametrize("name", BAD)
async def test_one_that_fails_refuses_or_passes_as_it_is_said(mesh, said, name):
    one, _ = stores(mesh)
    said(name)
    answer = (await ask(mesh, x_a="0"))[0]
    assert (answer.status, answer.reason) == (500, "filter-failed")
    assert one.requests == []
    said(name, "pass")
    assert (await ask(mesh, x_a="0"))[0].status == 200
    assert one.requests[0][3][b"x-a"] == b"0", "none of its changes"


async def test_one_that_hangs_bounds_its_threads_and_holds_up_nobody(mesh, said):
    stores(mesh)
    said("Sleeps", "pass", 0.05)
    began = time.monotonic()
    assert [answer.status for answer in await ask(mesh, times=8)] == [200] * 8
    assert time.monotonic() - began < 3
    assert mesh.proxy.context.user_filters._limiters["f"].borrowed_tokens <= 4


async def test_a_name_that_no_nodeconfig_has_lets_nothing_pass(mesh, said):
    stores(mesh)
    mesh.publish(filter=http_filter(user="other"))
    assert (await ask(mesh))[0].reason == "filter-failed"
