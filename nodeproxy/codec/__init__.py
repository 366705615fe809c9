"""Bytes to values and back. Nothing here awaits, opens a socket, reads a clock or draws a random number.

message.py        heads, bodies, framing and the request target, for every version of HTTP
fields.py         which header fields act here, which end here, and which are forwarded
http1.py          HTTP/1.1 syntax (RFC 9112), strict inbound; the one file that uses h11
http2.py          HTTP/2 fields (RFC 9113 section 8): which are well formed, to messages and back
local_reply.py    the response that a caller gets when a request is refused
client_hello.py   the first message of a TLS client: server name, protocols, versions
trace_context.py  trace ids, read and written
hbone.py          tunnel requests and responses (HBONE) as HTTP/2 fields
proxy_protocol.py who calls, as a trusted proxy before this node says it (PROXY protocol)
entering.py       who calls from outside the mesh, as the node of a Gateway tells another node
forwarded.py      which x-forwarded fields of a caller outside the mesh are kept
detect.py         whether the first bytes of a connection begin a protocol
dns.py            DNS messages
dns_reply.py      what a resolver replied: which of its records may be kept, and a reply made from those
"""
