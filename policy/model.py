"""The nouns of the mesh: frozen values that every other file uses.

Nothing here decides anything. Every value that passes from `policy` to `nodeproxy` is one of these. All of them encode
with msgspec, so a snapshot has the same bytes on disk, in a golden test and in a config dump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from policy.balancing import Balancing
from policy.route import HttpMatch, Retry, Route
from policy.upstream import ServiceBounds

Severity = Literal["error", "warning", "notice"]

# The protocol that a Service port declares: the name of a row of PROTOCOLS (protocols.py). "": it declares none, and
# the first bytes of a connection decide.
Protocol = str


class Where(Struct, frozen=True, order=True):
    """A place in a source: a file path (or an API object's URL) and a line, counted from 1; 0 if there is none."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Problem(Struct, frozen=True, order=True):
    """Something in the input that edgemesh could not use as it is. It never stops the node.

    `error`: this version of the object is not in force (its last good version, if any, still is). `warning`: in force,
    but probably not what was meant. `notice`: nothing is wrong, but people should know.
    """

    severity: Severity
    where: Where
    object: str  # "TrafficTarget bookstore/bookstore-access"; "" if a file could not be read at all
    message: str  # what is wrong, and with what
    hint: str = ""  # what to do about it
    unmet: bool = False  # the object requests something that edgemesh does not do

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where.file else ""
        what = f"{self.object}: " if self.object else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.severity}: {what}{self.message}{hint}"


class Identity(Struct, frozen=True, order=True):
    """The identity of a workload: its service account.

    SMI traffic-access: "the identity is the ServiceAccount of the pod".
    """

    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service_account}"

    def spiffe(self, trust_domain: str) -> str:
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


class Probe(Struct, frozen=True):
    """A health check that the workload declares: the only traffic admitted from the node's own address.

    "https": what is asked cannot be seen, so it is admitted by its port, and only where the kernel recognises the
    prober.
    """

    kind: Literal["http", "tcp", "https"]
    port: int
    path: str = "/"
    method: str = "GET"


class Exclusions(Struct, frozen=True):
    """What the capture leaves alone: OSM MeshConfig lists and the workload's annotations, sorted, each once."""

    inbound_ports: tuple[int, ...] = ()
    outbound_ports: tuple[int, ...] = ()
    outbound_cidrs: tuple[str, ...] = ()
    # If not empty, only these destinations are captured (OSM outboundIPRangeInclusionList).
    outbound_only_cidrs: tuple[str, ...] = ()
    # Network interfaces of the workload's own namespace: what comes and goes by them is left alone
    interfaces: tuple[str, ...] = ()


# What begins the `unit` of a hostNetwork pod, before its uid. No systemd unit has a slash in its name.
POD = "pod/"


