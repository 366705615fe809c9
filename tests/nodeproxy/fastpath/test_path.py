"""The native lane by itself, through its Python door: what it serves, what it hands up, and that nothing is lost or kept."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeproxy.native import AVAILABLE
from policy import automaton
from policy.match import _paths
from tests.compiled import needs_lane

if AVAILABLE:
    from nodeproxy.native import END, FAILED, REQUEST, RESPONSE, Lane, Program

pytestmark = needs_lane

GET = b"GET /books HTTP/1.1\r\nhost: store\r\n\r\n"
SENT = b"GET /books HTTP/1.1\r\nhost: store\r\nx-forwarded-proto: http\r\nx-forwarded-for: 10.0.0.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
POST = b"POST /books HTTP/1.1\r\nhost: store\r\ncontent-length: %d\r\n\r\n"


class Place:
    """A lane with one caller (`a`) and one server (`d`), whose other ends it has."""

    def __init__(self, **limits):
        self.lane = Lane((0.001, 0.01))
        self.limits = {
            "head_bytes": 65536,
            "header_count": 100,
            "path_bytes": 8192,
            "buffer_bytes": 65536,
            "rest_per_target": 4,
            "keepalive_timeout": 75,
            "response_timeout": 300,
            "idle_timeout": 300,
            "rest_timeout": 30,
            **limits,
        }
        self.lane.limit(**self.limits)
        self.target = self.lane.target()
        self.plan = self.lane.plan(b"10.0.0.1", (((self.target, None),),))
        for method in (b"GET", b"HEAD", b"POST"):
            self.lane.learn(self.plan, self.target, 0, method, b"/books", b"store")
        self.open = []
        self.a, self.caller = self.pair()
        self.server, self.d = self.pair()
        self.lane.lend(7, self.server.fileno(), self.target)
        self.carried = self.carry(1)

    def pair(self):
        pair = socket.socketpair()
        for one in pair:
            one.setblocking(False)
            self.open.append(one)
        return pair

    def carry(self, number, data=b""):
        return self.lane.carry(number, self.caller.fileno(), self.plan, data)

    def turn(self):
        while self.lane.turn(500):
            pass

    def say(self, data):
        """What reaches the server when the caller says this."""
        self.a.sendall(data)
        return self.heard(self.d)

    def answer(self, data):
        """What reaches the caller when the server says this."""
        self.d.sendall(data)
        return self.heard(self.a)

    def heard(self, sock):
        self.turn()
        data = b""
        try:
            while more := sock.recv(1 << 20):
                data += more
                self.turn()
        except BlockingIOError:
            pass
        return data

    def ups(self):
        """(caller, what, flag, data, rest) of each that came up."""
        self.turn()
        return [(told[0], told[1], told[2], told[6], told[7]) for told in self.lane.ups()]

    def close(self):
        self.carried.drop()
        for sock in self.open:
            sock.close()


@pytest.fixture
def place():
    made = Place()
    yield made
    made.close()


def test_a_call(place):
    assert place.say(GET) == SENT
    assert place.answer(OK) == OK
    assert place.say(GET) == SENT
    assert place.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no") == OK[:-1]
    assert place.answer(b"k") == b"k"
    assert place.lane.stats == {
        "callers": 1,
        "calls": 0,
        "servers": 1,
        "relays": 0,
        "tunnels": 0,
        "links": 0,
        "served": 2,
        "missed": 0,
        "lost": 0,
    }
    ((row, answered, buckets, seconds, bytes_in, bytes_out),) = place.lane.counts()
    assert (row, answered, sum(buckets)) == (0, (0, 0, 2, 0, 0, 0), 2)
    assert (bytes_in, bytes_out) == (2 * len(GET), 2 * len(OK))
    assert seconds < 1
    assert place.lane.counts() == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"10.0.0.1", b"10.0.0.1"),
        (b"1.2.3.4, \t10.0.0.1", b"1.2.3.4, \t10.0.0.1"),
        (b"110.0.0.1", b"110.0.0.1, 10.0.0.1"),
        (b"10.0.0.1,", b"10.0.0.1,, 10.0.0.1"),
        (b"10.0.0.1, x", b"10.0.0.1, x, 10.0.0.1"),
    ],
)
def test_who_called_is_said_once(place, said, told):
    assert place.say(GET[:-2] + b"x-forwarded-for: " + said + b"\r\n\r\n").endswith(
        b"x-forwarded-for: " + told + b"\r\n\r\n"
    )


def test_a_body_passes_as_it_comes(place):
    head, *pieces = POST % 6, b"ab", b"cd", b"ef"
    assert place.say(head).endswith(b"content-length: 6\r\n\r\n")
    assert [place.say(piece) for piece in pieces] == pieces
    assert place.answer(OK) == OK


def test_what_was_not_learned_goes_up_untouched(place):
    for asked in (
        GET.replace(b"/books", b"/book"),
        GET.replace(b"/books", b"/bookss"),
        GET.replace(b"GET", b"PUT"),
        GET.replace(b"store", b"stores"),
        GET.replace(b"/books", b"/%62ooks"),
        GET[:20],
    ):
        assert place.say(asked) == b""
        assert place.ups() == [(1, REQUEST, "", asked, b"")]
        assert not place.carried.here
        place.carried = place.carry(1)
    assert place.say(GET) == SENT


def test_one_key_is_no_other(place):
    other = place.lane.plan(b"10.0.0.2", (((place.target, None),),))
    place.carried.drop()
    carried = place.lane.carry(2, place.caller.fileno(), other, b"")
    assert place.say(GET) == b""
    assert place.ups() == [(2, REQUEST, "", GET, b"")]
    assert not carried.here


def test_a_new_snapshot_makes_everything_stale(place):
    place.lane.forget()
    assert place.say(GET) == b""
    assert place.ups() == [(1, REQUEST, "", GET, b"")]


def test_a_new_snapshot_leaves_what_is_under_way_to_its_owner(place):
    assert place.say(GET) == SENT
    place.lane.forget()
    assert place.lane.calls() == [(1, place.target.serial, GET, 0)]
    assert place.answer(OK) == OK
    assert place.ups() == [(1, REQUEST, "", b"", b"")]


def test_pipelined_requests_come_one_after_the_other(place):
    place.a.sendall(GET * 3)
    for _ in range(3):
        assert place.heard(place.d) == SENT
        assert place.answer(OK) == OK


def test_an_unusual_response_goes_up_with_its_connection(place):
    place.say(GET)
    assert place.answer(b"HTTP/1.1 103 Early\r\n\r\n") == b""
    (told,) = place.lane.ups()
    assert (told[1], told[4], told[6], told[7]) == (RESPONSE, 7, GET, b"HTTP/1.1 103 Early\r\n\r\n")
    assert place.lane.gone() == []
    assert place.lane.stats["servers"] == 0


def test_a_body_that_breaks_off_is_a_fault(place):
    place.say(GET)
    assert place.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort").endswith(b"short")
    place.d.close()
    place.turn()
    (told,) = place.lane.ups()
    assert (told[1], told[2], told[8]) == (FAILED, "upstream-broken", True)
    assert place.lane.gone() == [7]


def test_a_server_that_closed_while_it_rested_is_asked_once_more_by_python(place):
    place.d.close()
    place.a.sendall(GET)
    assert place.ups() == [(1, REQUEST, "", GET, b"")]
    assert place.lane.gone() == [7]


def test_a_server_that_says_what_nobody_asked_is_dropped(place):
    assert place.answer(OK) == b""
    assert place.lane.gone() == [7]
    place.say(GET)
    assert place.ups() == [(1, REQUEST, "", GET, b"")]


def test_a_second_answer_is_for_nobody(place):
    place.say(GET)
    assert place.answer(OK + OK) == OK
    assert place.lane.gone() == [7]


def test_a_caller_that_leaves(place):
    place.a.close()
    assert place.ups() == [(1, END, "", b"", b"")]


def test_a_caller_that_ends_its_sending_is_answered(place):
    place.a.sendall(GET)
    place.a.shutdown(socket.SHUT_WR)
    assert place.heard(place.d) == SENT
    assert place.answer(OK) == OK
    assert place.ups() == [(1, END, "", b"", b"")]


def test_a_caller_that_leaves_in_the_middle_of_its_body(place):
    place.say(POST % 10 + b"abc")
    place.a.close()
    (told,) = [told for told in place.ups() if told[1] == FAILED]
    assert told[2] == "client-gone"
    assert place.lane.gone() == [7], "the server must not take a part for the whole"


def test_drop_tells_what_was_under_way(place):
    place.say(GET)
    left = place.carried.drop()
    assert (left[1], left[6], left[8]) == (FAILED, GET, False)
    assert place.carried.drop() is None
    assert place.lane.gone() == [7]
    assert place.lane.stats["calls"] == place.target.in_flight == 0


def test_recall_waits_for_the_call(place):
    place.say(GET)
    place.carried.recall()
    assert place.carried.here
    assert place.answer(OK) == OK
    assert place.ups() == [(1, REQUEST, "", b"", b"")]


def test_recall_of_who_rests(place):
    place.carried.recall()
    assert place.ups() == [(1, REQUEST, "", b"", b"")]


@pytest.mark.parametrize(
    ("limit", "said", "flag"),
    [
        ("keepalive_timeout", b"", ""),
        ("response_timeout", GET, "response-timeout"),
        ("idle_timeout", POST % 9 + b"a", "idle"),
    ],
)
def test_deadlines(limit, said, flag):
    place = Place(**{limit: 0.01})
    if said:
        place.say(said)
    place.lane.tick()
    assert place.ups() == []
    time.sleep(0.02)
    place.lane.tick()
    ((_, what, told, data, _),) = place.ups()
    assert (what, told) == ((FAILED, flag) if said else (END, ""))
    assert data == said[: said.find(b"\r\n\r\n") + 4] if said else not data
    place.close()


def test_servers_rest_for_a_while(place):
    place.lane.limit(**{**place.limits, "rest_timeout": 0.0})
    time.sleep(0.001)
    place.lane.tick()
    assert place.lane.gone() == [7]


def test_only_so_many_rest(place):
    for number in range(8, 12):
        server, _ = place.pair()
        place.lane.lend(number, server.fileno(), place.target)
    assert (place.target.resting, place.lane.gone()) == (4, [7])
    assert place.lane.reclaim(place.target) == 11
    place.lane.clear(place.target)
    assert sorted(place.lane.gone()) == [8, 9, 10]
    assert place.lane.reclaim(place.target) == 0


def test_a_caller_that_does_not_read_holds_no_more_than_a_buffer(place):
    place.say(GET)
    total = 64 << 20
    place.d.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
    sent = 0
    for _ in range(1000):
        place.turn()
        try:
            sent += place.d.send(bytes(65536))
        except BlockingIOError:
            break
    assert sent < 4 << 20, "two socket buffers, and ours"
    got = 0
    while got < sent:
        got += len(place.heard(place.a))
        place.turn()


def test_a_server_that_does_not_read_holds_no_more_than_a_buffer(place):
    place.say(POST % (64 << 20))
    sent = 0
    for _ in range(1000):
        place.turn()
        try:
            sent += place.a.send(bytes(65536))
        except BlockingIOError:
            break
    assert sent < 4 << 20
    got = len(place.heard(place.d))
    while got < sent:
        got += len(place.heard(place.d))


def test_an_early_answer_ends_the_connection(place):
    """The server answers, closes, and takes no more of the body: the caller gets the answer."""
    place.say(POST % 1000 + b"x")
    assert place.answer(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno").endswith(
        b"connection: close\r\n\r\nno"
    )
    assert place.ups() == [(1, END, "linger", b"", b"")]


def test_turns_of_a_split(place):
    other = place.lane.target()
    server, far = place.pair()
    place.lane.lend(8, server.fileno(), other)
    place.carried.drop()
    place.plan = place.lane.plan(b"10.0.0.1", (((place.target, None),), ((other, None),)))
    for target in (place.target, other):
        place.lane.learn(place.plan, target, 0, b"GET", b"/books", b"store")
    place.plan.refill(b"\0\1\1")
    place.carried = place.carry(1)
    for server in (place.d, far, far):
        place.a.sendall(GET)
        assert place.heard(server) == SENT
        server.sendall(OK)
        assert place.heard(place.a) == OK
    assert place.plan.turns() == 0
    place.say(GET)
    assert place.ups() == [(1, REQUEST, "", GET, b"")]
    with pytest.raises(ValueError, match="turn 0 is of no group"):
        place.plan.refill(b"\2")


def test_the_least_busy_endpoint_is_asked(place):
    other = place.lane.target()
    server, far = place.pair()
    place.lane.lend(8, server.fileno(), other)
    place.carried.drop()
    place.plan = place.lane.plan(b"10.0.0.1", (((place.target, None), (other, None)),))
    for target in (place.target, other):
        place.lane.learn(place.plan, target, 0, b"GET", b"/books", b"store")
    place.carried = place.carry(1)
    for server in (place.d, far, place.d, far):
        place.a.sendall(GET)
        assert place.heard(server) == SENT
        server.sendall(OK)
        assert place.heard(place.a) == OK


def programmed(place, patterns):
    """The place's plan again, with paths that are judged alike."""
    made = automaton.compile(patterns, 1024)
    assert made is not None
    sets = {accepts: number for number, accepts in enumerate(dict.fromkeys(made.accepts))}
    alike = b"".join(sets[accepts].to_bytes(2, sys.byteorder) for accepts in made.accepts)
    program = Program(made.width, made.classes, made.table, alike)
    place.carried.drop()
    place.plan = place.lane.plan(b"10.0.0.1", (((place.target, program),),))
    place.lane.learn(place.plan, place.target, 0, b"GET", b"/items/1", b"store")
    place.carried = place.carry(1)


