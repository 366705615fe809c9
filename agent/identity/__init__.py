"""Certificates: a workload proves its identity with a key that never leaves its node.

membership.py  this node's part in the mesh: its certificates, and the authority when it is here
signers.py     the table of signers: where this node gets its certificates signed
authority/     the authority: what it has issued, and which requests it signs
node/          a node: its certificates, renewed in time
kubernetes/    both of them in a Kubernetes cluster
folder.py      the authority's folder: its lock, and whole-file writes
csr.py         a node's side of certificates: keys, requests, the check of what came back; pure
lineage.py     which of its own certificates a node has left behind; pure
protocol.py    the documents that a node and its authority exchange
"""
