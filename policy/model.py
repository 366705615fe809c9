"""The nouns of the mesh: frozen values that every other file speaks in.

Nothing here decides anything. A value that crosses the wall from `policy` to `nodeproxy` is one of these, and all of them
encode with msgspec, so that a snapshot on disk, in a golden test and in a config dump is the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Severity = Literal["error", "warning", "notice"]

# What a Service port says about its bytes. "" means that it says nothing and the first bytes are looked at.
Protocol = Literal["", "http", "grpc", "tcp", "tcp-server-first"]


class Where(Struct, frozen=True, order=True):
    """A place in a source: a file path (or an API object's URL) and a line, counted from 1; 0 when there is none."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Problem(Struct, frozen=True, order=True):
    """Something in the input that we could not use as it stands. It never stops the node.

    `error`: this version of the object is not in force (its last good version, if any, still is).
    `warning`: in force, but probably not what was meant. `notice`: nothing is wrong; people should know.
    """

    severity: Severity
    where: Where
    object: str  # "TrafficTarget bookstore/bookstore-access"; "" when a file could not be read at all
    message: str  # what is wrong, to what
    hint: str = ""  # what to do about it

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where.file else ""
        what = f"{self.object}: " if self.object else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.severity}: {what}{self.message}{hint}"


class Identity(Struct, frozen=True, order=True):
    """Who a workload is: its service account (SMI traffic-access: "the identity is the ServiceAccount of the pod")."""

    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service_account}"

    def spiffe(self, trust_domain: str) -> str:
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


class Probe(Struct, frozen=True):
    """A health check that the workload declares: the only thing admitted from the node's own address."""

    kind: Literal["http", "tcp"]
    port: int
    path: str = "/"
    method: str = "GET"


class Exclusions(Struct, frozen=True):
    """What the capture leaves alone (OSM MeshConfig lists merged with the workload's annotations), sorted, without doubles."""

    inbound_ports: tuple[int, ...] = ()
    outbound_ports: tuple[int, ...] = ()
    outbound_cidrs: tuple[str, ...] = ()
    # When not empty, only these destinations are captured (OSM outboundIPRangeInclusionList).
    outbound_only_cidrs: tuple[str, ...] = ()


class Workload(Struct, frozen=True):
    """One thing that runs: a pod, a process tree in a network namespace, or a systemd unit.

    `netns` and `unit` say where it runs on this box; both empty means that it is found by address, or elsewhere.
    `ports` are the ports it is known to serve: they tell apart workloads that share an address (systemd units).
    `enrolled` is False for a pod that the mesh was told to leave alone: known, but neither captured nor a mesh destination.
    """

    namespace: str
    name: str
    service_account: str
    addresses: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    node: str = ""
    netns: str = ""
    unit: str = ""
    exclusions: Exclusions = Exclusions()
    probes: tuple[Probe, ...] = ()
    enrolled: bool = True
    tunnel_port: int = 0  # its own tunnel door; 0 = the usual one of its address

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def identity(self) -> Identity:
        return Identity(self.namespace, self.service_account)


class Endpoint(Struct, frozen=True, order=True):
    """One address and port that serves a service port. `workload` is the key of the workload there, "" if we know none."""

    address: str
    port: int
    workload: str = ""

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class ServicePort(Struct, frozen=True):
    name: str
    port: int
    protocol: Protocol = ""
    transport: Literal["tcp", "udp"] = "tcp"
    endpoints: tuple[Endpoint, ...] = ()


class HttpMatch(Struct, frozen=True):
    """One match of an HTTPRouteGroup. Empty `methods` = any method; `path_regex` None = any path; headers are ANDed."""

    name: str
    path_regex: str | None = None
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()  # (lower-case name, regular expression)


class Backend(Struct, frozen=True):
    service: str  # key of a service in the split's namespace; may not exist (yet)
    weight: int


class Split(Struct, frozen=True):
    """A TrafficSplit in force on a service. `matches` None = every request is split."""

    name: str  # "TrafficSplit bookstore/bookstore-split"
    backends: tuple[Backend, ...]
    matches: tuple[HttpMatch, ...] | None = None


