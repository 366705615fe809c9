"""networks.py against the standard library, one network at a time."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from policy.networks import Networks

ADDRESSES = st.one_of(
    st.integers(0, 2**4).map(lambda n: str(ipaddress.IPv4Address((10 << 24) + n))),
    st.integers(0, 2**4).map(lambda n: str(ipaddress.IPv6Address((0xFD << 120) + n))),
)
CIDRS = st.tuples(ADDRESSES, st.integers(0, 5)).map(lambda t: f"{t[0]}/{(128 if ':' in t[0] else 32) - t[1]}")


@given(st.lists(CIDRS, max_size=6), ADDRESSES)
def test_a_rule_is_named_when_its_network_holds_the_address(cidrs, address):
    rules = [(cidr, f"r{number}") for number, cidr in enumerate(cidrs)]
    fitting = {
        rule for cidr, rule in rules if ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)
    }
    found = Networks(rules).rule(address)
    assert found in fitting if fitting else found == ""


def test_an_ipv4_caller_of_a_socket_for_both_families_is_known():
    networks = Networks([("10.0.0.0/8", "wide"), ("10.0.0.1/32", "alone")])
    assert [
        networks.rule(address) for address in ("::ffff:10.0.0.1", "::ffff:10.0.0.2", "::ffff:11.0.0.1", "", "box")
    ] == [
        "alone",
        "wide",
        "",
        "",
        "",
    ]
