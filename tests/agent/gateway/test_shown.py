"""shown.py: listeners that are well, that lack something, and that are at other nodes."""

from __future__ import annotations

from agent.gateway.shown import listeners
from policy.gateway import ClientCheck, Condition, Listener, VirtualHost
from policy.model import Service, ServicePort
from policy.route import Route, Rule

PORT = (ServicePort("http", 80, "http"),)
HOST = VirtualHost("a.example", Service("shop", "x", (), PORT, (Route("r", (Rule(()), Rule(()))),)))
HTTP = Listener("shop/front", "http", 80, "HTTP", "Gateway shop/front", hosts=(HOST,))
NAMED = Listener("shop/side", "web", 80, "HTTP", "Gateway shop/side", ("192.0.2.9", "192.0.2.1", "2001:db8::1"))
INGRESS = Listener("IngressClass edgemesh", "http", 81, "HTTP", "IngressClass edgemesh", clients=ClientCheck(("x",)))


def test_one_that_is_open() -> None:
    (found,) = listeners((HTTP,), {("192.0.2.1", 80), ("192.0.2.1", 443)}, (), {})
    assert found == {
        "listener": "Gateway shop/front http", "gateway": "Gateway shop/front", "protocol": "HTTP", "port": 80,
        "host": "", "open_at": ["192.0.2.1"], "hosts": ["a.example"], "routes": 2, "asks_for_certificates": False,
        "state": "open", "why": "",
    }  # fmt: skip


def test_one_that_is_at_another_node() -> None:
    (found,) = listeners((NAMED,), {("192.0.2.7", 80)}, ("192.0.2.7",), {})
    assert (found["state"], found["open_at"]) == ("elsewhere", [])


def test_a_socket_for_all_addresses_has_those_of_this_node_that_are_named() -> None:
    (found,) = listeners((NAMED,), {("0.0.0.0", 80)}, ("192.0.2.1", "2001:db8::1"), {})
    assert (found["state"], found["open_at"]) == ("open", ["192.0.2.1"])


def test_one_that_lacks_something() -> None:
    lacks = {INGRESS.key: Condition("Programmed", False, "PortUnavailable", "port 81: in use")}
    one, other = listeners((INGRESS, HTTP), {("192.0.2.1", 80)}, (), lacks)
    assert (one["state"], one["why"], one["gateway"]) == ("lacking", "port 81: in use", "IngressClass edgemesh")
    assert one["asks_for_certificates"]
    assert other["state"] == "open"
