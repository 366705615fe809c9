"""Make it so, for bytes: doors -> hall -> rooms -> way out. ARCHITECTURE.md follows one connection through these files.

proxy.py      run, attach and detach a workload's doors, publish a snapshot, drain
context.py    Context: what every connection can reach; Conn: what we know of one; Route: where its bytes may go
listen.py     accept, own, close: one task and one scope for each connection; the only place that catches
outbound.py   door: a local workload calls out
inbound.py    door: someone calls a local workload in plain
serve.py      the hall: the protocol, declared or detected (detect.py), chooses the room
tcp.py        room: opaque bytes (relay.py copies both ways with half-close)
http/         room: HTTP/1.1
lane.py       the native lane (native/, in C): it replays what the room for HTTP has decided
dns/          the resolver of captured workloads
upstream/     the way out: route, live, connect
stream.py     a stream that can look before it reads
capture.py    our contract with the kernel: ports, marks, ruleset, original destination
limits.py     bounds on what one caller can take
errors.py     every way we say no: flag, status, meaning, hint
telemetry/    one record for each connection and request
"""
