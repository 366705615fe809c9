"""Shapes of the Gateway API's kinds that say where callers come in: GatewayClass, Gateway, ListenerSet, ReferenceGrant."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from policy.kinds.base import Lax, Name, Port, Strict

# Gateway API gateway.networking.k8s.io

_FEW = Meta(max_length=16)  # items of most lists, as the Gateway API's own definition has it
_MANY = Meta(max_length=64)
_Host = Annotated[str, Meta(max_length=253)]


class GatewayClass(Strict, frozen=True):
    """A class of Gateways and who serves it: edgemesh, if controllerName is edgemesh.io/gateway-controller."""

    controller_name: Name  # edgemesh.io/gateway-controller; a class of another controller is left alone
    description: str | None = None  # for people
    parameters_ref: Any = None  # none is read: a class that has one is not accepted


class Requirement(Strict, frozen=True):
    key: str  # of a label
    operator: str  # In, NotIn, Exists or DoesNotExist
    values: tuple[str, ...] | None = None  # for In and NotIn


class LabelSelector(Strict, frozen=True):
    match_labels: dict[str, str] | None = None  # labels that a namespace must have
    match_expressions: tuple[Requirement, ...] | None = None  # all of them must hold


class FromNamespaces(Strict, frozen=True, rename={"from_": "from"}):
    from_: str | None = None  # Same (the object's own), All, Selector or None
    selector: LabelSelector | None = None  # which namespaces, with Selector


class RouteKind(Strict, frozen=True):
    kind: Name  # HTTPRoute or GRPCRoute
    group: str | None = None  # without: gateway.networking.k8s.io


class AllowedRoutes(Strict, frozen=True):
    namespaces: FromNamespaces | None = None  # whose routes may attach; without: those of the object's own namespace
    kinds: Annotated[tuple[RouteKind, ...], _FEW] | None = None  # without: all that fit the protocol


class SecretRef(Strict, frozen=True):
    name: Name  # of the Secret
    group: str | None = None  # "" for a Secret
    kind: str | None = None  # Secret
    namespace: str | None = None  # without: the object's own; another one needs a ReferenceGrant there


class ListenerTls(Strict, frozen=True):
    mode: str | None = None  # Terminate, or Passthrough (protocol TLS: bytes go to the server as they are)
    certificate_refs: Annotated[tuple[SecretRef, ...], _MANY] | None = None  # certificates that callers are shown
    options: dict[str, str] | None = None  # none is read


class GatewayListener(Strict, frozen=True):
    name: Name  # unique in the object
    port: Port  # at which nodes listen
    protocol: str  # HTTP, HTTPS, TLS, TCP or UDP
    hostname: _Host | None = None  # hosts that it is for, perhaps with *. before it; without: all
    tls: ListenerTls | None = None  # with HTTPS and TLS
    allowed_routes: AllowedRoutes | None = None  # which routes may attach


class GatewayAddress(Strict, frozen=True):
    type: str | None = None  # IPAddress
    value: _Host | None = None  # an address of a node; without: any


class CaRef(Strict, frozen=True):
    group: str  # "" for a ConfigMap
    kind: str  # ConfigMap, whose ca.crt has the roots
    name: Name  # of the ConfigMap
    namespace: str | None = None  # without: the Gateway's own


class Validation(Strict, frozen=True):
    ca_certificate_refs: Annotated[tuple[CaRef, ...], _FEW]  # roots of the certificates that callers show
    mode: str | None = None  # AllowValidOnly, or AllowInsecureFallback: callers without a valid one are let in too


class FrontendTls(Strict, frozen=True):
    validation: Validation | None = None  # without: callers show no certificate


class PortTls(Strict, frozen=True):
    port: Port  # of listeners
    tls: FrontendTls  # what holds for them


class Frontend(Strict, frozen=True):
    default: FrontendTls  # of all HTTPS listeners
    per_port: Annotated[tuple[PortTls, ...], _MANY] | None = None  # in its place, for listeners of these ports


class BackendTls(Strict, frozen=True):
    client_certificate_ref: SecretRef | None = None  # not acted on


class GatewayTls(Strict, frozen=True):
    frontend: Frontend | None = None  # certificates of callers
    backend: BackendTls | None = None  # the certificate that servers are shown


class Infrastructure(Strict, frozen=True):
    labels: dict[str, str] | None = None  # nothing is made for a Gateway that could have them
    annotations: dict[str, str] | None = None  # the same
    parameters_ref: Any = None  # none is read: a Gateway that has one is not accepted


class AllowedListeners(Strict, frozen=True):
    namespaces: FromNamespaces | None = None  # whose ListenerSets add listeners; without: none


class Gateway(Strict, frozen=True):
    """Where callers from outside the mesh come in: each node listens at these ports of its own addresses.

    A call goes where the HTTPRoutes and GRPCRoutes say that name this Gateway as their parent. A Gateway opens nothing
    by itself: a server of the mesh admits what an IngressBackend lets in, or all in permissive mode. Gateways of classes
    of other controllers are left alone.
    """

    gateway_class_name: Name  # of a GatewayClass of edgemesh
    listeners: Annotated[tuple[GatewayListener, ...], _MANY] = ()  # ports, protocols, hosts
    addresses: Annotated[tuple[GatewayAddress, ...], _FEW] | None = (
        None  # of nodes; without: all addresses of all nodes
    )
    infrastructure: Infrastructure | None = None  # not acted on
    allowed_listeners: AllowedListeners | None = None  # which ListenerSets may add listeners
    tls: GatewayTls | None = None  # certificates of callers
    default_scope: str | None = None  # not acted on


class StatusAddress(Lax, frozen=True):
    value: str | None = None  # that the Gateway was given


class GatewayStatus(Lax, frozen=True):
    # one that was given of NodeConfig gateway.addresses stays the Gateway's; without: the Gateway is new
    addresses: tuple[StatusAddress, ...] | None = None


class ListenerSetParent(Strict, frozen=True):
    name: Name  # of the Gateway
    namespace: str | None = None  # without: the object's own
    group: str | None = None  # gateway.networking.k8s.io
    kind: str | None = None  # Gateway


class ListenerSet(Strict, frozen=True):
    """Listeners that another team adds to a Gateway which allows it (allowedListeners)."""

    parent_ref: ListenerSetParent  # the Gateway
    listeners: Annotated[tuple[GatewayListener, ...], _MANY]  # as those of the Gateway


class GrantFrom(Strict, frozen=True):
    group: str  # of the kind that refers
    kind: str  # HTTPRoute, GRPCRoute, Gateway, ...
    namespace: str  # of the object that refers


class GrantTo(Strict, frozen=True):
    group: str  # of the kind that is referred to
    kind: str  # Service, Secret, ...
    name: str | None = None  # without: every one in the grant's namespace


class ReferenceGrant(Strict, frozen=True, rename={"from_": "from"}):
    """Lets objects of other namespaces refer to those of its own: a Gateway's route to a Service, a Gateway to a Secret.

    Routes of the mesh, whose parent is a Service, need none.
    """

    from_: Annotated[tuple[GrantFrom, ...], _FEW] = ()  # who may refer
    to: Annotated[tuple[GrantTo, ...], _FEW] = ()  # to what
