"""The admin API of one daemon: JSON over a Unix socket that only its owner can open.

api.py       VIEWS: every page, as a function of the daemon
listener.py  the socket in the file system, and the lock that says who is alive
client.py    the CLI's side
"""
