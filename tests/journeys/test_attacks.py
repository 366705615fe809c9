"""Attacks on the mesh. Each is refused by one check, with the flag that errors.py promises; and succeeds when that check is off.

The second half is what makes the first worth something: an attack that fails for another reason than the one it is named after proves
nothing. Where two checks stand behind each other, each of them alone holds, and both have to be off.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import msgspec
import pytest

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.authority import Authority
from agent.identity.authority.state import AuthorityState
from agent.identity.authority.tokens import Tokens
from agent.identity.protocol import AuthorityRefused, JoinRequest, SignRequest
from agent.telemetry.access_log import line
from nodeproxy.capture import Ports
from nodeproxy.codec import client_hello
from nodeproxy.downstream import accept as listen
from nodeproxy.downstream import hbone
from nodeproxy.errors import FLAGS
from nodeproxy.native import AVAILABLE
from nodeproxy.protocols.serve import serve
from nodeproxy.routing import source
from nodeproxy.routing.route import Inward
from nodeproxy.tls import contexts, handshake
from nodeproxy.tls import spiffe as proof
from nodeproxy.tls.spiffe import read_spiffe
from tests.compiled import needs_lane

if AVAILABLE:
    from nodeproxy.fastpath import tls as tls_native
from policy.authz import PERMISSIVE
from policy.model import Identity, Revoked
from policy.revocations import Revocations
from policy.snapshot import Snapshot
from tests.journeys.attackers import SERVED, Attacker
from tests.journeys.two_nodes import TwoNodes

BUYER, THIEF = ("bookbuyer", "bookbuyer"), ("bookthief", "bookthief")
# What osm-edge's sidecars believe first, and then what else is in use.
FORGED = (
    (b"serviceidentity", b"bookbuyer.bookbuyer"),
    (b"x-forwarded-client-cert", b"URI=spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer"),
    (b"x-edgemesh-identity", b"bookbuyer/bookbuyer"),
)


@pytest.fixture(params=[(), pytest.param(("west", "east"), marks=needs_lane)], ids=["Python", "lanes"])
async def mesh(request, nursery, monkeypatch, mint):
    mesh = TwoNodes(nursery, mint, lanes=request.param)
    monkeypatch.setattr(listen, "original_destination", mesh.original_destination)
    monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
    await mesh.start()
    mesh.store = mesh.addresses["store-v1"]
    mesh.web("store-v1")
    yield mesh
    nursery.cancel_scope.cancel()
    mesh.close()


@pytest.fixture
def attacker(mesh, nursery, mint):
    return Attacker(mesh, nursery, mint)


def of(mesh):
    """The TLS of these nodes."""
    return tls_native if mesh.lanes else handshake


async def refused_as(mesh, flag):
    """The record of the refusal at the attacked node. The log has its flag, and what errors.py says of it is more than nothing."""

    def flagged():
        """Not that the attacker has left, which he does at once."""
        return [record for record in mesh.east.records if record.flag not in ("", "peer-lost", "client-gone")]

    await mesh.until(flagged)
    assert {record.flag for record in flagged()} == {flag}
    record = flagged()[0]
    assert line(record)["flag"] == flag
    assert FLAGS[flag].meaning
    assert FLAGS[flag].hint
    mesh.east.records.clear()
    return record


# headers (S1, S2 of what others do)


def believe_headers(monkeypatch):
    """What osm-edge does: the caller is who the header says."""
    admit = hbone._admit

    def believing(branch, workload, guest, channel):
        said = dict(channel.fields).get(b"serviceidentity", b"").decode().split(".")
        branch.identity = Identity(*said)
        return admit(branch, workload, guest, channel)

    monkeypatch.setattr(hbone, "_admit", believing)


async def test_forged_identity_headers(mesh, attacker, monkeypatch):
    thief, target, door = attacker.certificate(*THIEF), f"{mesh.store}:14001", mesh.addressed["east"]
    attempts = (
        lambda: attacker.tunnel(thief, target, *FORGED),
        lambda: attacker.tunnel(thief, target, *FORGED, door=door),
        lambda: attacker.native(thief, door, target, *FORGED),
    )
    for attempt, status in zip(attempts, ("401", "401", "403"), strict=True):
        assert await attempt() == status
        record = await refused_as(mesh, "denied")
        assert record.tls_peer == "spiffe://cluster.local/ns/bookthief/sa/bookthief"
    believe_headers(monkeypatch)
    assert [await attempt() for attempt in attempts] == [SERVED] * 3


async def test_the_address_of_somebody_else(mesh, attacker, monkeypatch):
    """Where others decide by the caller's address: it is the buyer's, by header and by socket, and the certificate is the thief's."""
    attacker.source = mesh.addresses["buyer"]
    thief, target = attacker.certificate(*THIEF), f"{mesh.store}:14001"
    claims = [(b"forwarded", f'for="{attacker.source}"'.encode()), (b"x-forwarded-for", attacker.source.encode())]
    assert await attacker.tunnel(thief, target, *claims) == "401"
    await refused_as(mesh, "denied")
    accept = of(mesh).accept

    async def believing(*how):
        secured = await accept(*how)
        caller = mesh.east.snapshot.workload_at(attacker.source)
        return msgspec.structs.replace(secured, peer=msgspec.structs.replace(secured.peer, identity=caller.identity))

    monkeypatch.setattr(of(mesh), "accept", believing)
    assert await attacker.tunnel(thief, target, *claims) == SERVED


