"""Which rule names the network that an address lies in: single addresses by one lookup, wider networks one by one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from policy.addresses import Network

# One AccessControl names the same networks for each of its workloads.
_parsed = lru_cache(maxsize=4096)(ipaddress.ip_network)


class Networks:
    """Networks with a rule each.

    Of two rules that fit, one for the single address takes precedence; otherwise the first in the list does.
    """

    __slots__ = ("_single", "_wide")

    def __init__(self, rules: Iterable[tuple[str, str]]) -> None:
        """Index the rules. `rules`: (network in CIDR form, name of the rule)."""
        self._single: dict[str, str] = {}
        self._wide: list[tuple[Network, str]] = []
        for cidr, rule in rules:
            network = _parsed(cidr, strict=False)
            if network.num_addresses == 1:
                self._single.setdefault(str(network.network_address), rule)
            else:
                self._wide.append((network, rule))

    def __repr__(self) -> str:
        return f"<Networks: {len(self._single)} addresses, {len(self._wide)} wider>"

    def rule(self, address: str) -> str:
        """Return the name of the rule; "" if none fits, or if the text is no address."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return ""
        # A dual-stack socket shows IPv4 callers in this form (RFC 4291 section 2.5.5.2).
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        whom = mapped or parsed
        found = self._single.get(str(whom))
        return found if found is not None else next((rule for network, rule in self._wide if whom in network), "")
