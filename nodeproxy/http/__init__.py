"""The HTTP/1.1 room, from bytes to one request end to end.

exchange.py   one request end to end, and the next one on the same connection: the only file with deadlines and the only one that catches
caller.py     the caller's side: request heads come in one after the other
reach.py      the decision, and the server connection that it leads to (another endpoint when one does not answer)
pool.py       server connections that rest, by caller and endpoint
answers.py    what a caller is told when we say no
phase.py      what a connection waits for, and until when
wire.py       reads and writes of a plain socket, the short way

sans-IO, nothing below awaits:
message.py    the vocabulary: heads, framing, the request target (what is decided on is what is sent on)
fields.py     which header fields act here, which end here, which travel on
h1.py         HTTP/1.1 syntax, strict inbound; the one door to h11
"""
