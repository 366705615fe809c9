"""TLS with clients outside the mesh: real handshakes over memory streams."""

import ssl
import time

import pytest
import trio
from trio.testing import memory_stream_pair

from nodeproxy.errors import Refused
from nodeproxy.tls.certificates import Certificates, ClientCas, ServerCertificate
from nodeproxy.tls.contexts import load_key
from nodeproxy.tls.gateway import Chosen, ServerContexts, accept_client, check
from nodeproxy.tls.stream import TlsStream
from policy.model import Identity

DAY = 86400.0


def server_certificate(mint, name="Secret shop/tls", host="www.shop.example", **more):
    made = mint.credentials(dns=(host,), **more)
    return ServerCertificate(name, (host,), made.chain, made.key, made.not_before, made.not_after)


class Door:
    """A listener with one certificate, and a client that meets it."""

    def __init__(self, mint, clients=None, trust=None):
        self.mint, self.clients, self.trust = mint, clients, trust
        self.held = Certificates()
        self.held.take([server_certificate(mint)])
        self.names = ("Secret shop/tls",)
        self.contexts = ServerContexts()
        self.now = time.time
        self.deadline = 5

    def choose(self, host):
        found = self.held.choose(self.names, host)
        return None if found is None else Chosen(found, self.clients)

    async def meet(self, host="www.shop.example", alpn=("h2", "http/1.1"), shows=None, newest=None, trusts=None):
        """Return (what the server accepted, or its refusal; the client's stream, or its error)."""
        ours, theirs = memory_stream_pair()
        context = ssl.create_default_context(cadata=(trusts or self.mint).root.pem.decode())
        if newest is not None:
            context.maximum_version = newest
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if shows is not None:
            load_key(context, shows.chain + shows.key)
        client = TlsStream(ours, context, server=False)
        client._tls = context.wrap_bio(client._in, client._out, server_hostname=host)
        found = [None, client]

        async def serve():
            try:
                found[0] = await accept_client(theirs, self.choose, self.contexts, self.deadline, self.now, self.trust)
                await found[0].stream.send_all(b"hello")
            except Refused as refused:
                found[0] = refused
                await theirs.aclose()

        async def call():
            try:
                await client.handshake()
                assert await client.receive_some() == b"hello"
            except (ssl.SSLError, trio.BrokenResourceError) as error:
                found[1] = error
                await ours.aclose()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                nursery.start_soon(call)
        return found


@pytest.mark.parametrize(
    ("alpn", "agreed"), [(("h2", "http/1.1"), "h2"), (("http/1.1", "h2"), "h2"), (("http/1.1",), "http/1.1"), ((), "")]
)
async def test_a_client_gets_the_certificate_of_the_host_that_it_names(mint, alpn, agreed):
    accepted, client = await Door(mint).meet(alpn=alpn)
    assert (accepted.sni, accepted.alpn, accepted.client) == ("www.shop.example", agreed, None)
    assert client.object.version() == "TLSv1.3"
    assert client.object.getpeercert()["subjectAltName"] == (("DNS", "www.shop.example"),)


async def test_tls_1_2_is_spoken_and_nothing_older(mint):
    door = Door(mint)
    accepted, client = await door.meet(newest=ssl.TLSVersion.TLSv1_2)
    assert (accepted.alpn, client.object.version()) == ("h2", "TLSv1.2")
    body = b"\x03\x02" + bytes(32) + b"\0" + b"\0\x02\xc0\x13" + b"\x01\0"  # TLS 1.1, without extensions
    hello = b"\x01" + len(body).to_bytes(3) + body
    ours, theirs = memory_stream_pair()
    await ours.send_all(b"\x16\x03\x01" + len(hello).to_bytes(2) + hello)
    with pytest.raises(Refused, match=r"speaks nothing from TLS 1\.2 on"):
        await accept_client(theirs, door.choose, door.contexts, 5, door.now)
    assert await ours.receive_some() == bytes.fromhex("15 0303 0002 02 46")  # protocol_version


