"""Which decision a request is served by, and which endpoint is next."""

from __future__ import annotations

import pytest

from nodeproxy import native
from tests.compiled import needs_lane
from tests.nodeproxy.fastpath.test_path import GET, OK, SENT, programmed

pytestmark = needs_lane

if native.AVAILABLE:
    from nodeproxy.native import REQUEST, Change, Looks


class Two:
    """Two endpoints of one service. `servers`: the other end of a connection to each."""

    def __init__(self, place, learned=(0, 1), groups=1):
        self.place = place
        place.carried.drop()
        self.targets = [place.target, place.lane.target()]
        server, far = place.pair()
        place.lane.lend(8, server.fileno(), self.targets[1])
        self.servers = [place.d, far]
        seats = [(target, None) for target in self.targets]
        place.plan = place.lane.plan(b"10.0.0.1", (tuple(seats),) if groups == 1 else tuple((seat,) for seat in seats))
        for number in learned:
            place.lane.learn(place.plan, self.targets[number], 0, b"GET", b"/books", b"store")
        place.carried = place.carry(1)

    def caller(self, number):
        near, far = self.place.pair()
        return near, self.place.lane.carry(number, far.fileno(), self.place.plan, b"")


def test_what_was_decided_for_one_endpoint_is_not_good_for_another(place):
    """They may be of different identities, of which one refuses."""
    Two(place, learned=(0,))
    assert place.say(GET) == SENT
    assert place.answer(OK) == OK
    assert place.say(GET) == b"", "the other one is next, and was not decided"
    assert place.ups() == [(1, REQUEST, "", GET, b"")]


def test_what_was_refused_for_one_endpoint_is_not_refused_for_another(place):
    two = Two(place, learned=(0,))
    no = b"HTTP/1.1 403 Forbidden\r\nx: %b\r\ncontent-length: 0\r\n\r\n" % (b"0" * 32)
    place.lane.refuse(
        place.plan, two.targets[1], place.lane.denial(no, len(no), no.index(b"0" * 32)), b"GET", b"/books", b"store"
    )
    for _ in range(3):
        assert place.say(GET) == SENT
        assert place.answer(OK) == OK
        place.a.sendall(GET)
        assert place.heard(place.a).startswith(b"HTTP/1.1 403 ")
    assert [one[1] for one in place.lane.refusals()] == [two.targets[1].serial] * 3


def test_the_one_with_the_least_under_way_is_next(place):
    """Though the other one was asked longer ago."""
    two = Two(place)
    first, one = two.caller(2)
    second, other = two.caller(3)
    first.sendall(GET)
    assert place.heard(two.servers[0]) == SENT
    for _ in range(3):
        second.sendall(GET)
        assert place.heard(two.servers[1]) == SENT
        two.servers[1].sendall(OK)
        assert place.heard(second) == OK
    two.servers[0].sendall(OK)
    assert place.heard(first) == OK
    assert one.here and other.here


def test_turns_run_out(place):
    two = Two(place, groups=2)
    place.plan.refill(b"\1\0")
    assert place.plan.turns() == 2
    for server in (two.servers[1], two.servers[0]):
        place.a.sendall(GET)
        assert place.heard(server) == SENT
        server.sendall(OK)
        assert place.heard(place.a) == OK
    assert place.plan.take() == -1
    assert place.say(GET) == b""
    assert place.ups() == [(1, REQUEST, "", GET, b"")]


def test_a_turn_that_is_taken_is_the_first(place):
    Two(place, groups=2)
    place.plan.refill(b"\1\0")
    assert (place.plan.take(), place.plan.turns()) == (1, 1)
    assert place.say(GET) == SENT
    assert place.plan.turns() == 0


def test_a_request_that_goes_up_keeps_its_turn(place):
    two = Two(place, learned=(), groups=2)
    place.plan.refill(b"\1\0")
    assert place.say(GET) == b""
    assert place.plan.turns() == 2
    assert two.targets[1].in_flight == 0


@pytest.mark.parametrize("size", [984, 985])
def test_a_key_that_is_too_long_is_learned_by_nobody(place, size):
    path = b"/" + b"x" * (size - 1)
    place.lane.learn(place.plan, place.target, 0, b"GET", path, b"store")
    assert (place.say(GET.replace(b"/books", path)) != b"") is (size == 984)


