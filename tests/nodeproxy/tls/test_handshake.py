"""TLS between nodes: real handshakes over memory streams, right ones and wrong ones."""

import contextlib
import ctypes
import gc
import os
import re
import socket
import ssl
import time

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import check_two_way_stream, memory_stream_pair

from nodeproxy.errors import Refused
from nodeproxy.native import AVAILABLE
from nodeproxy.stream import abort, close_now
from nodeproxy.tls import contexts
from nodeproxy.tls import handshake as tls
from nodeproxy.tls.contexts import ALPN_MESH, ALPN_TUNNEL, Contexts
from policy.model import Identity
from tests.compiled import needs_lane

if AVAILABLE:
    from nodeproxy.fastpath import tls as tls_native

TD = "cluster.local"
BUYER = f"spiffe://{TD}/ns/shop/sa/buyer"
STORE = f"spiffe://{TD}/ns/shop/sa/store"
HOUR, DAY = 3600.0, 86400.0


class Ends:
    """Both ends of one connection: how they come to it, and what became of it: a Secured or a Refused for each."""

    def __init__(self, mint, client=tls, server=tls):
        """`client`, `server`: whose TLS each end has, Python's or the native lane's, which reads a socket itself."""
        self.client_tls, self.server_tls = client, server
        self.client_contexts, self.server_contexts = map(contexts_of, (client, server))
        self.streams = memory_stream_pair() if (client, server) == (tls, tls) else sockets()
        self.client_has = mint.credentials(BUYER, node="n1")
        self.server_has = mint.credentials(STORE, node="n2")
        self.client_trusts = self.server_trusts = mint.trust()
        self.client_alpn = self.server_alpn = ALPN_MESH
        self.wants_certificate = True
        self.expects = {STORE}
        self.client_clock = self.server_clock = time.time
        self.deadline = 5
        self.client = self.server = None

    async def _connect(self):
        context = self.client_contexts.client(self.client_has, self.client_trusts, self.client_alpn)
        try:
            self.client = await self.client_tls.connect(
                self.streams[0], context, self.client_trusts, self.expects, self.deadline, self.client_clock
            )
        except Refused as refused:
            self.client = refused
            await self.streams[0].aclose()

    async def _accept(self):
        context = self.server_contexts.server(
            self.server_has, self.server_trusts, self.server_alpn, self.wants_certificate
        )
        try:
            self.server = await self.server_tls.accept(
                self.streams[1], context, self.server_trusts, self.deadline, self.server_clock
            )
        except Refused as refused:
            self.server = refused
            await self.streams[1].aclose()

    async def meet(self):
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._connect)
                nursery.start_soon(self._accept)
        return self

    async def meet_client(self, context, sent=b""):
        """Another client than ours: what it ends with, an SSLError or the SSLObject, and what it heard. `sent`: bytes before."""
        found = []

        async def client():
            found.append(await shake(self.streams[0], context, sent))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client)
                nursery.start_soon(self._accept)
        return found[0]


async def hears(end):
    """What comes, of either kind."""
    if not isinstance(end.stream, trio.SocketStream):
        return await end.stream.receive_some()
    while True:
        try:
            data = end.secured.read(65536)
        except ConnectionError as error:
            raise trio.BrokenResourceError(tls_native.in_words(str(error))) from error
        if data is not None:
            return data
        await trio.lowlevel.wait_readable(end.stream.socket)


async def says(end, data):
    if not isinstance(end.stream, trio.SocketStream):
        await end.stream.send_all(data)
    elif end.secured.write(data) != len(data):
        raise trio.BrokenResourceError("it is not taken")


async def shake(stream, context, sent=b"", server_side=False):
    """A client (or server) of the plain library: handshake, then one read. Answers the error, or the ssl object when nothing was wrong."""
    inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(inside, outside, server_side=server_side)
    await stream.send_all(sent)
    steps = [tls.do_handshake, lambda: tls.read(1)]
    while steps:
        try:
            steps[0]()
            steps.pop(0)
        except ssl.SSLWantReadError:
            if data := outside.read():
                await stream.send_all(data)
            data = await stream.receive_some()
            if data:
                inside.write(data)
            elif len(steps) == 1:
                return tls
            else:
                inside.write_eof()
        except ssl.SSLError as error:
            return error
    return tls