async def test_a_client_that_offers_no_protocol_of_ours_gets_an_alert(mint):
    refused, error = await Door(mint).meet(alpn=("spdy/1",))
    assert refused.flag == "tls-no-alpn"
    assert "no application protocol" in str(error).replace("_", " ").lower()


async def test_a_host_without_a_listener_gets_an_alert(mint):
    door = Door(mint)
    door.choose = lambda host: None
    refused, error = await door.meet()
    assert (refused.flag, refused.detail) == ("tls-failed", "the gateway has no TLS listener for www.shop.example")
    assert "unrecognized name" in str(error).replace("_", " ").lower()


async def test_a_certificate_whose_key_does_not_fit_is_refused_and_told(mint):
    one, other = server_certificate(mint), server_certificate(mint)
    broken = ServerCertificate("Secret shop/tls", one.hosts, one.chain, other.key)
    assert check(one) == ""
    assert "Secret shop/tls cannot be used" in check(broken)
    assert "PRIVATE" not in check(ServerCertificate("Secret shop/tls", (), one.chain, b"PRIVATE"))
    door = Door(mint)
    door.held.take([broken])
    refused, _ = await door.meet()
    assert refused.flag == "no-server-certificate"


async def test_plain_text_is_told_from_tls(mint):
    door = Door(mint)
    ours, theirs = memory_stream_pair()
    await ours.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(Refused, match="plain-to-tls"):
        await accept_client(theirs, door.choose, door.contexts, 5, door.now)


async def test_a_silent_client_is_sent_away(mint, autojump_clock):
    door = Door(mint)
    ours, theirs = memory_stream_pair()
    with pytest.raises(Refused, match="no handshake in 5 s"):
        await accept_client(theirs, door.choose, door.contexts, 5, door.now)
    await ours.send_all(b"\x16\x03\x01\x02\x00")
    with pytest.raises(Refused, match="no handshake in 5 s"):
        await accept_client(theirs, door.choose, door.contexts, 5, door.now)


async def test_a_renewed_certificate_is_presented_at_once_and_the_old_connection_goes_on(mint):
    door = Door(mint)
    before, old_client = await door.meet()
    renewed = server_certificate(mint)
    door.held.take([renewed])
    after, new_client = await door.meet()
    old, new = (client.object.getpeercert(binary_form=True) for client in (old_client, new_client))
    assert old != new
    assert ssl.DER_cert_to_PEM_cert(new).encode() in renewed.chain
    await old_client.send_all(b"still here")
    assert await before.stream.receive_some() == b"still here"
    assert after.alpn == "h2"


async def test_contexts_are_made_once_and_bounded(mint):
    contexts = ServerContexts(most=2)
    one, two, three = (Chosen(server_certificate(mint, name=name)) for name in "abc")
    first = contexts.get(one)
    contexts.get(two)
    assert contexts.get(one) is first
    contexts.get(three)  # two is the longest unused
    assert len(contexts) == 2
    assert contexts.get(one) is first


async def test_sessions_of_tls_1_2_do_not_pile_up(mint, monkeypatch):
    monkeypatch.setattr("nodeproxy.tls.gateway._SESSIONS", 3)
    door = Door(mint)
    seen = set()
    for _ in range(10):
        await door.meet(newest=ssl.TLSVersion.TLSv1_2)
        (context,) = door.contexts._made.values()
        seen.add(id(context))
        assert context.session_stats()["number"] <= 3


# certificates of clients


def cas(*mints, required=True):
    return ClientCas(b"".join(one.root.pem for one in mints), required)


@pytest.fixture
def partners(mint):
    """Another authority than the mesh's."""
    return type(mint)()


async def test_a_client_without_a_certificate_is_refused_where_one_is_asked_for(mint, partners):
    refused, error = await Door(mint, cas(partners)).meet()
    assert (refused.flag, refused.detail) == ("client-untrusted", "it showed none")
    assert isinstance(error, Exception)
    accepted, _ = await Door(mint, cas(partners, required=False)).meet()
    assert accepted.client is None


