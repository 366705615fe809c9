"""Objects from a Kubernetes API server: this node's pods, and the policy, services and remote workloads of all.

cluster.py  the source: discovery, one reflector for each kind, and what they say as batches of Changes
shapes.py   what is kept of an object: the fields that policy reads
"""
