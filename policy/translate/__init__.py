"""What the objects of each dialect mean: each file has checks and `translate`, which writes into the Draft.

policy/registry.py names them.

osm.py           MeshConfig, and the labels and annotations of OSM
mtls.py          annotation edgemesh.io/mtls
containers.py    ports and probes of a pod's containers
workloads.py     Pod, Workload: which workloads run, and where
mesh_nodes.py    MeshNode: the workloads of other nodes, and how those are reached
services.py      Service: what is called
endpoints.py     EndpointSlice: which endpoints serve a Service
tunnel_doors.py  how workloads are reached from other nodes
smi.py           TrafficTarget to grants
dry_run.py       annotation edgemesh.io/dry-run of a TrafficTarget
splits.py        TrafficSplit to routes
gateway.py       HTTPRoute and GRPCRoute to routes
gateway_checks.py   what makes one of them unusable
gateway_parents.py  the Services that they are for
gateways.py      Gateway and ListenerSet to listeners, with the routes attached to them
gateway_listeners.py   the listeners that are asked for, and what keeps one from being served
gateway_attachment.py  which listeners take which routes
stream_routes.py TLSRoute and TCPRoute to rules for connections
gateway_references.py  who may refer to what across namespaces
http_filters.py  HTTPFilter: what a rule that names one does
ingresses.py     Ingress to listeners
http_matches.py  the matches of an HTTPRoute
grpc_matches.py  those of a GRPCRoute
upstream.py      UpstreamTrafficSetting: what bounds the calls to a Service
load_balancing.py  LoadBalancing: how the calls to a Service are spread over its endpoints
durations.py     durations as Go writes them
retries.py       Retry, and `retry` of HTTPRoutes
access.py        AccessControl to plain grants
ingress.py       IngressBackend to plain grants and grants
egress.py        Egress to what sources may call outside the mesh
access_certs.py  AccessCert: names that a client outside the mesh may have; translated into nothing
revocation.py    Revocation
plugins.py       Plugin, PluginChain, PluginConfig: what does their job here
isolation.py     Isolation: addresses that are cut off
"""
