"""The authority, in one folder.

server.py      the TLS listener for nodes that join, renew and ask for roots
http.py        the HTTP routes behind it
local.py       the authority from inside its own process
authority.py   the decision: which node gets which certificate
rotation.py    how the root is changed, step by step and back
state.py       tokens, journal and issuers together
journal.py     what it has issued; which roots each node has fetched
tokens.py      the tokens that enrol a node, once
ca.py          roots, intermediates and what they sign; pure
rate_limit.py  how often a source may fail
"""
