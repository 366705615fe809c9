"""What is kept of replies that dnspython writes, what is not, and what is made of it for others who ask."""

import struct

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.dns import STALE, Question
from nodeproxy.codec.dns import read as read_question
from nodeproxy.codec.dns_reply import LONGEST, LONGEST_NEGATIVE, MAX_BYTES, addresses, read, replay

SOA = "example.com. 600 IN SOA ns.example.com. admin.example.com. 1 7200 900 1209600 60"


def records(*lines):
    found = {}
    for line in lines:
        name, ttl, rdclass, rdtype, text = line.split(None, 4)
        found.setdefault((name, ttl, rdclass, rdtype), []).append(text)
    return [
        dns.rrset.from_text(name, int(ttl), rdclass, rdtype, *texts)
        for (name, ttl, rdclass, rdtype), texts in found.items()
    ]


class Talk:
    """A question, and the reply to it."""

    def __init__(self, name="www.Example.com", rdtype="A", **how):
        self.query = dns.message.make_query(name, rdtype, **how)
        self.response = dns.message.make_response(self.query, recursion_available=True)

    def says(self, *answer, authority=(), additional=(), rcode=dns.rcode.NOERROR, flags=0):
        self.response.answer = records(*answer)
        self.response.authority = records(*authority)
        self.response.additional = records(*additional)
        self.response.set_rcode(rcode)
        self.response.flags |= flags
        return self

    @property
    def question(self):
        found = read_question(self.query.to_wire())
        assert isinstance(found, Question)
        return found

    def kept(self):
        return read(self.question, self.response.to_wire())


def again(kept, name="wWw.example.com", rdtype="A", ttl=7, **how):
    """What another one gets who asks the same."""
    other = Talk(name, rdtype, **how)
    response = dns.message.from_wire(replay(other.question, kept, ttl))
    assert other.query.is_response(response)
    return response


def lines(section):
    return sorted(f"{rrset.name} {rrset.ttl} {record.rdtype.name} {record}" for rrset in section for record in rrset)


def test_addresses_are_kept_and_given_to_another_in_his_case_with_the_time_that_is_left():
    kept = Talk().says("www.example.com. 300 IN A 192.0.2.1", "www.example.com. 300 IN A 192.0.2.2").kept()
    assert kept.ttl == 300
    response = again(kept)
    assert lines(response.answer) == ["wWw.example.com. 7 A 192.0.2.1", "wWw.example.com. 7 A 192.0.2.2"]
    assert not response.authority and not response.additional
    assert response.flags & dns.flags.RA and not response.flags & dns.flags.AA


def test_a_chain_is_kept_for_the_shortest_of_its_times():
    kept = (
        Talk()
        .says(
            "b.example.net. 20 IN A 192.0.2.1",
            "www.example.com. 300 IN CNAME A.example.org.",
            "a.example.org. 60 IN CNAME b.example.net.",
        )
        .kept()
    )
    assert kept.ttl == 20
    assert lines(again(kept).answer) == [
        "a.example.org. 7 CNAME b.example.net.",
        "b.example.net. 7 A 192.0.2.1",
        "wWw.example.com. 7 CNAME A.example.org.",
    ]


def test_nothing_is_kept_that_does_not_answer_the_question():
    kept = (
        Talk()
        .says(
            "www.example.com. 300 IN A 192.0.2.1",
            "bank.example.org. 300 IN A 192.0.2.66",
            authority=["example.com. 300 IN NS bank.example.org.", "org. 300 IN NS evil.example.org."],
            additional=["bank.example.org. 300 IN A 192.0.2.66"],
        )
        .kept()
    )
    assert lines(again(kept).answer) == ["wWw.example.com. 7 A 192.0.2.1"]
    assert b"evil" not in repr(kept).encode() and b"bank" not in repr(kept).encode()


@pytest.mark.parametrize(
    ("rdtype", "text"),
    [
        ("MX", "10 mail.example.com."),
        ("SRV", "1 2 443 www.example.com."),
        ("TXT", '"v=spf1 -all" "more"'),
        ("NS", "ns.example.com."),
        ("PTR", "host.example.com."),
        ("SOA", "ns.example.com. admin.example.com. 1 2 3 4 5"),
        ("CAA", '0 issue "ca.example.com"'),
        ("HTTPS", "1 . alpn=h2"),
        ("AAAA", "2001:db8::1"),
        ("CNAME", "other.example.com."),
        ("DNAME", "other.example.com."),
        ("TYPE65280", r"\# 4 01020304"),
    ],
)
def test_records_of_many_types_come_back_as_they_were(rdtype, text):
    given = Talk(rdtype=rdtype).says(f"www.example.com. 300 IN {rdtype} {text}")
    (line,) = lines(again(given.kept(), rdtype=rdtype, ttl=300).answer)
    (wanted,) = lines(given.response.answer)
    assert line.lower() == wanted.lower()