async def test_a_valid_certificate_of_another_identity(mesh, attacker, monkeypatch):
    thief, target = attacker.certificate(*THIEF), f"{mesh.store}:14001"
    assert await attacker.tunnel(thief, target) == "401"
    await refused_as(mesh, "denied")
    assert await attacker.native(thief, mesh.addressed["east"], target) == "403"
    await refused_as(mesh, "denied")
    monkeypatch.setattr(Snapshot, "authorize", lambda *what: PERMISSIVE)
    assert await attacker.tunnel(thief, target) == SERVED
    assert await attacker.native(thief, mesh.addressed["east"], target) == SERVED


async def test_a_path_that_is_not_allowed_goes_through_no_tunnel(mesh, attacker, monkeypatch):
    """The tunnel is the buyer's by right; what he asks for in it is not."""
    buyer, target = attacker.certificate(*BUYER), f"{mesh.store}:14001"
    assert await attacker.tunnel(buyer, target) == SERVED
    assert await attacker.tunnel(buyer, target, path=b"/admin") == "403"
    await refused_as(mesh, "denied")
    monkeypatch.setattr(hbone, "serve", pass_on)
    assert await attacker.tunnel(buyer, target, path=b"/admin") == SERVED


async def pass_on(conn, route, protocol):
    """A tunnel that carries whatever comes, as those do that look at addresses and ports only."""
    monkey = msgspec.structs.replace(
        conn.context.snapshot, mesh=msgspec.structs.replace(conn.context.snapshot.mesh, permissive=True)
    )
    conn.context.snapshot = monkey
    pick = route.pick(None)
    conn.moves(pick, None)
    await hbone.serve_tcp(conn, route, *await hbone.open_upstream(conn, route, pick))


# certificates


@pytest.mark.parametrize("own_root", [True, False])
async def test_a_certificate_from_another_trust_domain(mesh, attacker, mint, monkeypatch, own_root):
    """Of the other domain's own root, or of one that both believe."""
    elsewhere = mint.ca("elsewhere")
    spiffe = f"spiffe://{'cluster.local' if own_root else 'elsewhere.org'}/ns/bookbuyer/sa/bookbuyer"
    stranger, target = mint.credentials(spiffe, ca=elsewhere if own_root else None), f"{mesh.store}:14001"
    # In TLS 1.3 a client is done before the server has looked at its certificate.
    assert await attacker.tunnel(stranger, target) == "peer-lost"
    await refused_as(mesh, "peer-untrusted" if own_root else "peer-wrong-domain")
    if own_root:
        mesh.east.identities.roots = mint.trust(mint.root, elsewhere)
    else:
        prove = proof.prove

        def of_any_domain(chain, trust, now):
            own = read_spiffe(chain[0].uris[0]).trust_domain
            return prove(chain, msgspec.structs.replace(trust, trust_domain=own), now)

        monkeypatch.setattr(proof, "prove", of_any_domain)
    assert await attacker.tunnel(stranger, target) == SERVED


