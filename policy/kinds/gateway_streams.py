"""Shapes of the Gateway API's kinds for connections that nothing looks into: TLSRoute, TCPRoute."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from policy.kinds.base import Name, Port, Strict
from policy.kinds.gateway import Hostname, ParentRef

# Gateway API gateway.networking.k8s.io


class StreamBackend(Strict, frozen=True):
    name: Name  # of the Service that gets this share of the connections
    group: str = ""  # "" for a Service
    kind: str = "Service"  # Service; the share of another kind is closed
    namespace: str | None = None  # of the Service; without: the route's own. Another one needs a ReferenceGrant there
    port: Port | None = None  # of the Service, as others call it
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 1  # its share, relative to the sum of all weights; 0: none


class StreamRule(Strict, frozen=True):
    # Services that the connections are spread over
    backend_refs: Annotated[tuple[StreamBackend, ...], Meta(min_length=1, max_length=16)]
    name: str | None = None  # for people


Rules = Annotated[tuple[StreamRule, ...], Meta(min_length=1, max_length=1)]


class TLSRoute(Strict, frozen=True):
    """Where TLS connections go that come to a listener of protocol TLS, by the server name in their first message (SNI).

    A listener of mode Passthrough leaves TLS to the server; one of mode Terminate ends it, and the server gets what was
    inside. A connection that names no host, or one that no route has, is closed. The closest hostname counts, and of
    two routes for one hostname the older one. To a server of the mesh the route alone opens nothing: an IngressBackend
    lets its callers in, as with an HTTPRoute.
    """

    rules: Rules  # one
    parent_refs: Annotated[tuple[ParentRef, ...], Meta(max_length=32)] | None = None  # Gateways or ListenerSets
    # server names, also *.shop.example; without: those of the listener
    hostnames: Annotated[tuple[Hostname, ...], Meta(max_length=1024)] | None = None
    use_default_gateways: Any = None  # not acted on


class TCPRoute(Strict, frozen=True):
    """Where connections go that come to a listener of protocol TCP. Nothing in them is looked at.

    Of two routes at one listener the older one counts. To a server of the mesh the route alone opens nothing: an
    IngressBackend lets its callers in, as with an HTTPRoute. SMI has a kind of this name, too
    ([TCPRoute](tcproute.md)): the group tells them apart.
    """

    rules: Rules  # one
    parent_refs: Annotated[tuple[ParentRef, ...], Meta(max_length=32)] | None = None  # Gateways or ListenerSets
    use_default_gateways: Any = None  # not acted on
