"""The kernel side: where workloads run, their rules, their sockets.

ground.py     the keeper: what is wanted becomes doors and rules; the sockets that the proxy asks for
units.py      workloads that are systemd units on the host
netns.py      network namespaces: find, enter, look
cgroup.py     our own cgroup, and those of units
nft.py        the symbolic ruleset (nodeproxy/ruleset.py) as nfnetlink messages, in one transaction
route.py      rules and routes for transparent sockets and for the range of service addresses
conntrack.py  the resolver that a redirected DNS question was sent to
powers.py     what capture cannot hold: processes with NET_RAW or NET_ADMIN, connections older than the capture
netlink.py    netlink messages
removal.py    `edgemesh cleanup`
"""
