"""The bookstore in network namespaces: `edgemesh demo`. The daemon never imports this package.

walk.py          the command           tour.py     the nine steps, each applied, watched, tried with curl and judged
steps.py         the steps as data            judge.py    counters against expectations, pure     trials.py   the curls
documents.py     what is put before the mesh, from manifests/*.yaml                               table.py    what is shown
town.py          network + applications + daemons as one thing that comes and goes                processes.py
mesh.py          the daemons; with two nodes, the authority and how the second node joins it
plan.py          names and addresses   network.py  namespaces, veths, bridge: pyroute2's only door here
surroundings.py  what the box must have; re-execution under `unshare` without root
apps.py          the applications' frame and the bookstore     shoppers.py  bookbuyer, bookthief
warehouse.py     bookwarehouse                                 database.py  MariaDB, or a stand-in that speaks first too
"""