def plain_client(most=ssl.TLSVersion.TLSv1_3, alpn=ALPN_TUNNEL):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = most
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def contexts_of(kind):
    return Contexts() if kind is tls else contexts.ContextCache(tls_native.make)


NATIVE = [pytest.param(ends, marks=needs_lane) for ends in ("native, native", "native, Python", "Python, native")]


@pytest.fixture(params=["Python, Python", *NATIVE])
async def ends(mint, request):
    """Each of the two in Python or in the native lane: what holds for one holds for the other."""
    made = Ends(mint, *(tls_native if kind == "native" else tls for kind in request.param.split(", ")))
    yield made
    for stream in made.streams:
        if isinstance(stream, trio.SocketStream):
            stream.socket.close()


def refused(found, flag, *words):
    assert isinstance(found, Refused), found
    assert found.flag == flag, found
    for word in words:
        assert word in found.detail, found


# well


async def test_both_ends_prove_who_they_are(ends):
    await ends.meet()
    peer = ends.server.peer
    assert (peer.spiffe, peer.identity, peer.node) == (BUYER, Identity("shop", "buyer"), "n1")
    assert (peer.version, peer.alpn, peer.serial) == ("TLSv1.3", "edgemesh-h2", ends.client_has.serial)
    assert peer.cipher.startswith("TLS_")
    assert peer.not_after == int(ends.client_has.not_after)
    assert (ends.client.peer.spiffe, ends.client.peer.node) == (STORE, "n2")
    assert ends.client.alpn == ends.server.alpn == "edgemesh-h2"


@pytest.mark.parametrize(
    ("client", "server", "agreed"), [(ALPN_TUNNEL, ALPN_MESH, "h2"), (ALPN_MESH, ALPN_TUNNEL, "h2"), ((), (), "")]
)
async def test_what_they_speak(ends, client, server, agreed):
    ends.client_alpn, ends.server_alpn = client, server
    await ends.meet()
    assert ends.client.peer.alpn == ends.server.peer.alpn == agreed


@pytest.mark.parametrize("key", ["rsa", "p384"])
async def test_keys_of_authorities_made_elsewhere(ends, mint, key):
    ca = mint.ca("elsewhere", key=key)
    ends.client_has = mint.credentials(BUYER, ca=ca.intermediate("theirs", key=key), key=key)
    ends.server_trusts = mint.trust(ca)
    await ends.meet()
    assert ends.server.peer.spiffe == BUYER


async def test_a_node_is_no_workload(ends, mint):
    ends.client_has = mint.credentials(f"spiffe://{TD}/node/till-3.site", node="till-3.site")
    await ends.meet()
    assert (ends.server.peer.identity, ends.server.peer.node) == (None, "till-3.site")


async def test_a_node_without_a_unit_is_named_by_its_spiffe_id(ends, mint):
    ends.client_has = mint.credentials(f"spiffe://{TD}/node/till-3")
    await ends.meet()
    assert ends.server.peer.node == "till-3"


async def test_the_authority_is_neither(ends, mint):
    ends.server_has = mint.credentials(f"spiffe://{TD}/authority")
    ends.expects = {f"spiffe://{TD}/authority"}
    await ends.meet()
    assert (ends.client.peer.identity, ends.client.peer.node) == (None, "")


async def test_dns_names_beside_the_one_uri_do_not_matter(ends, mint):
    ends.client_has = mint.credentials(BUYER, dns=("buyer.shop",))
    await ends.meet()
    assert ends.server.peer.spiffe == BUYER


