"""What one server node does for the whole Kubernetes cluster, while it holds the lease.

leader.py        the lease, and what its holder runs
mesh_nodes.py    what a MeshNode says of a node, from Pods, Nodes and Namespaces; pure
verdicts.py      says on policy objects whether they are in force
gateway_status.py  what a GatewayClass, Gateway or ListenerSet says; pure
route_status.py  what an HTTPRoute or GRPCRoute says to each of its parents; pure
writer.py        writes MeshNodes when they change
"""
