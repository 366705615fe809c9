"""KINDS: every kind that edgemesh reads, one row each: group, versions, shape, check, and translators.

To add a kind, put its shape into kinds/, its check and translation into translate/, and a row here. To add a dialect,
add a file to each of the two folders and a row for each of its kinds. Kinds of a dialect that are known but not read
are rows of unknown.py. A row has the name of its kind; of a kind whose name an older row has in another group, the name
is "KIND.GROUP", as kubectl writes it.

A row stands below the kinds that its check refers to, and below those whose translation its own needs: checks and
translators run in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds import edgemesh as own
from policy.kinds import fsm, gateway, gateway_streams, gateways, osm, smi
from policy.kinds import ingress as k8s_ingress
from policy.kinds import kubernetes as k8s
from policy.resources import Resource
from policy.translate import (
    access,
    access_certs,
    egress,
    gateway_checks,
    gateway_parents,
    http_filters,
    ingress,
    ingresses,
    isolation,
    load_balancing,
    mesh_nodes,
    mtls,
    plugins,
    retries,
    revocation,
    services,
    splits,
    stream_routes,
    tunnel_doors,
    upstream,
    workloads,
)
from policy.translate import gateway as to_routes
from policy.translate import gateways as to_listeners
from policy.translate import osm as to_mesh
from policy.translate import smi as to_grants

Check = Callable[[Resource[Any], Input], Iterable[Fault]]
References = Callable[[Resource[Any]], Mapping[str, str]]
Translator = Callable[[Input, Draft], None]


class Kind(Struct, frozen=True):
    """What edgemesh knows of one kind. `spec` and `status` are its shapes; msgspec checks them while decoding."""

    group: str  # "" is Kubernetes' core group
    versions: tuple[str, ...]
    spec: type[Struct]
    namespaced: bool = True
    whole: bool = False  # the fields stand at the top of the object, not under spec
    status: type[Struct] | None = None
    strict: bool = True  # a field beside metadata, spec and status is a fault
    also: tuple[str, ...] = ()  # groups of later projects that have the kind too, with the same versions
    # Find the faults of an object beyond its shape. The check sees all objects in force, so that it can look at the
    # objects that this one names.
    check: Check | None = None
    # Paths of faults that leave an object in force if there is no last good version: its translator ignores that part.
    # Otherwise a Workload that names a wrong template would not be in force, would be released from capture, and so be
    # open.
    stays_in_force: frozenset[str] = frozenset()
    references: References | None = None  # path of each reference to another object -> key of that object
    # Run in this order; a translator in several rows runs once, at the first of them
    translate: tuple[Translator, ...] = ()


KINDS: dict[str, Kind] = {
    "MeshConfig": Kind(
        "config.openservicemesh.io",
        ("v1alpha1", "v1alpha2"),
        osm.MeshConfig,
        check=to_mesh.check_mesh_config,
        stays_in_force=frozenset((mtls.PATH,)),
        translate=(to_mesh.translate,),
    ),
    "Namespace": Kind(
        "",
        ("v1",),
        k8s.Nothing,
        namespaced=False,
        strict=False,
        check=mtls.check,
        stays_in_force=frozenset((mtls.PATH,)),
        translate=(mtls.translate,),
    ),
    "ServiceAccount": Kind("", ("v1",), k8s.Nothing, whole=True, strict=False),
    "Deployment": Kind("apps", ("v1",), k8s.Deployment, strict=False),
    "Node": Kind("", ("v1",), k8s.Nothing, namespaced=False, strict=False),
    "EndpointSlice": Kind("discovery.k8s.io", ("v1beta1", "v1"), k8s.EndpointSlice, whole=True, strict=False),
    "MeshNode": Kind(
        "edgemesh.io",
        ("v1alpha1",),
        own.MeshNode,
        namespaced=False,
        translate=(mesh_nodes.translate, services.translate),
    ),
    "Pod": Kind("", ("v1",), k8s.PodSpec, status=k8s.PodStatus, strict=False, translate=(services.translate,)),
    "Service": Kind("", ("v1",), k8s.ServiceSpec, strict=False, translate=(services.translate,)),
    "Workload": Kind(
        "edgemesh.io",
        ("v1alpha1",),
        own.WorkloadSpec,
        check=tunnel_doors.check_workload,
        stays_in_force=frozenset((workloads.TEMPLATE, tunnel_doors.PATH)),
        translate=(services.translate, tunnel_doors.translate),
    ),
    "HTTPRouteGroup": Kind(
        "specs.smi-spec.io",
        ("v1alpha3", "v1alpha4"),
        smi.HTTPRouteGroup,
        check=to_grants.check_route_group,
        translate=(to_grants.translate,),
    ),
    "TCPRoute": Kind("specs.smi-spec.io", ("v1alpha3", "v1alpha4"), smi.PortRoute),
    "UDPRoute": Kind("specs.smi-spec.io", ("v1alpha3", "v1alpha4"), smi.PortRoute),
    "TrafficTarget": Kind(
        "access.smi-spec.io",
        ("v1alpha2", "v1alpha3"),
        smi.TrafficTarget,
        check=to_grants.check_target,
        references=to_grants.routes_of,
        translate=(to_grants.translate,),
    ),
    "TrafficSplit": Kind(
        "split.smi-spec.io",
        ("v1alpha2", "v1alpha3", "v1alpha4"),
        smi.TrafficSplit,
        check=splits.check_split,
        references=splits.groups_of,
        translate=(splits.translate,),
    ),
    "ReferenceGrant": Kind(gateway_parents.GROUP, ("v1beta1", "v1"), gateways.ReferenceGrant),
    "GatewayClass": Kind(gateway_parents.GROUP, ("v1",), gateways.GatewayClass, namespaced=False),
    "Gateway": Kind(gateway_parents.GROUP, ("v1",), gateways.Gateway, status=gateways.GatewayStatus),
    "ListenerSet": Kind(gateway_parents.GROUP, ("v1",), gateways.ListenerSet),
    "HTTPFilter": Kind("edgemesh.io", ("v1alpha1",), own.HTTPFilter, check=http_filters.check),
    "HTTPRoute": Kind(
        gateway_parents.GROUP,
        ("v1beta1", "v1"),
        gateway.HTTPRoute,
        check=gateway_checks.check,
        translate=(to_routes.translate,),
    ),
    "GRPCRoute": Kind(
        gateway_parents.GROUP,
        ("v1",),
        gateway.GRPCRoute,
        check=gateway_checks.check,
        translate=(to_routes.translate,),
    ),
    "TLSRoute": Kind(
        gateway_parents.GROUP,
        ("v1alpha2", "v1alpha3", "v1"),
        gateway_streams.TLSRoute,
        check=stream_routes.check,
        translate=(stream_routes.translate,),
    ),
    "TCPRoute.gateway.networking.k8s.io": Kind(
        gateway_parents.GROUP,
        ("v1alpha2", "v1"),
        gateway_streams.TCPRoute,
        check=stream_routes.check,
        translate=(stream_routes.translate, to_listeners.translate),
    ),
    "Retry": Kind(
        "policy.openservicemesh.io",
        ("v1alpha1",),
        osm.Retry,
        also=("policy.flomesh.io",),
        check=retries.check,
        translate=(retries.translate,),
    ),
    "IngressClass": Kind("networking.k8s.io", ("v1",), k8s_ingress.IngressClass, namespaced=False),
    "Ingress": Kind(
        "networking.k8s.io",
        ("v1",),
        k8s_ingress.Ingress,
        check=ingresses.check,
        translate=(ingresses.translate,),
    ),
    "MeshRootCertificate": Kind("config.openservicemesh.io", ("v1alpha2",), osm.MeshRootCertificate),
    "AccessControl": Kind(
        "policy.openservicemesh.io",
        ("v1alpha1",),
        osm.AccessControl,
        also=("policy.flomesh.io",),
        check=access.check,
        translate=(access.translate,),
    ),
    "AccessCert": Kind("policy.openservicemesh.io", ("v1alpha1",), osm.AccessCert, check=access_certs.check),
    "IngressBackend": Kind(
        "policy.openservicemesh.io",
        ("v1alpha1",),
        osm.IngressBackend,
        also=("policy.flomesh.io",),
        check=ingress.check,
        references=ingress.groups_of,
        translate=(ingress.translate,),
    ),
    "Egress": Kind(
        "policy.openservicemesh.io",
        ("v1alpha1",),
        osm.Egress,
        also=("policy.flomesh.io",),
        check=egress.check,
        references=egress.groups_of,
        translate=(egress.translate,),
    ),
    "UpstreamTrafficSetting": Kind(
        "policy.openservicemesh.io",
        ("v1alpha1",),
        osm.UpstreamTrafficSetting,
        also=("policy.flomesh.io",),
        check=upstream.check,
        translate=(upstream.translate,),
    ),
    "LoadBalancing": Kind(
        "edgemesh.io",
        ("v1alpha1",),
        own.LoadBalancing,
        check=load_balancing.check,
        translate=(load_balancing.translate,),
    ),
    "Plugin": Kind("plugin.flomesh.io", ("v1alpha1",), fsm.Plugin, namespaced=False, translate=(plugins.translate,)),
    "PluginChain": Kind("plugin.flomesh.io", ("v1alpha1",), fsm.PluginChain, translate=(plugins.translate,)),
    "PluginConfig": Kind("plugin.flomesh.io", ("v1alpha1",), fsm.PluginConfig, translate=(plugins.translate,)),
    "Isolation": Kind(
        "edgemesh.io",
        ("v1alpha1",),
        own.Isolation,
        namespaced=False,
        also=("policy.flomesh.io",),
        check=isolation.check,
        translate=(isolation.translate,),
    ),
    "Revocation": Kind(
        "edgemesh.io", ("v1alpha1",), own.Revocation, namespaced=False, translate=(revocation.translate,)
    ),
}


def row_name(group: str, kind: str) -> str:
    """Return the name of the row that would be for a kind of a group: that of KINDS, if it has one."""
    full = f"{kind}.{group}"
    return full if full in KINDS else kind


ELSEWHERE = frozenset(("edgemesh.io/NodeConfig",))  # read by agent/: policy has nothing to say about it
TRANSLATORS: tuple[Translator, ...] = tuple(
    dict.fromkeys(translate for kind in KINDS.values() for translate in kind.translate)
)