async def test_two_roots_at_once(mint):
    new = mint.ca("new")
    for client_ca, server_ca in [(mint.root, new), (new, mint.root), (new, new)]:
        ends = Ends(mint)
        ends.client_has, ends.server_has = mint.credentials(BUYER, ca=client_ca), mint.credentials(STORE, ca=server_ca)
        ends.client_trusts = ends.server_trusts = mint.trust(mint.root, new)
        await ends.meet()
        assert (ends.server.peer.spiffe, ends.client.peer.spiffe) == (BUYER, STORE)


async def test_who_need_not_show_a_certificate_may(ends):
    ends.wants_certificate = False
    await ends.meet()
    assert ends.server.peer.spiffe == BUYER


async def test_who_need_not_show_a_certificate(ends):
    ends.wants_certificate, ends.client_has = False, None
    await ends.meet()
    assert ends.server.peer is None
    assert ends.client.peer.spiffe == STORE


async def test_a_certificate_that_is_shown_is_verified_even_then(ends, mint):
    ends.wants_certificate, ends.client_has = False, mint.credentials(BUYER, ca=mint.ca("other"))
    await ends.meet()
    refused(ends.server, "peer-untrusted")


async def test_without_roots_nobody_is_proved_and_nothing_is_shown(ends, mint):
    ends.wants_certificate, ends.client_has, ends.client_trusts, ends.expects = False, None, None, ()
    await ends.meet()
    if ends.client_tls is not tls:  # the lane carries no connection to somebody who proves nothing
        refused(ends.client, "peer-unexpected", "nobody")
        return
    assert ends.client.peer is None
    with pytest.raises(ValueError, match="credentials are not shown"):
        Contexts().client(mint.credentials(BUYER), None, ())
    with pytest.raises(ValueError, match="nobody can be expected"):
        await tls.connect(None, Contexts().client(None, None, ()), None, {STORE}, 1, time.time)


# whom we do not believe


async def test_a_client_without_a_certificate(ends):
    ends.client_has = None
    await ends.meet()
    refused(ends.server, "tls-failed", "did not return a certificate")
    # In TLS 1.3 a client is done before the server has looked at its certificate.
    with pytest.raises(trio.BrokenResourceError, match="the peer sent alert certificate required"):
        await hears(ends.client)


async def test_a_client_of_another_authority(ends, mint):
    ends.client_has = mint.credentials(BUYER, ca=mint.ca("root"))  # even of the same name
    await ends.meet()
    refused(ends.server, "peer-untrusted")
    with pytest.raises(trio.BrokenResourceError, match="the peer sent alert"):
        await hears(ends.client)
    with pytest.raises(trio.BrokenResourceError):
        await ends.client.stream.send_all(b"x")


async def test_a_server_of_another_authority(ends, mint):
    ends.server_has = mint.credentials(STORE, ca=mint.ca("other"))
    await ends.meet()
    refused(ends.client, "peer-untrusted", "unable to get local issuer certificate")
    refused(ends.server, "tls-failed", "the peer sent alert unknown ca")


async def test_an_intermediate_in_the_bundle_is_no_root(ends, mint):
    site = mint.root.intermediate()
    ends.client_has = msgspec.structs.replace(mint.credentials(BUYER, ca=site))
    ends.server_trusts = msgspec.structs.replace(mint.trust(), roots=site.pem)
    await ends.meet()
    refused(ends.server, "peer-untrusted")


async def test_a_workload_signs_for_nobody(ends, mint):
    thief = mint.credentials(BUYER)
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from tests.mint import Authority

    as_authority = Authority(
        x509.load_pem_x509_certificate(thief.chain), load_pem_private_key(thief.key, None), mint.root
    )
    ends.client_has = mint.credentials(STORE, ca=as_authority)
    await ends.meet()
    refused(ends.server, "peer-untrusted")


@pytest.mark.parametrize(("permitted", "flag"), [(TD, ""), ("other.example", "peer-untrusted")])
async def test_an_intermediate_may_be_bound_to_a_trust_domain(ends, mint, permitted, flag):
    ends.client_has = mint.credentials(BUYER, ca=mint.root.intermediate("site", permitted=(permitted,)))
    await ends.meet()
    if flag:
        refused(ends.server, flag, "permitted subtree")
    else:
        assert ends.server.peer.spiffe == BUYER


