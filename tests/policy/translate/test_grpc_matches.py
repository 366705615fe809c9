"""translate/grpc_matches.py: which calls the matches of a GRPCRoute are for, which rule comes first, what is refused.

How calls behave over sockets is in tests/journeys/test_grpc_routes.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from agent.sources.manifest import read
from policy.build import build
from policy.model import Request
from tests.policy.translate.test_gateway import ONE, PARENT, SERVICES, TWO, route, told


def grpc_route(*rules: Any, name: str = "g", **more: Any) -> str:
    http = route(*rules, name=name, **more)
    return http.replace('"kind": "HTTPRoute"', '"kind": "GRPCRoute"')


def rule(backend: dict[str, Any], *methods: Any, **more: Any) -> dict[str, Any]:
    return {"matches": [{"method": one} for one in methods], "backendRefs": [backend], **more}


def made(*texts: str, previous: Any = None) -> Any:
    change = read((SERVICES + "".join(texts)).encode(), "r.yaml")
    assert not change.problems
    return build(change.objects, previous)


def chosen(built: Any, path: str, port: int = 80, **fields: str) -> Any:
    said = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    request = Request("POST", path, said, (), path.encode())
    found = built.snapshot.candidates(built.snapshot.service("shop/web"), port, request, caller="shop")
    if found.rule is None:
        return "own"
    return found.rule.refuses or [backend.service.partition("/")[2] for backend in found.rule.backends]


CALLS = ["/shop.Stock/Count", "/shop.Stock/Add", "/shop.Till/Count", "/shopXStock/Count"]
NO = "no-route"


@pytest.mark.parametrize(
    ("method", "fits"),
    [
        (None, "1111"),
        ({"service": "shop.Stock"}, "1100"),
        ({"method": "Count"}, "1011"),
        ({"service": "shop.Stock", "method": "Count"}, "1000"),
        ({"service": "shop\\..*", "type": "RegularExpression"}, "1110"),
        ({"service": ".*Stock", "method": "C.*", "type": "RegularExpression"}, "1001"),
        ({"service": "Stock", "type": "RegularExpression"}, "0000"),  # it has to fit the whole name
        ({"method": "Count|Add", "type": "RegularExpression"}, "1111"),
    ],
)
def test_a_match_is_for_the_calls_of_its_methods(method: Any, fits: str) -> None:
    one = {"backendRefs": [ONE]} if method is None else rule(ONE, method)
    built = made(grpc_route(one))
    assert told(built) == []
    assert [chosen(built, path) for path in CALLS] == [["one"] if fit == "1" else NO for fit in fits]


def test_the_closest_match_counts_and_of_equals_the_older_route() -> None:
    stock, count = {"service": "shop.Stock"}, {"service": "shop.Stock", "method": "Count"}
    beta = {"matches": [{"method": stock, "headers": [{"name": "X-Beta", "value": "yes"}]}], "backendRefs": [TWO]}
    built = made(grpc_route(rule(ONE, stock), beta, rule(TWO, count)))
    assert chosen(built, "/shop.Stock/Count") == ["two"]
    assert chosen(built, "/shop.Stock/Add") == ["one"]
    assert chosen(built, "/shop.Stock/Add", x_beta="yes") == ["two"]
    pattern = rule(TWO, {"service": "shop.Stock|a.long.name.beside.it", "type": "RegularExpression"})
    built = made(grpc_route(pattern, rule(ONE, stock)))
    assert chosen(built, "/shop.Stock/Add") == ["one"], "an exact name comes before a pattern"
    older = grpc_route(rule(ONE, stock), name="z", age="2026-01-01T00:00:00Z")
    newer = grpc_route(rule(TWO, stock), name="a", age="2026-02-01T00:00:00Z")
    assert chosen(made(newer, older), "/shop.Stock/Add") == ["one"]


def test_where_both_kinds_are_for_one_port_the_grpc_route_is_in_force() -> None:
    built = made(grpc_route(rule(ONE, {"service": "a.B"})), route({"backendRefs": [TWO]}))
    assert [chosen(built, "/a.B/C"), chosen(built, "/other")] == [["one"], NO]
    said = "a GRPCRoute is for Service shop/web too, and in force there"
    assert told(built) == [(said, "keep one of them")]
    built = made(
        grpc_route(rule(ONE, {"service": "a.B"})), route({"backendRefs": [TWO]}, parents=[PARENT | {"port": 81}])
    )
    assert told(built) == []
    assert [chosen(built, "/a.B/C"), chosen(built, "/a.B/C", 81)] == [["one"], ["two"]]


def test_filters_that_change_where_a_call_goes_are_not_for_grpc() -> None:
    for type_, field in (("URLRewrite", "urlRewrite"), ("RequestRedirect", "requestRedirect")):
        one = {"type": type_, field: {"hostname": "a.example"}}
        for said in (rule(ONE, filters=[one]), rule(ONE | {"filters": [one]})):
            (problem,) = [each for each in made(grpc_route(said)).problems if each.severity == "error"]
            assert problem.message == f"a GRPCRoute has no filter of type {type_}"


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ({}, "method", "neither a service nor a method"),
        ({"service": "shop/Stock"}, "method.service", "'shop/Stock' is no service of gRPC"),
        ({"service": "shop..Stock"}, "method.service", "'shop..Stock' is no service of gRPC"),
        ({"method": "Co-unt"}, "method.method", "'Co-unt' is no method of gRPC"),
        ({"method": "(", "type": "RegularExpression"}, "method.method", "pattern '('"),
        ({"method": "a", "type": "Prefix"}, "method.type", "'Prefix' is not a type of match"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_place_and_the_last_good_one_holds(
    method: Any, path: str, message: str
) -> None:
    before = made(grpc_route(rule(ONE, {"service": "a.B"})))
    text = grpc_route(rule(TWO, method))
    built = made(text, previous=before.accepted)
    (problem,) = [one for one in built.problems if one.severity == "error"]
    assert message in problem.message
    line = (SERVICES + text).splitlines()[problem.where.line - 1]
    assert f'"{path.rpartition(".")[2]}"' in line
    assert chosen(built, "/a.B/C") == ["one"], "the last good version is in force"
