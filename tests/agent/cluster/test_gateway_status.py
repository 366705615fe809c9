"""gateway_status.py: what a Gateway's status says, and how what a node lacks changes it."""

from __future__ import annotations

from typing import Any

from agent.cluster.gateway_status import FEATURES, is_gateway, state_of, status_of
from policy.gateway import Condition, Gateways, GatewayState, ListenerState
from policy.snapshot import Snapshot

GROUP = "gateway.networking.k8s.io"
GOOD = (Condition("Accepted", True, "Accepted"), Condition("Programmed", True, "Programmed"))


def listener(name: str) -> ListenerState:
    conditions = (*GOOD, Condition("ResolvedRefs", True, "ResolvedRefs"))
    return ListenerState(f"Gateway shop/front {name}", name, ("HTTPRoute",), 2, conditions)


STATE = GatewayState("Gateway shop/front", GOOD, (listener("http"), listener("more")), ("192.0.2.1",))
SNAPSHOT = Snapshot("n1", gateways=Gateways((STATE, GatewayState("GatewayClass edgemesh", GOOD[:1]))))


def held(conditions: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in conditions}


def test_only_what_is_ours_has_a_state() -> None:
    assert state_of("Gateway", "shop", "front", SNAPSHOT, {}) == STATE
    assert state_of("Gateway", "shop", "other", SNAPSHOT, {}) is None
    assert state_of("GatewayClass", "", "edgemesh", SNAPSHOT, {}) is not None
    assert is_gateway(f"{GROUP}/v1", "Gateway")
    assert not is_gateway("networking.istio.io/v1", "Gateway")
    assert not is_gateway(f"{GROUP}/v1", "HTTPRoute")


def test_a_status_as_it_is_written() -> None:
    said = status_of("Gateway", STATE, "", {}, 7, "now")
    assert said["addresses"] == [{"type": "IPAddress", "value": "192.0.2.1"}]
    assert held(said["conditions"]) == {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
    assert {one["observedGeneration"] for one in said["conditions"]} == {7}
    (first, _) = said["listeners"]
    assert (first["name"], first["attachedRoutes"]) == ("http", 2)
    assert first["supportedKinds"] == [{"group": GROUP, "kind": "HTTPRoute"}]
    assert "addresses" not in status_of("ListenerSet", STATE, "", {}, 7, "now")


def test_a_class_says_what_it_can_do() -> None:
    said = status_of("GatewayClass", GatewayState("GatewayClass edgemesh", GOOD[:1]), "", {}, 1, "now")
    assert said["supportedFeatures"] == [{"name": name} for name in FEATURES]
    assert list(FEATURES) == sorted(FEATURES)
    assert "listeners" not in said


def test_what_was_said_before_keeps_its_time_and_others_keep_their_word() -> None:
    before = status_of("Gateway", STATE, "", {}, 7, "then")
    other = {"type": "example.org/Seen", "status": "True"}
    before["conditions"].insert(0, other)
    assert status_of("Gateway", STATE, "", before, 7, "now") == before
    assert {
        one["lastTransitionTime"] for one in status_of("Gateway", STATE, "x", before, 8, "now")["conditions"][1:]
    } == {"now"}


def test_a_version_that_is_not_in_force_is_said_so() -> None:
    said = status_of("Gateway", STATE, "unknown field", {}, 7, "now")
    assert held(said["conditions"]) == {"Accepted": ("False", "Invalid"), "Programmed": ("False", "Invalid")}


def test_a_listener_that_a_node_cannot_open_is_not_programmed_and_the_others_are() -> None:
    lack = Condition("Programmed", False, "PortUnavailable", "port 80: in use")
    found = state_of("Gateway", "shop", "front", SNAPSHOT, {"Gateway shop/front http": lack})
    assert found is not None
    assert found.conditions == GOOD
    assert [[one.reason for one in listener.conditions if not one.holds] for listener in found.listeners] == [
        ["PortUnavailable"],
        [],
    ]


def test_a_certificate_that_is_lacking_is_an_unresolved_reference() -> None:
    lack = Condition("ResolvedRefs", False, "InvalidCertificateRef", "no Secret")
    keys = {one.key: lack for one in STATE.listeners}
    found = state_of("Gateway", "shop", "front", SNAPSHOT, keys)
    assert found is not None
    assert {one.type: one.holds for one in found.conditions} == {"Accepted": True, "Programmed": False}
    said = {one.type: one.reason for one in found.listeners[0].conditions if not one.holds}
    assert said == {"Programmed": "Invalid", "ResolvedRefs": "InvalidCertificateRef"}


def test_an_ingress_says_where_it_is_reached_and_nothing_else() -> None:
    state = GatewayState("Ingress shop/web", (), (), ("192.0.2.1", "2001:db8::1"))
    snapshot = Snapshot("n1", gateways=Gateways((state,)))
    assert is_gateway("networking.k8s.io/v1", "Ingress")
    assert not is_gateway("networking.k8s.io/v1", "Gateway")
    assert state_of("Ingress", "shop", "web", snapshot, {}) == state
    assert state_of("Ingress", "shop", "traefiks", snapshot, {}) is None
    said = status_of("Ingress", state, "", {}, 7, "now")
    assert said == {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}