async def test_a_certificate_for_servers_only_is_none_for_a_client(ends, mint):
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ends.client_has = mint.credentials(BUYER, usages=(ExtendedKeyUsageOID.SERVER_AUTH,))
    await ends.meet()
    refused(ends.server, "peer-untrusted", "purpose")


# when


EXPIRED, WITHIN = 301.0, 299.0


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize(("beyond", "believed"), [(WITHIN, True), (EXPIRED, False)])
@pytest.mark.parametrize("edge", ["not_after", "not_before"])
async def test_dates_are_held_with_tolerance(ends, end, beyond, believed, edge):
    checks = "server" if end == "client" else "client"
    shown = getattr(ends, f"{end}_has")
    at = shown.not_after + beyond if edge == "not_after" else shown.not_before - beyond
    setattr(ends, f"{checks}_clock", lambda: at)
    await ends.meet()
    found = getattr(ends, checks)
    if believed:
        assert found.peer.spiffe == shown.spiffe
    else:
        refused(
            found,
            "peer-expired",
            f"{shown.spiffe} holds {'until' if edge == 'not_after' else 'from'}",
            "301 s",
            "our clock",
        )


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("edge", [{"not_after": -EXPIRED}, {"not_before": EXPIRED + 5, "not_after": DAY}])
async def test_an_expired_certificate_by_the_clock_of_the_wall(ends, mint, end, edge):
    dates = {name: time.time() + seconds for name, seconds in edge.items()}
    dates.setdefault("not_before", time.time() - DAY)
    setattr(ends, f"{end}_has", mint.credentials(BUYER if end == "client" else STORE, **dates))
    await ends.meet()
    refused(ends.server if end == "client" else ends.client, "peer-expired")


@pytest.mark.parametrize("edge", [{"not_after": -60}, {"not_before": 60, "not_after": DAY}])
async def test_openssl_does_not_look_at_the_clock(ends, mint, edge):
    dates = {"not_before": time.time() - DAY} | {name: time.time() + seconds for name, seconds in edge.items()}
    site = mint.ca("old", **dates).intermediate("old site", **dates)
    ends.client_has, ends.server_has = (mint.credentials(who, ca=site, **dates) for who in (BUYER, STORE))
    ends.client_trusts = ends.server_trusts = mint.trust(site)
    await ends.meet()
    assert (ends.server.peer.spiffe, ends.client.peer.spiffe) == (BUYER, STORE)


@pytest.mark.parametrize("level", ["intermediate", "root"])
async def test_what_signed_it_has_dates_too(ends, mint, level):
    past = {"not_before": time.time() - DAY, "not_after": time.time() - HOUR}
    ca = mint.ca("old", **past) if level == "root" else mint.root.intermediate("old", **past)
    ends.client_has = mint.credentials(BUYER, ca=ca)
    ends.server_trusts = mint.trust(ca)
    await ends.meet()
    refused(ends.server, "peer-expired", "the certificate of old holds until", " s ago by our clock")


async def test_a_peer_is_believed_until_the_first_of_its_chain_ends(ends, mint):
    soon = time.time() + HOUR
    ends.client_has = mint.credentials(BUYER, ca=mint.root.intermediate("site", not_after=soon))
    await ends.meet()
    assert ends.server.peer.not_after == int(soon)


# who


