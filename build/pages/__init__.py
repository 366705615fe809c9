"""The parts of the documentation that are made from the code, so that they say what it does.

build/reference writes them.

fields.py       a msgspec structure -> a table of its fields; a field's meaning is the comment in its source
kinds.py        docs/reference/kinds/: every kind of object that is read
schemas.py      docs/schemas/: a JSON schema for each kind, for editors
flags.py        docs/reference/flags.md: every refusal
metrics.py      docs/reference/metrics.md
admin.py        docs/reference/admin.md: every page of the admin socket
commands.py     docs/reference/commands.md and docs/edgemesh.1
records.py      docs/reference/access-log.md
annotations.py  docs/reference/annotations.md
crds.py         a definition (CRD) for each kind of edgemesh, OSM and SMI, for a Kubernetes cluster
addon.py        k3s-addon/: the one file for a cluster, and the Helm chart
"""

HEAD = "<!-- Made by `make reference` from the code: do not edit. -->\n\n"
