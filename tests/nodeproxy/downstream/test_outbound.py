"""Which protocol a destination declares, what the record says of it, and that no door is dialled through a door."""

import pytest

from nodeproxy.capture import Ports
from nodeproxy.downstream import outbound as door
from nodeproxy.downstream.outbound import outbound, refuse_own_ports
from nodeproxy.errors import Refused
from nodeproxy.routing.route import Outward
from policy.model import ServicePort
from tests.nodeproxy.conftest import E2, NODE, STORE, service, snapshot


@pytest.fixture
def served(monkeypatch):
    seen = []

    async def serve(conn, route, protocol):
        assert conn.route is route and isinstance(route, Outward)
        seen.append(protocol)

    monkeypatch.setattr(door, "serve", serve)
    return seen


@pytest.mark.parametrize("protocol", ["", "http", "grpc", "tcp", "tcp-server-first"])
@pytest.mark.parametrize(
    ("dialled", "workload"), [(("10.1.0.1", 80), None), (("10.0.0.2", 8080), STORE)], ids=["service", "workload"]
)
async def test_the_service_says_what_is_spoken(context, connect, served, protocol, dialled, workload):
    context.snapshot = snapshot(service("store", "10.1.0.1", E2, protocol=protocol))
    conn = connect(dialled)
    await outbound(conn)
    assert served == [protocol]
    assert (conn.report.record.service, conn.report.record.destination) == ("shop/store", workload)


async def test_what_is_not_the_meshs_is_not_looked_into(connect, served):
    conn = connect(("93.184.216.34", 80))
    await outbound(conn)
    assert served == ["tcp"]
    assert (conn.report.record.service, conn.report.record.destination) == ("", None)


async def test_a_port_that_a_service_lacks_names_the_service_all_the_same(connect, served):
    conn = connect(("10.1.0.1", 81))
    await outbound(conn)
    assert conn.report.record.service == "shop/store"


@pytest.mark.parametrize("port", [15001, 15006, 15008, 15053])
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", NODE, "fd00::fe", "10.0.0.2", "fd00::2"]
)
async def test_a_door_of_ours_is_refused_wherever_it_is(connect, served, address, port):
    with pytest.raises(Refused) as caught:
        await outbound(connect((address, port)))
    assert (caught.value.flag, caught.value.detail) == ("own-port", f"{address}:{port}")
    assert not served


@pytest.mark.parametrize(
    "dialled",
    [("127.0.0.1", 15002), ("10.0.0.2", 8080), ("93.184.216.34", 15001), ("10.0.0.9", 15006), ("10.1.0.1", 15001)],
    ids=["another port", "another port of a workload", "outside", "not enrolled", "a service"],
)
async def test_others_may_have_these_ports_too(context, connect, dialled):
    context.snapshot = snapshot(service("store", "10.1.0.1", ports=(ServicePort("odd", 15001, endpoints=(E2,)),)))
    refuse_own_ports(connect(dialled))


async def test_ports_are_those_of_this_node(context, connect):
    context.ports = Ports(outbound=21001)
    refuse_own_ports(connect(("127.0.0.1", 15001)))
    with pytest.raises(Refused, match="own-port"):
        refuse_own_ports(connect(("127.0.0.1", 21001)))
