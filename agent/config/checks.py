"""Checks of NodeConfig's values, in words: one row for each field or group of fields with rules beyond its type."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.config.schema import GatewayConfig, Http2, IdentityConfig
from nodeproxy.capture import Marks, Ports


def check_node(name: str) -> str:
    return (
        ""
        if re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name)
        else "is no DNS name (lower case letters, digits, - and .)"
    )


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
    if (
        port.isascii()
        and port.isdigit()
        and 0 < int(port) < 65536
        and not check_node(host)
        and not re.fullmatch("[0-9.]+", host)
    ):
        return ""
    return "is not HOST:PORT (an IPv6 address in brackets)"


def _check_listen(address: str) -> str:
    return "" if parse_address(address) else "is not ADDRESS:PORT (an IPv6 address in brackets)"


def _check_identity(identity: IdentityConfig) -> str:
    return "" if identity.refresh < identity.lifetime else "refresh must be shorter than lifetime"


def _check_http2(http2: Http2) -> str:
    return "" if http2.stream_window <= http2.connection_window else "connectionWindow must be at least streamWindow"


def _check_gateway(gateway: GatewayConfig) -> str:
    if gateway.proxy_protocol and not gateway.trusted_networks:
        return "proxyProtocol is for connections from trustedNetworks, which names nobody"
    return ""


def _check_ports(ports: Ports) -> str:
    numbers = [getattr(ports, name) for name in Ports.__struct_fields__]
    if not all(1 <= number <= 65535 for number in numbers):
        return "a port is a number from 1 to 65535"
    return "" if len(set(numbers)) == len(numbers) else "two doors with the same port"


def _check_marks(marks: Marks) -> str:
    if (
        not all(0 < number < 2**32 for number in (marks.local, marks.bypass, marks.table))
        or not 0 < marks.preference < 32766
    ):
        return "marks and the table are numbers from 1 to 4294967295, the preference is one from 1 to 32765"
    if not 0 < marks.probe < 2**32 or marks.probe & (marks.probe - 1) or marks.probe & (marks.local | marks.bypass):
        return f"probe ({marks.probe:#x}) must be a single bit that neither local nor bypass has; choose another bit for it"
    return "the marks local and bypass must differ" if marks.local == marks.bypass else ""


def parse_address(address: str) -> tuple[str, int] | None:
    """Return host and port of "127.0.0.1:15020" or "[::1]:15020"; None when it is neither."""
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return None
    if (version == 6) != (host == f"[{bare}]") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return bare, int(port)


# By the field's path. Each returns "" for a usable value.
CHECKS: dict[str, Callable[[Any], str]] = {
    "$.spec.node": check_node,
    "$.spec.stateDir": _check_path,
    "$.spec.adminSocket": _check_path,
    "$.spec.metricsAddress": _check_address,
    "$.spec.healthAddress": _check_address,
    "$.spec.metricsTokenFile": lambda path: _check_path(path) if path else "",
    "$.spec.serviceRange": _check_networks,
    "$.spec.kubernetes.podRanges": lambda networks: _check_networks(networks) if networks else "",
    "$.spec.ports": _check_ports,
    "$.spec.marks": _check_marks,
    "$.spec.addresses": _check_addresses,
    "$.spec.dns.resolvers": _check_addresses,
    "$.spec.identity.authority": _check_authority,
    "$.spec.identity": _check_identity,
    "$.spec.authority.listen": _check_listen,
    "$.spec.http2": _check_http2,
    "$.spec.filterCode": lambda path: _check_path(path) if path else "",
    "$.spec.filterKeys": lambda path: _check_path(path) if path else "",
    "$.spec.gateway.certificates": lambda path: _check_path(path) if path else "",
    "$.spec.gateway.addresses": lambda networks: _check_networks(networks) if networks else "",
    "$.spec.gateway.trustedNetworks": lambda networks: _check_networks(networks) if networks else "",
    "$.spec.gateway": _check_gateway,
}
