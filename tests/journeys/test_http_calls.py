"""HTTP from one workload to another: who may, who may not, and what each is told."""


async def test_what_a_rule_admits_arrives(mesh):
    web = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    answer = await buyer.get("/books?id=1", accept="*/*")
    assert (answer.status, answer.body) == (200, "store-v1")
    ((_, method, target, headers, _),) = web.requests
    assert (method, target) == ("GET", "/books?id=1")
    assert headers[b"host"] == b"bookstore-v1.bookstore:14001"
    assert headers[b"x-forwarded-for"] == mesh.addresses["buyer"].encode()
    assert web.peers == [mesh.addresses["buyer"]]  # the server sees who calls


async def test_what_no_rule_admits_is_answered_403(mesh):
    web = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for call, method, path in (
        (buyer, "GET", "/admin"),
        (buyer, "DELETE", "/books"),
        (await mesh.call("thief", "bookstore-v1.bookstore"), "GET", "/books"),
    ):
        answer = await call.get(path, method)
        assert answer.status == 403
        assert answer.reason
        assert "no rule admits this" in answer.body
    assert (await buyer.get("/books")).status == 200  # the same connection goes on
    assert [path for _, _, path, _, _ in web.requests] == ["/books"]


async def test_permissive_mode_admits_any_workload_and_no_stranger(mesh):
    mesh.web("store-v1")
    mesh.publish(mesh=mesh.permissive)
    assert (await (await mesh.call("thief", "bookstore-v1.bookstore")).get("/admin")).status == 200
    answer = await (await mesh.call_in(mesh.stranger, "store-v1")).get("/books")
    assert (answer.status, answer.reason) == (403, "no-identity")


async def test_a_workload_may_be_called_by_its_own_address(mesh):
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", mesh.addresses["store-v1"])
    assert (await buyer.get("/books")).status == 200
    assert (await buyer.get("/admin")).status == 403


async def test_a_service_without_endpoints_or_without_the_port_is_503(mesh):
    for host, port, reason in (("nobody.bookstore", mesh.port, "no-endpoint"), ("bookstore.bookstore", 80, "no-port")):
        answer = await (await mesh.call("buyer", host, port)).get("/books")
        assert (answer.status, answer.reason) == (503, reason)
        assert str(mesh.port) not in answer.body, (
            "which ports there are is told by edgemesh routes, to who may ask this node"
        )


async def test_a_server_that_does_not_listen_is_503(mesh):
    answer = await (await mesh.call("buyer", "bookstore-v1.bookstore")).get("/books")
    assert (answer.status, answer.reason) == (503, "connect-failed")


async def test_a_host_names_no_destination(mesh):
    """Gateways pass on the Host that they were asked for. Where a call goes, and which rules it meets, is what was dialled."""
    web, other = mesh.web("store-v1"), mesh.web("mysql", 3306)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    buyer.host = "mysql.bookwarehouse:3306"
    assert (await buyer.get("/books")).status == 200
    assert (await buyer.get("/admin")).reason == "no-http-match"
    assert [headers[b"host"] for _, _, _, headers, _ in web.requests] == [b"mysql.bookwarehouse:3306"], "as it came"
    thief = await mesh.call("thief", "mysql.bookwarehouse", 3306)
    assert await thief.is_over() == "reset"
    thief = await mesh.call("thief", "bookstore-v1.bookstore")
    thief.host = "example.com"
    assert (await thief.get("/books")).status == 403
    assert not other.peers


async def test_a_host_that_names_another_service_is_misdirected_where_that_is_asked_for(mesh):
    mesh.proxy.context.refuse_other_hosts = True
    web = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for host in ("bookstore-v2.bookstore", "bookstore-v2.bookstore.svc.cluster.local:14001", "MYSQL.bookwarehouse"):
        buyer.host = host
        answer = await buyer.get("/books")
        assert (answer.status, answer.reason) == (421, "misdirected")
    for host in ("bookstore-v1.bookstore.svc", "example.com", "bookstore"):
        buyer.host = host
        assert (await buyer.get("/books")).status == 200
    assert len(web.requests) == 3


async def test_an_ambiguous_path_is_400(mesh):
    web = mesh.web("store-v1")
    for path in ("/books/%2e%2e/admin", "/books/..%2fadmin", "/books%00"):
        answer = await (await mesh.call("buyer", "bookstore-v1.bookstore")).get(path)
        assert (answer.status, answer.reason) == (400, "bad-path")
    assert not web.requests