@pytest.mark.parametrize(
    ("spiffe", "more", "flag", "word"),
    [
        ("", {}, "peer-no-identity", "no URI name"),
        ("", {"dns": ("buyer.shop",)}, "peer-no-identity", "no URI name"),
        (BUYER, {"extra_sans": (STORE,)}, "peer-no-identity", STORE),
        (BUYER, {"extra_sans": ("https://x.example/",)}, "peer-no-identity", "x.example"),
        ("spiffe://other.example/ns/shop/sa/buyer", {}, "peer-wrong-domain", "ours is cluster.local"),
        (f"spiffe://{TD}/node/n1", {"node": "n2"}, "peer-no-identity", "n2"),
        (f"spiffe://{TD}/ns/shop", {}, "peer-no-identity", ""),
    ],
)
@pytest.mark.parametrize("end", ["client", "server"])
async def test_one_name_of_our_domain(ends, mint, end, spiffe, more, flag, word):
    setattr(ends, f"{end}_has", mint.credentials(spiffe, **more))
    await ends.meet()
    refused(ends.server if end == "client" else ends.client, flag, word)


async def test_a_server_that_proves_to_be_another(ends):
    ends.expects = {f"spiffe://{TD}/node/n2", BUYER}
    await ends.meet()
    refused(ends.client, "peer-unexpected", f"{STORE}; expected {' or '.join(sorted(ends.expects))}")


# what is no handshake of ours


async def test_a_server_of_tls_1_2_is_not_called(ends):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN_MESH)
    contexts._load_key(context, ends.server_has)
    found = []

    async def server():
        found.append(await shake(ends.streams[1], context, server_side=True))
        await ends.streams[1].aclose()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends._connect)
            nursery.start_soon(server)
    refused(ends.client, "tls-failed")
    assert isinstance(found[0], ssl.SSLError)


async def test_tls_1_2_is_answered_with_an_alert(ends):
    found = await ends.meet_client(plain_client(ssl.TLSVersion.TLSv1_2))
    assert found.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
    refused(ends.server, "tls-failed", "does not speak TLS 1.3")


@pytest.mark.parametrize(("alpn", "words"), [((), "no protocol"), (("http/1.1",), "http/1.1")])
async def test_a_client_that_does_not_offer_h2_is_answered_with_an_alert(ends, alpn, words):
    found = await ends.meet_client(plain_client(alpn=alpn))
    assert "alert no application protocol" in str(found)
    refused(ends.server, "tls-no-alpn", words)


async def test_a_client_of_ours_hears_the_alert(ends):
    ends.client_alpn = ("something",)
    await ends.meet()
    refused(ends.client, "tls-no-alpn", "the peer sent alert no application protocol")


async def test_a_server_that_chooses_no_protocol(ends):
    ends.server_alpn = ()
    await ends.meet()
    refused(ends.client, "tls-no-alpn", "chose no protocol")


async def test_no_server_name_is_sent(ends, monkeypatch):
    from nodeproxy.codec.client_hello import read_hello

    sent = []
    monkeypatch.setattr("nodeproxy.tls.handshake.read_hello", lambda data: sent.append(read_hello(data)) or sent[-1])
    await ends.meet()
    assert sent[-1].sni == ""
    assert sent[-1].versions == (0x0304,)


@pytest.mark.parametrize(
    ("sent", "flag", "alert"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "plain-to-tunnel", b""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "plain-to-tunnel", b""),
        (b"\x16\x03\x01\x00\x05abcde", "tls-failed", b"\x15\x03\x03\x00\x02\x02\x32"),
        (b"\x16GET / HTTP/1.1", "tls-failed", b"\x15\x03\x03\x00\x02\x02\x32"),
        (
            b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(16384 - 4) + b"\x16\x03\x01\x00",
            "tls-failed",
            b"\x15\x03\x03\x00\x02\x02\x32",
        ),
        (b"\x16\x03\x01\x02\x00\x01", "tls-failed", b""),  # and then it leaves
        (b"", "tls-failed", b""),
    ],
)
async def test_garbage(ends, sent, flag, alert):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends._accept)
        await ends.streams[0].send_all(sent)
        await ends.streams[0].send_eof()
        heard = b""
        with contextlib.suppress(trio.BrokenResourceError):  # of a socket that was closed with bytes unread
            async for part in ends.streams[0]:
                heard += part
        assert heard == alert or (len(sent) > 10_000 and isinstance(ends.streams[0], trio.SocketStream))
    refused(ends.server, flag)