def test_a_long_path_that_is_like_others_is_served(place):
    programmed(place, ["/items/[0-9]+"])
    path = b"/items/" + b"1" * 5000
    assert place.say(GET.replace(b"/books", path)) == SENT.replace(b"/books", path)


def test_a_key_is_each_of_its_parts(place):
    """Method, host and path: what was decided for one says nothing of a request in which any of them differs."""
    learned = {(b"GET", b"/books", b"store"), (b"PUT", b"/other", b"store"), (b"GET", b"/books", b"shop")}
    for method, path, host in learned:
        place.lane.learn(place.plan, place.target, 0, method, path, host)
    for method in (b"GET", b"PUT"):
        for path in (b"/books", b"/other", b"/book", b"/bookss"):
            for host in (b"store", b"shop", b"stor", b"storee"):
                asked = method + b" " + path + b" HTTP/1.1\r\nhost: " + host + b"\r\n\r\n"
                if (method, path, host) in learned:
                    assert place.say(asked)
                    assert place.answer(OK) == OK
                else:
                    assert place.say(asked) == b""
                    assert place.ups() == [(1, REQUEST, "", asked, b"")]
                    place.carried = place.carry(1)


def test_learning_anew_takes_the_place_of_what_was_learned(place):
    no = b"HTTP/1.1 403 Forbidden\r\nx: %b\r\ncontent-length: 0\r\n\r\n" % (b"0" * 32)
    place.lane.refuse(
        place.plan, place.target, place.lane.denial(no, len(no), no.index(b"0" * 32)), b"GET", b"/books", b"store"
    )
    place.a.sendall(GET)
    assert place.heard(place.a).startswith(b"HTTP/1.1 403 ")
    place.lane.learn(place.plan, place.target, 0, b"GET", b"/books", b"store")
    assert place.say(GET) == SENT


def test_many_denials(place):
    no = b"HTTP/1.1 403 Forbidden\r\nx: %b\r\nn: %d\r\ncontent-length: 0\r\n\r\n"
    for number in range(40):
        said = no % (b"0" * 32, number)
        assert place.lane.denial(said, len(said), said.index(b"0" * 32)) == number
        place.lane.refuse(place.plan, place.target, number, b"GET", b"/no/%d" % number, b"store")
    for number in (0, 15, 16, 31, 32, 39):
        place.a.sendall(GET.replace(b"/books", b"/no/%d" % number))
        assert b"\r\nn: %d\r\n" % number in place.heard(place.a)


# rules: which section a request belongs to


class Rules:
    """One caller whose requests belong to two sections: what each server heard is of the one or of the other."""

    def __init__(self, place, looks=(), program=None, changes=((None, None), (None, None)), counts=b"\1\1"):
        self.place = place
        place.carried.drop()
        self.targets = [place.target, place.lane.target()]
        server, self.far = place.pair()
        place.lane.lend(8, server.fileno(), self.targets[1])
        self.plan = place.plan = place.lane.plan(
            b"10.0.0.1",
            tuple(((target, None),) for target in self.targets),
            0,
            changes,
            counts,
            (program, Looks(looks) if looks else None),
        )
        for target in self.targets:
            place.lane.learn(self.plan, target, 0, b"GET", b"/books", b"store")
        place.carried = place.carry(1)

    def learn(self, section, head=GET):
        self.place.lane.rule(self.plan, section, head)

    def asked(self, head=GET):
        """The number of the section whose server hears it; None: it came up."""
        self.place.a.sendall(head)
        for number, sock in enumerate((self.place.d, self.far)):
            if self.place.heard(sock):
                sock.sendall(OK)
                assert self.place.heard(self.place.a) == OK
                return number
        assert self.place.ups() == [(1, REQUEST, "", head, b"")]
        self.place.carried = self.place.carry(1)
        return None


def has(*lines, target=b"/books"):
    return GET.replace(b"/books", target).replace(
        b"\r\n\r\n", b"\r\n" + b"".join(one + b"\r\n" for one in lines) + b"\r\n"
    )


def test_a_request_goes_where_its_rule_was_learned_to_lead(place):
    rules = Rules(place)
    assert rules.asked() is None, "which rule applies is not known"
    rules.learn(1)
    assert rules.asked() == 1
    rules.learn(0)
    assert rules.asked() == 0, "the newest lesson counts"
    place.lane.forget()
    assert rules.asked() is None


