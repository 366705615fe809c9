"""The gateway's part of the model: listeners that nodes open for callers outside the mesh, and what is behind each.

A caller dials an address and port of the node, and names a host: in the Host field of a request, or in the TLS
handshake (SNI). Of the listeners at that address and port, those with the closest hostname take the call. The Routes of
their virtual hosts are asked in order, the closest hostname first: the first rule that fits decides. A call that none
fits is refused.

Of protocols TLS and TCP, whole connections are routed, by the name in the handshake and by the port: the Route of their
virtual host has one rule, which fits all.

A listener opens nothing: whether a call may come to its server is decided after an endpoint was chosen (snapshot.py,
`lets_in`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from policy.model import Service

Protocol = Literal["HTTP", "HTTPS", "TLS", "TCP", "UDP"]
CONTROLLER = "edgemesh.io/gateway-controller"  # controllerName of our GatewayClasses
INGRESS_CONTROLLER = "edgemesh.io/ingress-controller"  # controller of our IngressClasses
# The kinds of routes that a listener of each protocol takes. A protocol without a row is not served.
ROUTES: dict[str, tuple[str, ...]] = {
    "HTTP": ("HTTPRoute", "GRPCRoute"),
    "HTTPS": ("HTTPRoute", "GRPCRoute"),
    "TLS": ("TLSRoute",),
    "TCP": ("TCPRoute",),
}
STREAMS = ("TLS", "TCP")  # protocols of which whole connections are routed: nothing in them is looked at


class VirtualHost(Struct, frozen=True):
    """The calls to one hostname, and what becomes of them.

    `service` stands for them where calls are routed: it has Routes and the listener's port, and no endpoints of its own.
    """

    hostname: str  # lower case; "*.example.com": one label or more before it; "": every host
    service: Service


class ClientCheck(Struct, frozen=True):
    """Which certificates callers have to show."""

    roots: tuple[str, ...] = ()  # what holds the roots: "ConfigMap shop/roots", key ca.crt
    optional: bool = False  # callers without a valid one are let in all the same


class Listener(Struct, frozen=True):
    """One listener of a Gateway. Several may share a port: then the host that a caller names tells them apart."""

    gateway: str  # key of the Gateway; of Ingresses "IngressClass edgemesh"
    name: str  # in the object that says it
    port: int
    protocol: Protocol
    source: str  # title of the object that says it: "Gateway shop/front", "ListenerSet shop/more"
    addresses: tuple[str, ...] = ()  # of this node, that it listens at; (): all that the node has
    hostname: str = ""  # as of VirtualHost; "": every host
    certificates: tuple[str, ...] = ()  # keys of Secrets, for protocol HTTPS, and TLS that ends here
    passes: bool = False  # protocol TLS: the bytes go to the server as they are
    clients: ClientCheck | None = None  # None: callers need no certificate
    hosts: tuple[VirtualHost, ...] = ()  # the closest hostname first
    floats: bool = False  # an address of it is at whichever node has it (NodeConfig gateway.addresses)

    @property
    def key(self) -> str:
        """Return what tells it from all other listeners."""
        return f"{self.source} {self.name}"


class Condition(Struct, frozen=True):
    """One statement about an object, as its status has it."""

    type: str  # "Accepted"
    holds: bool
    reason: str  # one word in CamelCase
    message: str = ""


class ListenerState(Struct, frozen=True):
    """What is said of one listener."""

    key: str
    name: str
    kinds: tuple[str, ...]  # of routes that it takes
    attached: int  # routes that are attached
    conditions: tuple[Condition, ...]


class GatewayState(Struct, frozen=True):
    """What is said of a GatewayClass, Gateway or ListenerSet of ours."""

    title: str  # "Gateway shop/front"
    conditions: tuple[Condition, ...]
    listeners: tuple[ListenerState, ...] = ()
    addresses: tuple[str, ...] = ()  # where callers reach it


class Attachment(Struct, frozen=True):
    """What became of one Gateway or ListenerSet that a route names as its parent."""

    route: str  # title
    number: int  # in parentRefs
    listeners: tuple[str, ...] = ()  # keys of the listeners that took it
    reason: str = ""  # why none did, one word in CamelCase; "": some did
    message: str = ""
    conditions: tuple[Condition, ...] = ()  # all that is to be said of it


class Gateways(Struct, frozen=True):
    """What is said of all objects of ours that have to do with Gateways."""

    states: tuple[GatewayState, ...] = ()
    attachments: tuple[Attachment, ...] = ()


def covers(hostname: str, host: str) -> bool:
    """Return whether a hostname, which may be a wildcard or "", stands for this host. Both are in lower case."""
    if hostname.startswith("*."):
        return host.endswith(hostname[1:]) and len(host) > len(hostname) - 1
    return hostname in ("", host)


def shared(one: str, other: str) -> str | None:
    """Return the hostname that stands for all hosts that both hostnames stand for; None if there are none."""
    if not one or not other:
        return one or other
    if one.startswith("*.") and other.startswith("*."):
        longer, shorter = sorted((one, other), key=len, reverse=True)
        return longer if longer.endswith(shorter[1:]) else None
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def order(hostname: str) -> tuple[bool, int, str]:
    """Return the key that sorts the closest hostname first: a whole name, then the longest wildcard, then ""."""
    return hostname.startswith("*") or not hostname, -len(hostname), hostname


def host_of(field: str) -> str:
    """Return the host of a Host field, without its port (which may be empty, RFC 3986 section 3.2.3), in lower case."""
    host, colon, port = field.rpartition(":")
    named = host if colon and (not port or port.isdigit()) and (":" not in host or host.endswith("]")) else field
    return named.lower().removesuffix(".")


def fitting(host: str) -> list[str]:
    """Return all hostnames that stand for this host, the closest first."""
    labels = host.split(".")
    least = 1 if labels[0] else 2  # something stands before the wildcard's dot
    wild = (f"*.{'.'.join(labels[number:])}" for number in range(least, len(labels)))
    return list(dict.fromkeys((host, *wild, "")))


class Front:
    """The listeners at one address and port. No lookup takes longer with more of them."""

    __slots__ = ("_listeners", "_virtual", "listeners")

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self.listeners = tuple(listeners)
        self._listeners: dict[str, tuple[Listener, ...]] = {}  # by hostname
        # By hostnames of listener and virtual host
        self._virtual: dict[tuple[str, str], tuple[tuple[Listener, VirtualHost], ...]] = {}
        for listener in self.listeners:
            self._listeners[listener.hostname] = (*self._listeners.get(listener.hostname, ()), listener)
            for one in listener.hosts:
                key = listener.hostname, one.hostname
                self._virtual[key] = (*self._virtual.get(key, ()), (listener, one))

    def named(self, host: str) -> tuple[Listener, ...]:
        """Return those that take calls for this host: those of the closest hostname."""
        return next((found for one in fitting(host) if (found := self._listeners.get(one))), ())

    def virtual_hosts(
        self, named: str, host: str, reaches: Callable[[Listener], bool] = lambda listener: True
    ) -> tuple[VirtualHost, ...]:
        """Return what takes the calls for `host` at the listeners for `named`, in the order in which it is asked.

        `reaches`: whether the caller may reach a listener.
        """
        listeners = self.named(named)
        if not listeners:
            return ()
        whose = listeners[0].hostname
        return tuple(
            one
            for hostname in fitting(host)
            for listener, one in self._virtual.get((whose, hostname), ())
            if reaches(listener)
        )


NOBODY = Front(())


def fronts(listeners: Iterable[Listener]) -> dict[tuple[str, int], Front]:
    """Return what callers reach by address and port; the address "" stands for those that no listener names.

    The listeners that name an address have it to themselves.
    """
    found: dict[tuple[str, int], list[Listener]] = {}
    for listener in listeners:
        for address in listener.addresses or ("",):
            found.setdefault((address, listener.port), []).append(listener)
    return {place: Front(those) for place, those in found.items()}


class Programmed(Struct, frozen=True):
    """At which nodes a Gateway's listeners are, and what they may say of callers.

    `everywhere`: at every node, or at whichever has an address that is no node's own. `asks`: a listener wants
    certificates of callers, so that names in them are known.
    """

    everywhere: bool
    addresses: frozenset[str]
    asks: bool


def programmed(listeners: Iterable[Listener]) -> dict[str, Programmed]:
    """Return where the listeners of each Gateway are, by its key."""
    found: dict[str, list[Listener]] = {}
    for one in listeners:
        found.setdefault(one.gateway, []).append(one)
    return {
        gateway: Programmed(
            any(one.floats or not one.addresses for one in its),
            frozenset(address for one in its for address in one.addresses),
            any(one.clients is not None and not one.clients.optional for one in its),
        )
        for gateway, its in found.items()
    }