async def test_a_server_that_answers_in_plain(ends):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends._connect)
        await ends.streams[1].send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    refused(ends.client, "tls-failed", "no TLS")


async def test_a_server_that_leaves(ends):
    await ends.streams[1].aclose()
    await ends._connect()
    refused(ends.client, "tls-failed")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_silence_has_a_deadline(ends, autojump_clock, sent):
    await ends.streams[0].send_all(sent)
    began = trio.current_time()
    await ends._accept()
    assert trio.current_time() - began == ends.deadline
    refused(ends.server, "tls-failed", "no handshake in 5 s")


async def test_a_silent_server_has_a_deadline(ends, autojump_clock):
    await ends._connect()
    refused(ends.client, "tls-failed", "no handshake in 5 s")


async def test_a_slow_and_endless_hello_is_bounded(ends):
    """Byte by byte, and in records so small that no length in them tells how long it will be."""
    taken = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends._accept)
        await ends.streams[0].send_all(b"\x16\x03\x01\x00\x04\x01\x00\x3f\x00")
        with pytest.raises(trio.BrokenResourceError):
            while taken < 100_000:
                for byte in b"\x16\x03\x01\x00\x01\x00":
                    await ends.streams[0].send_all(bytes((byte,)))
                    await trio.testing.wait_all_tasks_blocked()
                    taken += 1
    assert taken < 17_000
    refused(ends.server, "tls-failed", "records")


# sessions, keys, memory


async def test_no_session_can_be_resumed(ends, mint):
    client = plain_client()
    tls_only = mint.credentials(BUYER)
    from nodeproxy.tls.contexts import _load_key

    _load_key(client, tls_only)

    async def greet_first():
        await ends._accept()
        await says(ends.server, b"x")

    found = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet_first)
        found.append(await shake(ends.streams[0], client))
    (tls,) = found
    assert isinstance(tls, ssl.SSLObject), tls
    assert tls.session is None or not tls.session.has_ticket  # TLS 1.3 resumes by tickets alone
    assert not tls.session_reused


def test_contexts_are_made_once_and_replaced(mint):
    contexts = Contexts()
    first, trust = mint.credentials(BUYER), mint.trust()
    made = contexts.server(first, trust, ALPN_MESH)
    assert contexts.server(msgspec.structs.replace(first), mint.trust(), ALPN_MESH) is made, "values are compared"
    assert contexts.client(first, trust, ALPN_MESH) is not made
    assert contexts.server(first, trust, ALPN_TUNNEL) is not made
    assert contexts.server(first, trust, ALPN_MESH, False) is not made
    assert contexts.server(mint.credentials(BUYER), trust, ALPN_MESH) is not made
    again = contexts.server(first, mint.trust(mint.root, mint.ca("new")), ALPN_MESH)
    assert again is not made
    assert len(contexts._made) == 4
    contexts.retain([first], mint.trust())
    assert len(contexts._made) == 3
    contexts.retain([mint.credentials(STORE)], trust)
    assert not contexts._made


def test_what_cannot_be_used_is_refused_by_name(mint):
    contexts = Contexts()
    one, other, trust = mint.credentials(BUYER), mint.credentials(STORE), mint.trust()
    with pytest.raises(Refused, match=rf"no-certificate.*{re.escape(BUYER)}.*key values mismatch"):
        contexts.server(msgspec.structs.replace(one, key=other.key), trust, ())
    for broken in ({"chain": b""}, {"key": b""}, {"chain": b"x"}):
        with pytest.raises(Refused, match="no-certificate"):
            contexts.server(msgspec.structs.replace(one, **broken), trust, ())
    for roots in (b"", b"x", b"\xff", mint.root.pem[:100]):
        with pytest.raises(Refused, match=r"the roots of cluster\.local cannot be read"):
            contexts.server(one, msgspec.structs.replace(trust, roots=roots), ())


