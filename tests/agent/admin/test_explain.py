"""Questions of people become questions to policy, and what is unclear is said with what there is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.admin.explain import Question, Unclear, answer, find_destination, find_workload, query, question
from agent.http.server import HttpRequest
from policy.model import Node, Revoked, Service, Workload


@pytest.mark.parametrize("words", ["shop/buyer", "buyer.shop", "buyer", "buyer.shop.svc.cluster.local"])
def test_workloads_by_name(daemon: Any, words: str) -> None:
    assert find_workload(daemon.snapshot, words).key == "shop/buyer"


def test_a_workload_by_its_service_account(daemon: Any) -> None:
    assert find_workload(daemon.snapshot, "shop/store").key == "shop/store-v1"


def test_services_come_first_and_prefixes_say_which(daemon: Any) -> None:
    def found(words: str) -> tuple[type, str]:
        item = find_destination(daemon.snapshot, words)
        return type(item), item.key

    assert found("store-v1") == (Service, "shop/store-v1")
    assert found("service:store-v1.shop") == (Service, "shop/store-v1")
    assert found("workload:shop/store-v1") == (Workload, "shop/store-v1")
    assert found("far") == (Workload, "shop/far")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("stroe", "there is no service or workload 'stroe'", "did you mean shop/store? there is shop/buyer, "),
        ("service:far", "there is no service 'far'", "there is "),
        ("workload:stroe", "there is no service or workload 'stroe'", "did you mean shop/store?"),
        ("other:thing", "there is no service or workload 'other:thing'", "there is "),
    ],
)
def test_what_is_not_there(daemon: Any, words: str, message: str, hint: str) -> None:
    with pytest.raises(Unclear) as caught:
        find_destination(daemon.snapshot, words)
    assert str(caught.value) == message
    assert caught.value.hint.startswith(hint)


def test_a_name_that_two_have(daemon: Any) -> None:
    from msgspec.structs import replace

    buyer = daemon.snapshot.workload("shop/buyer")
    snapshot = replace(daemon.snapshot, workloads=(buyer, replace(buyer, namespace="other")))
    with pytest.raises(Unclear, match="'buyer' could be shop/buyer or other/buyer"):
        find_workload(snapshot, "buyer")
    with pytest.raises(Unclear) as caught:
        find_workload(replace(snapshot, workloads=()), "buyer")
    assert caught.value.hint == "the mesh knows none"


def test_ports(daemon: Any) -> None:
    assert answer(daemon.snapshot, Question("buyer", "store-v1"))["port"] == 80
    assert answer(daemon.snapshot, Question("buyer", "store-far", udp=True))["port"] == 53
    assert answer(daemon.snapshot, Question("buyer", "workload:store-v1"))["port"] == 8080
    with pytest.raises(Unclear, match="which port of shop/far") as caught:
        answer(daemon.snapshot, Question("buyer", "far"))
    assert caught.value.hint == "say --port; it has 53, 8080"
    with pytest.raises(Unclear) as caught:
        answer(daemon.snapshot, Question("buyer", "thief"))
    assert caught.value.hint == "say --port; edgemesh knows of no port that it serves"


def test_answers(daemon: Any) -> None:
    allowed = answer(daemon.snapshot, Question("buyer", "store-v1", path="/x/../buy?card=1"))
    assert (allowed["allowed"], allowed["rule"], allowed["asked"]) == (True, "TrafficTarget shop/buying", "GET /buy")
    denied = answer(daemon.snapshot, Question("thief", "store-v1", method="GET", path="/buy", headers=(("A", "b"),)))
    assert (denied["allowed"], denied["reason"]) == (False, "no-rule")
    assert denied["meaning"]
    assert denied["missing"] == "TrafficTarget shop/buying names source shop/buyer, not shop/thief"
    nowhere = answer(daemon.snapshot, Question("buyer", "empty"))
    assert (nowhere["reason"], nowhere["meaning"]) == (
        "no-endpoint",
        "the service has no endpoint that could take this",
    )


def test_without_a_path_it_says_which_requests(daemon: Any) -> None:
    from msgspec.structs import replace

    some = answer(daemon.snapshot, Question("buyer", "store-v1"))
    assert (some["asked"], some["allowed"], some["reason"], some["missing"]) == ("some request", True, "", "")
    assert some["requests"] == ["GET /buy$ (match buy of TrafficTarget shop/buying)"]
    assert not [step for step in some["steps"] if step.startswith("refused")]
    # One endpoint of two refuses all of them.
    both = answer(daemon.snapshot, Question("buyer", "store"))
    assert (both["allowed"], [choice["allowed"] for choice in both["choices"]]) == (False, [True, False])
    # What is declared to be no HTTP is asked as what it is.
    declared = daemon.snapshot.service("shop/store-v1")
    tcp = replace(declared, ports=tuple(replace(port, protocol="tcp") for port in declared.ports))
    snapshot = replace(
        daemon.snapshot, services=tuple(tcp if one.key == tcp.key else one for one in daemon.snapshot.services)
    )
    stream = answer(snapshot, Question("buyer", "store-v1"))
    assert (stream["asked"], stream["allowed"], stream["reason"]) == ("tcp", False, "http-only")
    assert answer(daemon.snapshot, Question("thief", "store-v1"))["reason"] == "no-rule"


@pytest.mark.parametrize(
    ("words", "destination", "port", "asked"),
    [
        ("http://store-v1/buy?card=1", "shop/store-v1", 80, "GET /buy"),
        ("http://store-v1.shop.svc.cluster.local:80", "shop/store-v1", 80, "GET /"),
        ("https://store-v1:80/buy", "shop/store-v1", 80, "some request"),
        ("store-v1:80", "shop/store-v1", 80, "some request"),
        ("10.1.0.3:8080", "shop/store-v1", 8080, "some request"),
        ("http://10.1.0.3:8080/buy", "shop/store-v1", 8080, "GET /buy"),
        ("10.1.0.3", "shop/store-v1", 8080, "some request"),
    ],
)
def test_urls_and_addresses(words: str, destination: str, port: int, asked: str, daemon: Any) -> None:
    found = answer(daemon.snapshot, Question("buyer", words))
    assert (found["destination"], found["port"], found["asked"]) == (destination, port, asked)


def test_an_address_of_a_service_is_the_service(daemon: Any) -> None:
    (address, *_) = daemon.snapshot.service("shop/store-v1").addresses
    found = answer(daemon.snapshot, Question("buyer", f"{address}:80", path="/buy"))
    assert (found["destination"], found["kind"], found["allowed"]) == ("shop/store-v1", "service", True)
    assert answer(daemon.snapshot, Question("buyer", f"{address}:81"))["reason"] == "no-port"


def test_a_caller_by_its_address(daemon: Any) -> None:
    (address, *_) = daemon.snapshot.workload("shop/buyer").addresses
    assert answer(daemon.snapshot, Question(address, "store-v1", path="/buy"))["source"] == "shop/buyer"


@pytest.mark.parametrize(
    ("source", "destination", "message", "hint"),
    [
        ("buyer", "192.0.2.1", "which port of 192.0.2.1?", "say --port, or HOST:PORT"),
        ("buyer", "httpbin.org", "which port of httpbin.org?", "say --port, or HOST:PORT"),
        ("buyer", "nothing.shop", "there is no service or workload 'nothing.shop'", ""),
        ("buyer", "nothing.shop.svc.cluster.local", "there is no service or workload", ""),
        ("buyer", "nothing", "there is no service or workload 'nothing'", ""),
        ("buyer", "ftp://store/x", "ftp:// is no kind of address", "http://, https://, or HOST:PORT"),
        ("buyer", "http://store:99999/", "is no URL", ""),
        ("192.0.2.1", "store", "192.0.2.1 is the address of no workload", "edgemesh status lists them"),
    ],
)
def test_addresses_that_lead_nowhere(source: str, destination: str, message: str, hint: str, daemon: Any) -> None:
    with pytest.raises(Unclear) as caught:
        answer(daemon.snapshot, Question(source, destination))
    assert message in str(caught.value)
    assert caught.value.hint.startswith(hint)


def test_what_is_outside_the_mesh(daemon: Any) -> None:
    from msgspec.structs import replace

    from policy.model import EgressGrant, Mesh

    for words in ("192.0.2.1:443", "httpbin.org:443", "https://httpbin.org", "api.shop.example.com:80"):
        open_ = answer(daemon.snapshot, Question("buyer", words))
        assert (open_["allowed"], open_["rule"], open_["kind"]) == (True, "enableEgress", "outside")
    source = daemon.snapshot.workload("shop/buyer").identity
    grant = EgressGrant("Egress shop/out", source, ((443, "https"), (80, "http")), ("httpbin.org",))
    snapshot = replace(daemon.snapshot, mesh=Mesh(egress=False), egress=(grant,))
    found = answer(snapshot, Question("buyer", "https://HTTPBIN.org/any"))
    assert (found["destination"], found["port"], found["asked"]) == ("httpbin.org", 443, "TLS")
    assert (found["allowed"], found["rule"]) == (True, "Egress shop/out")
    assert "has to be one that DNS gave shop/buyer for httpbin.org" in " ".join(found["steps"])
    assert answer(snapshot, Question("buyer", "http://httpbin.org/any"))["asked"] == "GET /any"
    found = answer(snapshot, Question("buyer", "https://example.com"))
    assert (found["allowed"], found["reason"], found["nearest"]) == (False, "egress-host", "Egress shop/out")
    assert found["missing"] == "Egress shop/out lists host httpbin.org, not example.com"
    found = answer(snapshot, Question("buyer", "192.0.2.1:443"))
    assert (found["reason"], found["endpoint"]) == ("egress-no-name", "192.0.2.1:443")
    assert answer(snapshot, Question("buyer", "192.0.2.1:80", headers=(("Host", "httpbin.org"),)))["allowed"]
    with pytest.raises(Unclear, match="is outside the mesh"):
        answer(snapshot, Question("buyer", "192.0.2.1:443", udp=True))


def test_a_bare_name_that_several_have_is_the_caller_s_own(daemon: Any) -> None:
    from msgspec.structs import replace

    other = replace(daemon.snapshot.service("shop/store-v1"), namespace="other", addresses=("240.1.1.1",))
    snapshot = replace(daemon.snapshot, services=(*daemon.snapshot.services, other))
    assert answer(snapshot, Question("buyer", "http://store-v1/buy"))["destination"] == "shop/store-v1"
    assert answer(snapshot, Question("buyer", "http://store-v1.other/buy"))["destination"] == "other/store-v1"
    with pytest.raises(Unclear, match="could be"):
        find_destination(snapshot, "store-v1")


def test_the_way_and_who_refuses(daemon: Any) -> None:
    from msgspec.structs import replace

    allowed = answer(daemon.snapshot, Question("buyer", "store-v1", path="/buy"))
    assert [allowed[key] for key in ("node", "mtls", "transport", "revoked", "side")] == [
        "edge-1",
        "strict",
        "direct",
        [],
        "",
    ]
    far = replace(daemon.snapshot, revoked=Revoked(nodes=("edge-1",)), nodes=(Node("edge-2", ("192.0.2.2",)),))
    there = replace(daemon.snapshot.workload("shop/store-v1"), node="edge-2")
    far = replace(far, workloads=tuple(there if w.key == there.key else w for w in far.workloads))
    denied = answer(far, Question("buyer", "store-v1", path="/buy"))
    assert (denied["reason"], denied["transport"], denied["side"]) == (
        "peer-revoked",
        "tunnel",
        "node edge-2, the destination's",
    )
    assert (denied["meaning"], denied["missing"]) == (
        "the peer's node or identity is revoked",
        "node edge-1 is revoked",
    )
    assert denied["revoked"] == ["node edge-1 is revoked"]
    assert any("tunnel to node edge-2 at 192.0.2.2:15008, expecting spiffe://" in step for step in denied["steps"])


def test_endpoints_that_differ(daemon: Any) -> None:
    split = answer(daemon.snapshot, Question("buyer", "store", path="/buy"))
    assert not split["allowed"]
    assert [(choice["endpoint"], choice["allowed"]) for choice in split["choices"]] == [
        ("10.1.0.3:8080", True),
        ("10.2.0.1:8080", False),
    ]


def test_a_path_that_never_reaches_policy(daemon: Any) -> None:
    with pytest.raises(Unclear, match="it is answered 400"):
        answer(daemon.snapshot, Question("buyer", "store-v1", path="/a%5cb"))


@pytest.mark.parametrize(
    "pair", [("header", "novalue"), ("header", ": x"), ("port", "x"), ("port", "70000"), ("port", "٣")]
)
def test_queries_that_make_no_sense(pair: tuple[str, str]) -> None:
    with pytest.raises(Unclear):
        question(HttpRequest("/explain", (pair,)))


_WORD = st.text(min_size=1, max_size=10)


@given(
    st.builds(
        Question,
        source=_WORD,
        destination=_WORD,
        port=st.integers(0, 65535),
        method=st.text(max_size=5),
        path=st.text(max_size=5),
        headers=st.lists(st.tuples(st.text("ab-", min_size=1), st.text("x:; ")), max_size=2).map(tuple),
        udp=st.booleans(),
    )
)
def test_a_question_survives_the_query_string(asked: Question) -> None:
    assert question(HttpRequest("/explain", tuple(query(asked)))) == asked