async def test_a_certificate_that_names_nobody(mesh, attacker, mint, monkeypatch):
    """Signed by our root, and host names are all that it has: those prove nothing here."""
    nobody, target = mint.credentials("", dns=("bookbuyer.bookbuyer.cluster.local",)), f"{mesh.store}:14001"
    assert await attacker.tunnel(nobody, target) == "peer-lost"
    await refused_as(mesh, "peer-no-identity")
    prove = proof.prove
    named = "spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer"

    def by_its_host_name(chain, trust, now):
        own = chain[0] if chain[0].uris else msgspec.structs.replace(chain[0], uris=(named,))
        return prove([own, *chain[1:]], trust, now)

    monkeypatch.setattr(proof, "prove", by_its_host_name)
    assert await attacker.tunnel(nobody, target) == SERVED


@pytest.mark.parametrize("hours", [(-48, -24), (24, 48)], ids=["expired", "not yet"])
async def test_a_certificate_that_does_not_hold_now(mesh, attacker, monkeypatch, hours):
    now = time.time()
    begin, end = (now + 3600 * hour for hour in hours)
    old, target = attacker.certificate(*BUYER, not_before=begin, not_after=end), f"{mesh.store}:14001"
    assert await attacker.tunnel(old, target) == "peer-lost"
    await refused_as(mesh, "peer-expired")
    monkeypatch.setattr(proof, "check_dates", lambda *what: None)
    monkeypatch.setattr(
        mesh.east.identities, "now", lambda: (begin + end) / 2
    )  # so that it is not ended again by the next look
    assert await attacker.tunnel(old, target) == SERVED


async def test_a_nodes_own_certificate_opens_no_tunnel(mesh, attacker, mint, monkeypatch):
    stolen, target = mint.credentials("spiffe://cluster.local/node/west", "west"), f"{mesh.store}:14001"
    assert await attacker.tunnel(stolen, target) == "peer-lost"
    await refused_as(mesh, "peer-no-identity")
    read = proof.read_spiffe
    whoever = Identity(*BUYER)
    monkeypatch.setattr(proof, "read_spiffe", lambda text: msgspec.structs.replace(read(text), identity=whoever))
    assert await attacker.tunnel(stolen, target) == SERVED


async def test_a_server_that_is_not_who_was_dialled(mesh, monkeypatch):
    """The address of the other node is held by one who has a certificate of the mesh, of another node."""
    mesh.east.identities.name = "impostor"
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    answer = await buyer.get("/books")
    assert (answer.status, answer.reason) == (FLAGS["peer-unexpected"].status, "peer-unexpected")
    assert mesh.west.told("request", flag="peer-unexpected")
    dial = of(mesh).connect

    async def whoever_answers(stream, context, trust, expects, *more):
        return await dial(stream, context, trust, {*expects, "spiffe://cluster.local/node/impostor"}, *more)

    monkeypatch.setattr(of(mesh), "connect", whoever_answers)
    next(iter(mesh.west.peers._hosts.values())).until = 0.0  # it rests after the failure
    assert (await (await mesh.call("buyer", "bookstore-v1.bookstore")).get("/books")).status == 200


# the handshake


def of_tls12(attacker, credentials, alpn=contexts.ALPN_TUNNEL):
    """A client that speaks nothing newer."""
    made = contexts.Context(False, credentials, attacker.mint.trust(), alpn, True)
    made.ssl.minimum_version = made.ssl.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


def greeted_without(monkeypatch, check):
    """The first look at a ClientHello, without one of its questions."""
    read = client_hello.read_hello

    def forgiving(held):
        said = read(held)
        return said and msgspec.structs.replace(said, **check)

    monkeypatch.setattr(handshake, "read_hello", forgiving)


