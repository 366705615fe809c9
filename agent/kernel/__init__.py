"""The kernel side of the agent: captured namespaces and units, nftables rules, routes and sockets.

capture.py      makes listeners and rules for what should be captured, and the sockets that the proxy asks for
rounds.py       when that is looked at
beginnings.py   pods that begin, while the container runtime waits
places.py       the states of captured namespaces, and the table of what becomes of each
context.py      what the captures of all workloads share
namespace.py    one captured network namespace
host.py         workloads that are systemd units on the host, all in one table
pod_netns.py    finds a pod's namespace: by the runtime's record, else by its addresses
sandboxes.py    what the container runtime wrote of this node's pods: which namespace is whose
sandbox.py      one pod sandbox, as it was recorded
cni.py          what libcni caches of each pod: namespace, addresses, names
sandbox_files.py what containerd, CRI-O and docker keep of each sandbox in files
pods.py         which pods may speak: those captured, and those outside the mesh
gate.py         the node's table by which all other pods are mute
links.py        which interfaces of a namespace lead to the node's own
remembered.py   places that were captured, and that stay closed when no manifest names them any more
condition.py    the state of one workload's capture, for `status`
node_prober.py  the node's own prober (a kubelet's health checks), recognised by its socket
ruleset.py      the symbolic nftables rulesets
table.py        our table in one namespace: owned, or watched and repaired
nft.py          encodes the symbolic ruleset as nfnetlink messages of one transaction
routing.py      rules and routes for transparent sockets and for the range of service addresses
sockets.py      listening sockets, and sockets that dial
netns.py        network namespaces: find, enter, inspect
conntrack.py    looks up the resolver that a redirected DNS question was sent to
capabilities.py what capture cannot enforce: processes with NET_RAW or NET_ADMIN, connections older than the capture
netlink.py      netlink messages
cleanup.py      `edgemesh cleanup`
"""
