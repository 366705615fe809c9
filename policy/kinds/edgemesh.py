"""Shapes of edgemesh's own kinds: Workload, HTTPFilter, LoadBalancing, Revocation, Isolation, MeshNode.

Field comments become docs/reference."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from policy.kinds.base import Lax, Name, Port, Strict


class WorkloadPort(Strict, frozen=True):
    port: Port  # port on which the program listens
    name: str = ""  # name by which a Service's targetPort may refer to it
    protocol: Literal["TCP", "UDP"] = "TCP"  # UDP is counted, not captured


class WorkloadSpec(Strict, frozen=True):
    """A program of a node: its name, its place and its identity."""

    service_account: str = (
        ""  # its identity, with its namespace; without one it can neither be a source nor a destination of policy
    )
    labels: dict[str, str] = field(default_factory=dict)  # matched by the selectors of Services
    addresses: tuple[str, ...] = ()  # addresses on which it is reached, IPv4 and IPv6
    ports: tuple[WorkloadPort, ...] = ()
    node: str = ""  # node that it runs on; without: each node that reads this and has its namespace or unit
    netns: str = ""  # its network namespace: a name below /run/netns
    systemd_unit: str = ""  # its unit, for a program in the host's own network: till.service
    template: str = ""  # a Deployment of the same namespace: labels, service account, ports and probes of its pods
    enrolled: bool = True  # false: known to the mesh, but left alone; also releases what was captured
    tunnel_port: Port | None = (
        None  # the port of its own tunnel listener, where other nodes reach it; without: 15008 of its address
    )


Percent = Annotated[int, Meta(ge=0, le=100)]
FieldName = Annotated[str, Meta(min_length=1, max_length=256)]
FieldNames = Annotated[tuple[FieldName, ...], Meta(max_length=32)]


class Delay(Strict, frozen=True):
    duration: str  # as 500ms or 2s (h, m, s, ms); at most 1m
    percent: Percent = 100  # so many of a hundred calls


class Abort(Strict, frozen=True):
    status: Annotated[int, Meta(ge=400, le=599)]  # of the answer in the place of the server's
    percent: Percent = 100  # so many of a hundred calls


class FaultInjection(Strict, frozen=True):
    delay: Delay | None = None  # calls that wait before they go on
    abort: Abort | None = None  # calls that are answered with an error; a delayed one may be, too


class DegradeField(Strict, frozen=True):
    name: FieldName  # of the field, in any case
    value: Annotated[str, Meta(max_length=4096)]  # its value


class Degrade(Strict, frozen=True):
    status: Annotated[int, Meta(ge=200, le=599)] = 503  # of the answer
    body: Annotated[str, Meta(max_length=65536)] = ""  # its content
    headers: Annotated[tuple[DegradeField, ...], Meta(max_length=16)] = ()  # its fields


class Signing(Strict, frozen=True):
    # name of the key: the file NAME in the folder of this object's namespace, in the folder that NodeConfig filterKeys
    # names, on each node
    key: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,252}\Z")]
    algorithm: Literal["hmac-sha256"] = "hmac-sha256"  # the only one
    fields: FieldNames = ()  # header fields that are signed, beside method and target
    body: bool = False  # whether the body is signed too; a larger one than 64 KiB gets 413
    header: FieldName = "x-signature"  # the header field that holds the signature
    max_age: str = "5m"  # for how long a signature is good: clocks have to agree that well


class HeadersOfAuth(Strict, frozen=True):
    send: FieldNames = ()  # fields of the request that the Service gets, beside Host and Authorization
    take: FieldNames = ()  # fields of its answer that the server gets, in the place of what the caller sent


class ExtAuth(Strict, frozen=True):
    service: Name  # the Service that is asked: the caller has to be allowed to call it
    port: Port  # of that Service
    namespace: str = ""  # of that Service; without: this object's
    path: Annotated[str, Meta(max_length=1024)] = ""  # put before the path of the request, for the question
    timeout: str = "5s"  # for the answer; at most 1m
    on_failure: Literal["failClosed", "failOpen"] = "failClosed"  # what becomes of a call when it does not answer
    headers: HeadersOfAuth = HeadersOfAuth()  # fields that go there and come from there


class HTTPFilter(Strict, frozen=True):
    """One thing that is done to calls. A rule of an HTTPRoute or GRPCRoute of the same namespace names it (ExtensionRef).

    It says exactly one of the following. While it is not there, or broken from its beginning, such a rule answers 500.
    """

    fault: FaultInjection | None = None  # make calls late or fail, to see what callers do
    degrade: Degrade | None = None  # answer in the place of the server
    sign: Signing | None = None  # sign requests, so that servers can tell that they came this way
    verify: Signing | None = None  # refuse requests without a good signature (401)
    ext_auth: ExtAuth | None = None  # ask a Service whether a request may pass
    # give the head of a request to a filter that is Python on the caller's node: a name in its NodeConfig (filters)
    user: Annotated[str, Meta(min_length=1, max_length=63)] | None = None


class BalancedService(Strict, frozen=True):
    name: Name  # of a Service of this object's namespace
    kind: Literal["Service"] = "Service"  # the only one
    group: Literal["", "core"] = ""  # the only one


class BalancedBy(Strict, frozen=True):
    """What is hashed of a call: exactly one of these."""

    # the value of this field of the request; a call without it, or an opaque stream, goes where least is under way
    header: FieldName | None = None
    # the value of this cookie of the request; likewise
    cookie: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    source_address: bool = False  # true: the caller's address


class LoadBalancing(Strict, frozen=True):
    """How the calls to a Service are spread over its endpoints. Without it they go where least is under way.

    It holds at the node of the caller, and among the endpoints that may take the call. It admits no call. Of two for one
    Service the older one is in force. It has precedence over the Service's sessionAffinity.
    """

    target_ref: BalancedService  # the Service that is called
    # LeastRequest: less under way, of two that are chosen by chance; RoundRobin: in turn, for each calling workload by
    # itself; RingHash and Maglev: the same endpoint for the same `hash`, from whichever node the call comes
    algorithm: Literal["LeastRequest", "RoundRobin", "RingHash", "Maglev"]
    hash: BalancedBy | None = None  # RingHash and Maglev need it


RevokedNode = Name
RevokedSerial = Annotated[str, Meta(pattern="^[0-9A-Fa-f:]*[0-9A-Fa-f]\\Z")]


class RevokedIdentity(Strict, frozen=True):
    namespace: Name  # of the service account
    service_account: Name  # its certificates are refused, on whatever node


class Revocation(Strict, frozen=True):
    """Revoked nodes, service accounts and certificates: refused from now on. All Revocations add up.

    An edited Revocation lifts what it no longer names. A deleted one lifts nothing.
    """

    nodes: tuple[RevokedNode, ...] = ()  # names of nodes; every certificate made for their workloads is refused
    identities: tuple[RevokedIdentity, ...] = ()  # service accounts
    serials: tuple[RevokedSerial, ...] = ()  # serial numbers of certificates, in hexadecimal


class Isolation(Strict, frozen=True):
    """Address ranges that are cut off from the mesh, such as a subnet whose machines are not trusted any more.

    No call goes to an address in them, whatever a rule or permissive mode admits: Services use their other endpoints, and
    egress leads there neither. What runs there calls nobody. Connections that are open are cut. Ports that are not
    captured, and the probes of the node, stay as they are. All Isolations add up. An edited one lifts what it no longer
    names. fsm's Isolation is read too.
    """

    cidrs: Annotated[tuple[Name, ...], Meta(min_length=1)]  # as 10.0.0.0/8


class MeshNodeWorkload(Lax, frozen=True):
    namespace: Name  # of the pod
    name: Name  # of the pod
    service_account: str = ""  # its identity, with its namespace; without: default
    addresses: tuple[str, ...] = ()  # addresses on which it is reached, IPv4 and IPv6
    ports: tuple[Port, ...] = ()  # ports that tell it apart where its addresses are its node's too (hostNetwork)
    enrolled: bool = True  # false: known to the mesh, but left alone
    host_network: bool = False  # true: it shares the addresses of its node
    encoded_slash: str = ""  # name: what the pod's annotation edgemesh.io/encoded-slash says


class MeshNode(Lax, frozen=True):
    """What other nodes need to know of one node of a Kubernetes cluster: how it is reached, and which pods run there.

    It is written by edgemesh, from the real Pods and Nodes. The node that it describes looks at its own Pods instead.
    Unlike in other kinds of edgemesh, unknown fields are ignored: a newer edgemesh may have written them.
    """

    addresses: tuple[str, ...] = ()  # where other nodes reach this one, unless its NodeConfig says addresses
    tunnel_port: Port = 15008  # the port of its tunnel listener there
    workloads: tuple[MeshNodeWorkload, ...] = ()  # its pods