class Workload(Struct, frozen=True):
    """One thing that runs: a pod, a process tree in a network namespace, or a systemd unit.

    `netns` and `unit` say where it runs on this box. If both are empty, it is found by address, or runs elsewhere. `unit`
    is what has its cgroup in the node's own network: a systemd unit, or pod/UID for a hostNetwork pod.
    `ports` are the ports it is known to serve: they tell apart workloads that share an address (systemd units).
    `enrolled` is False for a pod that the mesh was told to leave alone: it is known, but neither captured nor a mesh
    destination.
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
    tunnel_port: int = 0  # where other nodes open tunnels to it; 0 = the usual port at its address
    literal_slash: bool = False  # its server reads %2F in a path as a part of a name, and never as a slash
    host_network: bool = False  # it shares the addresses of its node: only a port tells that a call is for it
    left_out: str = ""  # why it is not enrolled, in words
    uid: str = ""  # of a pod, as its container runtime knows it; "": not known
    isolated: str = ""  # "Isolation quarantine", which cuts it off: it calls nobody, and nobody calls it

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def identity(self) -> Identity:
        return Identity(self.namespace, self.service_account)


class Endpoint(Struct, frozen=True, order=True):
    """One address and port that serves a service port.

    `workload` is the key of the workload there, "" if the mesh knows none. `outside`: there is none to know.
    """

    address: str
    port: int
    workload: str = ""
    outside: bool = False

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class ServicePort(Struct, frozen=True):
    name: str
    port: int
    protocol: Protocol = ""
    transport: Literal["tcp", "udp"] = "tcp"
    endpoints: tuple[Endpoint, ...] = ()
    # Idle timeout of its connections in seconds; 0: none; None: that of the node's limits
    idle: float | None = None
    # The endpoints that callers of this node may use; None: all. `nearness`: the reason, in words
    near: tuple[Endpoint, ...] | None = None
    nearness: str = ""


class Service(Struct, frozen=True):
    namespace: str
    name: str
    # What DNS returns and connections are sent to: clusterIPs, or addresses of NodeConfig serviceRange
    addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    routes: tuple[Route, ...] = ()  # the first that holds for a call decides; none: its own endpoints take it
    # Seconds for which a caller's next call goes to the endpoint of the one before; 0: to any
    affinity: float = 0.0
    upstream: ServiceBounds | None = None  # what bounds the calls to it
    balancing: Balancing | None = None  # how its endpoints take turns; it has precedence over `affinity`

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class Host(Struct, frozen=True):
    """One endpoint of a headless Service by name. `hostname` "": it has no name of its own."""

    hostname: str
    addresses: tuple[str, ...]


class Names(Struct, frozen=True):
    """What only DNS says of Services."""

    aliases: dict[str, str] = {}  # by key of an ExternalName: the host that it stands for
    hosts: dict[str, tuple[Host, ...]] = {}  # by key of a headless Service
    namespaces: tuple[str, ...] = ()
    complete: bool = False  # every Service of the cluster is known here
    unread: tuple[str, ...] = ()  # keys of Services that exist and are not in force, for they are broken


class Grant(Struct, frozen=True):
    """One TrafficTarget for one source: `source` may reach `destination`.

    `tcp` and `udp`: None = the target has no rule of that kind; () = all ports; otherwise these ports. `http`: None =
    the target has no HTTPRouteGroup rule; otherwise at least one match must fit. Kinds are ANDed for one byte stream
    (tcp and http), and ORed within a kind. udp concerns datagrams only.
    """

    rule: str  # "TrafficTarget bookstore/bookstore-access"
    source: Identity
    destination: Identity
    tcp: tuple[int, ...] | None = None
    udp: tuple[int, ...] | None = None
    http: tuple[HttpMatch, ...] | None = None
    leaving: bool = False  # it is to be removed: what it alone admits is counted (annotation edgemesh.io/dry-run)


class CallerRetry(Struct, frozen=True):
    """Requests of this caller to this Service are sent again, where the Route's rule does not say when itself."""

    service: str  # key of the Service that is called
    caller: Identity
    retry: Retry


# How a workload is called. "strict": only over mTLS, and as an IngressBackend says. "permissive": also in plain text, from sources
# that an AccessControl names. "disabled": as permissive, and other nodes call it in plain text.
Mtls = Literal["strict", "permissive", "disabled"]


class Mesh(Struct, frozen=True):
    """The settings of the whole mesh (OSM MeshConfig)."""

    permissive: bool = False
    egress: bool = True
    trust_domain: str = "cluster.local"
    cluster_domain: str = "cluster.local"
    mtls: Mtls = "strict"


class Node(Struct, frozen=True, order=True):
    """A node of the mesh and how other nodes reach it.

    Without `addresses`, other nodes dial its workloads one by one, at their own tunnel ports.
    """

    name: str
    addresses: tuple[str, ...] = ()
    tunnel_port: int = 15008
    metered: bool = False  # the link to it is billed by the byte: long keepalive intervals

    def spiffe(self, trust_domain: str) -> str:
        return f"spiffe://{trust_domain}/node/{self.name}"


