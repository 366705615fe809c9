"""The policy. Objects go in; one frozen Snapshot comes out and makes every decision. Pure: no I/O, no clock, no trio.

route.py         the route model: Route, Rule, HttpMatch, Filter, Backend; every dialect is translated into it
upstream.py      what bounds the calls to a Service: rates, connections, a circuit breaker
balancing.py     how the calls to a Service are spread over its endpoints
model.py         the nouns: Identity, Workload, Service, Endpoint, Grant, Problem, Request, Verdict
kinds/           the shape of every kind that is read: base, smi, osm, gateway, edgemesh, kubernetes
protocols.py     PROTOCOLS: a row for every protocol that a Service port can declare
faults.py        every fault of data that does not have its shape, with path and hint
resources.py     RawObject and Resource: an object as its source delivered it, and the decoded object
draft.py         the mutable half of a snapshot: translators write it, freeze() ends it
enrolment.py     who is in the mesh, by labels and annotations
translate/       what objects mean: osm, mtls, workloads, services, tunnel_doors, smi, gateway, access, revocation
registry.py      KINDS: a row for every kind that is read: group, versions, shape, check, translators
unknown.py       a kind that is not read: a typing error, or another program's; near.py: which word was probably meant
decode.py        plain data -> Resource, Problem, or a kind that is not read
salvage.py       the readable part of a Revocation that cannot be decoded
lasting.py       objects that are gone but stay in force, because their absence would open something
collect.py       which version of each object is current: the given one, or the last good one
settle.py        which objects are in force: those that pass the check of their kind
build.py         objects -> (Snapshot, Problems): collect, keep what lasts, settle, translate
lint/            what is in force and was probably not meant; unheeded.py: what is requested and not done here
mesh_fields.py   what becomes of each field of OSM's MeshConfig
inventory.py     which workloads and Services exist, at which addresses and under which names
snapshot.py      the inventory and every decision of one node, frozen
authz.py         may this identity do this to that workload, and which rule says so
egress.py        may this identity call that outside the mesh
candidates.py    which backends and endpoints may take a call: for both paths and for explain
revocations.py   which nodes, identities and certificates are refused, whatever the grants say
zone.py          what DNS says of names and addresses of the cluster
service_names.py which Service a Host field or a DNS name means
gateway.py       the listeners of Gateways, and which virtual hosts take a call at one of them
fields.py        fields of HTTP messages that a rule may change
match.py         does this request fit; the only file that imports RE2
automaton.py     path patterns as one table, for the fast path
explain_outside.py  what leaves the mesh, in words; explain_entering.py: what comes in from outside
explain.py       the same verdict in words; lacking.py: what the nearest rule lacks
reachability.py  how a call reaches its destination, and which node refuses it on the way
addresses.py     how addresses are written; addresses for Services that the cluster gave none
doors.py         who comes in from outside the mesh: by address, Gateway or certificate
entering.py      what is believed of another node that passes on a call from outside the mesh
networks.py      which rule names the network that an address lies in
"""
