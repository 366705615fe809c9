"""The protocols on a connection.

serve.py            which protocol a connection has (declared or detected); then the function that serves it
table.py            the table of protocols: how each begins, and the function that serves it
tcp.py              opaque bytes: one decision for the connection
tls_passthrough.py  TLS that is not terminated here: the server name is recorded
lifetime.py         the life of one connection or stream: listed, its end named by one flag, recorded once
relay.py            bytes both ways between two streams, with half-close
http/               HTTP/1.1 and HTTP/2: a decision for each request
"""
