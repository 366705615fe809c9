"""How addresses are written, and addresses for Services that the cluster gave none.

The latter are derived from the Service's name, so that nodes agree. An address that was allotted once is kept.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence

# 240.0.0.0/4 is reserved (RFC 1112 section 4): no network of a box uses it, and Linux carries it. The ULA prefix was
# drawn at random, as RFC 4193 section 3.2.2 requires.
RANGES = ("240.240.0.0/16", "fdce:ed6e:5e55::/64")

# What ipaddress takes for an IPv4 address, 20 times as fast: a large cluster has 30,000 in every build.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}").fullmatch

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def allot(names: Iterable[str], kept: Mapping[str, Sequence[str]], ranges: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return one address of each range for every name. Addresses in `kept` stay while they lie in the range.

    Two names can hash to one address of a small range. The later name takes the next free address. Names are visited in
    sorted order, so that nodes which see the same names for the first time agree.
    """
    networks = [ipaddress.ip_network(cidr) for cidr in ranges]
    given: dict[str, list[str]] = {name: [] for name in sorted(names)}
    for network in networks:
        taken: dict[str, str] = {}
        for name in given:
            for address in kept.get(name, ()):
                if _within(address, network) and address not in taken:
                    taken[address] = name
                    given[name].append(address)
                    break
        holders = set(taken.values())
        room = network.num_addresses - 2
        for name in given:
            if name in holders or len(taken) >= room:
                continue
            offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big") % room
            while (address := str(network[1 + offset])) in taken:
                offset = (offset + 1) % room
            taken[address] = name
            given[name].append(address)
    return {name: tuple(addresses) for name, addresses in given.items()}


def _within(address: str, network: Network) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed in network and parsed not in (network.network_address, network.broadcast_address)


def is_address(value: str) -> bool:
    """Return whether `value` is an IPv4 or IPv6 address without a zone."""
    if _IPV4(value):
        return True
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def canonical(value: str) -> str:
    """Return the address in its canonical form, in which addresses are compared (RFC 5952 for IPv6)."""
    return value if ":" not in value else str(ipaddress.ip_address(value))
