"""Names at the DNS doors: Services are answered with the address that calls are decided by, the rest is the resolver's."""

import socket

import dns.message
import dns.rcode
import pytest
import trio

from tests.journeys.stand_ins import bound


@pytest.fixture
async def ask(mesh):
    sockets = []

    async def ask(caller, name, rdtype="A"):
        sock = trio.socket.from_stdlib_socket(bound(mesh.addresses[caller], socket.SOCK_DGRAM))
        sockets.append(sock)
        await sock.connect(mesh.dns[caller])
        query = dns.message.make_query(name, rdtype)
        await sock.send(query.to_wire())
        response = dns.message.from_wire(await sock.recv(4096))
        assert query.is_response(response)
        return response.rcode(), [record.to_text() for rrset in response.answer for record in rrset]

    yield ask
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize(
    "name",
    ["bookstore.bookstore", "bookstore.bookstore.svc", "BOOKSTORE.bookstore.svc.cluster.local", "bookstore.bookstore."],
)
async def test_a_service_has_one_address_by_all_its_names(mesh, ask, name):
    web = mesh.web("store-v1")
    rcode, (address,) = await ask("buyer", name)
    assert rcode == dns.rcode.NOERROR
    mesh.publish(split=mesh.split(1, 0))
    assert (await (await mesh.call("buyer", address)).get("/books")).status == 200
    assert len(web.requests) == 1


async def test_a_short_name_is_of_the_callers_own_namespace(mesh, ask):
    assert (await ask("store-v1", "bookstore"))[1] == (await ask("buyer", "bookstore.bookstore"))[1]
    assert await ask("buyer", "bookstore") == (dns.rcode.SERVFAIL, [])  # the resolver is asked, and there is none here


async def test_what_a_search_list_makes_of_a_services_name_is_that_service(mesh, ask):
    """With ndots:5, as in Kubernetes, the name with the first suffix is what is asked first."""
    assert (await ask("buyer", "bookstore.bookstore.bookbuyer.svc.cluster.local")) == (
        await ask("buyer", "bookstore.bookstore")
    )


@pytest.mark.parametrize(
    "name", ["example.com", "bookstore.elsewhere.bookbuyer.svc.cluster.local", "bookstore.bookstore.example.com", "."]
)
async def test_other_names_are_the_resolvers(mesh, ask, name):
    with trio.socket.from_stdlib_socket(bound(mesh.stranger, socket.SOCK_DGRAM)) as upstream:
        mesh.kernel.resolver = upstream.getsockname()
        async with trio.open_nursery() as nursery:

            async def resolve():
                question, peer = await upstream.recvfrom(4096)
                response = dns.message.make_response(dns.message.from_wire(question))
                response.set_rcode(dns.rcode.NXDOMAIN)
                await upstream.sendto(response.to_wire(), peer)

            nursery.start_soon(resolve)
            assert await ask("buyer", name) == (dns.rcode.NXDOMAIN, [])
    assert mesh.proxy.houses["bookbuyer/buyer"].resolver.counts.forwarded == 1


async def test_a_service_that_comes_and_goes(mesh, ask):
    assert (await ask("buyer", "late.bookstore"))[0] == dns.rcode.SERVFAIL
    mesh.publish(late=mesh.service("late", "{app: late}", "[{port: 80}]"))
    first = await ask("buyer", "late.bookstore")
    assert first[0] == dns.rcode.NOERROR and len(first[1]) == 1
    mesh.publish(late="")
    assert (await ask("buyer", "late.bookstore"))[0] == dns.rcode.SERVFAIL
    mesh.publish(late=mesh.service("late", "{app: late}", "[{port: 80}]"))
    assert await ask("buyer", "late.bookstore") == first  # the address is kept
