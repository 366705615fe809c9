"""TLS: between nodes a handshake proves the peer's identity; to clients outside, a gateway proves its name.

handshake.py        the handshake, in either role, and the identity that the peer proved
contexts.py         TLS contexts, one for each identity and role
stream.py           the encrypted stream
gateway.py          TLS with clients outside the mesh: contexts by certificate, what a client proves
certificates.py     what a gateway presents, and to whom: plain values
spiffe.py           which identity a verified chain of certificates proves, and whether it is valid now
credentials.py      what an identity presents and which roots are trusted: plain values
unauthenticated.py  connections that have proved nothing yet: bounded by source and in total
"""
