"""Addresses for Services that the cluster gave none: derived from the name, so that nodes agree, and kept once given."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

# 240.0.0.0/4 is reserved (RFC 1112 section 4): no network that a box is on uses it, and Linux carries it. The ULA prefix
# was drawn at random as RFC 4193 section 3.2.2 asks.
RANGES = ("240.240.0.0/16", "fdce:ed6e:5e55::/64")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def allot(names: Iterable[str], kept: Mapping[str, Sequence[str]], ranges: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """One address of each range for every name; those in `kept` stay while they lie in the range.

    Two names can fall on one address of a small range: then the next free one is taken, in order of names, so that nodes which
    see the same names for the first time agree.
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
