"""The shapes of the kinds that edgemesh reads, a file for each project that defined them.

base.py        what all kinds share: Metadata, Strict, Lax, names and ports
smi.py         HTTPRouteGroup, TCPRoute, UDPRoute, TrafficTarget, TrafficSplit
osm.py         MeshConfig, MeshRootCertificate; Retry, AccessControl, IngressBackend and AccessCert, which fsm has too
fsm.py         Plugin, PluginChain, PluginConfig, of which nothing is done
edgemesh.py    Workload, HTTPFilter, LoadBalancing, Revocation, Isolation, MeshNode
gateway.py     HTTPRoute, GRPCRoute
gateway_streams.py  TLSRoute, TCPRoute of the Gateway API
ingress.py     Ingress, IngressClass
gateways.py    GatewayClass, Gateway, ListenerSet, ReferenceGrant
kubernetes.py  what edgemesh reads of Pod, Service, EndpointSlice, Deployment
"""