async def test_an_encoded_slash_passes_where_no_rule_could_tell_it_from_a_slash(mesh):
    """RabbitMQ's vhosts, GitLab's projects, npm's scopes: %2F is a part of a name there. Elsewhere it is a slash, and no way around a rule."""
    web = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(2):
        assert (await buyer.get("/books/a%2fb?c=%2f")).status == 200
        assert (await buyer.get("/books/a/b")).status == 200
    assert [target for _, _, target, _, _ in web.requests] == ["/books/a%2Fb?c=%2f", "/books/a/b"] * 2
    answer = await buyer.get("/admin%2Fbooks")
    assert (answer.status, answer.reason) == (403, "no-http-match")
    mesh.publish(routes=mesh.manifests["routes"].replace("/books.*", "'/books/[^/]*$'"))
    for path in ("/books/a", "/books/a%2Fb", "/books/b"):
        buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
        answer = await buyer.get(path)
        assert (answer.status, answer.reason) == ((400, "bad-path") if "%" in path else (200, ""))
    assert len(web.requests) == 6


async def test_outside_of_the_mesh_passes_while_egress_is_on(mesh):
    outside = mesh.web_at(mesh.stranger, 8080)
    assert (await (await mesh.call("buyer", mesh.stranger, 8080)).get("/any")).body == "outside"
    mesh.publish(mesh=mesh.no_egress)
    assert await (await mesh.call("buyer", mesh.stranger, 8080)).is_over() == "reset"
    assert len(outside.requests) == 1


async def test_bodies_both_ways(mesh):
    web = mesh.web("store-v1")
    big = b"0123456789abcdef" * 40_000
    web.answers["/books"] = (200, big)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    answer = await buyer.get("/books", "POST", big)
    assert answer.body.encode() == big
    assert web.requests[0][4] == big


async def test_a_caller_keeps_its_upstream_connection_and_shares_it_with_nobody(mesh):
    web = mesh.web("store-v1")
    mesh.publish(mesh=mesh.permissive)
    for _ in range(3):
        for name in ("buyer", "buyer-2", "thief"):
            call = await mesh.call(name, "bookstore-v1.bookstore")
            for _ in range(2):
                assert (await call.get("/books")).status == 200
            await call.stream.aclose()
    callers = {}
    for number, _, _, headers, _ in web.requests:
        callers.setdefault(number, set()).add(headers[b"x-forwarded-for"])
    assert len(web.requests) == 18
    assert [len(who) for who in callers.values()] == [1, 1, 1]  # three connections, each with one caller's requests
    assert sorted(web.peers) == sorted(mesh.addresses[name] for name in ("buyer", "buyer-2", "thief"))


async def test_one_record_for_each_connection_and_each_request(mesh):
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for path in ("/books", "/admin", "/books"):
        await buyer.get(path)
    await buyer.stream.aclose()
    thief = await mesh.call("thief", "bookstore-v1.bookstore")
    await thief.get("/books")
    await thief.stream.aclose()
    await (await mesh.call("thief", "bookstore-v1.bookstore")).stream.aclose()
    await mesh.settled()
    requests = [(r.source.name, r.path, r.status, r.flag) for r in mesh.records if r.kind == "request"]
    assert requests == [
        ("buyer", "/books", 200, ""),
        ("buyer", "/admin", 403, "denied"),
        ("buyer", "/books", 200, ""),
        ("thief", "/books", 403, "denied"),
    ]
    connections = [(r.source.name, r.flag) for r in mesh.records if r.kind == "connection"]
    assert connections == [("buyer", ""), ("thief", ""), ("thief", "")]
    first = next(r for r in mesh.records if r.kind == "request")
    assert first.service == "bookstore/bookstore-v1"
    assert first.destination.key == "bookstore/store-v1"
    assert first.endpoint == f"{mesh.addresses['store-v1']}:{mesh.port}"
    assert "TrafficTarget bookstore/" in first.rule
    refused = [r for r in mesh.records if r.kind == "request"][-1]
    assert (refused.service, refused.dialled) == ("bookstore/bookstore-v1", first.dialled)
    assert mesh.at_rest()


async def test_pipelined_requests_are_answered_in_order(mesh):
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    request = b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n"
    await buyer.send(request % b"/books" + request % b"/admin" + request % b"/books")
    statuses = []
    data = b""
    while len(statuses) < 3:
        data += await buyer.stream.receive_some()
        statuses = [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"403", b"200"]