def test_a_field_is_compared_with_the_values_that_rules_want(place):
    rules = Rules(place, ((b"x-a", False, (b"one", b"two")),))
    rules.learn(0)
    rules.learn(1, has(b"x-a: one"))
    assert rules.asked() == 0
    assert rules.asked(has(b"X-A:one ")) == 1
    assert rules.asked(has(b"x-b: one")) == 0
    assert rules.asked(has(b"x-a: two")) is None
    assert rules.asked(has(b"x-a: ")) is None
    rules.learn(0, has(b"x-a: other"))
    for other in (b"", b"ONE", b"one,", b"o", b"\xff"):
        assert rules.asked(has(b"x-a: " + other)) == 0, "all others are one"
    assert rules.asked(has(b"x-a: one", b"x-a: one")) is None, "which of them counts is not for the lane to say"


def test_a_value_that_a_pattern_looks_at_counts_whole(place):
    rules = Rules(place, ((b"x-a", False, ()), (b"x-b", False, (b"1",))))
    rules.learn(1, has(b"x-a: one"))
    assert rules.asked(has(b"x-a: one")) == 1
    assert rules.asked(has(b"x-a: onE")) is None
    assert rules.asked(has(b"x-a: one", b"x-b: 1")) is None
    assert rules.asked() is None
    long = has(b"x-a: " + b"y" * 2000)
    rules.learn(1, long)
    assert rules.asked(long) is None, "it has no key"


def test_the_host_is_compared_in_any_case(place):
    rules = Rules(place, ((b"host", False, (b"Store",)),))
    rules.learn(1)
    assert rules.asked() == 1
    place.lane.learn(rules.plan, rules.targets[1], 0, b"GET", b"/books", b"STORE")
    assert rules.asked(GET.replace(b"store", b"STORE")) == 1


def test_the_first_value_of_a_parameter_counts(place):
    rules = Rules(place, ((b"v", True, (b"2", b"")),))
    rules.learn(0)
    rules.learn(1, has(target=b"/books?v=2"))
    for query in (b"?v=2", b"?&v=2", b"?w=1&v=2", b"?v=2&v=3", b"?vv=1&v=2"):
        assert rules.asked(has(target=b"/books" + query)) == 1, query
    for query in (b"?w=2", b"?vv=2", b"?w=v=2", b"?=2", b"?", b"?&"):
        assert rules.asked(has(target=b"/books" + query)) == 0, query
    for query in (b"?v=3&v=2", b"?v=2=", b"?v=22", b"?v", b"?v="):
        assert rules.asked(has(target=b"/books" + query)) is None, query
    rules.learn(1, has(target=b"/books?v"))
    assert rules.asked(has(target=b"/books?v=")) == 1, "an empty value, with the sign or without"
    for query in (b"?%76=2", b"?v=%32", b"?v=2&x=+"):
        rules.learn(1, has(target=b"/books" + query))
        assert rules.asked(has(target=b"/books" + query)) is None, "escapes are not for the lane to read"


def test_rules_that_look_at_fields_decide_about_an_endpoint_too(place):
    place.carried.drop()
    seat = (place.target, None, Looks(((b"x-a", False, (b"1",)),)))
    place.plan = place.lane.plan(b"10.0.0.1", ((seat,),))
    with pytest.raises(ValueError, match="look at fields"):
        place.lane.learn(place.plan, place.target, 0, b"GET", b"/books", b"store")
    place.lane.learn(place.plan, place.target, 0, b"GET", b"/books", b"store", has(b"x-a: 1"))
    place.lane.learn(place.plan, place.target, 0, b"GET", b"/books", b"store", b"not a head")
    place.carried = place.carry(1)
    assert place.say(has(b"x-a: 1")) == SENT.replace(b"x-for", b"x-a: 1\r\nx-for", 1)
    assert place.answer(OK) == OK
    assert place.say(GET) == b""
    assert place.ups() == [(1, REQUEST, "", GET, b"")]


def test_each_section_has_turns_of_its_own(place):
    rules = Rules(place, counts=b"\2")
    rules.learn(0)
    assert rules.asked() is None, "it has no turns"
    rules.plan.refill(b"\1\0\1", 0)
    assert [rules.asked() for _ in range(3)] == [1, 0, 1]
    assert rules.plan.turns(0) == 0
    with pytest.raises(ValueError, match="no section"):
        rules.plan.refill(b"", 1)
    with pytest.raises(ValueError, match="no section"):
        rules.plan.take(1)
    with pytest.raises(ValueError, match="no section"):
        rules.plan.turns(1)


