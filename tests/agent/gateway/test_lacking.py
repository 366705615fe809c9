"""lacking.py: which listeners this node cannot serve, and what is said of them."""

from __future__ import annotations

from agent.gateway.content import Ref
from agent.gateway.keeper import Keeper
from agent.gateway.lacking import lacking, problems
from nodeproxy.tls.certificates import Certificates
from policy.gateway import Condition, Listener

HTTP = Listener("shop/front", "http", 80, "HTTP", "Gateway shop/front")
ONE = Listener("shop/front", "one", 80, "HTTP", "Gateway shop/front", ("192.0.2.9",))
HTTPS = Listener("shop/front", "https", 443, "HTTPS", "Gateway shop/front", certificates=("shop/tls",))
CLOSED = {("192.0.2.1", 80): "Address already in use"}


def keeper() -> Keeper:
    return Keeper(None, Certificates(), lambda: 0.0)


def test_a_port_that_somebody_has_concerns_the_listeners_of_that_address() -> None:
    found = lacking((HTTP, ONE, Listener("shop/front", "other", 81, "HTTP", "x")), CLOSED, keeper())
    message = "port 80 of 192.0.2.1: Address already in use"
    assert found == {HTTP.key: Condition("Programmed", False, "PortUnavailable", message)}
    (problem,) = problems((HTTP, ONE), CLOSED)
    assert (problem.severity, problem.object) == ("error", "Gateway shop/front")
    assert "192.0.2.1 port 80: Address already in use" in problem.message


def test_nothing_is_lacking() -> None:
    assert lacking((HTTP, ONE), {}, keeper()) == {}
    assert list(problems((HTTP,), {})) == []


def test_a_certificate_that_cannot_be_used() -> None:
    (condition,) = lacking((HTTPS,), {}, keeper()).values()
    assert (condition.type, condition.reason) == ("ResolvedRefs", "InvalidCertificateRef")
    assert str(Ref("Secret", "shop", "tls")) in condition.message
