"""What is wrong with a value of NodeConfig, in words: one row for each field or group of fields with rules beyond its type."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodeproxy.capture import Ports
from nodeproxy.ruleset import Marks

if TYPE_CHECKING:
    from agent.config import Http2, IdentityConfig


def check_node(name: str) -> str:
    return "" if re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name) else "is no DNS name (lower case letters, digits, - and .)"


def _check_path(path: str) -> str:
    return "" if Path(path).is_absolute() else "is not an absolute path"


def _check_address(address: str) -> str:
    return "" if not address or parse_address(address) else "is not ADDRESS:PORT (an IPv6 address in brackets)"


def _check_networks(networks: tuple[str, ...]) -> str:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            return str(error)
    return "" if networks else "names no network, so that no service would have an address"


def _check_addresses(addresses: tuple[str, ...]) -> str:
    for address in addresses:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return f"{address!r} is no IP address"
        if "%" in address or parsed.is_unspecified or parsed.is_multicast:
            return f"{address} is no address that other nodes could dial"
        if str(parsed) != address:
            return f"{address} is written {parsed}"
    return "" if len(set(addresses)) == len(addresses) else "an address stands twice"


def _check_authority(authority: str) -> str:
    host, _, port = authority.rpartition(":")
    if not authority or parse_address(authority):
        return ""
    if port.isascii() and port.isdigit() and 0 < int(port) < 65536 and not check_node(host) and not re.fullmatch("[0-9.]+", host):
        return ""
    return "is not HOST:PORT (an IPv6 address in brackets)"


def _check_listen(address: str) -> str:
    return "" if parse_address(address) else "is not ADDRESS:PORT (an IPv6 address in brackets)"


def _check_identity(identity: IdentityConfig) -> str:
    return "" if identity.refresh < identity.lifetime else "refresh must be shorter than lifetime"


def _check_http2(http2: Http2) -> str:
    return "" if http2.stream_window <= http2.connection_window else "connectionWindow must be at least streamWindow"


def _check_ports(ports: Ports) -> str:
    numbers = [getattr(ports, name) for name in Ports.__struct_fields__]
    if not all(1 <= number <= 65535 for number in numbers):
        return "a port is a number from 1 to 65535"
    return "" if len(set(numbers)) == len(numbers) else "two doors with the same port"


def _check_marks(marks: Marks) -> str:
    if not all(0 < number < 2**32 for number in (marks.local, marks.bypass, marks.table)) or not 0 < marks.preference < 32766:
        return "marks and the table are numbers from 1 to 4294967295, the preference is one from 1 to 32765"
    return "the marks local and bypass must differ" if marks.local == marks.bypass else ""


def parse_address(address: str) -> tuple[str, int] | None:
    """ "127.0.0.1:15020" or "[::1]:15020" -> host and port; None when it is neither."""
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return None
    if (version == 6) != (host == f"[{bare}]") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return bare, int(port)


# By the field's path. Each answers "" for what can be used.
CHECKS: dict[str, Callable[[Any], str]] = {
    "$.spec.node": check_node,
    "$.spec.stateDir": _check_path,
    "$.spec.adminSocket": _check_path,
    "$.spec.metricsAddress": _check_address,
    "$.spec.serviceRange": _check_networks,
    "$.spec.ports": _check_ports,
    "$.spec.marks": _check_marks,
    "$.spec.addresses": _check_addresses,
    "$.spec.identity.authority": _check_authority,
    "$.spec.identity": _check_identity,
    "$.spec.authority.listen": _check_listen,
    "$.spec.http2": _check_http2,
}