def test_a_change_is_written_with_both_messages(place):
    asks = Change((b"x-a", b"x-b"), ((b"x-b", b"1"), (b"x-c", b"")))
    answers = Change((b"server",), ((b"x-d", b"4"),))
    rules = Rules(place, changes=((asks, answers), (None, answers)))
    rules.learn(0)
    sent = place.say(has(b"X-A: 1", b"x-ab: 2", b"x-b: 3", b"X-B:4", b"x-forwarded-proto: https"))
    assert sent == (
        b"GET /books HTTP/1.1\r\nhost: store\r\nx-ab: 2\r\nx-forwarded-proto: https\r\nx-b: 1\r\nx-c: \r\n"
        b"x-forwarded-for: 10.0.0.1\r\n\r\n"
    )
    place.d.sendall(b"HTTP/1.1 200 OK\r\nServer: x\r\nserver: y\r\nX-D: 0\r\ncontent-length: 2\r\n\r\nok")
    assert place.heard(place.a) == b"HTTP/1.1 200 OK\r\nX-D: 0\r\nx-d: 4\r\ncontent-length: 2\r\n\r\nok"


def test_what_comes_up_is_as_it_came(place):
    rules = Rules(place, changes=((Change((b"x-a",), ()), None),) * 2)
    rules.learn(0)
    asked = has(b"x-a: 1")
    assert b"x-a" not in place.say(asked)
    place.d.close()
    place.turn()
    [up] = place.lane.ups()
    assert up[6] == asked


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Looks(1),
        lambda: Looks((1,)),
        lambda: Looks(((b"a", True),)),
        lambda: Looks((("a", True, ()),)),
        lambda: Looks(((b"a", True, ("b",)),)),
        lambda: Looks(((b"a", True, ()),) * 17),
        lambda: Looks(((b"a", True, (b"b",) * 5000),)),
        lambda: Looks(((b"a" * 70000, True, ()),)),
        lambda: Change((1,), ()),
        lambda: Change((), ((b"a",),)),
        lambda: Change((), (b"a",)),
        lambda: Change((), ((b"a", "b"),)),
        lambda: Change((b"a",) * 33, ()),
        lambda: Change((), ((b"a", b"b"),) * 33),
        lambda: Change((b"a" * 70000,), ()),
    ],
)
def test_what_is_wrong_is_said(wrong):
    with pytest.raises((TypeError, ValueError)):
        wrong()


def test_a_plan_that_is_wrong(place):
    group = ((place.target, None),)
    for more in (
        (((None, None),), b"\2"),
        (((None, None),), b""),
        ((), b"\1"),
        ((None,), b"\1"),
        (((None, 1),), b"\1"),
        (((None, None),), b"\1", (1, None)),
        (((None, None),), b"\1", (None,)),
        (((None, None),), b"\1", 1),
        (((None, None),), b"\1\0"),
    ):
        with pytest.raises(TypeError):
            place.lane.plan(b"", (group,), 0, *more)
    with pytest.raises(TypeError):
        place.lane.plan(b"", (((place.target, None, 1),),))
    with pytest.raises(ValueError, match="no section"):
        place.lane.rule(place.plan, 0, GET)
    rules = Rules(place)
    with pytest.raises(ValueError, match="no section"):
        rules.learn(2)


def test_a_plan_says_when_it_has_few_turns_left(place):
    two = Two(place, groups=2)
    place.plan.refill(b"\0\1" * 66)
    heard = []
    for number in range(5):
        place.a.sendall(GET)
        heard.append(next(one for one in two.servers if place.heard(one)))
        heard[-1].sendall(OK)
        assert place.heard(place.a) == OK
        assert place.lane.pending == (number == 3), "Python has to look"
        assert place.lane.dry() == ([place.plan.serial] if number == 3 else []), "once, when 128 are left"
    assert heard == [*two.servers * 2, two.servers[0]]
    assert place.plan.rest() == b"\1" + b"\0\1" * 63
    assert (place.plan.turns(), place.plan.take(), place.plan.rest()) == (0, -1, b"")
    with pytest.raises(ValueError, match="no section"):
        place.plan.rest(1)