def test_types_whose_names_might_be_compressed_unknown_to_us_are_not_kept():
    assert Talk(rdtype="RP").says("www.example.com. 300 IN RP a.example.com. b.example.com.").kept() is None


@pytest.mark.parametrize(
    ("rcode", "answer"), [(dns.rcode.NXDOMAIN, ()), (dns.rcode.NOERROR, ())], ids=["no name", "no data"]
)
def test_that_there_is_nothing_is_kept_as_long_as_the_soa_says(rcode, answer):
    kept = Talk().says(*answer, authority=[SOA], rcode=rcode).kept()
    assert kept.ttl == 60, "RFC 2308 section 5: its minimum, where that is less than its TTL"
    response = again(kept)
    assert response.rcode() == rcode
    assert [line.lower() for line in lines(response.authority)] == [
        "example.com. 7 soa ns.example.com. admin.example.com. 1 7200 900 1209600 60",
    ]
    assert Talk().says(authority=[SOA.replace(" 600 ", " 30 ")], rcode=rcode).kept().ttl == 30


def test_a_chain_that_leads_to_nothing():
    kept = (
        Talk().says("www.example.com. 300 IN CNAME gone.example.com.", authority=[SOA], rcode=dns.rcode.NXDOMAIN).kept()
    )
    response = again(kept)
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert lines(response.answer)[0].lower() == "www.example.com. 7 cname gone.example.com."


def test_how_long_it_may_last():
    assert Talk().says(f"www.example.com. {10**8} IN A 192.0.2.1").kept().ttl == LONGEST
    long = SOA.replace(" 600 ", f" {10**8} ").removesuffix(" 60") + f" {10**8}"
    assert Talk().says(authority=[long]).kept().ttl == LONGEST_NEGATIVE
    assert Talk().says("www.example.com. 0 IN A 192.0.2.1").kept().ttl == 0
    wire = bytearray(Talk().says("www.example.com. 300 IN A 192.0.2.1").response.to_wire())
    at = wire.index(struct.pack("!I", 300))
    wire[at] = 0x80
    assert read(Talk().question, bytes(wire)).ttl == 0, "RFC 2181 section 8"


