"""What is in force and was probably not meant. A build refuses what cannot be used; these files examine the rest.

findings.py    LINTS: every file below, and policy/unheeded.py; run together
subjects.py    identities that no workload has
selectors.py   Services without a server, or with ports that almost declare a protocol
matches.py     methods and patterns that fit nothing, or more than they seem to
references.py  Gateways, classes and Services that nobody has, where routes and filters name them
entrances.py   routes of Gateways to servers that let nobody in who comes that way
placement.py   Workloads that no node captures, or that share what cannot be shared
marks.py       labels and annotations where nothing reads them
names.py       invalid names, and omitted namespaces
raw.py         parts of objects that were not decoded
"""
