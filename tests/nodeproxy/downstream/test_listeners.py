"""The table of listeners: each row has its sockets, its port and a count of its own."""

from msgspec.structs import fields

from nodeproxy.capture import Doors, Ports
from nodeproxy.downstream import listeners
from nodeproxy.downstream.listeners import LISTENERS, NODE_DOOR, tunnels
from tests.nodeproxy.conftest import STORE


def test_every_tcp_socket_of_a_workload_is_of_one_row():
    doors = Doors(*([name] for name in (field.name for field in fields(Doors))))
    served = [sock for row in LISTENERS for sock in row.sockets(doors)]
    assert sorted([*served, "dns_udp", "dns_tcp"]) == sorted(doors)


def test_every_row_has_a_port():
    assert {row.name for row in LISTENERS} <= {field.name for field in fields(Ports)}


async def test_each_kind_is_counted_by_itself_and_the_prober_has_places_of_its_own(context):
    gates = {row.name: row.gate(context) for row in LISTENERS}
    assert len(set(map(id, gates.values()))) == len(LISTENERS)
    assert {name for name, gate in gates.items() if gate.reserve is not None} == {"inbound"}


async def test_the_node_s_own_listener_leads_to_all_of_its_workloads(connect, monkeypatch):
    served = []

    def stand_in(name):
        async def serve(conn):
            served.append(name)

        return serve

    for name in ("node_tunnels", "workload_tunnels"):
        monkeypatch.setattr(listeners, name, stand_in(name))
    await tunnels(connect(workload=NODE_DOOR, direction="inbound"))
    await tunnels(connect(workload=STORE, direction="inbound"))
    assert served == ["node_tunnels", "workload_tunnels"]
