"""Questions in, answers out: with messages that dnspython makes, raw ones, broken ones, and anything at all."""

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.dns import (
    MAX_ADDRESSES,
    Next,
    Question,
    addresses_of,
    answer_of,
    answers,
    read,
    readdressed,
    servfail,
)
from policy.model import Endpoint, Service, ServicePort
from policy.snapshot import Snapshot

BOOKSTORE = Service("bookstore", "bookstore", ("240.240.0.7", "fd00::7"))
MANY = tuple(Endpoint(f"10.0.{n // 250}.{n % 250 + 1}", port) for n in range(300) for port in (1, 2))
FEW = (Endpoint("10.0.0.2", 80), Endpoint("fd00::2", 80), Endpoint("10.0.0.1", 81))
SERVICES = {
    "bookstore.bookstore": BOOKSTORE,
    "only4.bookstore": Service("bookstore", "only4", ("240.240.0.8",)),
    "headless.bookstore": Service("bookstore", "headless", (), (ServicePort("a", 80, endpoints=FEW),)),
    "many.bookstore": Service("bookstore", "many", (), (ServicePort("a", 80, endpoints=MANY),)),
    "empty.bookstore": Service("bookstore", "empty"),
}


WHERE = Snapshot("here", services=tuple(SERVICES.values())).addresses_of


def lookup(host):
    return SERVICES.get(host.lower())


def answer(message, lookup, where, ttl, tcp=False):
    """As the resolver puts it together."""
    question = read(message)
    if not isinstance(question, Question):
        return question
    service = lookup(question.name)
    if service is None or question.signed:
        return Next.FORWARD
    return answer_of(question, addresses_of(question.rdtype, where(service), ttl), tcp=tcp)


def ask(name, rdtype="A", tcp=False, **how):
    query = dns.message.make_query(name, rdtype, **how)
    wire = answer(query.to_wire(), lookup, WHERE, 5, tcp=tcp)
    if isinstance(wire, Next):
        return wire
    response = dns.message.from_wire(wire)
    assert query.is_response(response)
    assert response.flags & dns.flags.RD and response.flags & dns.flags.RA
    return response


def addresses(response):
    return [record.to_text() for rrset in response.answer for record in rrset]


@pytest.mark.parametrize(
    ("name", "rdtype", "found"),
    [
        ("bookstore.bookstore", "A", ["240.240.0.7"]),
        ("bookstore.bookstore", "AAAA", ["fd00::7"]),
        ("bookstore.bookstore", "ANY", ["240.240.0.7"]),
        ("bookstore.bookstore", "SRV", []),
        ("bookstore.bookstore", "HTTPS", []),
        ("bookstore.bookstore", "TYPE65500", []),
        ("only4.bookstore", "AAAA", []),
        ("headless.bookstore", "A", ["10.0.0.1", "10.0.0.2"]),
        ("headless.bookstore", "AAAA", ["fd00::2"]),
        ("empty.bookstore", "A", []),
        ("empty.bookstore", "ANY", []),
    ],
)
def test_services_are_answered(name, rdtype, found):
    response = ask(name, rdtype)
    assert response.rcode() == dns.rcode.NOERROR
    assert addresses(response) == found
    assert response.flags & dns.flags.AA
    assert not response.authority and not response.additional
    for rrset in response.answer:
        assert rrset.ttl == 5


@pytest.mark.parametrize(
    "name",
    [
        "example.com",
        "bookstore",
        ".",
        "a.bookstore.bookstore",
        r"bookstore\.bookstore.",
        "books:80.bookstore",
        r"b\000.c",
    ],
)
def test_other_names_are_the_resolvers(name):
    assert ask(name) is Next.FORWARD


def test_other_classes_are_the_resolvers():
    assert ask("bookstore.bookstore", rdclass="CH") is Next.FORWARD


def test_case_of_the_question_comes_back():
    # draft-vixie-dnsext-dns0x20: the client compares it bit for bit, in the question and in the answer's owner
    query = dns.message.make_query("BoOkStOrE.bookSTORE", "A")
    wire = answer(query.to_wire(), lookup, WHERE, 5)
    assert wire[12:33] == query.to_wire()[12:33]
    assert dns.message.from_wire(wire).answer[0].name.to_text() == "BoOkStOrE.bookSTORE."


