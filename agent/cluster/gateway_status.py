"""What the status of a GatewayClass, Gateway, ListenerSet or Ingress says, from what is in force and what nodes lack for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.cluster.route_status import written
from policy.gateway import Condition, GatewayState, ListenerState
from policy.snapshot import Snapshot
from policy.translate.gateway_parents import GROUP

INGRESS = "Ingress"
KINDS = ("GatewayClass", "Gateway", "ListenerSet")
# Features of the Gateway API's conformance suite that a GatewayClass of ours claims, in their order.
FEATURES = (
    "GRPCRoute",
    "Gateway",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
)
_OURS = ("Accepted", "Programmed", "Conflicted", "ResolvedRefs", "SupportedVersion")

# By key of a listener: a condition of it that does not hold on a node.
Lacking = Mapping[str, Condition]


def is_gateway(version: str, kind: object) -> bool:
    group = version.partition("/")[0]
    return (kind in KINDS and group == GROUP) or (kind == INGRESS and group == "networking.k8s.io")


def state_of(kind: str, namespace: str, name: str, snapshot: Snapshot, lacking: Lacking) -> GatewayState | None:
    """Return what is said of an object; None if it is not ours."""
    title = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    found = next((one for one in snapshot.gateways.states if one.title == title), None)
    if found is None or not any(one.key in lacking for one in found.listeners):
        return found
    listeners = tuple(_lessened(one, lacking.get(one.key)) for one in found.listeners)
    programmed = any(one.holds for listener in listeners for one in listener.conditions if one.type == "Programmed")
    conditions = found.conditions
    if not programmed:
        why = next(lacking[one.key].message for one in listeners if one.key in lacking)
        none = Condition("Programmed", False, "Invalid", f"no listener is served: {why}")
        conditions = tuple(none if one.type == "Programmed" else one for one in conditions)
    return GatewayState(found.title, conditions, listeners, found.addresses)


def _lessened(listener: ListenerState, lack: Condition | None) -> ListenerState:
    """Return what is said of a listener that lacks something: it is not programmed either."""
    if lack is None:
        return listener
    said = [one for one in listener.conditions if one.type not in (lack.type, "Programmed")]
    if lack.type != "Programmed":
        said.append(Condition("Programmed", False, "Invalid", lack.message))
    return ListenerState(listener.key, listener.name, listener.kinds, listener.attached, (*said, lack))


def status_of(
    kind: str, state: GatewayState, wrong: str, held: Mapping[str, Any], generation: int, now: str
) -> dict[str, Any]:
    """Return the fields of an object's status. `wrong`: why this version of it is not in force, "" if it is.

    `held`: its status as it is. A condition that says what it said keeps its time.
    """
    if kind == INGRESS:  # it has no conditions
        return {"loadBalancer": {"ingress": [{"ip": address} for address in state.addresses]}}
    conditions = state.conditions
    if wrong:
        conditions = tuple(Condition(one.type, False, "Invalid", wrong) for one in conditions)
    said: dict[str, Any] = {"conditions": _conditions(conditions, held.get("conditions"), generation, now)}
    if kind == "GatewayClass":
        return said | {"supportedFeatures": [{"name": name} for name in FEATURES]}
    before = {one.get("name"): one for one in held.get("listeners") or () if isinstance(one, dict)}
    said["listeners"] = [
        {
            "name": one.name,
            "supportedKinds": [{"group": GROUP, "kind": route} for route in one.kinds],
            "attachedRoutes": one.attached,
            "conditions": _conditions(one.conditions, before.get(one.name, {}).get("conditions"), generation, now),
        }
        for one in state.listeners
    ]
    if kind == "Gateway":
        said["addresses"] = [{"type": "IPAddress", "value": address} for address in state.addresses]
    return said


def _conditions(said: tuple[Condition, ...], held: Any, generation: int, now: str) -> list[Mapping[str, Any]]:
    """Return conditions as they are written, behind those of others."""
    before = [one for one in held if isinstance(one, dict)][:50] if isinstance(held, list) else []
    others = [one for one in before if one.get("type") not in _OURS]
    return [*others, *(written(one, before, generation, now) for one in said)]