def test_an_encrypted_key_asks_nobody(mint):
    from cryptography.hazmat.primitives import serialization

    one = mint.credentials(BUYER)
    key = serialization.load_pem_private_key(one.key, None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    with pytest.raises(Refused, match="no-certificate"):
        Contexts().server(msgspec.structs.replace(one, key=sealed), mint.trust(), ())


async def test_keys_are_in_no_repr_and_no_file(ends):
    await ends.meet()
    secret = ends.client_has.key.split(b"\n")[1].decode()
    shown = [
        repr(one)
        for one in (ends.client, ends.client.stream, ends.client_contexts, *ends.client_contexts._made.values())
    ]
    assert secret not in " ".join(shown)
    assert BUYER in " ".join(shown)


@pytest.mark.slow
def test_descriptors_are_not_leaked(mint):
    one, trust = mint.credentials(BUYER), mint.trust()
    Contexts().server(one, trust, ALPN_MESH)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        Contexts().server(one, trust, ALPN_MESH)
    broken = msgspec.structs.replace(one, key=b"x")
    for _ in range(10):
        with pytest.raises(Refused):
            Contexts().server(broken, trust, ALPN_MESH)
    assert len(os.listdir("/proc/self/fd")) == before


# the stream


async def secured_pair(mint, streams=None):
    ends = Ends(mint)
    if streams:
        ends.streams = streams
    await ends.meet()
    return ends.client.stream, ends.server.stream


async def test_it_is_a_stream_as_trio_wants_them(mint):
    async def make():
        return await secured_pair(mint)

    await check_two_way_stream(make, None)


async def test_it_is_one_over_sockets_too(mint):
    async def make():
        return await secured_pair(mint, sockets())

    await check_two_way_stream(make, None)


def sockets():
    left, right = socket.socketpair()
    return trio.SocketStream(trio.socket.from_stdlib_socket(left)), trio.SocketStream(
        trio.socket.from_stdlib_socket(right)
    )


async def receive_all(stream):
    return b"".join([bytes(part) async for part in stream])


@pytest.mark.parametrize("over", ["memory", "sockets"])
async def test_much_both_ways_at_once(mint, over):
    left, right = await secured_pair(mint, sockets() if over == "sockets" else None)
    much = os.urandom(1_000_000)
    got = {}

    async def send(stream, updates):
        for at in range(0, len(much), 77_777):
            await stream.send_all(memoryview(much)[at : at + 77_777])
            if updates:
                ask_for_new_keys(stream)

    async def receive(stream, name):
        data = bytearray()
        while len(data) < len(much):
            part = await stream.receive_some(50_000)
            assert 0 < len(part) <= 50_000
            data += part
        got[name] = data

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for name, stream in (("left", left), ("right", right)):
                nursery.start_soon(receive, stream, name)
                nursery.start_soon(send, stream, name == "left")
    assert got["left"] == got["right"] == much
    left.abort()
    right.abort()


def ask_for_new_keys(stream):
    """SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED), which the library does not offer: the peer must answer with a KeyUpdate."""
    library = ctypes.CDLL(ssl._ssl.__file__)
    inner = stream.object._sslobj  # PyObject_HEAD, PyObject *Socket, SSL *ssl
    pointer = ctypes.c_void_p.from_address(id(inner) + 3 * ctypes.sizeof(ctypes.c_void_p))
    assert library.SSL_key_update(pointer, 1) == 1


async def test_a_key_update_is_answered_before_anything_else_is_sent(mint):
    streams = memory_stream_pair()
    left, right = await secured_pair(mint, streams)

    async def bytes_of(sent):
        await right.send_all(sent)
        record = await streams[0].receive_some()
        left._in.write(record)
        assert await left.receive_some() == sent
        return len(record)

    usual = await bytes_of(b"y")
    ask_for_new_keys(left)
    await left.send_all(b"x")
    assert await right.receive_some() == b"x"
    assert await bytes_of(b"y") > usual, "RFC 8446 section 4.6.3"
    assert await bytes_of(b"y") == usual


async def test_what_came_with_the_end_of_the_handshake_is_kept(ends):
    """The client's first bytes come with its Finished, in one piece."""
    done = trio.Event()

    async def client():
        await ends._connect()
        await says(ends.client, b"early bird")
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        nursery.start_soon(ends._accept)
    assert await hears(ends.server) == b"early bird"


@pytest.mark.parametrize("way", ["close", "aclose"])
async def test_an_end_that_is_said(mint, way):
    left, right = await secured_pair(mint, sockets())
    await left.send_all(b"all")
    if way == "close":
        left.close()
    else:
        await left.aclose()
    assert await receive_all(right) == b"all"
    assert await right.receive_some() == b"", "and it stays so"
    for use in (left.receive_some, lambda: left.send_all(b"x"), left.wait_send_all_might_not_block):
        with pytest.raises(trio.ClosedResourceError):
            await use()
    right.close()


async def test_an_end_that_is_not_said_is_a_fault(mint):
    streams = sockets()
    left, right = await secured_pair(mint, streams)
    await left.send_all(b"a part")
    streams[0].socket.close()
    assert await right.receive_some() == b"a part"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
            await right.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await right.send_all(b"x")
    await right.aclose()


async def test_a_damaged_record_is_a_fault_and_what_came_before_is_not_lost(mint):
    streams = memory_stream_pair()
    left, right = await secured_pair(mint, streams)
    await left.send_all(b"whole")
    await streams[0].send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert await right.receive_some() == b"whole"
    with pytest.raises(trio.BrokenResourceError):
        await right.receive_some()
    await right.aclose()  # says why
    with pytest.raises(trio.BrokenResourceError, match="the peer sent alert bad record mac"):
        await left.receive_some()


async def test_abort_is_a_reset(mint):
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        left, right = await secured_pair(mint, (near, await listener.accept()))
        abort(left)
        with pytest.raises(trio.BrokenResourceError):
            await right.receive_some()
        close_now(right)


async def clog(stream):
    """Send until it blocks; then the send is cut off."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def send():
                while True:
                    await stream.send_all(bytes(1_000_000))

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.01)
            yield
            scope.cancel()


async def test_nothing_follows_a_send_that_was_cut_off(mint):
    left, right = await secured_pair(mint, sockets())
    async for _ in clog(left):
        with pytest.raises(trio.BusyResourceError):
            await left.send_all(b"y")
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="cut off"):
            await left.send_all(b"x")
    await right.send_all(b"still heard")
    assert await left.receive_some() == b"still heard"
    left.close()
    with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
        await receive_all(right)
    right.abort()


@pytest.mark.parametrize("way", ["close", "aclose"])
async def test_closing_beside_a_sender_does_not_wait(mint, way):
    left, right = await secured_pair(mint, sockets())
    with pytest.raises(trio.ClosedResourceError):
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(left.send_all, bytes(10_000_000))
                await trio.testing.wait_all_tasks_blocked(0.01)
                if way == "close":
                    left.close()
                else:
                    await left.aclose()
        except* trio.ClosedResourceError as group:
            raise group.exceptions[0] from None
    with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
        await receive_all(right)
    right.abort()


async def test_records_that_came_together_are_given_together(mint):
    left, right = await secured_pair(mint)
    await left.send_all(bytes(32_768))  # two records
    assert len(await right.receive_some()) == 32_768
    await left.send_all(bytes(32_768))
    assert len(await right.receive_some(20_000)) == 20_000
    assert len(await right.receive_some()) == 12_768


async def test_a_cancelled_reader_loses_nothing(mint):
    left, right = await secured_pair(mint)
    await left.send_all(b"x" * 40_000)
    got = await right.receive_some(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await right.receive_some()
    assert scope.cancelled_caught
    while len(got) < 40_000:
        got += await right.receive_some()
    assert got == b"x" * 40_000


async def test_aclose_does_not_wait_for_a_peer_that_does_not_read(mint, autojump_clock):
    left, _ = await secured_pair(mint, trio.testing.lockstep_stream_pair())
    began = trio.current_time()
    await left.aclose()
    assert trio.current_time() - began == 1.0
