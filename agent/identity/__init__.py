"""Certificates: who a workload is, proved by a key that never leaves its node.

protocol.py      what a node and its authority say to each other
csr.py           a node's side of certificates: keys, requests, the check of what came back; pure
ca.py            the authority's side: roots, intermediates and what they sign; pure

The authority, in one folder:
folder.py        its lock, and files that are whole at every moment
ledger.py        what it has issued; which roots each node has fetched
tokens.py        what enrols a node, once
holdings.py      all of that together, and the issuers
rotation.py      how its root is changed, step by step and back
attempts.py      how often somebody may try and fail
authority.py     who gets which certificate
near.py          the authority from inside its own process
door.py          TLS for nodes that join, renew and ask for roots
conversation.py  HTTP behind that door

A node:
keeper.py        a fresh certificate for the node and for every identity that runs on it
standing.py      where one certificate stands, and when it is asked for again; pure
renewal.py       one identity's certificate: what is held, how it is asked for
roots.py         the authority's bundle, as the data plane wants it
clock.py         what time it is, as well as a node can know
vault.py         all of that on the disk
client.py        the authority from afar, and how a node joins
concerns.py      what people should know of it
"""