def test_paths_that_the_same_patterns_fit_are_one(place):
    programmed(place, ["/items/[0-9]+", "/items/[0-9]+/private"])
    for number in range(100):
        asked = GET.replace(b"/books", b"/items/%d" % number)
        assert place.say(asked) == SENT.replace(b"/books", b"/items/%d" % number)
        assert place.answer(OK) == OK
    for other in (b"/items/", b"/items/x", b"/items/1/private", b"/"):
        asked = GET.replace(b"/books", other)
        assert place.say(asked) == b""
        assert place.ups() == [(1, REQUEST, "", asked, b"")]
        place.carried = place.carry(1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    patterns=st.lists(
        st.sampled_from(["/items/[0-9]+", "/items", "/.*$", "/items/1$", "/[a-z]+/", "/(items|x)/[12]+$"]),
        min_size=1,
        max_size=3,
    ),
    paths=st.lists(st.text("items/12x", max_size=9).map(lambda rest: "/" + rest), min_size=1, max_size=5),
)
def test_no_path_is_served_that_other_patterns_fit(place, patterns, paths):
    """What is decided for one path holds for those that the same patterns fit, as RE2 says it, and for no other."""
    programmed(place, patterns)
    learned = {n for n in _paths(tuple(patterns)).fitting("/items/1") if n < len(patterns)}
    for path in paths:
        asked = GET.replace(b"/books", path.encode())
        served = place.say(asked) != b""
        if served:
            place.answer(OK)
        else:
            place.ups()
            place.carried = place.carry(1)
        assert served == ({n for n in _paths(tuple(patterns)).fitting(path) if n < len(patterns)} == learned)


