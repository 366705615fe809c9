"""The kernel side: where workloads run, their rules, their sockets.

ground.py     the keeper: what is wanted becomes doors and rules; the sockets that the proxy asks for
finder.py     namespaces by address, for pods
place.py      one captured network namespace
units.py      workloads that are systemd units on the host, all in one table
table.py      our table in one namespace: owned, or watched and repaired
nft.py        the symbolic ruleset (nodeproxy/ruleset.py) as nfnetlink messages, in one transaction
route.py      rules and routes for transparent sockets and for the range of service addresses, kept
sockets.py    doors to listen on, and the sockets that dial
netns.py      network namespaces: find, enter, look
cgroup.py     our own cgroup, and those of units
conntrack.py  the resolver that a redirected DNS question was sent to
powers.py     what capture cannot hold: processes with NET_RAW or NET_ADMIN, connections older than the capture
condition.py  how the capture of one workload stands, for `status`
netlink.py    netlink messages
removal.py    `edgemesh cleanup`
"""
