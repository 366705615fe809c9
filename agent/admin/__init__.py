"""The admin API of one daemon: JSON over a Unix socket that only its owner can open.

api.py       VIEWS and ACTIONS: every page and action, as a function of the daemon
daemon.py    the daemon as an interface: what it shows, and what it can do
status.py    the state of the daemon, as documents
explain.py   whether SRC may call DST, as a document; explain_entering.py: whether a caller from outside may
bearer.py    the token of the metrics page
listener.py  the socket in the file system, and the lock that says which daemon is alive
viewers.py   who may read through the API server of a cluster
client.py    the CLI's side
"""