@pytest.mark.parametrize(
    ("how", "most"),
    [
        ({}, 512),
        ({"use_edns": 0, "payload": 100}, 512),
        ({"use_edns": 0, "payload": 600}, 600),
        ({"use_edns": 0, "payload": 65535}, 1232),
    ],
)
def test_an_answer_over_udp_fits_the_client(how, most):
    query = dns.message.make_query("many.bookstore", "A", **how)
    wire = answer(query.to_wire(), lookup, WHERE, 5)
    assert most - 16 < len(wire) <= most or (most == 1232 and len(wire) < most)
    response = dns.message.from_wire(wire)
    assert bool(response.flags & dns.flags.TC) == (most < 1100)
    assert (response.edns == 0) == bool(how)


def test_an_answer_over_tcp_is_whole():
    response = ask("many.bookstore", tcp=True)
    assert not response.flags & dns.flags.TC
    assert len(addresses(response)) == MAX_ADDRESSES == len(set(addresses(response)))


def test_edns_is_answered_with_edns_only():
    assert ask("bookstore.bookstore").edns == -1
    response = ask("bookstore.bookstore", use_edns=0, payload=4096, options=[dns.edns.GenericOption(10, b"12345678")])
    assert (response.edns, response.payload, response.options) == (0, 1232, ())


def test_an_unknown_edns_version_is_badvers():
    response = ask("bookstore.bookstore", use_edns=1)
    assert response.rcode() == dns.rcode.BADVERS
    assert response.edns == 0 and not response.answer


def test_checking_disabled_is_copied():
    query = dns.message.make_query("bookstore.bookstore", "A", flags=dns.flags.RD | dns.flags.CD)
    assert dns.message.from_wire(answer(query.to_wire(), lookup, WHERE, 5)).flags & dns.flags.CD


def test_a_signed_question_is_the_resolvers():
    query = dns.message.make_query("bookstore.bookstore", "A")
    query.use_tsig(dns.tsig.Key("key.", b"secret"))
    assert answer(query.to_wire(), lookup, WHERE, 5) is Next.FORWARD


def test_other_operations_are_the_resolvers():
    assert answer(dns.update.UpdateMessage("bookstore.bookstore").to_wire(), lookup, WHERE, 5) is Next.FORWARD
    notify = dns.message.make_query("bookstore.bookstore", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    assert answer(notify.to_wire(), lookup, WHERE, 5) is Next.FORWARD


@pytest.mark.parametrize("count", [0, 2, 65535])
def test_not_one_question_is_the_resolvers(count):
    wire = bytearray(dns.message.make_query("bookstore.bookstore", "A").to_wire())
    wire[4:6] = struct.pack("!H", count)
    assert answer(bytes(wire), lookup, WHERE, 5) is Next.FORWARD


def test_an_answer_is_no_question():
    assert (
        answer(
            dns.message.make_response(dns.message.make_query("bookstore.bookstore", "A")).to_wire(), lookup, WHERE, 5
        )
        is Next.DROP
    )


def test_every_prefix_of_a_question():
    query = dns.message.make_query("bookstore.bookstore", "A", use_edns=0)
    wire = query.to_wire()
    for end in range(len(wire)):
        outcome = answer(wire[:end], lookup, WHERE, 5)
        if end < 12:
            assert outcome is Next.DROP
        else:
            response = dns.message.from_wire(outcome)
            assert (response.rcode(), response.id) == (dns.rcode.FORMERR, query.id)
            assert bool(response.question) == (end >= 12 + 21 + 4)


def test_trailing_bytes_are_a_format_error():
    wire = dns.message.make_query("bookstore.bookstore", "A").to_wire() + b"x"
    assert dns.message.from_wire(answer(wire, lookup, WHERE, 5)).rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize("section", [6, 8, 10])
def test_a_question_does_not_make_us_read_a_long_message(section):
    wire = bytearray(dns.message.make_query("bookstore.bookstore", "A").to_wire())
    wire[section : section + 2] = struct.pack("!H", 300)
    wire += b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00" * 300
    assert dns.message.from_wire(answer(bytes(wire), lookup, WHERE, 5)).rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",  # a pointer to itself
        b"\xc0\xff",
        b"\x40" + b"a" * 64 + b"\x00",
        b"\x80" + b"a" * 128 + b"\x00",
        b"\x3f" + b"a" * 63,  # no end
        (b"\x3f" + b"a" * 63) * 4 + b"\x00",  # 257 bytes
    ],
)
def test_a_name_that_cannot_be_read(name):
    wire = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1)
    if name[0] != 0x3F:
        wire += bytes(300)  # that it is too short is not what is wrong with it
    response = dns.message.from_wire(answer(wire, lookup, WHERE, 5))
    assert (response.id, response.rcode(), response.question) == (7, dns.rcode.FORMERR, [])