@pytest.mark.parametrize(
    "wrong",
    [
        (0, b"", b"", b""),
        (1, bytes(256), b"\1\0", b"\0\0"),
        (1, b"\1" * 256, b"\0\0", b"\0\0"),
        (2, bytes(256), b"\0\0", b"\0\0"),
    ],
)
def test_a_table_that_leads_nowhere_is_refused(wrong):
    with pytest.raises(ValueError, match=r"table|arrow"):
        Program(*wrong)


def test_refusals(place):
    no = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nx-id: %b\r\n\r\nno"
    number = place.lane.denial(no % (b"0" * 32), len(no) - 4 + 32, no.index(b"%b"))
    for method in (b"GET", b"HEAD", b"POST"):
        place.lane.refuse(place.plan, place.target, number, method, b"/admin", b"store")
    asked = GET.replace(b"books", b"admin")
    place.a.sendall(asked + GET + asked)
    assert place.heard(place.d) == SENT
    place.d.sendall(OK)
    heard = place.heard(place.a)
    refusals = place.lane.refusals()
    ids = [refusal[5] for refusal in refusals]
    assert heard == no % ids[0].encode() + OK + no % ids[1].encode()
    assert len(set(ids)) == 2
    assert [(r[0], r[1], r[2], r[3], r[4], r[6]) for r in refusals] == [
        (1, place.target.serial, number, len(asked), len(no) + 30, asked.partition(b"\r\n")[0] + b"\nstore")
    ] * 2
    place.a.sendall(asked.replace(b"GET", b"HEAD"))
    assert place.heard(place.a).endswith(b"\r\n\r\n")
    for goes_up in (asked[:-2] + b"traceparent: x\r\n\r\n", asked[:-2] + b"connection: close\r\n\r\n"):
        place.a.sendall(goes_up)
        assert place.ups() == [(1, REQUEST, "", goes_up, b"")]
        place.carried = place.carry(1)
    with pytest.raises(ValueError, match="the id is not in the head"):
        place.lane.denial(no, 20, 0)


