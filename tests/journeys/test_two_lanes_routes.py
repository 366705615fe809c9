"""Routes with matches, weights and changed fields, through both lanes: what servers and callers see, and what is recorded, is the same.

Each request is asked several times: the first one is Python's, and the later ones have to be the lane's where `fast` says so.
"""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
import trio

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from nodeproxy.routing import source
from tests.compiled import needs_lane
from tests.journeys import bookstore
from tests.journeys.conftest import Mesh
from tests.journeys.test_http_routes import V1, V2, fields, path, route, rule
from tests.journeys.test_two_lanes import _message
from tests.journeys.two_nodes import TwoNodes

pytestmark = needs_lane

HOST = b"host: bookstore.bookstore:14001\r\n"
LIMITS = Limits(keepalive_timeout=5, head_timeout=20, response_timeout=5)
TIMES = 4


def get(target=b"/books", more=b"", method=b"GET"):
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, HOST, more)


def header(name, value, kind="Exact", where="headers"):
    return {where: [{"type": kind, "name": name, "value": value}]}


HEADERS = [header("x-canary", "yes"), header("X-Version", "v[0-9]+", "RegularExpression")]
CHANGED = (
    fields(set={"x_env": "prod", "X_Two": "a, b"}, add={"x_more": "1"}, remove={"x_gone": None}),
    fields("Response", set={"server": "mesh"}, add={"set_cookie": "a=b"}, remove={"x_powered_by": None}),
)