def test_what_is_not_kept():
    address = "www.example.com. 300 IN A 192.0.2.1"
    assert Talk().says(address).kept()
    assert Talk().says(address, flags=dns.flags.TC).kept() is None
    for rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR):
        assert Talk().says(authority=[SOA], rcode=rcode).kept() is None
    assert Talk().says().kept() is None, "no SOA: RFC 2308 section 5"
    assert Talk().says(rcode=dns.rcode.NXDOMAIN).kept() is None
    assert Talk().says(authority=[SOA.replace("example.com. 600", "example.org. 600")]).kept() is None
    assert Talk().says(authority=[SOA.replace("example.com. 600", "a.www.example.com. 600")]).kept() is None
    assert Talk().says(authority=[SOA.replace("example.com. 600", "ple.com. 600")]).kept() is None
    assert Talk().says("www.example.com. 300 IN AAAA ::1").kept() is None
    assert Talk().says(address, rcode=dns.rcode.NXDOMAIN).kept() is None
    assert Talk().says("www.example.com. 9 IN CNAME a.", "www.example.com. 9 IN CNAME b.").kept() is None
    assert Talk().says("www.example.com. 9 IN CNAME a.", "a. 9 IN CNAME www.example.com.").kept() is None
    chain = [f"a{n}. 9 IN CNAME a{n + 1}." for n in range(20)]
    assert Talk("a0").says(*chain, "a20. 9 IN A 192.0.2.1").kept() is None
    assert Talk().says(*(f"www.example.com. 9 IN A 10.0.{n // 250}.{n % 250}" for n in range(201))).kept() is None
    assert (
        Talk(rdtype="TXT").says(*(f'www.example.com. 9 IN TXT "{n:0250}"' for n in range(MAX_BYTES // 250 + 1))).kept()
        is None
    )
    badvers = Talk(use_edns=0)
    badvers.response.set_rcode(dns.rcode.BADVERS)
    badvers.response.authority = records(SOA)
    assert badvers.kept() is None


def test_cookies_and_other_options_stay_with_who_got_them():
    talk = Talk(use_edns=0, options=[dns.edns.GenericOption(10, b"12345678")])
    talk.response.use_edns(0, options=[dns.edns.GenericOption(10, b"12345678abcdefgh")])
    kept = talk.says("www.example.com. 300 IN A 192.0.2.1").kept()
    assert b"abcdefgh" not in repr(kept).encode()
    assert again(kept).edns == -1
    response = again(kept, use_edns=0)
    assert (response.edns, response.options) == (0, ())


def test_signatures_are_kept_for_those_who_ask_for_them():
    sig = "A 8 3 300 20300101000000 20200101000000 1 example.com. AAAA"
    given = ["www.example.com. 300 IN A 192.0.2.1", f"www.example.com. 300 IN RRSIG {sig}"]
    kept = Talk(want_dnssec=True).says(*given, flags=dns.flags.AD).kept()
    response = again(kept, want_dnssec=True)
    assert {rrset.rdtype.name for rrset in response.answer} == {"A", "RRSIG"}
    assert response.flags & dns.flags.AD and response.ednsflags & dns.flags.DO
    proof = ["a.example.com. 300 IN NSEC z.example.com. A", "org. 300 IN NSEC z.org. A"]
    kept = Talk(want_dnssec=True).says(authority=[SOA, *proof], rcode=dns.rcode.NXDOMAIN).kept()
    assert {str(rrset.name) for rrset in again(kept, want_dnssec=True).authority} == {"example.com.", "a.example.com."}
    assert {rrset.rdtype.name for rrset in again(Talk().says(*given).kept()).answer} == {"A"}


def test_a_long_answer_is_cut_over_udp_and_whole_over_tcp():
    kept = Talk().says(*(f"www.example.com. 300 IN A 192.0.2.{n}" for n in range(100))).kept()
    response = again(kept)
    assert response.flags & dns.flags.TC and 20 < len(response.answer[0]) < 40
    whole = dns.message.from_wire(replay(Talk().question, kept, 7, tcp=True))
    assert not whole.flags & dns.flags.TC and len(whole.answer[0]) == 100


def test_that_an_answer_is_old_is_said_to_those_who_understand_it():
    kept = Talk().says("www.example.com. 300 IN A 192.0.2.1").kept()
    response = dns.message.from_wire(replay(Talk(use_edns=0).question, kept, 30, options=STALE))
    assert [option.code for option in response.options] == [3]
    assert dns.message.from_wire(replay(Talk().question, kept, 30, options=STALE)).edns == -1


@pytest.mark.parametrize("cut", range(12, 120, 3))
def test_half_a_reply_is_not_kept(cut):
    wire = (
        Talk()
        .says("www.example.com. 300 IN CNAME a.example.net.", "a.example.net. 300 IN A 192.0.2.1")
        .response.to_wire()
    )
    if cut < len(wire):
        assert read(Talk().question, wire[:cut]) is None


QUESTION = Talk("a.b").question


@given(st.binary(max_size=150), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_any_bytes_as_records(rest, answers, authorities, additional):
    head = struct.pack("!6H", 7, 0x8180, 1, answers, authorities, additional)
    kept = read(QUESTION, head + QUESTION.message[12 : QUESTION.end] + rest)
    if kept is not None:
        dns.message.from_wire(replay(QUESTION, kept, 5))


NAME = st.sampled_from([b"\xc0\x0c", b"\x01a\x01b\x00", b"\xc0\x00", b"\xc0\xff", b"\x01c\xc0\x0e", b"\x00", b"\x3fa"])


@given(st.lists(st.tuples(NAME, st.sampled_from([1, 5, 6, 15, 33, 46, 41]), st.sampled_from([1, 3]), NAME), max_size=4))
def test_records_with_odd_names(parts):
    body = b"".join(
        owner + struct.pack("!2HIH", rdtype, rdclass, 300, len(data)) + data for owner, rdtype, rdclass, data in parts
    )
    head = struct.pack("!6H", 7, 0x8180, 1, len(parts), 0, 0)
    kept = read(QUESTION, head + QUESTION.message[12 : QUESTION.end] + body)
    if kept is not None and all(rdtype in (5, 46) for _, rdtype, _, _ in parts):
        replay(QUESTION, kept, 5)


def test_the_addresses_are_those_at_the_end_of_the_chain():
    talk = Talk().says(
        "www.example.com. 60 IN CNAME web.example.net.",
        "web.example.net. 60 IN A 192.0.2.1",
        "web.example.net. 60 IN A 192.0.2.2",
        "other.example.net. 60 IN A 192.0.2.66",
    )
    assert sorted(addresses(talk.kept())) == ["192.0.2.1", "192.0.2.2"]  # dnspython shuffles what it writes
    six = Talk(rdtype="AAAA").says("www.example.com. 60 IN AAAA 2001:DB8:0::1")
    assert addresses(six.kept()) == ["2001:db8::1"]
    text = Talk(rdtype="TXT").says('www.example.com. 60 IN TXT "abc"')
    assert addresses(text.kept()) == []
