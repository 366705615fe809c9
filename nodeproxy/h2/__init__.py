"""HTTP/2 (RFC 9113) over any stream, in either role.

connection.py      one connection: its streams, its end, its drain
stream.py          one stream, as a half-closeable byte stream and as an HTTP message in each direction
transport.py       two tasks that move the bytes of a connection
machine.py         the state machine of the h2 library, with bounds on the peer
native_machine.py  the same state machine, compiled
limits.py          bounds and budgets of one connection
owner.py           bounds of one workload or peer over all of its connections
peer_limits.py     connections and streams of each peer, counted by its certificate
"""
