"""Where a call may go.

route.py   which endpoint a call gets, and whether policy admits it, by the newest snapshot
gateway.py  where a call goes that comes in by a listener of a Gateway
outside.py whether a call may leave the mesh, and what has to be known of it first
source.py  the caller as servers see it: determined once for a connection
dial.py    from an endpoint to a connected stream, or to another endpoint if it does not answer
"""