class Service(Struct, frozen=True):
    namespace: str
    name: str
    addresses: tuple[str, ...] = ()  # what DNS answers and connections are sent to: clusterIPs, else addresses of our range
    ports: tuple[ServicePort, ...] = ()
    split: Split | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class Grant(Struct, frozen=True):
    """One TrafficTarget for one source: `source` may reach `destination`.

    `tcp` and `udp`: None = the target has no rule of that kind; () = all ports; else these ports.
    `http`: None = the target has no HTTPRouteGroup rule; else at least one must match.
    Kinds are ANDed for one byte stream (tcp and http), ORed within a kind; udp speaks of datagrams only.
    """

    rule: str  # "TrafficTarget bookstore/bookstore-access"
    source: Identity
    destination: Identity
    tcp: tuple[int, ...] | None = None
    udp: tuple[int, ...] | None = None
    http: tuple[HttpMatch, ...] | None = None


# What a workload is called over. "strict": from elsewhere only mTLS. "permissive": also plain text from sources that an
# AccessControl names. "disabled": as permissive, and other nodes call it in plain.
Mtls = Literal["strict", "permissive", "disabled"]


class Mesh(Struct, frozen=True):
    """What holds for the whole mesh (OSM MeshConfig)."""

    permissive: bool = False
    egress: bool = True
    trust_domain: str = "cluster.local"
    cluster_domain: str = "cluster.local"
    mtls: Mtls = "strict"


class Node(Struct, frozen=True, order=True):
    """A node of the mesh and how others reach it. No `addresses`: its workloads are dialled one by one, at their own tunnel doors."""

    name: str
    addresses: tuple[str, ...] = ()
    tunnel_port: int = 15008
    metered: bool = False  # the link to it costs by the byte: long keepalive intervals

    def spiffe(self, trust_domain: str) -> str:
        return f"spiffe://{trust_domain}/node/{self.name}"


class Hop(Struct, frozen=True):
    """Where a tunnel to a workload of another node is opened, and who must prove to be there."""

    address: str
    port: int
    spiffe: str  # the only identity that is accepted there
    node: str = ""  # not "": the door of this node, which serves all of its workloads
    metered: bool = False

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Revoked(Struct, frozen=True):
    """Who is refused whatever certificate he holds, until this is lifted."""

    nodes: tuple[str, ...] = ()
    identities: tuple[Identity, ...] = ()
    serials: tuple[str, ...] = ()  # canonical_serial


def canonical_serial(serial: str) -> str:
    """A certificate's serial number in the one form that we compare: openssl writes 0A:1B, others 0a1b or a1b."""
    return serial.replace(":", "").lower().lstrip("0")


class PlainGrant(Struct, frozen=True):
    """One AccessControl for one workload: plain text from these networks may reach these ports of it."""

    rule: str  # "AccessControl shop/scanner"
    destination: str  # key of the workload
    ports: tuple[int, ...]
    networks: tuple[str, ...]  # CIDRs


class Request:
    """What policy may look at in one HTTP request.

    `path` is normalised and has no query (see nodeproxy/http/message.py). `fields` are the header fields in order,
    names in lower case, as bytes: they are looked at only when a match asks for one.
    """

    __slots__ = ("fields", "method", "path")

    def __init__(self, method: str, path: str, fields: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.method = method
        self.path = path
        self.fields = fields

    def header(self, name: str) -> str | None:
        """The field's value, repeated fields joined with ", " (RFC 9110 section 5.3); None when it is absent."""
        wanted = name.encode("latin-1", "replace")
        values = [value for field, value in self.fields if field == wanted]
        return b", ".join(values).decode("latin-1") if values else None


class Verdict(Struct, frozen=True):
    """May it happen, which rule says so, and in a word why not. Built once per rule, not per request."""

    allowed: bool
    rule: str  # the rule that allowed; "" for a denial
    reason: str = ""  # for a denial: a word of DENIALS in authz.py, also sent as x-edgemesh-reason
