"""The data plane: it accepts captured connections, applies policy to them and forwards their bytes.

ARCHITECTURE.md follows one connection. Each folder imports only what stands below it in this list (`make check`
verifies that):
proxy.py        start, attach and detach a workload's listeners, publish a snapshot, drain
fastpath/       the compiled fast path: which connections and requests it carries, and what it reports
downstream/     listeners: who is calling, which address was dialled
protocols/      the protocols on a connection, and one request or byte stream end to end
mesh/           connections to other nodes: HTTP/2 over mutual TLS, pooled
routing/        which endpoint a call may go to, and how it is dialled
dns/            the resolver of captured workloads
context.py      Context: what every connection can reach; Conn: one connection
interfaces.py   Route: where a connection's bytes may go; the interfaces of pluggable parts (PeerPool, FastPath)
upstream/       endpoints: load, failures, turns; pools of idle and shared connections
h2/             HTTP/2 connections and streams
tls/            TLS between nodes: credentials, handshake, SPIFFE IDs
codec/          bytes to values and back, without I/O
telemetry/      one record for each connection and request
stream.py       streams of bytes: look before reading, a fast path to the kernel, how to end one
capture.py      the contract with the kernel: ports, marks, original destination
housekeeping.py tasks whose failure must not end the daemon
ties.py         which addresses DNS gave a workload for which names
limits.py       bounds on the resources of one caller
token_bucket.py a rate with a burst
keys.py         keys of filters, from files of this node
user_filters.py  filters that the node's administrator wrote in Python
backoff.py      how long to wait before the next attempt
errors.py       every refusal: flag, status, meaning, hint
native/         the fast path in C
"""
