"""outside.py: what of a connection may leave the mesh; tests/journeys/test_egress.py has it over sockets."""

import msgspec
import pytest
import trio

from nodeproxy.codec.client_hello import Hello
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Unsettled
from nodeproxy.routing.outside import Outside, protocol_outside
from nodeproxy.routing.route import Outward
from nodeproxy.ties import Ties
from policy.model import EgressGrant, Request
from tests.nodeproxy.conftest import BUYER, SPARE, snapshot

THERE = ("93.184.216.34", 443)
BY_NAME = EgressGrant("Egress shop/out", BUYER.identity, ((443, "https"), (443, "http")), ("pay.example",))


@pytest.fixture
def outward(context, connect):
    def outward(*grants, dialled=THERE, workload=BUYER, egress=False):
        context.snapshot = msgspec.structs.replace(snapshot(egress=egress), egress=grants)
        conn = connect(dialled, workload)
        return conn, Outside(conn)

    return outward


def why(outside, request=None):
    with pytest.raises(Refused) as caught:
        outside.rule(request)
    assert caught.value.flag == "egress-denied"
    assert caught.value.detail.startswith("93.184.216.34:443 ")
    return caught.value.detail.removeprefix("93.184.216.34:443 ")


def get(host):
    return Request("GET", "/", [(b"host", host)])


def told(conn, name="pay.example", address=THERE[0]):
    conn.context.ties.setdefault(conn.workload.key, Ties()).give(name, [address], 60.0, trio.current_time())


async def test_bytes_are_looked_at_only_where_they_decide(outward):
    tcp = EgressGrant("Egress shop/tcp", BUYER.identity, ((443, "tcp"),))
    assert protocol_outside(outward(egress=True)[0]) == "tcp"
    assert protocol_outside(outward(BY_NAME, egress=True)[0]) == "tcp"
    assert protocol_outside(outward()[0]) == "tcp", "nothing is let out, whatever it says"
    assert protocol_outside(outward(BY_NAME, workload=SPARE)[0]) == "tcp"
    assert protocol_outside(outward(BY_NAME, tcp)[0]) == "tcp", "any bytes are let out"
    assert protocol_outside(outward(BY_NAME)[0]) == ""


async def test_the_switch_lets_everything_out(outward):
    for request in (None, get(b"any.example")):
        assert outward(BY_NAME, egress=True)[1].rule(request) == "enableEgress"


async def test_tls_needs_its_name_at_the_dialled_address(outward):
    conn, outside = outward(BY_NAME)
    assert why(outside).startswith("egress-port: ")
    conn.hello = Hello("pay.example")
    assert why(outside).endswith("(pay.example)") and "egress-untied" in why(outside)
    told(conn, address="192.0.2.1")
    assert why(outside).startswith("egress-untied: ")
    told(conn)
    assert outside.rule(None) == "Egress shop/out"
    conn.hello = Hello("evil.example")
    assert why(outside).startswith("egress-host: ")
    conn.hello = Hello("pay.example", ech=True)
    assert why(outside).endswith("ECH)")
    conn.hello = Hello()
    assert why(outside).endswith("without a server name)")


async def test_a_resolver_that_does_not_count_is_named(outward):
    conn, outside = outward(BY_NAME)
    conn.context.ties[BUYER.key] = ties = Ties()
    ties.distrusted = "9.9.9.9"
    assert "it asks 9.9.9.9" in why(outside, get(b"pay.example"))


async def test_a_name_that_was_found_right_stays_so_for_the_connection(outward, context):
    conn, outside = outward(BY_NAME)
    told(conn)
    assert outside.rule(get(b"pay.example"))
    context.ties.clear()
    assert outside.rule(get(b"pay.example:443"))
    assert why(Outside(conn), get(b"pay.example")).startswith("egress-untied: ")


@pytest.mark.parametrize(
    ("dialled", "host"), [(("93.184.216.34", 80), b"93.184.216.34"), (("2001:db8::1", 80), b"[2001:0db8:0::1]:80")]
)
async def test_an_address_is_its_own_name(outward, dialled, host):
    hosts = ("93.184.216.34", "2001:0db8:0::1")
    _, outside = outward(EgressGrant("Egress shop/a", BUYER.identity, ((80, "http"),), hosts), dialled=dialled)
    assert outside.rule(get(host)) == "Egress shop/a"
    with pytest.raises(Refused):
        outside.rule(get(b"93.184.216.35"))


async def test_a_route_picks_what_may_leave_and_no_longer_when_policy_changed(outward, context):
    conn, _ = outward(BY_NAME)
    route = Outward(conn)
    told(conn)
    pick = route.pick(get(b"pay.example"))
    assert (str(pick.endpoint), pick.workload, pick.rule) == ("93.184.216.34:443", None, "Egress shop/out")
    assert route.still_allows(pick, get(b"pay.example"))
    assert not route.still_allows(pick, get(b"evil.example"))
    assert not route.still_allows(pick, None)
    context.snapshot = snapshot()
    assert not route.still_allows(pick, get(b"pay.example"))
    assert route.spread() is None, "the fast path learns nothing of it"


@pytest.mark.parametrize(("dialled", "rdtype"), [(THERE, 1), (("2001:db8::1", 443), 28)])
async def test_what_is_not_known_of_a_name_is_asked_for(outward, context, dialled, rdtype):
    conn, outside = outward(BY_NAME, dialled=dialled)
    asked, says = [], []

    async def look_up(host, kind):
        asked.append((host, kind))
        told(conn, host, (says or ["192.0.2.1"])[0])

    with pytest.raises(Unsettled) as caught:
        outside.rule(get(b"Pay.Example:443"))
    assert not await caught.value.settle(), "nobody asks"
    context.lookups[BUYER.key] = look_up
    assert not await caught.value.settle(), "it is elsewhere"
    says.append(dialled[0])
    assert await caught.value.settle()
    assert asked == [("pay.example", rdtype)] * 2
    assert outside.rule(get(b"pay.example")) == "Egress shop/out"
    with pytest.raises(Refused) as other:
        outside.rule(get(b"evil.example"))
    assert not isinstance(other.value, Unsettled), "a name that no Egress lists is not asked for"
