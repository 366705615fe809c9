"""What each verb of the command line does. Only tables.py and terminal.py know rich; both are imported late.

daemon.py    run, cleanup, demo: what acts on this node
check.py     check: read a directory and say what is wrong with it
readers.py   status, routes, connections, explain: ask the daemon, show the answer
setup.py     setup, remove: installed as a service of this box; wait.py: what its units wait with
update.py    update: another release, from a signed bundle
ca.py        ca: the authority's folder, beside a running daemon; authority_shown.py is what it shows of it
tables.py    answers -> what is shown: tables where there is room, blocks where there is not
terminal.py  where it is shown: colour and width of a terminal, plain wide lines elsewhere
"""

# Exit codes.
OK = 0
NO = 1  # the answer is no, or something is wrong
USAGE = 2  # the command line makes no sense
UNREACHABLE = 3  # no daemon answered