class Hop(Struct, frozen=True):
    """Where a tunnel to a workload of another node is opened, and which identity the server must prove."""

    address: str
    port: int
    spiffe: str  # the only identity that is accepted there
    node: str = ""  # if not "": the listener of this node, which serves all of its workloads
    metered: bool = False

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Revoked(Struct, frozen=True):
    """What is refused, whatever certificate it presents, until the revocation is lifted."""

    nodes: tuple[str, ...] = ()
    identities: tuple[Identity, ...] = ()
    serials: tuple[str, ...] = ()  # canonical_serial


def canonical_serial(serial: str) -> str:
    """Return a certificate's serial number in the one form to compare: openssl writes 0A:1B, others 0a1b or a1b."""
    return serial.replace(":", "").lower().lstrip("0")


class PlainGrant(Struct, frozen=True):
    """One AccessControl or IngressBackend for one workload: who may reach these ports of it from outside the mesh.

    `strict`: also where its namespace is in strict mode. By `gateways` and `principals` callers come in at listeners of
    Gateways alone.
    """

    rule: str  # "AccessControl shop/scanner"
    destination: str  # key of the workload
    ports: tuple[int, ...]
    networks: tuple[str, ...]  # CIDRs, from which plain text is let in
    strict: bool = False
    http: tuple[HttpMatch, ...] | None = None  # only these requests; None: whatever is sent
    gateways: tuple[str, ...] = ()  # keys of Gateways, whose callers are let in
    principals: tuple[str, ...] = ()  # names in certificates of callers that are no identity of the mesh


class EgressGrant(Struct, frozen=True):
    """One Egress for one source: `source` may call this outside the mesh, also where the MeshConfig forbids it."""

    rule: str  # "Egress shop/payments"
    source: Identity
    ports: tuple[tuple[int, str], ...]  # each with "http", "https" or "tcp": any bytes, whoever speaks first
    # Names that Host or the server name of TLS has to be: "pay.example.com", "*.example.com" for all below, "*" for any.
    # Not looked at for "tcp"
    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()  # CIDRs; (): any address
    http: tuple[HttpMatch, ...] | None = None  # None: any request; otherwise at least one match must fit


class Outgoing(Struct, frozen=True):
    """A call that would leave the mesh.

    `host`: of an HTTP request, or the server name of TLS; "" for none.
    """

    address: str
    port: int
    protocol: Literal["http", "https", "tcp"] = "tcp"
    host: str = ""
    request: Request | None = None


class Request:
    """The parts of one HTTP request that policy may look at.

    `path` is normalised and has no query. `others` are other paths that servers may read in it (%2F as a slash): a
    match fits only if it fits all of them. `fields` are the header fields in order, names in lower case, as bytes.
    `target` is sent to the server, with its query. Both are examined only if a match requires one.
    """

    __slots__ = ("fields", "method", "others", "path", "target")

    def __init__(
        self,
        method: str,
        path: str,
        fields: Sequence[tuple[bytes, bytes]] = (),
        others: tuple[str, ...] = (),
        target: bytes = b"",
    ) -> None:
        self.method = method
        self.path = path
        self.fields = fields
        self.others = others
        self.target = target

    def readings(self) -> list[Request]:
        """Return the request once for each way to read its path, each with that reading alone."""
        return [Request(self.method, path, self.fields, (), self.target) for path in (self.path, *self.others)]

    def header(self, name: str) -> str | None:
        """Return the field's value, repeated fields joined with ", " (RFC 9110 section 5.3); None if it is absent."""
        wanted = name.encode("latin-1", "replace")
        values = [value for field, value in self.fields if field == wanted]
        return b", ".join(values).decode("latin-1") if values else None


class Verdict(Struct, frozen=True):
    """Whether a call is allowed, which rule allows it, and the reason for a denial.

    Built once per rule, not per request.
    """

    allowed: bool
    rule: str  # the rule that allowed the call; "" for a denial
    reason: str = ""  # for a denial: a word of DENIALS in authz.py, also sent as x-edgemesh-reason
    # The rule that would deny this call by its absence, or would admit it, if what its annotation edgemesh.io/dry-run tries
    # were so; "" for none
    trial: str = ""