def test_the_id_of_a_refusal_is_in_its_body_too(place):
    whole = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 38\r\nx-id: %b\r\n\r\nask: %b\n" % (b"0" * 32, b"0" * 32)
    head = whole.index(b"ask: ")
    number = place.lane.denial(whole, head, whole.index(b"0" * 32), head + 5)
    for method in (b"GET", b"HEAD"):
        place.lane.refuse(place.plan, place.target, number, method, b"/admin", b"store")
    asked = GET.replace(b"books", b"admin")
    place.a.sendall(asked)
    heard = place.heard(place.a)
    ((*_, request_id, _),) = place.lane.refusals()
    assert heard == whole.replace(b"0" * 32, request_id.encode())
    place.a.sendall(asked.replace(b"GET", b"HEAD"))
    heard = place.heard(place.a)
    ((*_, request_id, _),) = place.lane.refusals()
    assert heard == whole[:head].replace(b"0" * 32, request_id.encode())
    for wrong in (1, head - 1, len(whole) - 31):
        with pytest.raises(ValueError, match="the id is not in the body"):
            place.lane.denial(whole, head, whole.index(b"0" * 32), wrong)


def test_who_does_not_read_refusals_is_not_read(place):
    no = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nx-id: %b\r\n\r\nno" % (b"0" * 32)
    number = place.lane.denial(no, len(no) - 2, no.index(b"0" * 32))
    place.lane.refuse(place.plan, place.target, number, b"GET", b"/admin", b"store")
    one = GET.replace(b"books", b"admin")
    asked = one * 100_000
    sent = 0
    for _ in range(3000):
        place.turn()
        place.lane.refusals()
        try:
            sent += place.a.send(asked[sent : sent + 8192])
        except BlockingIOError:
            break
    assert sent < len(asked), "it was read without end"
    place.a.shutdown(socket.SHUT_WR)
    heard = b""
    while more := place.heard(place.a):
        heard += more
    assert len(heard) % len(no) == 0
    # The head that was cut at the end of a read went up, and the rest of the connection with it.
    ((_, what, _, data, _),) = place.ups()
    assert (what, one.startswith(data)) == (REQUEST, True)
    left = len(place.caller.recv(1 << 20))
    assert heard.count(b"HTTP/1.1 403") * len(one) + len(data) + left == sent


