"""The running node.

start.py            one process that is a daemon: settings, predecessor, admin socket, Node
node.py             assembly of the daemon in one nursery; what gets a new snapshot
listeners.py        LISTENERS: the admin socket, and where the daemon serves HTTP over TCP
cluster_door.py     pages for those who come through a cluster's API server
tcp_port.py         a port that may be in use
retention.py        what stays captured or in force though no manifest names it
gauges.py           gauges, computed at each scrape
problem_log.py      each problem in the log, once
leader.py           leadership: which daemon may act for the node
handover.py         how listening sockets and state pass to a successor
update.py           hands over to another release, or changes nothing
boot_gate.py        keeps what the container runtime starts at boot
enrolled.py         whether a pod that begins is of the mesh, before its own object was read
readiness.py        starting, degraded or enforcing, and why
takeover_checks.py  the successor's own checks before it may act
self_test.py        a call through this process's own data plane
"""
