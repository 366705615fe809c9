"""The demo's address plan: which boxes there are, what they are called, and where they look names up."""

from __future__ import annotations

from msgspec import Struct

PREFIX = "em-"
GATEWAY4, BITS4 = "10.71.0.1", 24
GATEWAY6, BITS6 = "fd71:656d::1", 64

# `hosts: files dns`: nss-resolve and mDNS would ask the host over a Unix socket, which no network namespace separates.
NSSWITCH = "hosts: files dns\n"
RESOLV_CONF = f"nameserver {GATEWAY4}\noptions timeout:1 attempts:2\n"


class Host(Struct, frozen=True):
    """One box of the demo: its namespace is PREFIX + name, its addresses end in `number`."""

    name: str
    number: int

    @property
    def address4(self) -> str:
        return f"10.71.0.{self.number}"

    @property
    def address6(self) -> str:
        return f"fd71:656d::{self.number}"


HOSTS = tuple(
    Host(name, number)
    for number, name in enumerate(
        ("bookbuyer", "bookthief", "bookstore-v1", "bookstore-v2", "bookwarehouse", "mysql", "outsider"), start=11
    )
)