async def test_a_downgrade_to_tls_12(mesh, attacker, monkeypatch):
    buyer, target = attacker.certificate(*BUYER), f"{mesh.store}:14001"

    async def attempt():
        return await attacker.tunnel(buyer, target, context=of_tls12(attacker, buyer))

    assert await attempt() == "tls-failed"
    await refused_as(mesh, "tls-failed")
    with monkeypatch.context() as without:
        greeted_without(without, {"versions": (0x0304,)})
        assert await attempt() == "tls-failed"  # OpenSSL's own bound
        await refused_as(mesh, "tls-failed")
        if mesh.lanes:
            return  # what OpenSSL is told there, nobody can take back from here
        made = contexts.Context.__init__

        def old_too(self, *how):
            made(self, *how)
            self.ssl.minimum_version = ssl.TLSVersion.TLSv1_2

        without.setattr(contexts.Context, "__init__", old_too)
        mesh.east.peers.secures.contexts = contexts.Contexts()
        assert await attempt() == SERVED
    assert await attempt() == "tls-failed"  # the first look's


async def test_no_alpn(mesh, attacker, monkeypatch):
    buyer, target = attacker.certificate(*BUYER), f"{mesh.store}:14001"

    async def attempt():
        return await attacker.tunnel(buyer, target, alpn=())

    assert await attempt() == "tls-no-alpn"
    await refused_as(mesh, "tls-no-alpn")
    greeted_without(monkeypatch, {"alpn": ("h2",)})
    assert await attempt() == "peer-lost"
    await refused_as(mesh, "tls-no-alpn")
    if mesh.lanes:
        return
    shake = handshake._shake

    async def whatever_was_chosen(stream, context, held=b""):
        await shake(stream, of_no_protocol(context), held)

    monkeypatch.setattr(handshake, "_shake", whatever_was_chosen)
    assert await attempt() == SERVED


class of_no_protocol:  # noqa: N801 - a context, seen so
    def __init__(self, context):
        self.alpn = ()


async def test_plain_text_to_the_tunnel_door(mesh, attacker, monkeypatch):
    attacker.source = mesh.addresses["buyer"]
    assert await attacker.in_plain(mesh.store) in ("reset", "closed")
    await refused_as(mesh, "plain-to-tunnel")

    async def plain(conn):
        """A door that takes plain text, and the caller for who has his address."""
        conn.identity = conn.context.snapshot.workload_at(conn.peer[0]).identity
        conn.dialled = (conn.dialled[0], 14001)
        conn.route = Inward(conn)
        await serve(conn, conn.route, "http")

    monkeypatch.setattr(hbone, "_serve", lambda conn, *how: plain(conn))
    assert await attacker.in_plain(mesh.store) == SERVED


# what is asked of a tunnel


async def test_connect_to_our_own_ports(mesh, attacker):
    """By way of the tunnel door to the door for plain calls, where the caller would be the node itself, or to the tunnel door again."""
    mesh.publish(mesh=mesh.permissive)
    buyer, own = attacker.certificate(*BUYER), Ports()
    for port in (own.tunnel, own.inbound, own.outbound, own.dns):
        for door in (mesh.store, mesh.addressed["east"]):
            assert await attacker.tunnel(buyer, f"{mesh.store}:{port}", door=door) == "400"
            await refused_as(mesh, "own-port")
    mesh.east.proxy.context.ports = frozenset()
    fields = [(b":method", b"CONNECT"), (b":authority", f"{mesh.store}:{own.tunnel}".encode())]
    assert await attacker.ask(buyer, mesh.store, fields, contexts.ALPN_TUNNEL) == SERVED  # a tunnel to the tunnel door


async def test_an_authority_that_is_not_the_dialled_address(mesh, attacker, monkeypatch):
    """At the bookstore's door, as one who may call the bookstore, for the database."""
    mesh.serve("mysql", mesh.web("store-v2").talk, 14001)
    buyer, aim = attacker.certificate(*BUYER), f"{mesh.addresses['mysql']}:14001"
    assert await attacker.tunnel(buyer, aim, door=mesh.store) == "400"
    await refused_as(mesh, "bad-authority")
    admit = hbone._admit

    def wherever(branch, workload, guest, channel):
        branch.dialled = (mesh.addresses["mysql"], 15008)
        return admit(branch, workload, guest, channel)

    monkeypatch.setattr(hbone, "_admit", wherever)
    assert await attacker.tunnel(buyer, aim, door=mesh.store) == SERVED


