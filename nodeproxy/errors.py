"""Every refusal and failure: one table of flag, HTTP status, meaning and hint.

Code raises `Refused(flag, detail)`. The owner of the connection (protocols/lifetime.py) or of the request
(protocols/http/call.py) turns it into a response and a record. Logs, metrics and `x-edgemesh-reason` contain the flag
(for "denied", `x-edgemesh-reason` contains the reason of policy.authz.DENIALS), so flags never change meaning.

The caller gets the flag, its meaning and an id. It gets the detail only if that mentions nothing but what the caller
sent. Details that name a part of the mesh are in the record; `edgemesh explain --request ID` shows them to users with
access to this node.
"""

from __future__ import annotations

from msgspec import Struct

from policy.model import Workload


class Flag(Struct, frozen=True):
    status: int  # status of the HTTP response to the caller
    meaning: str
    hint: str
    private: bool = (
        False  # its detail names ports, endpoints, nodes or certificates: for the record, not for the caller
    )


FLAGS: dict[str, Flag] = {
    # policy
    "denied": Flag(403, "no rule admits this", "a TrafficTarget has to admit it"),
    "no-identity": Flag(
        403,
        "the caller proved no identity",
        "call from a workload of the mesh, or have an IngressBackend let this caller in",
    ),
    "misdirected": Flag(
        421,
        "Host names another service than the one that was dialled",
        "dial the service that Host names, or set refuseOtherHosts: false",
    ),
    "egress-denied": Flag(
        403,
        "not a mesh destination, enableEgress is false, and no Egress lets it out",
        "name it in an Egress; edgemesh explain SRC HOST:PORT says what the nearest one lacks",
    ),
    "cut": Flag(403, "a policy change forbade this while it ran", "a TrafficTarget has to admit it"),
    "own-port": Flag(403, "the connection was aimed at one of edgemesh's own ports", "dial the service's own port"),
    # upstream
    "no-port": Flag(
        503, "the service has no such port", "edgemesh routes lists the ports of each service", private=True
    ),
    "no-endpoint": Flag(
        503,
        "the service has no endpoint that could take this",
        "edgemesh routes lists the endpoints of each service",
        private=True,
    ),
    "all-weights-zero": Flag(503, "every backend of the Route has weight 0", "give a backend a weight", private=True),
    "no-route": Flag(
        404,
        "no rule of the service's route fits this request",
        "add a rule that fits it; edgemesh routes lists those of Services, not those of Gateways",
        private=True,
    ),
    "bad-route": Flag(
        500,
        "the rule of the service's route that fits this request cannot be followed",
        "the route's status says what it lacks, as edgemesh status does",
        private=True,
    ),
    "connect-failed": Flag(
        503,
        "no endpoint accepted the connection",
        "is the server listening on its workload address, not only on 127.0.0.1?",
        private=True,
    ),
    "connect-timeout": Flag(
        504, "the endpoint did not answer the connection in time", "is the endpoint's host up?", private=True
    ),
    "upstream-broken": Flag(
        502, "the server closed or broke the protocol before it answered", "see the server's own log", private=True
    ),
    "response-timeout": Flag(
        504, "the server did not answer in time", "raise limits.responseTimeout or look at the server", private=True
    ),
    "route-timeout": Flag(
        504,
        "the call took longer than the timeouts of the Route's rule allow",
        "raise the timeouts of the HTTPRoute, or look at the server",
        private=True,
    ),
    "filter-failed": Flag(
        500,
        "a filter of the Route's rule failed, took too long, or cannot act on this",
        "see the daemon's log; the request was not passed",
        private=True,
    ),
    "filtered": Flag(
        400,
        "a filter of the Route's rule responded in the place of the server, with a status of its own",
        "see the rule's filters",
        private=True,
    ),
    "rate-limited": Flag(
        429,
        "the server gets no more calls for now: a rate of its Service's UpstreamTrafficSetting is used up",
        "call less often, or raise rateLimit there",
        private=True,
    ),
    "overflow": Flag(
        503,
        "the caller has as many calls to the service under way as its UpstreamTrafficSetting allows",
        "call less at once, or raise connectionSettings there",
        private=True,
    ),
    "circuit-open": Flag(
        409,
        "too many calls of this caller to the service failed or were slow: for a while none is sent",
        "see what the server answers; connectionSettings.http.circuitBreaking of the UpstreamTrafficSetting says how many",
        private=True,
    ),
    # downstream
    "bad-request": Flag(
        400, "the request breaks RFC 9110 or 9112, or could mean two things", "the detail names the rule"
    ),
    "bad-path": Flag(
        400,
        "the path could be read in two ways",
        "send no encoded backslash or NUL and no hidden dot segment; where the server reads %2F as a part of a name,"
        " annotate it with edgemesh.io/encoded-slash: name",
    ),
    "path-too-long": Flag(414, "the path is longer than limits.pathBytes", "shorten the path or raise the limit"),
    "head-too-large": Flag(
        431, "the request head is larger than limits.headBytes or limits.headerCount", "send less, or raise the limit"
    ),
    "head-timeout": Flag(408, "the request head did not arrive in time", "send it faster, or raise limits.headTimeout"),
    "idle": Flag(408, "nothing moved for limits.idleTimeout", "send something, or raise the limit"),
    "too-many-connections": Flag(
        503, "the workload has limits.connections open already", "close some, or raise the limit", private=True
    ),
    "client-gone": Flag(499, "the caller left before it was answered", ""),
    # at a gateway, of clients outside the mesh
    "bad-proxy-header": Flag(
        400,
        "a trusted proxy did not begin the connection with a PROXY header",
        "have the proxy send one, or set gateway.proxyProtocol: false",
    ),
    "plain-to-tls": Flag(
        400, "plain text came to a TLS listener of a gateway", "write https:// in the place of http://"
    ),
    "no-server-certificate": Flag(
        503,
        "the gateway's listener has no certificate that can be used",
        "the listener's status says what it lacks, as edgemesh status does",
        private=True,
    ),
    "client-untrusted": Flag(
        403,
        "the gateway's listener asks clients for a certificate, and does not accept this one",
        "present a certificate that leads to the listener's CA, and that is valid now",
    ),
    # between nodes: the identity of the other end
    "plain-to-tunnel": Flag(
        400, "plain text came to the tunnel listener", "dial the workload's own port; tunnels are mTLS only"
    ),
    "tls-failed": Flag(
        502, "the TLS handshake failed", "both sides need TLS 1.3 and a certificate of the mesh", private=True
    ),
    "tls-no-alpn": Flag(502, "the peer does not offer h2 (ALPN)", "HBONE is HTTP/2 over TLS 1.3", private=True),
    "peer-untrusted": Flag(
        502,
        "the peer's certificate does not lead to a root of ours",
        "edgemesh certs shows our roots; was a root retired too early?",
        private=True,
    ),
    "peer-expired": Flag(
        502,
        "the peer's certificate is not valid now",
        "check both nodes' clocks, and edgemesh certs on the peer's node",
        private=True,
    ),
    "peer-no-identity": Flag(
        502,
        "the peer's certificate holds no SPIFFE identity of a workload",
        "certificates come from edgemesh ca",
        private=True,
    ),
    "peer-wrong-domain": Flag(
        502, "the peer is of another trust domain", "nodes of one mesh have one trust domain", private=True
    ),
    "peer-unexpected": Flag(
        502,
        "the peer has proved another identity than the one that was dialled",
        "does another workload have that address now?",
        private=True,
    ),
    "peer-revoked": Flag(
        403,
        "the peer's node or identity is revoked",
        "enrol what a Revocation names under a new identity or node name, or lift the Revocation",
        private=True,
    ),
    "no-certificate": Flag(
        503,
        "this node has no valid certificate for the workload",
        "edgemesh certs says why; edgemesh join enrols a node that is of no cluster",
        private=True,
    ),
    "not-a-gateway": Flag(
        403,
        "a peer passes on a call from outside the mesh, and is no node at which that Gateway has a listener",
        "edgemesh explain --from-outside says what the nodes make of it; docs/topics/gateways.md which node may",
        private=True,
    ),
    # between nodes: the request for a tunnel
    "not-connect": Flag(400, "the tunnel listener takes CONNECT only", "HBONE: CONNECT ADDRESS:PORT over HTTP/2"),
    "bad-authority": Flag(
        400,
        "the tunnel's authority is not an address and port of what was dialled",
        "CONNECT needs the dialled workload's address",
    ),
    "unknown-workload": Flag(
        503, "no workload of this node has that address", "do both nodes read the same manifests?"
    ),
    "peer-refused": Flag(
        503,
        "the other node refused the tunnel or request",
        "the other node says why: edgemesh explain --request, there, with the same id",
        private=True,
    ),
    "node-unreachable": Flag(
        503,
        "the other node cannot be reached",
        "is it on, and is there a link to it? edgemesh status shows since when, and what was tried",
        private=True,
    ),
    "peer-lost": Flag(
        503,
        "the connection to the other node broke or stopped answering",
        "is the link up? edgemesh status shows the nodes, and since when each is reached",
        private=True,
    ),
    "http2-abuse": Flag(
        429, "the peer broke HTTP/2 or exceeded our bounds on it", "the record names the rule", private=True
    ),
    # edgemesh itself
    "drained": Flag(503, "edgemesh is stopping", "the next start takes over"),
    "internal": Flag(500, "a fault of edgemesh itself", "please report it with the log line", private=True),
}


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """Refuse a connection or request. `flag` is a key of FLAGS; `detail` says what it refers to, for people and logs.

    `protected`: the workload that the refusal protects, if one had been chosen. `request_id`: the id of the refusal on
    another node, if that node refused. `trial`: the rule that would admit it, if it were in force.
    """

    def __init__(
        self, flag: str, detail: str = "", protected: Workload | None = None, request_id: str = "", trial: str = ""
    ) -> None:
        super().__init__(flag, detail)
        self.flag = flag
        self.detail = detail
        self.protected = protected
        self.request_id = request_id
        self.trial = trial

    @property
    def status(self) -> int:
        return FLAGS[self.flag].status

    def __str__(self) -> str:
        return f"{self.flag}: {FLAGS[self.flag].meaning}" + (f": {self.detail}" if self.detail else "")
