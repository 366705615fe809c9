"""Shapes of SMI's kinds: HTTPRouteGroup, TCPRoute, UDPRoute, TrafficTarget, TrafficSplit."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policy.kinds.base import NOT_EMPTY, Name, Port, PortNumber, Strict

# SMI specs.smi-spec.io


class HttpMatchSpec(Strict, frozen=True):
    name: Name  # name by which a TrafficTarget refers to this match; unique in its group
    path_regex: str | None = None  # RE2 syntax, anchored at the start of the path; without: every path
    methods: Annotated[tuple[Name, ...], NOT_EMPTY] | None = (
        None  # GET, POST, ...; * is every method, as is no list at all
    )
    # Header fields, name to pattern; all have to match. The specification says a map, its SDK and CRD a list of maps:
    # both are read.
    headers: Annotated[tuple[dict[str, str], ...], NOT_EMPTY] | Annotated[dict[str, str], NOT_EMPTY] | None = None


class HTTPRouteGroup(Strict, frozen=True):
    """Named sets of HTTP requests, for the rules of TrafficTargets and the matches of TrafficSplits."""

    matches: tuple[HttpMatchSpec, ...] = ()  # matches, each a set of requests: all conditions of one match have to hold


class PortMatch(Strict, frozen=True):
    name: str = ""  # for people
    ports: Annotated[tuple[Port, ...], NOT_EMPTY] | None = None  # where the program listens; without: all ports


class PortRoute(Strict, frozen=True):
    """TCPRoute and UDPRoute: ports, for the rules of TrafficTargets. Without matches or ports, all ports."""

    matches: PortMatch | None = None  # without: all ports


# SMI access.smi-spec.io


class Subject(Strict, frozen=True):
    kind: str  # ServiceAccount
    name: Name  # of the service account
    namespace: str = ""  # of the service account; without: the TrafficTarget's own
    port: PortNumber | None = None  # v1alpha1's; accepted, not acted on


class RouteRef(Strict, frozen=True):
    kind: str  # HTTPRouteGroup, TCPRoute or UDPRoute
    name: Name  # name of an object of that kind, in the TrafficTarget's namespace
    matches: Annotated[tuple[str, ...], NOT_EMPTY] | None = None  # names of matches of the group; without: all of them


class TrafficTarget(Strict, frozen=True):
    """The sources may call the destination as the rules say. Grants add up; without one, nothing is admitted."""

    destination: Subject  # service account that is called
    rules: tuple[RouteRef, ...] = ()  # what may be called; a call is admitted if one of them matches
    sources: tuple[Subject, ...] = ()  # service accounts that may call


# SMI split.smi-spec.io


class ObjectRef(Strict, frozen=True):
    kind: str  # HTTPRouteGroup
    name: Name  # name of a group in the same namespace
    api_group: str = ""  # specs.smi-spec.io; may be left out


class BackendSpec(Strict, frozen=True):
    service: Name  # Service that receives this share
    weight: Annotated[int, Meta(ge=0, le=1_000_000)]  # its share, relative to the sum of all weights; 0: none
    namespace: str = ""  # accepted if it is the split's own


class TrafficSplit(Strict, frozen=True):
    """Spreads the calls of one Service over others by weight. It grants nothing: TrafficTargets authorise.

    A backend that is the service of another TrafficSplit passes its share on to the backends of that one, for the requests
    that it is for. Splits nest eight deep. Of splits in a loop the youngest is refused.
    """

    service: Name  # Service that callers dial: NAME, or its whole DNS name
    backends: tuple[BackendSpec, ...]  # Services that receive its calls
    matches: Annotated[tuple[ObjectRef, ...], NOT_EMPTY] | None = (
        None  # only requests that one of these matches are split; without: all
    )
