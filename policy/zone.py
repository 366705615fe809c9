"""What DNS says of names and addresses of the cluster: Services, hosts of headless Services, pods.

As Kubernetes' specification of DNS for Services has it (schema 1.1). A name that is nobody's is UNKNOWN: the resolver
that was asked may know it. Only where every Service of the cluster is known, a name below the cluster's domain that is
nobody's does not exist (ABSENT). A short name means a Service only, so that no host outside is hidden.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from msgspec import Struct

from policy.inventory import Inventory
from policy.model import Names, Service, Workload
from policy.service_names import key_of_host, key_of_search

# Names directly below the cluster's domain that Kubernetes' DNS has beside Services.
_OTHERS = frozenset(("pod", "dns", "dns-version", "dns-debug"))


class Target(Struct, frozen=True):
    """Where a port is served: the data of an SRV record."""

    host: str
    port: int


class Found(Struct, frozen=True):
    """What there is by a name. All empty: the name exists, and has nothing of what may be asked for here."""

    addresses: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    pointers: tuple[str, ...] = ()  # names of an address
    alias: str = ""  # another name, which has everything
    inside: bool = False  # it is written with the cluster's domain, which we can speak for


Absence = Literal["absent", "unknown"]
ABSENT: Absence = "absent"
UNKNOWN: Absence = "unknown"


class Zone:
    """The names of one snapshot."""

    def __init__(self, inventory: Inventory, names: Names) -> None:
        self.domain = inventory.mesh.cluster_domain.lower()
        self._inventory = inventory
        self._names = names
        self._suffix = ["svc", *self.domain.split(".")]
        self._hosts: dict[str, dict[str, tuple[str, ...]]] = {}
        self._pointers: dict[str, str] = {}
        for key, hosts in names.hosts.items():
            namespace, _, service = key.partition("/")
            known = self._hosts.setdefault(key, {})
            for host in hosts:
                for name in dict.fromkeys((host.hostname.lower(), *map(dashed, host.addresses))):
                    if name:
                        known[name] = (*known.get(name, ()), *host.addresses)
                for address in host.addresses:
                    name = host.hostname.lower() or dashed(address)
                    self._pointers.setdefault(address, f"{name}.{service}.{namespace}.svc.{self.domain}")
        # Of every Service, in force or not: a name that may be one of its hosts is no name of another Service.
        self._keys = frozenset((*(s.key for s in inventory.services), *names.hosts, *names.aliases, *names.unread))
        self._namespaces = frozenset(
            (*names.namespaces, *(s.namespace for s in inventory.services), *(w.namespace for w in inventory.workloads))
        )

    def __repr__(self) -> str:
        return f"<Zone {self.domain}{'' if self._names.complete else ', incomplete'}>"

    def find(self, name: str, namespace: str, targets: bool = False) -> Found | Absence:
        """Return what a workload of `namespace` means by a name. `targets`: where ports of a Service are served, too."""
        inventory = self._inventory
        service = inventory.named(name, namespace) or inventory.searched(name, namespace, self._keys)
        labels = name.rstrip(".").lower().split(".")
        inside = labels[-len(self._suffix) + 1 :] == self._suffix[1:]
        if service is not None:
            return self._service(service, inside, targets)
        found = self._list_or_alias(name, namespace, inside)
        if found is not None:
            return found
        if labels[-1] == "arpa":
            return self._pointer(labels)
        if not inside:
            if labels[-1] == "svc" and len(labels) > 3 and (below := self._below(labels[:-1], False)) is not None:
                return below
            return UNKNOWN
        given = labels[: -len(self._suffix) + 1]
        if not given or given[-1] in _OTHERS:
            return self._pod(given)
        if given[-1] == "svc" and (below := self._below(given[:-1], True)) is not None:
            return below
        if not self._names.complete or (given[-1] == "svc" and "/".join(given[-3:-1][::-1]) in self._names.unread):
            return UNKNOWN
        return ABSENT

    def _service(self, service: Service, inside: bool, targets: bool) -> Found:
        addresses = service.addresses
        if not addresses:
            hosts = self._names.hosts.get(service.key, ())
            published = tuple(dict.fromkeys(address for host in hosts for address in host.addresses))
            addresses = published or self._inventory.addresses_of(service)
        if not targets:
            return Found(addresses, inside=inside)
        ports = dict.fromkeys((port.name, port.transport) for port in service.ports)
        return Found(addresses, tuple(t for port in ports for t in self._targets(service, *port)), inside=inside)

    def _list_or_alias(self, name: str, namespace: str, inside: bool) -> Found | None:
        """Return what a Service is that nothing is sent to: an ExternalName, or a headless one without ports."""
        aliases, hosts, domain = self._names.aliases, self._names.hosts, self.domain
        if not aliases and not hosts:
            return None
        for key in (key_of_host(name, namespace, domain), key_of_search(name, namespace, domain, self._keys)):
            if key in aliases:
                return Found(alias=aliases[key].rstrip("."), inside=inside)
            if key in hosts:
                addresses = tuple(dict.fromkeys(address for host in hosts[key] for address in host.addresses))
                return Found(addresses, inside=inside)
        return None

    def _below(self, labels: list[str], inside: bool) -> Found | None:
        """Return what there is below svc.<domain>: a namespace, a port or a host of a Service; None for nothing."""
        if len(labels) < 2:
            return Found(inside=inside) if not labels or labels[0] in self._namespaces else None
        *given, name, namespace = labels
        service = self._inventory.service(f"{namespace}/{name}")
        if len(given) == 1:
            addresses = self._hosts.get(f"{namespace}/{name}", {}).get(given[0])
            if addresses is not None:
                return Found(tuple(dict.fromkeys(addresses)), inside=inside)
            there = service is not None and any(f"_{port.transport}" == given[0] for port in service.ports)
            return Found(inside=inside) if there else None
        if len(given) == 2 and service is not None and given[0].startswith("_"):
            targets = self._targets(service, given[0][1:], given[1].removeprefix("_"))
            return Found(targets=targets, inside=inside) if targets else None
        return None

    def _targets(self, service: Service, name: str, transport: str) -> tuple[Target, ...]:
        """Return where the ports of this name are served; for a headless Service, by each of its hosts."""
        at = f"{service.name}.{service.namespace}.svc.{self.domain}"
        ports = [p for p in service.ports if p.name and p.name.lower() == name.lower() and p.transport == transport]
        if service.addresses:
            return tuple(Target(at, port.port) for port in ports)
        known = {a: h.hostname.lower() for h in self._names.hosts.get(service.key, ()) for a in h.addresses}
        return tuple(
            Target(f"{known.get(one.address) or dashed(one.address)}.{at}", one.port)
            for port in ports
            for one in port.endpoints
        )

    def _pod(self, labels: list[str]) -> Found | Absence:
        """Return what 10-0-0-1.NAMESPACE.pod.<domain> is."""
        if len(labels) == 3 and labels[2] == "pod":
            for address in (labels[0].replace("-", "."), labels[0].replace("-", ":")):
                if any(one.namespace == labels[1] for one in self._inventory.workloads_at(address)):
                    return Found((address,), inside=True)
        return UNKNOWN

    def _pointer(self, labels: list[str]) -> Found | Absence:
        address = _address_of(labels)
        if not address:
            return UNKNOWN
        service = self._inventory.service_at(address)
        if service is not None:
            return Found(pointers=(f"{service.name}.{service.namespace}.svc.{self.domain}",))
        if address in self._pointers:
            return Found(pointers=(self._pointers[address],))
        there = self._inventory.workloads_at(address)
        # Several share the address of their node, and none of them is its name.
        if len(there) != 1 or not _is_pod(there[0]):
            return UNKNOWN
        return Found(pointers=(f"{dashed(address)}.{there[0].namespace}.pod.{self.domain}",))


def dashed(address: str) -> str:
    """Return an address as a label of a name."""
    return address.replace(".", "-").replace(":", "-")


def _is_pod(workload: Workload) -> bool:
    return not workload.host_network and not workload.unit


def _address_of(labels: list[str]) -> str:
    """Return the address that a name below in-addr.arpa or ip6.arpa is about; "" for none."""
    digits = labels[:-2][::-1]
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(digits) == 4:
            return str(IPv4Address(".".join(digits)))
        if labels[-2:] == ["ip6", "arpa"] and len(digits) == 32 and all(len(digit) == 1 for digit in digits):
            joined = "".join(digits)
            return str(IPv6Address(":".join(joined[at : at + 4] for at in range(0, 32, 4))))
    except ValueError:
        pass
    return ""
