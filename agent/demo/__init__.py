"""The bookstore, and chapters about traffic policies, in network namespaces: `edgemesh demo`.

The daemon never imports this package.

walk.py          the command
tour.py          the nine steps: each is applied, watched, tried with curl and judged
steps.py         the steps as data
judge.py         counters against expectations, pure
trials.py        the curl calls
documents.py     the manifests of the mesh, from manifests/*.yaml
table.py         what is shown
chapters.py      CHAPTERS: what traffic policies do, as data
story.py         tells one chapter: applies, calls, judges
stage.py         network, programs and daemons, brought up and taken down as one
town.py          the bookstore's stage
village.py       the stage of the chapters: a client, two servers, a host outside
web.py           their server
certificate.py   the certificate of their gateway
processes.py     the processes of the demo
mesh.py          the daemons; with two nodes, the authority and how the second node joins it
plan.py          names and addresses
network.py       namespaces, veths, bridge: the only user of pyroute2 here
surroundings.py  what the machine must have; re-execution under `unshare` without root
apps.py          APPS: the applications by name
application.py   the interface of an application
servers.py       how an application is served: its port, and a Unix socket for the demo's own questions
bookstore.py     bookstore
shoppers.py      bookbuyer, bookthief
warehouse.py     bookwarehouse
database.py      MariaDB, or a stand-in that also speaks first
"""