# name -> (rules, requests, are they the lane's)
ROUTES = {
    "prefixes and exact paths": (
        [
            rule(V1, matches=[path("/books/one", "Exact")]),
            rule(V2, matches=[path("/books/two")]),
            rule(V1, matches=[path("/books")]),
        ],
        [get(b"/books/one"), get(b"/books/two"), get(b"/books/two/3"), get(b"/books/twofold"), get(b"/books?x=/books/two")],
        True,
    ),
    "no rule fits": ([rule(V1, matches=[path("/books/one")])], [get(b"/books/one"), get(b"/books")], False),
    "methods": (
        [rule(V2, matches=[path("/books", method="DELETE")]), rule(V1)],
        [get(), get(method=b"DELETE"), get(method=b"OPTIONS"), get(b"/books", b"", b"HEAD")],
        True,
    ),
    "fields": (
        [rule(V2, matches=HEADERS), rule(V1)],
        [
            get(),
            get(more=b"X-Canary: yes\r\n"),
            get(more=b"x-canary:yes\r\n"),
            get(more=b"x-canary: YES\r\n"),
            get(more=b"x-canary: \r\n"),
            get(more=b"x-version: v12\r\n"),
            get(more=b"x-version: v\r\n"),
            get(more=b"x-canary: \xe4\r\n"),
        ],
        True,
    ),
    "several fields of one name": (
        [rule(V2, matches=[header("x-canary", "yes")]), rule(V1)],
        [get(more=b"x-canary: yes\r\nx-canary: yes\r\n"), get(more=b"x-canary: no\r\nX-CANARY: yes\r\n")],
        False,
    ),
    "parameters": (
        [rule(V2, matches=[header("v", "2", where="queryParams")]), rule(V1)],
        [get(b"/books?v=2"), get(b"/books?v=1&v=2"), get(b"/books?v"), get(b"/books?&&v=2"), get(b"/books?w=v=2"), get(b"/books?v=2=")],
        True,
    ),
    "parameters with escapes": (
        [rule(V2, matches=[header("v", "2", where="queryParams")]), rule(V1)],
        [get(b"/books?%76=2"), get(b"/books?v=%32"), get(b"/books?v=+2")],
        False,
    ),
    "fields that are changed": (
        [rule(V1, filters=list(CHANGED))],
        [
            get(),
            get(more=b"X-Gone: 1\r\nX-Env: test\r\nx-env: again\r\nX-More: 0\r\n"),
            get(more=b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 1.2.3.4\r\n"),
            get(b"/books", b"x-gone:\r\n", b"HEAD"),
        ],
        True,
    ),
    "fields that another rule looks at": (
        [rule(V2, matches=[header("x-env", "prod")]), rule(V1, filters=[CHANGED[0]])],
        [get(), get(more=b"x-env: prod\r\n"), get(more=b"x-env: test\r\n")],
        True,
    ),
    "a backend changes fields": (
        [
            rule({**V1, "filters": [CHANGED[0]]}, matches=[path("/books/one")], filters=[fields(set={"x_env": "first"})]),
            rule({**V1, "filters": [CHANGED[1]]}),
        ],
        [get(b"/books/one"), get()],
        True,
    ),
    "a field that the data plane reads": (
        [rule(V1, filters=[fields(set={"content_type": "text/plain"})])],
        [get(), get(more=b"content-type: a/b\r\n")],
        False,
    ),
    "denied": ([rule(V1, filters=list(CHANGED))], [get(b"/admin"), get(), get(b"/admin")], True),
    "some rules are Python's": (
        [
            rule(V1, matches=[path("/books/one")]),
            rule(V2, matches=[path("/books/slow")], timeouts={"request": "3s"}),
            rule(V2),
        ],
        [get(b"/books/one"), get(b"/books/slow"), get()],
        None,
    ),
}  # fmt: skip


class Store:
    """A server that says who it is, and keeps what it hears."""

    def __init__(self, name):
        self.name = name
        self.heard = []

    async def talk(self, stream):
        data = b""
        while more := await stream.receive_some(65536):
            data += more
            while whole := _message(data):
                message, data = data[:whole], data[whole:]
                self.heard.append(message)
                answer = b"HTTP/1.1 200 OK\r\nServer: %b\r\nX-Powered-By: x\r\ncontent-length: 2\r\n\r\n" % self.name
                await stream.send_all(answer if message.startswith(b"HEAD") else answer + self.name)


async def answer(stream, head_only):
    data = b""
    while not (len(data) if head_only and data.endswith(b"\r\n\r\n") else _message(data)):
        more = await stream.receive_some(65536)
        assert more, data
        data += more
    return re.sub(rb"[0-9a-f]{32}", b"ID", data)


async def said(mesh, sides, lanes, rules, requests, times=TIMES):
    """What the stores and the caller hear, what is recorded, and how many requests each lane served."""
    mesh.publish(route=route(*rules), routes=bookstore.ROUTES.replace("[GET, POST]", '["*"]'))
    stores = [Store(b"v1"), Store(b"v2")]
    for store in stores:
        mesh.serve(f"store-{store.name.decode()}", store.talk)
    call = await mesh.call("buyer", "bookstore.bookstore")
    heard = []
    for request in requests:
        for _ in range(times):
            await call.stream.send_all(request)
            heard.append(await answer(call.stream, request.startswith(b"HEAD")))
            await mesh.settled()
    await call.stream.aclose()
    await mesh.settled()
    records = [
        [
            (r.method, r.path, r.host, r.status, r.flag, r.rule, r.service, bool(r.endpoint), r.bytes_in, r.bytes_out)
            for r in side.records
            if r.kind == "request"
        ]
        for side in sides
    ]
    address = mesh.addresses["buyer"].encode()
    return (
        [[one.replace(address, b"BUYER") for one in store.heard] for store in stores],
        heard,
        records,
        [lane.lane.stats["served"] for lane in lanes],
    )


async def one_node(monkeypatch, lane, rules, requests, times=TIMES):
    async with trio.open_nursery() as nursery:
        random.seed(7)  # the same addresses for both
        mesh = Mesh(nursery, LIMITS, lane)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        found = await said(mesh, [mesh], [mesh.proxy.fast] if lane else [], rules, requests, times)
        nursery.cancel_scope.cancel()
    mesh.close()
    return found


async def two_nodes(monkeypatch, mint, lanes, rules, requests):
    async with trio.open_nursery() as nursery:
        random.seed(7)
        mesh = TwoNodes(nursery, mint, lanes=lanes, limits=LIMITS)
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
        await mesh.start()
        sides = [mesh.west, mesh.east]
        fast = [side.proxy.fast for side in sides if side.name in lanes]
        found = await said(mesh, sides, fast, rules, requests)
        nursery.cancel_scope.cancel()
    mesh.close()
    return found


@pytest.mark.parametrize("name", ROUTES)
async def test_both_lanes_say_the_same(monkeypatch, quick_clock, name):
    rules, requests, fast = ROUTES[name]
    slow = await one_node(monkeypatch, False, rules, requests)
    native = await one_node(monkeypatch, True, rules, requests)
    assert native[:3] == slow[:3]
    [served] = native[3]
    asked = len(requests) * TIMES
    if fast:
        assert served >= asked - 2 * len(requests), "which lane it was"
    elif fast is False:
        assert served <= asked // 2, "which lane it was"
    else:
        assert 0 < served <= asked - TIMES, "which lane it was"


@pytest.mark.parametrize(
    "name", ["fields", "parameters", "fields that are changed", "a backend changes fields", "denied"]
)
async def test_lanes_of_two_nodes_say_the_same(monkeypatch, quick_clock, mint, name):
    rules, requests, _ = ROUTES[name]
    slow = await two_nodes(monkeypatch, mint, (), rules, requests)
    native = await two_nodes(monkeypatch, mint, ("west", "east"), rules, requests)
    assert native[:3] == slow[:3]
    assert min(native[3]) >= len(requests), "which lane it was"


async def test_shares_of_each_rule_are_exact(monkeypatch, quick_clock):
    """A round of turns is drawn ahead, for each rule its own."""
    rules = [
        rule({**V1, "weight": 3}, {**V2, "weight": 1}, matches=[path("/books/one")]),
        rule({**V1, "weight": 1}, {**V2, "weight": 1}),
    ]
    native = await one_node(monkeypatch, True, rules, [get(b"/books/one"), get()] * 50)
    stores = Counter(
        (name, message.split(b" ")[1]) for name, heard in zip(("v1", "v2"), native[0], strict=True) for message in heard
    )
    assert stores == {
        ("v1", b"/books/one"): 150,
        ("v2", b"/books/one"): 50,
        ("v1", b"/books"): 100,
        ("v2", b"/books"): 100,
    }
    assert native[3][0] > 300, "which lane it was"


async def test_callers_of_a_split_do_not_wait_for_turns(monkeypatch, quick_clock):
    """More turns are drawn before the last one is taken: no later request comes up."""
    rules = [rule({**V1, "weight": 9}, {**V2, "weight": 1})]
    native = await one_node(monkeypatch, True, rules, [get()] * 250)
    assert [len(heard) for heard in native[0]] == [900, 100]
    assert native[3][0] >= 997, "which lane it was"


async def test_rules_for_one_server_do_not_take_connections_from_each_other(monkeypatch, quick_clock):
    rules = [rule(V1, matches=[path("/books/one")]), rule(V1, filters=[CHANGED[0]])]
    native = await one_node(monkeypatch, True, rules, [get(b"/books/one"), get()] * 20, times=1)
    assert native[3][0] >= 36, "which lane it was"