def test_the_log_has_each_request(place):
    place.lane.logging = True
    for _ in range(2):
        place.say(GET)
        place.answer(OK)
    entries = place.lane.log()
    assert [(entry[0], entry[1], entry[3], entry[4], entry[5], entry[6]) for entry in entries] == [
        (1, place.target.serial, len(GET), len(OK), 200, GET.partition(b"\r\n")[0] + b"\nstore")
    ] * 2
    assert place.lane.log() == []


def test_a_turn_ends_when_its_time_is_up(place):
    """Many callers at work: one turn serves some of them, says so, and the next goes on."""
    callers = []
    for number in range(100, 400):
        near, far = place.pair()
        server, end = place.pair()
        end.sendall(b"")
        place.lane.lend(number, server.fileno(), place.target)
        callers.append((near, place.lane.carry(number, far.fileno(), place.plan, b"")))
        near.sendall(GET.replace(b"/books", b"/other"))
    begun = time.thread_time()
    assert place.lane.turn(50)
    assert time.thread_time() - begun < 0.05
    assert 0 < len(place.lane.ups()) < 300
    place.turn()
    assert not any(carried.here for _, carried in callers)


def test_nothing_is_kept(place):
    """Plans, targets and callers that Python forgets are gone, in whatever order."""
    for _ in range(3):
        lane = Lane(())
        lane.limit(**place.limits)
        target = lane.target()
        plan = lane.plan(b"x", (((target, None),),))
        lane.learn(plan, target, 3, b"GET", b"/", b"h")
        near, far = place.pair()
        carried = lane.carry(1, far.fileno(), plan, GET)
        del lane, target
        gc.collect()
        assert carried.here
        del plan
        near.sendall(GET)
        del carried
        gc.collect()


