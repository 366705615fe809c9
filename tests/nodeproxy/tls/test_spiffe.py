"""SPIFFE IDs of three shapes, and what a verified chain proves at a given time."""

import msgspec
import pytest

from nodeproxy.errors import Refused
from nodeproxy.tls.credentials import Trust
from nodeproxy.tls.spiffe import Named, Shown, prove, read_spiffe
from policy.model import Identity, Node

TD = "cluster.local"
BUYER = f"spiffe://{TD}/ns/shop/sa/buyer"
TRUST = Trust(TD, b"", tolerance=300)
OWN = Shown((BUYER,), ("n1",), "", 1000, 2000)
ROOT = Shown((), (), "the root", 0, 1_000_000)


@pytest.mark.parametrize(
    ("text", "identity", "node"),
    [
        (BUYER, Identity("shop", "buyer"), ""),
        (f"spiffe://{TD}/ns/s-1/sa/a.b-c", Identity("s-1", "a.b-c"), ""),
        (f"spiffe://{TD}/node/till-3.site", None, "till-3.site"),
        (f"spiffe://{TD}/authority", None, ""),
        (Identity("a", "b").spiffe(TD), Identity("a", "b"), ""),
        (Node("n").spiffe(TD), None, "n"),
    ],
)
def test_three_shapes(text, identity, node):
    assert read_spiffe(text) == Named(text, TD, identity, node)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        f"spiffe://{TD}",
        f"spiffe://{TD}/",
        f"spiffe://{TD}/ns/shop",
        f"spiffe://{TD}/ns/shop/sa/",
        f"spiffe://{TD}/ns//sa/buyer",
        f"spiffe://{TD}/ns/shop/sa/buyer/",
        f"spiffe://{TD}/ns/shop/sa/buyer/x",
        f"spiffe://{TD}//ns/shop/sa/buyer",
        f"spiffe://{TD}/ns/shop/sa/buyer?x=1",
        f"spiffe://{TD}/ns/shop/sa/buyer#x",
        f"spiffe://{TD}/ns/shop/sa/%62uyer",
        f"spiffe://{TD}/ns/Shop/sa/buyer",
        f"spiffe://{TD}/ns/shop/sa/buy_er",
        f"spiffe://{TD}/ns/shop/sa/-buyer",
        f"spiffe://{TD}/ns/shop/sa/buyer-",
        f"spiffe://{TD}/ns/./sa/..",
        f"spiffe://{TD}/ns/shop/sa/buyer\n",
        f"spiffe://{TD}/ns/shop/sa/buy\0er",
        f"spiffe://{TD}/ns/shop/sa/{'b' * 254}",
        f"spiffe://{TD}/ns/shop/sa/b\u00fcyer",
        f"spiffe://{TD}/sa/buyer/ns/shop",
        f"spiffe://{TD}/node/",
        f"spiffe://{TD}/node/a/b",
        f"spiffe://{TD}/authority/x",
        f"spiffe://{TD}:443/ns/shop/sa/buyer",
        f"spiffe://me@{TD}/ns/shop/sa/buyer",
        "spiffe:///ns/shop/sa/buyer",
        "spiffe://Cluster.Local/ns/shop/sa/buyer",
        f"SPIFFE://{TD}/ns/shop/sa/buyer",
        f"https://{TD}/ns/shop/sa/buyer",
    ],
)
def test_anything_else_names_nobody(text):
    assert read_spiffe(text) is None
    with pytest.raises(Refused, match="peer-no-identity"):
        prove([msgspec.structs.replace(OWN, uris=(text,)), ROOT], TRUST, 1500)


def test_a_workload_and_the_node_it_was_issued_to():
    named, node = prove([OWN, ROOT], TRUST, 1500)
    assert (named.spiffe, named.identity, node) == (BUYER, Identity("shop", "buyer"), "n1")


@pytest.mark.parametrize("units", [(), ("n1", "n2")])
def test_a_workload_of_no_one_node(units):
    assert prove([msgspec.structs.replace(OWN, units=units), ROOT], TRUST, 1500)[1] == ""


@pytest.mark.parametrize(
    "domain", ["luster.local", "cluster.local.", "xcluster.local", "cluster-local", "a.cluster.local"]
)
def test_the_trust_domain_is_compared_whole(domain):
    with pytest.raises(Refused, match="peer-wrong-domain"):
        prove([msgspec.structs.replace(OWN, uris=(f"spiffe://{domain}/ns/shop/sa/buyer",)), ROOT], TRUST, 1500)


@pytest.mark.parametrize(("now", "valid"), [(699.9, False), (700, True), (2300, True), (2300.1, False)])
def test_the_tolerance_is_exact(now, valid):
    if valid:
        prove([OWN, ROOT], TRUST, now)
        return
    with pytest.raises(Refused, match="peer-expired"):
        prove([OWN, ROOT], TRUST, now)


@pytest.mark.parametrize("at", [1, 2])
def test_every_certificate_of_the_chain_has_its_time(at):
    chain = [OWN, Shown((), (), "site", 0, 1_000_000), ROOT]
    prove(chain, TRUST, 1500)
    chain[at] = msgspec.structs.replace(chain[at], not_after=1100)
    with pytest.raises(Refused, match=f"{chain[at].name} holds until 1970-01-01T00:18:20Z, 400 s ago by our clock"):
        prove(chain, TRUST, 1500)
    chain[at] = msgspec.structs.replace(chain[at], not_before=2000, not_after=3000)
    with pytest.raises(Refused, match=f"{chain[at].name} holds from 1970-01-01T00:33:20Z, 500 s ahead of our clock"):
        prove(chain, TRUST, 1500)


def test_what_a_stranger_wrote_is_shown_in_one_line_of_ascii():
    with pytest.raises(Refused) as info:
        prove([msgspec.structs.replace(OWN, uris=("spiffe://x/\n\u202e" + "y" * 1000,)), ROOT], TRUST, 1500)
    assert info.value.detail.isascii()
    assert info.value.detail.isprintable()
    assert len(info.value.detail) < 300
