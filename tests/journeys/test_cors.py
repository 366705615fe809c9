"""CORS of HTTPRoutes: what a browser is told of pages of other origins, before a request and with its response."""

import pytest
import trio

from tests.journeys.test_grpc_routes import h2_caller
from tests.journeys.test_http_routes import V1, ask, path, route, rule, stores

PAGE = "https://www.foo.com"


def cors(**said):
    return {"type": "CORS", "cors": said}


def allowing(*origins, **more):
    return cors(allowOrigins=list(origins), **more)


async def preflight(mesh, origin=PAGE, method="PUT", headers=None, caller="buyer"):
    more = {"access_control_request_headers": headers} if headers else {}
    asked = {"origin": origin, "access_control_request_method": method, **more}
    (answer,) = await ask(mesh, caller=caller, method="OPTIONS", **asked)
    return answer


def told(answer):
    return {
        name.removeprefix("access-control-"): value
        for name, value in answer.headers.items()
        if name.startswith("access-control-")
    }


async def test_a_preflight_is_answered_by_the_node_and_reaches_no_server(mesh):
    one, two = stores(mesh)
    said = allowing(
        PAGE,
        "https://*.bar.com",
        allowMethods=["PUT", "DELETE"],
        allowHeaders=["X-A", "x-b"],
        exposeHeaders=["X-C"],
        allowCredentials=True,
        maxAge=3600,
    )
    mesh.publish(route=route(rule(V1, filters=[said])))
    for origin in (PAGE, "https://a.bar.com", "https://b.a.bar.com:443"):
        answer = await preflight(mesh, origin)
        assert (answer.status, answer.body) == (204, "")
        assert "Origin" in answer.headers["vary"]
        assert told(answer) == {
            "allow-origin": origin,
            "allow-methods": "PUT, DELETE",
            "allow-headers": "X-A, x-b",
            "expose-headers": "X-C",
            "allow-credentials": "true",
            "max-age": "3600",
        }
    for origin in ("https://foo.com", "http://www.foo.com", "https://www.foo.com:8443", "https://bar.com", "null", "x"):
        answer = await preflight(mesh, origin)
        assert (answer.status, told(answer)) == (204, {}), origin
        assert "Origin" in answer.headers["vary"]
    assert one.requests == two.requests == []


async def test_a_question_that_is_no_preflight_goes_to_the_server_where_policy_admits_it(mesh):
    one, _ = stores(mesh)
    mesh.publish(route=route(rule(V1, filters=[allowing(PAGE)])))
    (answer,) = await ask(mesh, method="OPTIONS", origin=PAGE)
    assert answer.status == 403, "the TrafficTarget admits GET and POST"
    mesh.publish(mesh=mesh.permissive)
    (answer,) = await ask(mesh, method="OPTIONS", origin=PAGE)
    assert (answer.status, told(answer)) == (200, {"allow-origin": PAGE})
    assert len(one.requests) == 1


async def test_responses_say_who_may_read_them_and_vary(mesh):
    stores(mesh)
    mesh.publish(route=route(rule(V1, filters=[allowing(PAGE, exposeHeaders=["x-a"], allowMethods=["PUT"])])))
    mine, none, other = [
        (await ask(mesh, **fields))[0] for fields in ({"origin": PAGE}, {}, {"origin": "https://other.com"})
    ]
    assert told(mine) == {"allow-origin": PAGE, "expose-headers": "x-a"}
    assert told(none) == told(other) == {}
    assert [one.headers["vary"] for one in (mine, none, other)] == ["Origin"] * 3
    assert [one.status for one in (mine, none, other)] == [200] * 3, "only a browser does what it is told"


async def test_what_the_server_says_of_other_origins_does_not_count(mesh):
    async def answers(stream):
        while await stream.receive_some(1000):
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\n"
                b"Vary: accept, origin\r\nX-Own: 1\r\ncontent-length: 0\r\n\r\n"
            )

    mesh.serve("store-v1", answers, 14001)
    mesh.publish(route=route(rule(V1, filters=[allowing(PAGE, allowCredentials=True, exposeHeaders=["*"])])))
    (other,) = await ask(mesh, origin="https://other.com")
    assert told(other) == {}
    (mine,) = await ask(mesh, origin=PAGE)
    assert mine.headers["vary"] == "accept, origin", "said already"
    exposed = told(mine).pop("expose-headers").split(", ")
    assert {"x-own", "vary"} <= set(exposed)
    assert "*" not in exposed
    assert told(mine)["allow-credentials"] == "true"


@pytest.mark.parametrize("credentials", [False, True])
async def test_a_wildcard_is_for_all_only_without_credentials(mesh, credentials):
    stores(mesh)
    every = {"allowMethods": ["*"], "allowHeaders": ["*"], "allowCredentials": credentials}
    mesh.publish(route=route(rule(V1, filters=[allowing("*", **every)])))
    answer = await preflight(mesh, headers="x-a, x-b")
    star = {"allow-origin": "*", "allow-methods": "*", "allow-headers": "*", "max-age": "5"}
    own = {"allow-origin": PAGE, "allow-methods": "PUT", "allow-headers": "x-a, x-b", "max-age": "5"}
    assert told(answer) == (own | {"allow-credentials": "true"} if credentials else star)
    assert "allow-headers" not in told(await preflight(mesh)) or not credentials
    (answer,) = await ask(mesh, origin=PAGE)
    assert told(answer)["allow-origin"] == (PAGE if credentials else "*")
    assert ("vary" in answer.headers) == credentials
    answer = await preflight(mesh, "null")
    assert ("allow-origin" in told(answer)) == (not credentials), "any page can get that origin"


async def test_only_the_rule_with_it_answers(mesh):
    one, _ = stores(mesh)
    mesh.publish(route=route(rule(V1, filters=[allowing(PAGE)], matches=[path("/books/new")]), rule(V1)))
    assert (await preflight(mesh)).status == 403
    assert one.requests == []


async def test_over_http2(mesh):
    stores(mesh)
    mesh.publish(route=route(rule(V1, filters=[allowing(PAGE, allowMethods=["PUT"])])))
    head = [(b":scheme", b"http"), (b":path", b"/books"), (b":authority", b"a"), (b"origin", PAGE.encode())]
    async with h2_caller(mesh.nursery, await mesh.call("buyer", "bookstore.bookstore")) as connection:
        asks = [(b":method", b"OPTIONS"), *head, (b"access-control-request-method", b"PUT")]
        for fields, status in ((asks, b"204"), ([(b":method", b"GET"), *head], b"200"), (asks, b"204")):
            channel = await connection.open(fields, end=True)
            with trio.fail_after(5):
                answered = dict((await channel.head())[0])
            assert (answered[b":status"], answered[b"access-control-allow-origin"]) == (status, PAGE.encode())
            channel.close()