async def test_a_certificate_of_another_ca_is_refused(mint, partners):
    shows = type(mint)().credentials(dns=("till.partner.example",))
    for required in (True, False):
        refused, _ = await Door(mint, cas(partners, required=required)).meet(shows=shows)
        assert refused.flag == "client-untrusted"


async def test_somebody_outside_is_known_by_the_names_of_its_certificate(mint, partners):
    shows = partners.credentials("spiffe://partner.example/till", dns=("till.partner.example",))
    accepted, _ = await Door(mint, cas(partners), mint.trust()).meet(shows=shows)
    assert accepted.client.names == ("spiffe://partner.example/till", "till.partner.example")
    assert accepted.client.identity is None


async def test_another_ca_proves_no_identity_of_the_mesh(mint, partners):
    """Though the listener trusts that CA, and the SPIFFE ID is of our trust domain."""
    shows = partners.credentials(mint.spiffe("buyer"))
    accepted, _ = await Door(mint, cas(partners, mint), mint.trust()).meet(shows=shows)
    assert accepted.client.identity is None
    assert accepted.client.names == (mint.spiffe("buyer"),)


async def test_the_meshs_own_root_proves_an_identity(mint, partners):
    shows = mint.credentials(mint.spiffe("buyer"), node="n1")
    door = Door(mint, cas(partners, mint), mint.trust())
    accepted, _ = await door.meet(shows=shows)
    assert accepted.client.identity == Identity("shop", "buyer")
    assert accepted.client.node == "n1"
    assert accepted.client.serial
    door.trust = None  # a node that is of no mesh
    accepted, _ = await door.meet(shows=shows)
    assert accepted.client.identity is None


async def test_the_meshs_root_and_another_trust_domain_prove_no_identity(mint):
    shows = mint.credentials(mint.spiffe("buyer", trust_domain="elsewhere.example"))
    accepted, _ = await Door(mint, cas(mint), mint.trust()).meet(shows=shows)
    assert accepted.client.identity is None


async def test_a_certificate_under_an_intermediate_of_the_mesh_proves_an_identity(mint):
    shows = mint.credentials(mint.spiffe("buyer"), ca=mint.root.intermediate())
    accepted, _ = await Door(mint, cas(mint), mint.trust()).meet(shows=shows)
    assert accepted.client.identity == Identity("shop", "buyer")


async def test_an_expired_certificate_of_a_client_is_refused(mint, partners):
    shows = partners.credentials(
        dns=("till.partner.example",), not_before=time.time() - 3 * DAY, not_after=time.time() - DAY
    )
    refused, _ = await Door(mint, cas(partners), mint.trust()).meet(shows=shows)
    assert refused.flag == "client-untrusted"
    assert "ago by our clock" in refused.detail


async def test_where_certificates_are_asked_for_nobody_speaks_tls_1_2(mint, partners):
    shows = partners.credentials(dns=("till.partner.example",))
    refused, error = await Door(mint, cas(partners)).meet(shows=shows, newest=ssl.TLSVersion.TLSv1_2)
    assert refused.detail == "the client speaks nothing from TLS 1.3 on"
    assert "version" in str(error).lower()


@pytest.mark.parametrize("newest", [None, ssl.TLSVersion.TLSv1_2])
async def test_one_side_ends_and_still_reads(mint, newest):
    """As a WebSocket server that closes first: what is on its way to it is not lost."""
    accepted, client = await Door(mint).meet(newest=newest)
    server = accepted.stream
    await client.send_all(b"before")
    await trio.testing.wait_all_tasks_blocked()
    server._in.write(await server._stream.receive_some())  # it has come, and nobody has read it
    await server.send_eof()
    assert await client.receive_some() == b""
    assert await server.receive_some(3) == b"bef"
    assert await server.receive_some() == b"ore"
    if newest is None:  # in TLS 1.2 the other end has to close too (RFC 5246 section 7.2.1)
        await client.send_all(b"after")
        assert await server.receive_some() == b"after"
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"too late")
    await client.send_eof()
    assert await server.receive_some() == b""
