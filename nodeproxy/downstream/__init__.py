"""Listeners: who is calling, and which address was dialled.

listeners.py      the table of listeners: name, sockets, handler of a connection
accept.py         accept, serve and close: one task and one scope for each connection
proxied.py       who calls through a proxy that begins with a PROXY header
outbound.py       a workload of this node calls out
inbound.py        a workload of this node is called in plain text
gateway.py       anybody calls a listener of a Gateway
hbone.py          another node calls workloads of this one, through tunnels
accepted_peer.py  one connection of another node, and its streams
"""
