"""The inbound door: an address is no identity, and from the node only declared probes are admitted."""


async def test_a_stranger_is_refused_in_words(mesh):
    web = mesh.web("store-v1")
    answer = await (await mesh.call_in(mesh.stranger, "store-v1")).get("/books")
    assert (answer.status, answer.reason) == (403, "no-identity")
    assert not web.requests


async def test_a_workloads_address_is_no_identity_either(mesh):
    web = mesh.web("store-v1")
    answer = await (await mesh.call_in(mesh.addresses["buyer"], "store-v1")).get("/books")
    assert answer.status == 403
    assert not web.requests


async def test_a_stranger_without_http_is_closed(mesh):
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    assert await (await mesh.call_in(mesh.stranger, "store-v1", 9000)).is_over() == "reset"


async def test_the_node_may_only_probe(mesh):
    web = mesh.web("store-v1")
    node = await mesh.call_in(mesh.node, "store-v1")
    for method, path, status in (
        ("GET", "/healthz", 200),
        ("GET", "/books", 403),
        ("POST", "/healthz", 403),
        ("GET", "/healthz?deep", 200),
    ):
        answer = await node.get(path, method)
        assert answer.status == status, (method, path)
    assert [target for _, _, target, _, _ in web.requests] == ["/healthz", "/healthz?deep"]
    answer = await (await mesh.call_in(mesh.stranger, "store-v1")).get("/healthz")
    assert answer.status == 403


async def test_a_tcp_probe_asks_the_server(mesh):
    dead = await mesh.call_in(mesh.node, "store-v1", 9000)
    assert await dead.is_over() == "reset"

    async def silent(stream):
        await stream.receive_some()

    server = mesh.serve("store-v1", silent, 9000)
    probe = await mesh.call_in(mesh.node, "store-v1", 9000)
    await mesh.settled()
    assert len(server.peers) == 1
    await probe.stream.aclose()
    await mesh.settled()
    assert [r.flag for r in mesh.records] == ["connect-failed", ""]
    talks = await mesh.call_in(mesh.node, "store-v1", 9000)
    await talks.send(b"anything")
    assert await talks.is_over() == "reset"
    assert mesh.records[-1].flag == "no-identity"
