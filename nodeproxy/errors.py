"""Every way we say no or fail: one table of flag, HTTP status, what it means and what to do about it.

Code raises `Refused(flag, detail)`; the one place that catches (listen.py for a connection, http/exchange.py for a request)
turns it into an answer and a record. The flag is what logs, metrics and `x-edgemesh-reason` say, so flags never change meaning.
"""

from __future__ import annotations

from msgspec import Struct

from policy.model import Workload


class Flag(Struct, frozen=True):
    status: int  # what an HTTP caller is answered
    meaning: str
    hint: str


FLAGS: dict[str, Flag] = {
    # policy
    "denied": Flag(403, "no rule admits this", "edgemesh explain SRC DST says which rule is nearest"),
    "no-identity": Flag(403, "the caller proved no identity", "call from a workload of the mesh"),
    "misdirected": Flag(421, "Host names another service than the one that was dialled", "dial the service that Host names"),
    "egress-denied": Flag(403, "not a mesh destination, and enableEgress is false", "set traffic.enableEgress in MeshConfig"),
    "cut": Flag(403, "a policy change forbade this while it ran", "edgemesh explain SRC DST says why"),
    "own-port": Flag(403, "the connection was aimed at one of edgemesh's own ports", "dial the service's own port"),
    # the way out
    "no-port": Flag(503, "the service has no such port", "edgemesh routes lists the ports of each service"),
    "no-endpoint": Flag(503, "the service has no endpoint that could take this", "edgemesh routes lists the endpoints of each service"),
    "all-weights-zero": Flag(503, "every backend of the TrafficSplit has weight 0", "give a backend a weight"),
    "connect-failed": Flag(
        503, "no endpoint accepted the connection", "is the server listening on its workload address, not only on 127.0.0.1?"
    ),
    "connect-timeout": Flag(504, "the endpoint did not answer the connection in time", "is the endpoint's host up?"),
    "upstream-broken": Flag(502, "the server closed or broke the protocol before it answered", "see the server's own log"),
    "response-timeout": Flag(504, "the server did not answer in time", "raise limits.responseTimeout or look at the server"),
    # the caller
    "bad-request": Flag(400, "the request breaks RFC 9110 or 9112, or could mean two things", "the detail names the rule"),
    "bad-path": Flag(400, "the path could be read in two ways", "send no encoded slash, backslash or NUL, and no encoded dot segment"),
    "path-too-long": Flag(414, "the path is longer than limits.pathBytes", "shorten the path or raise the limit"),
    "head-too-large": Flag(431, "the request head is larger than limits.headBytes or limits.headerCount", "send less, or raise the limit"),
    "head-timeout": Flag(408, "the request head did not arrive in time", "send it faster, or raise limits.headTimeout"),
    "idle": Flag(408, "nothing moved for limits.idleTimeout", "send something, or raise the limit"),
    "too-many-connections": Flag(503, "the workload has limits.connections open already", "close some, or raise the limit"),
    "client-gone": Flag(499, "the caller left before it was answered", ""),
    # between nodes: who the other end is
    "plain-to-tunnel": Flag(400, "plain text came to the tunnel door", "dial the workload's own port; tunnels are mTLS only"),
    "tls-failed": Flag(502, "the TLS handshake failed", "the detail says at what; both sides need TLS 1.3 and a certificate of the mesh"),
    "tls-no-alpn": Flag(502, "the peer does not offer h2 (ALPN)", "HBONE is HTTP/2 over TLS 1.3"),
    "peer-untrusted": Flag(
        502, "the peer's certificate does not lead to a root of ours", "edgemesh certs shows our roots; was a root retired too early?"
    ),
    "peer-expired": Flag(502, "the peer's certificate is not valid now", "check both nodes' clocks, and edgemesh certs on the peer's node"),
    "peer-no-identity": Flag(502, "the peer's certificate holds no SPIFFE identity of a workload", "certificates come from edgemesh ca"),
    "peer-wrong-domain": Flag(502, "the peer is of another trust domain", "nodes of one mesh have one trust domain"),
    "peer-unexpected": Flag(502, "the peer proved to be somebody else than was dialled", "does another workload have that address now?"),
    "peer-revoked": Flag(
        403,
        "the peer's node or identity is revoked",
        "whoever is named by a Revocation enrols anew, under a new identity or node name, or the Revocation is removed",
    ),
    "no-certificate": Flag(
        503, "this node has no valid certificate for the workload", "edgemesh certs says why; edgemesh join enrols a node"
    ),
    # between nodes: what is asked of a tunnel
    "not-connect": Flag(400, "the tunnel door takes CONNECT only", "HBONE: CONNECT ADDRESS:PORT over HTTP/2"),
    "bad-authority": Flag(
        400, "the tunnel's authority is not an address and port of what was dialled", "CONNECT needs the dialled workload's address"
    ),
    "unknown-workload": Flag(503, "no workload of this node has that address", "do both nodes read the same manifests?"),
    "peer-refused": Flag(503, "the other node refused the tunnel or request", "edgemesh explain --request ID, on the other node, says why"),
    "peer-lost": Flag(
        503, "the connection to the other node broke or stopped answering", "is the link up? edgemesh status shows its peers"
    ),
    "http2-abuse": Flag(429, "the peer broke HTTP/2 or exceeded our bounds on it", "the detail names the rule"),
    # ourselves
    "drained": Flag(503, "edgemesh is stopping", "the next start takes over"),
    "internal": Flag(500, "a fault of edgemesh itself", "please report it with the log line"),
}


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """We will not do this. `flag` is a key of FLAGS; `detail` names what it was about, for people and logs.

    `protected`: the workload that the refusal kept this from, when one had been chosen. `request_id`: under which another node
    knows it, when that node refused.
    """

    def __init__(self, flag: str, detail: str = "", protected: Workload | None = None, request_id: str = "") -> None:
        super().__init__(flag, detail)
        self.flag = flag
        self.detail = detail
        self.protected = protected
        self.request_id = request_id

    @property
    def status(self) -> int:
        return FLAGS[self.flag].status

    def __str__(self) -> str:
        return f"{self.flag}: {FLAGS[self.flag].meaning}" + (f": {self.detail}" if self.detail else "")
