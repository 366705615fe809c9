"""Streams of an HTTP/2 connection in the native lane, frame by frame: which requests of a peer are served, who it is asked for, and bounds."""

from __future__ import annotations

import contextlib

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest

from nodeproxy import native
from nodeproxy.h2.limits import Bounds
from tests.compiled import needs_lane
from tests.nodeproxy.fastpath.test_path import GET, OK, Place

pytestmark = needs_lane

if native.AVAILABLE:
    from nodeproxy.native import END, FAILED, REQUEST, RESPONSE

STALL = 5.0
HEAD = [(":method", "GET"), (":scheme", "http"), (":path", "/books"), (":authority", "store")]
POST = [(":method", "POST"), *HEAD[1:]]
THERE, CALLER = ("x-edgemesh-destination", "10.0.0.2:80"), ("x-forwarded-for", "10.0.0.1")


def machine(client, **bounds):
    from nodeproxy.h2.native_machine import NativeMachine

    return NativeMachine(client, Bounds(**bounds), None, 0.0)


class Linked:
    """A peer's connection beside the place's. `peer`: another implementation of HTTP/2 at its other end."""

    def __init__(self, client=False, local=False, place=None, **bounds):
        self.place = place or Place()
        self.place.lane.tick(0.0)
        self.machine = machine(client, **bounds)
        self.near, self.far = self.place.pair()
        self.linked = self.place.lane.link(self.far.fileno(), self.far.fileno(), None, self.machine.h2, STALL, local)
        config = h2.config.H2Configuration(
            client_side=not client,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.peer = h2.connection.H2Connection(config)
        self.peer.initiate_connection()
        self.events = []
        self.exchange()

    def exchange(self):
        for _ in range(4):
            with contextlib.suppress(BrokenPipeError):
                self.near.sendall(self.peer.data_to_send())
            self.place.turn()
            with contextlib.suppress(BlockingIOError):
                while data := self.near.recv(1 << 20):
                    self.events += self.peer.receive_data(data)
                    self.place.turn()

    def door(self, what=b"10.0.0.2:80", whom=b"10.0.0.1"):
        self.place.lane.door(self.linked, what, whom, self.place.plan, 5)

    def ask(self, *fields, base=HEAD, body=None):
        """What the server hears of this request."""
        number = self.peer.get_next_available_stream_id()
        self.peer.send_headers(number, [*base, *fields], end_stream=body is None)
        if body:
            self.peer.send_data(number, body, end_stream=True)
        self.exchange()
        return self.place.heard(self.place.d)

    def answered(self):
        self.place.d.sendall(OK)
        self.exchange()

    def close(self):
        self.linked.close(False)
        self.place.close()


@pytest.fixture
def linked():
    made = Linked()
    made.machine.h2.events()
    yield made
    made.close()


# whose request it is


def test_a_stream_that_was_learned_is_served(linked):
    linked.door()
    for _ in range(3):
        assert linked.ask(THERE, CALLER).startswith(b"GET /books HTTP/1.1\r\nhost: store\r\n")
        linked.answered()
    assert linked.place.lane.stats["served"] == 3
    assert linked.machine.h2.events() == []


ODD = {
    "no destination": [CALLER],
    "another destination": [("x-edgemesh-destination", "10.0.0.2:81"), CALLER],
    "two destinations": [THERE, THERE, CALLER],
    "another caller": [THERE, ("x-forwarded-for", "10.0.0.9")],
    "no caller": [THERE],
    "two callers": [THERE, CALLER, CALLER],
    "a caller behind ours": [THERE, ("x-forwarded-for", "10.0.0.1, 10.0.0.9")],
    "a host": [THERE, CALLER, ("host", "store")],
    "crumbs": [THERE, CALLER, ("cookie", "a=b"), ("cookie", "c=d")],
    "expect": [THERE, CALLER, ("expect", "100-continue")],
    "te": [THERE, CALLER, ("te", "gzip")],
}


@pytest.mark.parametrize("name", ODD)
def test_a_stream_that_is_odd_is_pythons(linked, name):
    linked.door()
    assert linked.ask(*ODD[name]) == b""
    assert linked.machine.h2.events()
    assert linked.place.lane.stats["calls"] == 0
    assert linked.ask(THERE, CALLER), "the next one is served"


def test_who_forwarded_before_our_caller_does_not_matter(linked):
    """The last of the list is whom the other node has proved."""
    linked.door(whom=b"1.2.3.4, 10.0.0.1")
    for said in ("10.0.0.1", "5.6.7.8,\t10.0.0.1", "a, b, 10.0.0.1"):
        assert linked.ask(THERE, ("x-forwarded-for", said))
        linked.answered()


def test_a_door_is_for_its_caller(linked):
    """At one destination each caller is judged by itself."""
    linked.door(whom=b"10.0.0.1")
    other = linked.place.lane.plan(b"10.0.0.7", (((linked.place.target, None),),))
    linked.place.lane.door(linked.linked, b"10.0.0.2:80", b"10.0.0.7", other, 6)
    assert linked.ask(THERE, ("x-forwarded-for", "10.0.0.7")) == b"", "whose plan was taught nothing"
    assert linked.ask(THERE, CALLER)


def test_of_a_workloads_connection_no_field_chooses_the_door():
    linked = Linked(local=True)
    linked.machine.h2.events()
    linked.door(b"", b"")
    assert (
        linked.ask(("x-edgemesh-destination", "10.0.0.9:1"), ("x-forwarded-for", "10.0.0.9")).count(b"10.0.0.9:1") == 0
    )
    linked.answered()
    assert linked.place.lane.stats["served"] == 1
    linked.close()


def test_more_doors_than_there_is_room_for(linked):
    """The oldest gives way, and what it led to is Python's again."""
    for number in range(200):
        linked.door(what=b"10.0.1.%d:80" % number)
    assert linked.ask(("x-edgemesh-destination", "10.0.1.199:80"), CALLER)
    linked.answered()
    assert linked.ask(("x-edgemesh-destination", "10.0.1.0:80"), CALLER) == b""


@pytest.mark.parametrize("size", [246, 247])
def test_a_door_with_a_long_name(linked, size):
    name = b"x" * size
    linked.door(what=name)
    assert (linked.ask(("x-edgemesh-destination", name.decode()), CALLER) != b"") is (
        size + 1 + len(b"10.0.0.1") <= 256
    )


def test_a_refusal_that_was_learned_is_told_by_python(linked):
    """An answer of ours looks different on a stream."""
    no = b"HTTP/1.1 403 Forbidden\r\nx: %b\r\ncontent-length: 0\r\n\r\n" % (b"0" * 32)
    lane, place = linked.place.lane, linked.place
    lane.refuse(place.plan, place.target, lane.denial(no, len(no), no.index(b"0" * 32)), b"GET", b"/books", b"store")
    linked.door()
    assert linked.ask(THERE, CALLER) == b""
    assert linked.machine.h2.events()
    assert lane.refusals() == []


# which connection


def asks(place, links):
    """Who gets the next call: its number among the links."""
    near, far = place.pair()
    carried = place.lane.carry(far.fileno(), far.fileno(), place.plan, b"")
    before = [len(link.events) for link in links]
    near.sendall(GET)
    for link in links:
        link.exchange()
    found = [
        any(isinstance(e, h2.events.RequestReceived) for e in link.events[was:])
        for link, was in zip(links, before, strict=True)
    ]
    return carried, found


def test_calls_go_where_there_is_room():
    place = Place()
    place.lane.clear(place.target)
    links = [Linked(client=True, place=place) for _ in range(3)]
    for link in links:
        link.peer.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        link.exchange()
        place.lane.route(place.target, link.linked, b"")
    made = [asks(place, links) for _ in range(3)]
    assert sorted(found for _, found in made) == [[False, False, True], [False, True, False], [True, False, False]], (
        "each has one"
    )
    carried, found = asks(place, links)
    assert (carried.here, found) == (False, [False] * 3), "and none has room for more: it goes up"
    links[0].linked.close(False)
    place.turn()
    place.lane.ups()
    answering = links[1]
    (asked,) = [event for event in answering.events if isinstance(event, h2.events.RequestReceived)]
    answering.peer.send_headers(asked.stream_id, [(":status", "204")], end_stream=True)
    answering.exchange()
    carried, found = asks(place, links[1:])
    assert (carried.here, found) == (True, [True, False]), "one that is gone is asked no more"
    for link in links[1:]:
        link.linked.close(False)
    place.close()


# ends


def test_after_a_goaway_of_ours_no_stream_is_served(linked):
    linked.door()
    assert linked.ask(THERE, CALLER)
    linked.answered()
    assert linked.machine.h2.go_away() == 1, "the last stream that we have seen"
    linked.linked.due()
    linked.exchange()
    (left,) = [event for event in linked.events if isinstance(event, h2.events.ConnectionTerminated)]
    assert (left.last_stream_id, left.error_code) == (1, 0)
    with contextlib.suppress(h2.exceptions.ProtocolError):
        linked.ask(THERE, CALLER)
    assert linked.place.lane.stats["served"] == 1


@pytest.mark.parametrize("late", [True, False])
def test_a_peer_that_takes_no_bytes(linked, late):
    linked.machine.h2.events()
    for _ in range(2000):
        linked.machine.h2.ping(b"12345678")
        linked.linked.due()
        linked.place.lane.turn(500)
        if linked.machine.h2.queued > 100_000:
            break
        for _ in range(500):
            linked.machine.h2.ping(b"12345678")
    assert linked.machine.h2.queued
    linked.place.lane.tick(STALL + 1 if late else STALL - 1)
    assert linked.linked.ended is late
    assert linked.linked.why == ("it took no bytes for 5 s" if late else "")


# bounds


def test_windows_grow_within_what_all_streams_may_hold():
    """Each stream that moves is given a larger window, until a third of the connection's is given away; and it comes back."""
    linked = Linked(connection_window=1 << 20)
    linked.machine.h2.events()
    linked.place.lane.limit(**{**linked.place.limits, "rest_per_target": 100})
    most = linked.machine.h2.growth
    assert most == (1 << 20) // 3
    servers = [linked.place.d]
    for number in range(20):
        server, far = linked.place.pair()
        servers.append(far)
        linked.place.lane.lend(100 + number, server.fileno(), linked.place.target)
    linked.door()
    streams = []
    for _ in range(10):
        streams.append(linked.peer.get_next_available_stream_id())
        linked.peer.send_headers(streams[-1], [*POST, THERE, CALLER, ("content-length", str(1 << 20))])
    linked.exchange()
    left = []
    for _ in range(12):
        for stream in streams:
            while (size := min(linked.peer.local_flow_control_window(stream), 16384)) > 0:
                linked.peer.send_data(stream, bytes(size))
                linked.near.sendall(linked.peer.data_to_send())
                linked.place.turn()
                for server in servers:
                    linked.place.heard(server)
        linked.exchange()
        left.append(linked.machine.h2.growth)
    assert all(0 <= one <= most for one in left), left
    assert left[-1] < 65535, "all of it is in use"
    for stream in streams:
        linked.peer.reset_stream(stream)
    linked.exchange()
    linked.place.turn()
    assert linked.machine.h2.growth == most
    linked.close()


SECRETS = (b"authorization", b"proxy-authorization", b"cookie")


@pytest.mark.parametrize("name", [*SECRETS, b"x-plain"])
def test_what_a_guess_could_be_tested_against_enters_no_table(name):
    """RFC 7541 section 7.1.3. Other fields do: they cost a byte the next time."""
    linked = Linked(client=True)
    linked.place.lane.clear(linked.place.target)
    linked.place.lane.gone()
    linked.place.lane.route(linked.place.target, linked.linked, b"")
    secret = b"secret of more than twenty bytes"
    linked.place.a.sendall(GET[:-2] + name + b": " + secret + b"\r\n\r\n")
    linked.exchange()
    (asked,) = [event for event in linked.events if isinstance(event, h2.events.RequestReceived)]
    assert (name, secret) in [(bytes(n), bytes(v)) for n, v in asked.headers]
    table = [
        bytes(found) for found, value in linked.peer.decoder.header_table.dynamic_entries if bytes(value) == secret
    ]
    assert table == ([] if name in SECRETS else [name])
    linked.close()


# callers of HTTP/1.1 whose server is asked over a stream


class Over(Linked):
    """The place's caller asks over the link. `peer` is who answers."""

    def __init__(self, name=b"10.0.0.2:80", **limits):
        place = Place(**limits)
        super().__init__(client=True, local=not name, place=place)
        place.lane.learn(place.plan, place.target, 0, b"PUT", b"/books", b"store")
        place.lane.clear(place.target)
        place.lane.gone()
        place.lane.route(place.target, self.linked, name)

    def say(self, data):
        """What the peer is told of: (fields, body, ended)."""
        before = len(self.events)
        self.place.a.sendall(data)
        self.exchange()
        new = self.events[before:]
        fields = [dict(e.headers) for e in new if isinstance(e, h2.events.RequestReceived)]
        body = b"".join(e.data for e in new if isinstance(e, h2.events.DataReceived))
        return fields, body, any(isinstance(e, h2.events.StreamEnded) for e in new)

    def answer(self, *fields, status="200", body=None, end=True, number=1):
        self.peer.send_headers(number, [(":status", status), *fields], end_stream=end and body is None)
        if body is not None:
            self.peer.send_data(number, body, end_stream=end)
        self.exchange()
        return self.place.heard(self.place.a)

    def up(self):
        self.place.turn()
        (one,) = self.place.lane.ups()
        return one[1], one[2], one[3]

    def reset(self, code, number=1):
        self.peer.reset_stream(number, code)
        self.exchange()
        return self.up()


@pytest.fixture
def over():
    made = Over()
    yield made
    made.close()


SENDS = b"%b /books HTTP/1.1\r\nhost: store\r\ncontent-length: %d\r\n\r\n"
PUT = SENDS % (b"PUT", 5)
SEND = SENDS % (b"POST", 5)


@pytest.mark.parametrize("code", [0, 1, 2, 7, 8, 11, 13, 14, 0xFFFFFFFF])
def test_how_a_server_reset_its_stream_is_told(over, code):
    over.say(SEND + b"abcde")
    words = f" (error code {code})" if code <= 13 else ""
    assert over.reset(code) == (FAILED, "upstream-broken", f": the peer reset the stream{words}")


@pytest.mark.parametrize(
    ("request_", "code", "again"),
    [
        (GET, 2, True),
        (GET, 7, True),
        (SENDS % (b"POST", 0), 7, True),
        (SENDS % (b"POST", 0), 2, False),
        (PUT + b"abcde", 2, False),
        (PUT + b"abcde", 7, False),
    ],
)
def test_what_is_asked_again_of_a_server_that_reset_its_stream(over, request_, code, again):
    """RFC 9113 section 8.7, RFC 9110 section 9.2.2; a body has gone, and is nowhere any more."""
    assert over.say(request_)[2]
    assert over.reset(code)[0] == (REQUEST if again else FAILED)


def test_an_answer_that_has_begun_is_not_asked_for_again(over):
    over.say(GET)
    assert over.answer(body=b"ab", end=False).endswith(b"\r\n\r\n2\r\nab\r\n")
    assert over.reset(7) == (FAILED, "upstream-broken", ": the peer reset the stream (error code 7)")
    assert over.place.heard(over.place.a) == b"", "no end of chunks"


@pytest.mark.parametrize(("request_", "up"), [(GET, REQUEST), (SEND + b"abcde", FAILED)])
def test_a_connection_that_breaks_takes_its_calls_with_it(over, request_, up):
    over.say(request_)
    over.linked.close(False)
    found = over.up()
    assert found[0] == up
    assert found[1:] == (("", "") if up == REQUEST else ("upstream-broken", ": its connection broke"))


def test_an_interim_answer_to_a_whole_request_is_pythons(over):
    over.say(SEND + b"abcde")
    assert over.answer(status="103", end=False) == b""
    assert over.up()[0] == RESPONSE


def test_an_interim_answer_while_the_body_is_on_its_way_is_left_out(over):
    """Its caller sends on without."""
    over.say(SEND + b"ab")
    assert over.answer(status="103", end=False) == b""
    assert over.place.lane.ups() == []
    assert over.say(b"cde") == ([], b"cde", True)
    assert over.answer(("content-length", "2"), body=b"ok") == OK


@pytest.mark.parametrize("whole", [True, False])
def test_a_status_without_a_reason(over, whole):
    """Python knows more of them; an answer to half a request cannot go up, and RFC 9112 section 4 needs none."""
    over.say(SEND + (b"abcde" if whole else b"ab"))
    heard = over.answer(status="299")
    if whole:
        assert (heard, over.up()[0]) == (b"", RESPONSE)
    else:
        assert heard == b"HTTP/1.1 299 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        assert over.say(b"cde")[1:] == (b"cde", True)
        assert over.up() == (END, "", "")


@pytest.mark.parametrize("resets", [True, False])
def test_an_early_answer_over_a_stream_is_the_last(over, resets):
    """Whether the rest of the request is wanted is said when it is too late to tell the caller."""
    over.say(SEND + b"ab")
    assert over.answer(("content-length", "2"), status="413", body=b"no") == (
        b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    )
    assert over.place.lane.ups() == []
    if resets:
        assert over.reset(0) == (END, "linger", "")
    else:
        assert over.say(b"cde") == ([], b"cde", True)
        assert over.up() == (END, "", "")


def test_after_an_early_answer_the_rest_has_five_seconds():
    made = Over(idle_timeout=300)
    made.place.lane.tick(1000.0)
    made.say(SEND + b"ab")
    made.answer(status="413")
    made.place.lane.tick(1004.5)
    assert made.place.lane.ups() == []
    made.place.lane.tick(1005.5)
    assert made.up() == (END, "linger", "")
    made.exchange()
    (left,) = [e for e in made.events if isinstance(e, h2.events.StreamReset)]
    assert left.error_code == 8
    made.close()


def test_an_answer_without_a_body_over_a_stream(over):
    for number, (request_, status, heard) in enumerate(
        [
            (GET, "204", b"HTTP/1.1 204 No Content\r\n\r\n"),
            (GET, "304", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n"),
            (GET.replace(b"GET", b"HEAD"), "200", b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"),
        ]
    ):
        over.say(request_)
        fields = [] if status == "204" else [("content-length", "7")]
        assert over.answer(*fields, status=status, number=2 * number + 1) == heard
    assert over.place.lane.stats["served"] == 3


@pytest.mark.parametrize("name", [b"10.0.0.2:80", b""])
def test_only_another_nodes_own_words_are_believed(name):
    """What a server says for itself in our name does not travel; from a node Python reads it."""
    over = Over(name)
    assert [
        fields.get("x-edgemesh-destination") or fields.get(b"x-edgemesh-destination") for fields in over.say(GET)[0]
    ] == [name or None]
    heard = over.answer(("x-edgemesh-reason", "no"), body=b"ok")
    if name:
        assert (heard, over.up()[0]) == (b"", RESPONSE)
    else:
        assert heard == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    over.close()


def test_fields_of_a_request_over_a_stream(over):
    said = b"X-Upper: A\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nte: trailers\r\nx-forwarded-proto: https\r\n"
    ((fields,), _, ended) = over.say(GET[:-2] + said + b"\r\n")
    told = {bytes(name): bytes(value) for name, value in fields.items()}
    assert ended
    assert (
        told.items()
        >= {
            b"x-upper": b"A",
            b"te": b"trailers",
            b"x-forwarded-proto": b"https",
            b"x-forwarded-for": b"10.0.0.1",
            b"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        }.items()
    )


@pytest.mark.parametrize("count", [100, 101])
def test_trailers_of_a_stream_are_bounded(over, count):
    over.say(GET)
    over.answer(body=b"ok", end=False)
    over.peer.send_headers(1, [(f"x-{number}", "1") for number in range(count)], end_stream=True)
    over.exchange()
    heard = over.place.heard(over.place.a)
    if count == 100:
        assert heard == b"0\r\n" + b"".join(b"x-%d: 1\r\n" % number for number in range(count)) + b"\r\n"
    else:
        assert heard == b""
        assert over.up()[1:] == ("upstream-broken", "trailers that are too large")


# peers whose server speaks HTTP/1.1


def heads_of(linked):
    return [dict(e.headers) for e in linked.events if isinstance(e, h2.events.ResponseReceived)]


@pytest.mark.parametrize("at_once", [True, False])
def test_trailers_of_a_server_travel_on_a_stream(linked, at_once):
    """Their names in lower case, without what stands around a value; what belongs to one connection does not."""
    linked.door()
    linked.ask(THERE, CALLER)
    pieces = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"2\r\nok\r\n0\r\nX-Sum:\t 1 \t\r\nHost: x\r\nx-b:\r\n\r\n",
    ]
    for piece in [b"".join(pieces)] if at_once else pieces:
        linked.place.d.sendall(piece)
        linked.exchange()
    (trailers,) = [e.headers for e in linked.events if isinstance(e, h2.events.TrailersReceived)]
    assert [(bytes(n), bytes(v)) for n, v in trailers] == [(b"x-sum", b"1"), (b"x-b", b"")]
    assert b"".join(e.data for e in linked.events if isinstance(e, h2.events.DataReceived)) == b"ok"


@pytest.mark.parametrize("closes", [True, False])
def test_a_server_that_answers_half_a_request_of_a_stream(linked, closes):
    """RFC 9113 section 8.1: the rest is not wanted where the server takes no more of it."""
    linked.door()
    number = linked.peer.get_next_available_stream_id()
    linked.peer.send_headers(number, [*POST, THERE, CALLER, ("content-length", "5")])
    linked.peer.send_data(number, b"ab")
    linked.exchange()
    assert linked.place.heard(linked.place.d).endswith(b"\r\n\r\nab")
    linked.place.d.sendall(OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n") if closes else OK)
    linked.exchange()
    assert [bytes(head[b":status"]) for head in heads_of(linked)] == [b"200"]
    resets = [e.error_code for e in linked.events if isinstance(e, h2.events.StreamReset)]
    assert resets == ([0] if closes else [])
    if not closes:
        linked.peer.send_data(number, b"cde", end_stream=True)
        linked.exchange()
        assert linked.place.heard(linked.place.d) == b"cde"
    assert (linked.place.lane.stats["calls"], linked.place.lane.stats["served"]) == (0, 1)
    assert linked.place.lane.gone() == ([7] if closes else [])


@pytest.mark.parametrize("lacks", [":method", ":path", ":authority"])
def test_a_stream_that_lacks_a_part_of_its_request_is_not_served(linked, lacks):
    linked.door()
    with contextlib.suppress(h2.exceptions.ProtocolError):
        linked.ask(THERE, CALLER, base=[field for field in HEAD if field[0] != lacks])
    assert linked.place.lane.stats["calls"] == 0


def test_an_odd_answer_to_half_a_request_is_a_fault():
    """It cannot go up: Python reads answers to whole requests only."""
    over = Over(head_bytes=2000)
    over.say(SEND + b"ab")
    assert over.answer(("x-large", "y" * 3000), status="413") == b""
    assert over.up() == (FAILED, "upstream-broken", "sent a response that is malformed")
    over.close()


@pytest.mark.parametrize("count", [2, 101])
def test_trailers_of_a_request_on_a_stream(linked, count):
    """They travel on, and no more of them than there may be."""
    linked.door()
    number = linked.peer.get_next_available_stream_id()
    linked.peer.send_headers(number, [*POST, THERE, CALLER])
    linked.peer.send_data(number, b"ab")
    linked.peer.send_headers(number, [(f"x-{n}", "1") for n in range(count)], end_stream=True)
    linked.exchange()
    heard = linked.place.heard(linked.place.d)
    assert heard.endswith(b"2\r\nab\r\n0\r\nx-0: 1\r\nx-1: 1\r\n\r\n") is (count == 2)
    if count == 2:
        linked.answered()
        assert linked.place.lane.stats["served"] == 1
    else:
        ((_, what, flag, detail, *_),) = linked.place.lane.ups()
        assert (what, flag, detail) == (FAILED, "bad-request", "trailers that are too large")
        assert linked.place.lane.gone() == [7], "its server must not take a part for the whole"


def test_a_stream_that_was_not_learned_is_pythons(linked):
    linked.door()
    assert (
        linked.ask(THERE, CALLER, base=[(name, "/other" if name == ":path" else value) for name, value in HEAD]) == b""
    )
    assert linked.machine.h2.events()
    assert linked.place.lane.stats["calls"] == 0
