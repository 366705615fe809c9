"""The same policy over IPv6, and between the families."""

import pytest

from tests.journeys.stand_ins import echo
from tests.ports import free_port


@pytest.fixture
def ports(mesh):
    """The ports of a service whose endpoint is [::1]: others each time, since there is only one such address."""
    port, other = free_port(), free_port()
    mesh.publish(
        six=mesh.service(
            "six",
            "{app: six}",
            f"[{{name: web, port: {port}, appProtocol: http}}, {{name: raw, port: {other}, appProtocol: tcp}}]",
        ),
        access_six=mesh.http("bookbuyer", "six") + mesh.tcp("bookbuyer", "six", other),
    )
    return port, other


async def test_http_to_a_server_with_an_ipv6_address(mesh, ports):
    port, _ = ports
    web = mesh.web("six", port)
    for host in ("six.bookstore", "::1"):
        buyer = await mesh.call("buyer", host, port)
        assert (await buyer.get("/books")).body == "six"
        assert (await buyer.get("/admin")).status == 403
        thief = await mesh.call("thief", host, port)
        assert (await thief.get("/books")).status == 403
    assert len(web.requests) == 2


async def test_tcp_to_a_server_with_an_ipv6_address(mesh, ports):
    _, port = ports
    mesh.serve("six", echo, port)
    buyer = await mesh.call("buyer", "six.bookstore", port)
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"
    assert await (await mesh.call("thief", "six.bookstore", port)).is_over() == "reset"
    mesh.publish(access_six="")
    assert await buyer.is_over() == "reset"


async def test_a_caller_with_an_ipv6_address(mesh):
    web = mesh.web("store-v1")
    six = await mesh.call("six", "bookstore-v1.bookstore")
    assert (await six.get("/books")).status == 403
    mesh.publish(
        six=mesh.http("bookstore", "bookstore").replace(
            "name: bookstore, namespace: bookstore}]", "name: six, namespace: bookstore}]"
        )
    )
    assert (await six.get("/books")).status == 200
    assert web.requests[0][3][b"x-forwarded-for"] == b"::1"


async def test_an_ipv6_address_is_no_identity(mesh, ports):
    port, _ = ports
    mesh.web("six", port)
    answer = await (await mesh.call_in("::1", "six", port)).get("/books")
    assert (answer.status, answer.reason) == (403, "no-identity")
