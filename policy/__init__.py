"""What should happen: pure, no I/O, no clock, no trio. Objects go in, one frozen Snapshot comes out, and the Snapshot decides.

model.py       the nouns: Identity, Workload, Service, Endpoint, Grant, Split, Problem, Request, Verdict
resources.py   KINDS: every kind that we read, its API group and versions, its shape; decode
build.py       objects -> (Snapshot, Problems): decode, check, fall back to what was last good, translate
translate/     TRANSLATORS: osm, mtls, core (Kubernetes, Workload), reach, smi, access, revocation
draft.py       the mutable half of a snapshot; translators write, freeze() ends it
snapshot.py    all that one node needs to decide, frozen, with its lookups
authz.py       may this identity do this to that workload, and which rule says so
match.py       does this request fit; the one door to RE2
automaton.py   path patterns as one table, for the native lane
explain.py     the same answer in words; way.py: how the call gets there, and which node refuses
addresses.py   addresses for Services that the cluster gave none
networks.py    which rule names the network that an address lies in
"""