def test_servfail_repeats_the_question():
    query = dns.message.make_query("eXample.com", "MX", use_edns=0)
    response = dns.message.from_wire(servfail(query.to_wire()))
    assert query.is_response(response) and response.rcode() == dns.rcode.SERVFAIL
    assert response.question[0].name.to_text() == "eXample.com."


def common(name="example.com", rdtype="A", **how):
    return read(dns.message.make_query(name, rdtype, **how).to_wire()).common


def test_which_questions_have_an_answer_that_others_may_get():
    assert common()
    assert common(use_edns=0, payload=4096, want_dnssec=True)
    assert common("_x._tcp.example.com", "SRV")
    cookie, padding = dns.edns.GenericOption(10, b"12345678"), dns.edns.GenericOption(12, bytes(20))
    assert common(use_edns=0, options=[cookie, padding])
    subnet = dns.edns.ECSOption("192.0.2.0", 24)
    assert not common(use_edns=0, options=[cookie, subnet])
    assert not common(use_edns=1)
    assert not common(flags=0), "only the one that was asked knows what it knows itself"
    for rdtype in ("ANY", "AXFR", "TSIG", "OPT"):
        assert not common(rdtype=rdtype)
    assert read(dns.message.make_query("example.com", "A", rdclass="CH").to_wire()) is Next.FORWARD


def test_what_an_answer_depends_on():
    def key(name="example.com", rdtype="A", **how):
        return read(dns.message.make_query(name, rdtype, **how).to_wire()).key

    assert key() == key("EXAMPLE.com") == key(use_edns=0, payload=1400)
    flags = dns.flags.RD
    keys = [
        key(),
        key(rdtype="AAAA"),
        key(rdtype="HTTPS"),
        key(rdtype="TYPE97"),
        key(want_dnssec=True),
        key(flags=flags | dns.flags.AD),
        key(flags=flags | dns.flags.CD),
    ]
    assert len(set(keys)) == len(keys)


def test_a_type_is_not_taken_for_another_one_whose_number_is_its_small_letter():
    # 65 is A, and 97 is a
    query = dns.message.make_query("example.com", "HTTPS")
    other = dns.message.make_query("example.com", "TYPE97", id=query.id)
    assert not answers(query.to_wire(), reply(other))
    assert read(query.to_wire()).twin != read(other.to_wire()).twin


def test_a_reply_is_given_to_who_asked_the_same():
    first = dns.message.make_query("eXample.com", "A", use_edns=0)
    second = dns.message.make_query("exaMPLE.com", "A", use_edns=0)
    assert read(first.to_wire()).twin == read(second.to_wire()).twin
    response = dns.message.make_response(first)
    response.answer.append(dns.rrset.from_text(first.question[0].name, 60, "IN", "A", "192.0.2.1"))
    wire = readdressed(response.to_wire(), read(second.to_wire()))
    got = dns.message.from_wire(wire)
    assert second.is_response(got) and addresses(got) == ["192.0.2.1"]
    assert wire[12:25] == second.to_wire()[12:25]
    bare = dns.message.make_response(first)
    bare.question = []
    bare.use_edns(-1)
    bare.set_rcode(dns.rcode.REFUSED)
    assert dns.message.from_wire(readdressed(bare.to_wire(), read(second.to_wire()))).id == second.id


def reply(query, **changes):
    response = dns.message.make_response(query, recursion_available=True)
    for field, value in changes.items():
        setattr(response, field, value)
    return response.to_wire()


def test_which_replies_belong_to_a_question():
    query = dns.message.make_query("Example.com", "A")
    asked = query.to_wire()
    other = dns.message.make_query("example.org", "A", id=query.id)
    assert answers(asked, reply(query))
    assert answers(asked, reply(dns.message.make_query("eXample.com", "A", id=query.id)))
    assert not answers(asked, asked)
    assert not answers(asked, reply(query, id=query.id ^ 1))
    assert not answers(asked, reply(other))
    assert not answers(asked, reply(dns.message.make_query("example.com", "AAAA", id=query.id)))
    assert not answers(asked, reply(dns.message.make_query("example.com", "A", rdclass="CH", id=query.id)))
    assert not answers(asked, reply(query)[:11])
    assert not answers(asked, reply(query)[:20])
    assert not answers(asked, reply(query, question=[]))
    assert answers(asked, reply(query, question=[], flags=dns.flags.QR | dns.rcode.REFUSED))
    assert not answers(asked, reply(query, flags=dns.flags.QR | dns.opcode.to_flags(dns.opcode.NOTIFY)))
    two = bytearray(asked)
    two[5] = 2
    assert answers(bytes(two), reply(query))


