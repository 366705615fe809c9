"""explain --from-outside: from a person's words to the question, and the document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.admin.explain import Question, Unclear, query, question
from agent.admin.explain_entering import answer
from agent.cli import main
from agent.http.server import HttpRequest
from policy.snapshot import Snapshot
from tests.policy.test_explain_entering import ADDRESS, FRONT, made, opens, world

BY = f"{ADDRESS}%shop/front"


def asked(snapshot: Snapshot, outside: str, destination: str, **more: Any) -> dict[str, Any]:
    return answer(snapshot, Question("", destination, outside=outside, **more))


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return world(opens(FRONT))


@pytest.mark.parametrize("outside", [BY, f"{ADDRESS}%front", f"{ADDRESS}%Gateway shop/front".replace("Gateway ", "")])
@pytest.mark.parametrize("destination", ["http://a.example/items", "http://A.example:80/items?x=1", "a.example"])
def test_a_host_of_the_gateway(snapshot: Snapshot, outside: str, destination: str) -> None:
    found = asked(snapshot, outside, destination)
    assert (found["allowed"], found["kind"], found["port"]) == (True, "gateway", 80)
    assert found["source"] == f"{ADDRESS} (outside, by Gateway shop/front)"
    assert found["asked"].startswith("GET /")


def test_a_service_and_a_workload(snapshot: Snapshot) -> None:
    assert asked(snapshot, BY, "shop/web")["kind"] == "service"
    assert asked(snapshot, BY, "10.0.0.1:8080")["destination"] == "shop/here"
    assert asked(snapshot, ADDRESS, "http://10.9.0.1/items")["destination"] == "shop/web"
    assert not asked(snapshot, ADDRESS, "shop/web")["allowed"]
    assert asked(snapshot, ADDRESS, "web.shop", path="/items")["asked"] == "GET /items"


@pytest.mark.parametrize(
    ("outside", "destination", "words"),
    [
        ("store", "shop/web", "'store' is no address"),
        (f"{ADDRESS}%shop/back", "shop/web", "no listener of Gateway shop/back is served"),
        (f"{ADDRESS}%", "shop/web", "no listener of Gateway  is served"),
        (BY, "http://a.example:81/", "has no listener at port 81"),
        (BY, "https://a.example/", "has no listener at port 443"),
        (ADDRESS, "a.example", "there is no service or workload"),
        (ADDRESS, "203.0.113.5:80", "is no address of the mesh"),
    ],
)
def test_what_is_unclear(snapshot: Snapshot, outside: str, destination: str, words: str) -> None:
    with pytest.raises(Unclear) as unclear:
        asked(snapshot, outside, destination)
    assert words in str(unclear.value)


def test_datagrams_are_not_judged(snapshot: Snapshot) -> None:
    with pytest.raises(Unclear):
        asked(snapshot, ADDRESS, "shop/web", udp=True)


def test_a_question_about_a_caller_of_the_mesh_is_another(snapshot: Snapshot) -> None:
    found = answer(snapshot, Question("shop/here", "shop/web"))
    assert found["identity"] == "shop/web"


def test_the_question_travels_in_a_query() -> None:
    one = Question("", "http://a.example/", outside=BY, headers=(("a", "b"),))
    said = HttpRequest("/explain", query(one))
    assert question(said) == one


def test_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"gatewayClassName": "edgemesh", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}
    (tmp_path / "a.yaml").write_text(
        made("GatewayClass", "edgemesh", {"controllerName": "edgemesh.io/gateway-controller"})
        + made("Gateway", "front", given).removesuffix("---\n")
    )
    words = ["explain", "--config", str(tmp_path), "-o", "json", "--from-outside", BY]
    assert main([*words, "http://a.example/x"]) == 1
    assert json.loads(capsys.readouterr().out)["reason"] == "no-route"
    assert main(words) == 2
    assert main([*words, "shop/a", "shop/b"]) == 2
