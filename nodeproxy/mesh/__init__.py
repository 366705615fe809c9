"""Connections to other nodes, shared by the streams of one identity.

pool.py          connections by identity and node: dialled when needed, kept while they are alive
host_pool.py     the connections of one identity to one node, with back-off after failures
connection.py    one connection, as the protocols see it
handshake.py     TLS by the fast path or by Python
reachability.py  whether each node could be reached at the last attempt
"""
