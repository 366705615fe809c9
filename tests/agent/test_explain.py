"""Questions of people become questions to policy, and what is unclear is said with what there is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.explain import Question, Unclear, answer, find_destination, find_workload, query, question
from agent.httpd import Ask
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
        ("stroe", "there is no service or workload 'stroe'", "there is shop/store"),
        ("service:far", "there is no service 'far'", "there is "),
        ("workload:store", "there is no service or workload 'store'", "there is shop/store"),
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
    assert denied["lacked"] == "TrafficTarget shop/buying names source shop/buyer, not shop/thief"
    stream = answer(daemon.snapshot, Question("buyer", "store-v1"))
    assert (stream["asked"], stream["reason"]) == ("tcp", "http-only")
    nowhere = answer(daemon.snapshot, Question("buyer", "empty"))
    assert (nowhere["reason"], nowhere["meaning"]) == ("no-endpoint", "the service has no endpoint that could take this")


def test_the_way_and_who_refuses(daemon: Any) -> None:
    from msgspec.structs import replace

    allowed = answer(daemon.snapshot, Question("buyer", "store-v1", path="/buy"))
    assert [allowed[key] for key in ("node", "mtls", "way", "revoked", "side")] == ["edge-1", "strict", "direct", [], ""]
    far = replace(daemon.snapshot, revoked=Revoked(nodes=("edge-1",)), nodes=(Node("edge-2", ("192.0.2.2",)),))
    there = replace(daemon.snapshot.workload("shop/store-v1"), node="edge-2")
    far = replace(far, workloads=tuple(there if w.key == there.key else w for w in far.workloads))
    denied = answer(far, Question("buyer", "store-v1", path="/buy"))
    assert (denied["reason"], denied["way"], denied["side"]) == ("peer-revoked", "tunnel", "node edge-2, the destination's")
    assert (denied["meaning"], denied["lacked"]) == ("the peer's node or identity is revoked", "node edge-1 is revoked")
    assert denied["revoked"] == ["node edge-1 is revoked"]
    assert any("tunnel to node edge-2 at 192.0.2.2:15008, expecting spiffe://" in step for step in denied["steps"])


def test_endpoints_that_differ(daemon: Any) -> None:
    split = answer(daemon.snapshot, Question("buyer", "store", path="/buy"))
    assert not split["allowed"]
    assert [(choice["endpoint"], choice["allowed"]) for choice in split["choices"]] == [("10.1.0.3:8080", True), ("10.2.0.1:8080", False)]


def test_a_path_that_never_reaches_policy(daemon: Any) -> None:
    with pytest.raises(Unclear, match="it is answered 400"):
        answer(daemon.snapshot, Question("buyer", "store-v1", path="/a%2fb"))


@pytest.mark.parametrize("pair", [("header", "novalue"), ("header", ": x"), ("port", "x"), ("port", "70000"), ("port", "٣")])
def test_queries_that_make_no_sense(pair: tuple[str, str]) -> None:
    with pytest.raises(Unclear):
        question(Ask("/explain", (pair,)))


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
    assert question(Ask("/explain", tuple(query(asked)))) == asked