@pytest.mark.parametrize(
    "wrong", [lambda lane: lane.plan(b"", ((1,),)), lambda lane: lane.plan(b"", (1,)), lambda lane: lane.clear(1)]
)
def test_what_is_no_target_is_refused(place, wrong):
    with pytest.raises(TypeError):
        wrong(place.lane)


@pytest.mark.parametrize(
    ("crowd", "before"), [(1, range(33)), (0, range(34, 101))], ids=["another workload", "the same workload"]
)
def test_one_workload_does_not_make_another_wait(place, crowd, before):
    """A hundred connections of one workload are ready, then one of another. How many requests go out before its own?"""
    place.lane.limit(**{**place.limits, "rest_per_target": 1000})
    many = []
    for number in range(100, 200):
        near, far = place.pair()
        server, _ = place.pair()
        place.lane.lend(number, server.fileno(), place.target)
        many.append(place.lane.carry(number, far.fileno(), place.plan, b""))
        near.sendall(GET)
    other, (server, _), (near, far) = place.lane.target(), place.pair(), place.pair()
    place.lane.lend(7000, server.fileno(), other)
    plan = place.lane.plan(b"10.0.0.9", (((other, None),),), crowd)
    place.lane.learn(plan, other, 0, b"GET", b"/books", b"store")
    last = place.lane.carry(7000, far.fileno(), plan, b"")
    near.sendall(GET)
    place.turn()
    assert place.lane.under_way == 101
    began = [carried.drop()[10] for carried in (*many, last)]  # the clock is looked at for every eighth event
    assert sum(one < began[-1] for one in began[:-1]) in before


def test_the_end_of_a_request_reaches_its_server_after_the_response(place):
    """A server may answer before it reads: what waits to be sent to it still goes there, and only then it rests."""
    place.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    size = 40_000  # more than the socket takes, less than what the lane holds
    place.say(POST % size)
    assert place.answer(OK) == OK
    place.a.sendall(bytes(size))
    place.turn()
    assert place.lane.gone() == []
    assert place.heard(place.d) == bytes(size)
    assert place.say(GET) == SENT


def test_reading_stops_while_something_waits_above(place):
    """Who pipelines requests that the lane does not know is read no further than what Python has taken."""
    odd = GET.replace(b"store", b"stores")
    sent = odd * (4_000_000 // len(odd))
    left = memoryview(sent)
    most = 0
    data = b""
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            while left:
                left = left[place.a.send(left) :]
        place.turn()
        for told in place.ups():
            data = told[3]
            most = max(most, len(data))
            place.carried = place.carry(1, data[len(odd) :])  # one is served, and the rest is lent again
    assert 0 < most <= 2 * place.limits["buffer_bytes"]


@pytest.mark.parametrize(
    "head", [b"GET /\r\n\r\n", b"GET / H\r\n\r\n", b"GET /?\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"G\r\n\r\n"]
)
@pytest.mark.parametrize("held", [False, True])
def test_a_head_ends_where_its_bytes_end(place, head, held):
    """Nothing behind them is looked at: the sanitizer build hides what lies there."""
    if held:
        place.carried.drop()
        place.carried = place.carry(1, head)
    else:
        place.a.sendall(head)
    assert place.ups() == [(1, REQUEST, "", head, b"")]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200\r\n\r\n", b"HTTP/1.1 20\r\n\r\n", b"HTTP/1.1 200 \r\n\r\n", b"\n\r\n\r\n", b"H\r\n\r\n"]
)
def test_a_response_ends_where_its_bytes_end(place, head):
    place.say(GET)
    place.d.sendall(head)
    place.turn()
    place.d.close()
    assert [told[1] for told in place.ups()] in ([RESPONSE], [FAILED], [REQUEST], [])


def test_every_caller_is_heard_of_again(place):
    """More of them than there was room for at first end in one turn."""
    pairs = [place.pair() for _ in range(200)]
    carried = [place.lane.carry(100 + number, ours.fileno(), place.plan, b"") for number, (ours, _) in enumerate(pairs)]
    for _, theirs in pairs:
        theirs.close()
    told = place.ups()
    assert sorted(one[0] for one in told) == list(range(100, 300))
    assert {one[1] for one in told} == {END}
    assert not any(one.here for one in carried)