@given(st.binary(max_size=200), st.binary(max_size=200), st.booleans())
def test_anything_at_all(message, other, tcp):
    outcome = answer(message, lookup, WHERE, 5, tcp=tcp)
    assert isinstance(outcome, Next | bytes)
    if len(message) >= 12:
        assert servfail(message)[:2] == message[:2]
    answers(message, other)


@given(st.binary(max_size=120), st.integers(0, 2), st.integers(0, 2**15 - 1))
def test_anything_after_a_name_of_ours(rest, additional, flags):
    wire = (
        struct.pack("!6H", 9, flags & ~0x7800, 1, 0, 0, additional)
        + b"\x09bookstore\x09bookstore\x00\x00\x01\x00\x01"
        + rest
    )
    outcome = answer(wire, lookup, WHERE, 5)
    assert outcome is Next.FORWARD or dns.message.from_wire(outcome).id == 9


@given(st.binary(max_size=40), st.sampled_from([8, 10, 11, 12, 15, 3, 65001]))
def test_any_edns_option(data, code):
    opt = b"\x00" + struct.pack("!HHIH", 41, 4096, 0, len(data) + 4) + struct.pack("!HH", code, len(data)) + data
    wire = struct.pack("!6H", 9, 0x0100, 1, 0, 0, 1) + b"\x09bookstore\x09bookstore\x00\x00\x01\x00\x01" + opt
    response = dns.message.from_wire(answer(wire, lookup, WHERE, 5))
    assert (response.rcode(), response.edns, response.options) == (dns.rcode.NOERROR, 0, ())


OPT = b"\x00" + struct.pack("!HHIH", 41, 4096, 0, 0)
NAMED_OPT = b"\x01a" + OPT
ADDRESS = b"\x01a\x00" + struct.pack("!HHIH", 1, 1, 5, 4) + b"abcd"


@pytest.mark.parametrize(
    ("records", "rcode"),
    [
        ([OPT], dns.rcode.NOERROR),
        ([ADDRESS], dns.rcode.NOERROR),
        ([ADDRESS, OPT], dns.rcode.NOERROR),
        ([OPT, OPT], dns.rcode.FORMERR),
        ([NAMED_OPT], dns.rcode.FORMERR),
        ([ADDRESS, ADDRESS, OPT], dns.rcode.FORMERR),
        ([ADDRESS[:-1]], dns.rcode.FORMERR),
        ([OPT[:-1]], dns.rcode.FORMERR),
    ],
)
def test_what_comes_beside_a_question(records, rcode):
    wire = (
        struct.pack("!6H", 9, 0x0100, 1, 0, 0, len(records))
        + b"\x09bookstore\x09bookstore\x00\x00\x01\x00\x01"
        + b"".join(records)
    )
    assert dns.message.from_wire(answer(wire, lookup, WHERE, 5)).rcode() == rcode


LABELS = st.lists(st.binary(min_size=1, max_size=20), max_size=6)


@given(
    LABELS,
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.booleans(),
    st.sampled_from([-1, 0, 1]),
    st.integers(0, 65535),
)
def test_every_question_that_dnspython_makes_is_understood(labels, rdtype, identifier, recursion, edns, payload):
    name = dns.name.Name([*labels, b""])
    query = dns.message.make_query(
        name, dns.rdatatype.A, id=identifier, flags=dns.flags.RD if recursion else 0, use_edns=edns, payload=payload
    )
    query.question[0].rdtype = dns.rdatatype.RdataType.make(rdtype)
    seen = []

    def find(host):
        seen.append(host)
        return SERVICES["many.bookstore"]

    outcome = answer(query.to_wire(), find, WHERE, 5)
    if outcome is Next.FORWARD:
        assert not seen and not all(
            c in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
            for label in labels or [b"."]
            for c in label
        )
        return
    response = dns.message.from_wire(outcome)
    assert query.is_response(response)
    assert seen == [name.to_text(omit_final_dot=True)]
    assert len(outcome) <= max(512, min(payload, 1232) if edns == 0 else 512)
    assert all(rrset.name == name and rrset.rdtype == dns.rdatatype.A for rrset in response.answer)
