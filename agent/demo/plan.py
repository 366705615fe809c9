"""The demo's address plan: its nodes and hosts, their names, and their resolver."""

from __future__ import annotations

from msgspec import Struct

PREFIX = "em-"
BITS4, BITS6 = 24, 64
MOST_NODES = 2

# No process listens there, with one node or with two.
RESOLVER = "10.71.0.1"
# `hosts: files dns`: nss-resolve and mDNS would ask the machine over a Unix socket, which no network namespace
# separates.
NSSWITCH = "hosts: files dns\n"
RESOLV_CONF = f"nameserver {RESOLVER}\noptions timeout:1 attempts:2\n"

NAMES = ("bookbuyer", "bookthief", "bookstore-v1", "bookstore-v2", "bookwarehouse", "mysql", "outsider")
# With two nodes, calls cross the link in both directions (bookstore-v2 restocks at node 2, bookbuyer buys there), and
# so does TCP.
ON_THE_SECOND = frozenset(("bookstore-v1", "bookwarehouse", "mysql"))


class Site(Struct, frozen=True):
    """One node: its namespace is PREFIX + name. `number` 0: the only one."""

    number: int = 0

    @property
    def name(self) -> str:
        return f"node-{self.number}" if self.number else "node"

    @property
    def node(self) -> str:
        """Return its name in the mesh."""
        return self.name if self.number else "demo"

    @property
    def gateway4(self) -> str:
        return _address4(self.number, 1)

    @property
    def gateway6(self) -> str:
        return _address6(self.number, 1)

    @property
    def subnets(self) -> tuple[str, str]:
        return f"{_address4(self.number, 0)}/{BITS4}", f"{_address6(self.number, 0)}/{BITS6}"

    # Its end of the link to the other node: the subnet that the bridge has when there is one node.
    @property
    def link4(self) -> str:
        return _address4(0, self.number)

    @property
    def link6(self) -> str:
        return _address6(0, self.number)


class Host(Struct, frozen=True):
    """One host of the demo: its namespace is PREFIX + name, its addresses end in `number`."""

    name: str
    number: int
    site: int = 0

    @property
    def address4(self) -> str:
        return _address4(self.site, self.number)

    @property
    def address6(self) -> str:
        return _address6(self.site, self.number)


def sites(nodes: int) -> tuple[Site, ...]:
    return (Site(),) if nodes == 1 else tuple(Site(number) for number in range(1, nodes + 1))


def hosts(nodes: int) -> tuple[Host, ...]:
    return tuple(
        Host(name, number, 0 if nodes == 1 else 2 if name in ON_THE_SECOND else 1)
        for number, name in enumerate(NAMES, start=11)
    )


HOSTS = hosts(1)
# Of the chapters. `outside` is not in the mesh.
VILLAGE = tuple(Host(name, number) for number, name in enumerate(("client", "web-v1", "web-v2", "outside"), start=31))


def _address4(site: int, number: int) -> str:
    return f"10.71.{site}.{number}"


def _address6(site: int, number: int) -> str:
    return f"fd71:656d{f':{site}' if site else ''}::{number or ''}"
