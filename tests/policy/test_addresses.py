"""addresses.py: stable, free of collisions, bounded."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from policy.addresses import RANGES, allot, is_address


def test_derived_from_the_name_whatever_else_there_is():
    assert allot(["a/b"], {}, RANGES)["a/b"] == allot(["x/y", "a/b"], {}, RANGES)["a/b"]


def test_no_two_share_one_and_a_full_range_gives_no_more():
    found = allot([f"n/{i}" for i in range(20)], {}, ["10.0.0.0/28"])
    given_out = [address for own in found.values() for address in own]
    assert len(set(given_out)) == len(given_out) == 14
    assert sum(not own for own in found.values()) == 6
    assert not {"10.0.0.0", "10.0.0.15"} & set(given_out)


def test_previous_ones_are_kept_but_not_from_another_range():
    assert allot(["a/b"], {"a/b": ["10.0.0.3"]}, ["10.0.0.0/28"]) == {"a/b": ("10.0.0.3",)}
    assert allot(["a/b"], {"a/b": ["10.1.0.3", "junk"]}, ["10.0.0.0/28"])["a/b"][0].startswith("10.0.0.")


def test_one_address_is_not_kept_by_two():
    found = allot(["a/b", "a/c"], {"a/b": ["240.240.0.3"], "a/c": ["240.240.0.3"]}, RANGES)
    assert found["a/b"][0] == "240.240.0.3" != found["a/c"][0]


@given(
    st.sets(st.text("abc/", min_size=1, max_size=4), max_size=12),
    st.sets(st.text("abc/", min_size=1, max_size=4), max_size=12),
)
def test_who_has_an_address_keeps_it_when_others_come(first, more):
    before = allot(first, {}, ["10.0.0.0/27"])
    after = allot(first | more, before, ["10.0.0.0/27"])
    assert {name: after[name] for name in first} == before


OCTETS = st.sampled_from(
    [
        "0",
        "1",
        "9",
        "10",
        "99",
        "100",
        "199",
        "200",
        "249",
        "250",
        "255",
        "256",
        "00",
        "01",
        "1000",
        "",
        "-1",
        "\u0661",
        " 1",
    ]
)


@given(st.lists(OCTETS, min_size=3, max_size=5), st.sampled_from(["", ".", "\n", "%x", "/8"]))
def test_what_is_an_ipv4_address_is_what_ipaddress_says(octets, end):
    text = ".".join(octets) + end
    try:
        expected = bool(ipaddress.ip_address(text)) or True
    except ValueError:
        expected = False
    assert is_address(text) == expected