async def test_a_revoked_identity(mesh, attacker, monkeypatch):
    mesh.publish(revoked=Revoked(identities=(Identity(*BUYER),)))
    buyer, target = attacker.certificate(*BUYER), f"{mesh.store}:14001"
    assert await attacker.tunnel(buyer, target) == "peer-lost"
    await refused_as(mesh, "peer-revoked")
    monkeypatch.setattr(Snapshot, "refuses", lambda *what: "")
    assert await attacker.tunnel(buyer, target) == "401"  # policy says no as well
    await refused_as(mesh, "denied")
    monkeypatch.setattr(Revocations, "bars", lambda *what: False)
    monkeypatch.setattr(Revocations, "bars_identity", lambda *what: False)
    mesh.publish()
    assert await attacker.tunnel(buyer, target) == SERVED


# the authority


@pytest.fixture
def authority(tmp_path):
    holdings = AuthorityState(tmp_path / "authority", lambda: 1_800_000_000.0)
    holdings.create(ca.make_root("cluster.local", 1_800_000_000.0, 1 << 120), "cluster.local")
    placed = {("west", "spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer")}
    made = Authority(
        holdings.folder.path,
        holdings.clock,
        86400.0,
        lambda node, spiffe: "" if (node, spiffe) in placed else f"{spiffe} does not run on {node}",
        lambda node, identity, serial: "",
    )
    made.holdings = holdings
    return made


def a_request(spiffe):
    return csr.request(csr.new_key(), spiffe)


def test_a_stolen_node_certificate_asks_for_a_foreign_identity(authority, caplog):
    """Whoever holds west's key gets what the manifests place on west, whatever he writes into the request, and nothing else."""
    foreign = "spiffe://cluster.local/ns/bookstore/sa/bookstore"
    with pytest.raises(AuthorityRefused, match="does not run on west"):
        authority.sign("west", SignRequest(foreign, a_request(foreign)))
    assert foreign in caplog.text
    own = "spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer"
    assert csr.facts(authority.sign("west", SignRequest(own, a_request(foreign))).chain).spiffe == own
    authority._allowed = lambda node, spiffe: ""
    assert csr.facts(authority.sign("west", SignRequest(foreign, a_request(foreign))).chain).spiffe == foreign


def test_a_replayed_join_token(authority, caplog, monkeypatch):
    def token():
        with authority.holdings.held():
            return authority.holdings.tokens.make("west", 3600, authority.holdings.clock())

    def join(word, node="west"):
        return authority.join(JoinRequest(node, word, a_request("spiffe://x")), "127.0.0.66")

    used = token()
    join(used)
    for word, node in ((used, "west"), (token(), "east")):
        with pytest.raises(AuthorityRefused, match="the token is not good for this node"):
            join(word, node)
        assert "127.0.0.66" in caplog.text
        assert word not in caplog.text
    monkeypatch.setattr(Tokens, "use_up", lambda self, secret: None)
    again = token()
    join(again)
    assert csr.facts(join(again).chain).node == "west"


def test_a_token_is_nowhere_to_be_read(authority):
    with authority.holdings.held():
        word = authority.holdings.tokens.make("west", 3600, authority.holdings.clock())
    for file in authority.holdings.folder.path.rglob("*"):
        if file.is_file():
            assert word.encode() not in file.read_bytes()
            assert file.stat().st_mode & 0o077 == 0


def test_the_ring_names_every_flag_that_a_peer_can_be_refused_with():
    """So that a new check brings its attack."""
    text = Path(__file__).read_text()
    between = [
        flag
        for flag in FLAGS
        if flag.startswith(("peer-", "tls-", "plain-"))
        # the last is of a gateway's listener (test_gateway_tls.py)
        and flag not in ("peer-refused", "peer-lost", "plain-to-tls")
    ]
    assert [flag for flag in between if f'"{flag}"' not in text] == []
