"""Doors: which there are, what they refuse, what happens when a port is taken. In the tests' own namespace, on free ports."""

import os
import socket

import pytest
from msgspec import structs

from agent.kernel import sockets
from nodeproxy.capture import Ports
from tests.ports import free_port


@pytest.fixture
def ports():
    """Four ports that are free."""
    return Ports(*(free_port() for _ in range(4)))


@pytest.fixture
def opened(ports):
    made = []

    def opener(**options):
        doors, fault = sockets.open_doors(ports, **{"mark": 0, "dns": True, **options})
        made.append(doors)
        return doors, fault

    yield opener
    for doors in made:
        doors.close()


def names(found):
    return {sock.getsockname()[:2] for sock in found}


def test_who_calls_out_is_here_and_who_calls_in_is_anywhere(opened, ports):
    doors, fault = opened()
    assert fault == ""
    assert ("127.0.0.1", ports.outbound) in names(doors.outbound)
    assert names(doors.outbound) <= {("127.0.0.1", ports.outbound), ("::1", ports.outbound)}
    assert ("0.0.0.0", ports.inbound) in names(doors.inbound)
    assert names(doors.dns_udp) <= {("127.0.0.1", ports.dns), ("::1", ports.dns)}
    assert names(doors.tunnel) == {(address, ports.tunnel) for address, _ in names(doors.inbound)}
    every = [*doors.outbound, *doors.inbound, *doors.dns_udp, *doors.dns_tcp, *doors.tunnel]
    assert not any(sock.getblocking() or os.get_inheritable(sock.fileno()) for sock in every)


def test_without_names_there_are_no_doors_for_them(opened):
    doors, _ = opened(dns=False)
    assert not doors.dns_udp
    assert not doors.dns_tcp


def test_without_a_port_there_is_no_tunnel_door(ports):
    doors, fault = sockets.open_doors(structs.replace(ports, tunnel=0), 0, dns=True)
    doors.close()
    assert (doors.tunnel, fault) == ([], "")


def test_the_nodes_own_door_is_at_its_addresses_only(ports):
    doors, fault = sockets.node_doors(("127.0.0.1", "192.0.2.1"), ports.tunnel, 0)
    again, taken = sockets.node_doors(("127.0.0.1",), ports.tunnel, 0)
    found = names(doors)
    for door in doors:
        assert not door.getblocking()
        door.close()
    assert found == {("127.0.0.1", ports.tunnel), ("192.0.2.1", ports.tunnel)}
    assert (
        fault
        == "this node does not have its address 192.0.2.1 (yet): no tunnel comes in there. See NodeConfig addresses"
    )
    assert not again
    assert f"no tunnel listener at port {ports.tunnel} of 127.0.0.1: Address already in use" in taken


def test_a_port_that_is_taken_is_told_and_the_others_open(opened, ports):
    with socket.create_server(("127.0.0.1", ports.outbound)):
        doors, fault = opened()
    assert f"port {ports.outbound} on 127.0.0.1: Address already in use" in fault
    assert "set other ports in NodeConfig" in fault
    assert ("127.0.0.1", ports.outbound) not in names(doors.outbound)
    assert doors.inbound


def test_doors_that_are_open_are_kept_and_the_rest_opened(opened, ports):
    with socket.create_server(("127.0.0.1", ports.outbound)):
        first, _ = opened()
    client = socket.create_connection(("127.0.0.1", ports.inbound))
    second, fault = opened(kept=first)
    assert fault == ""
    assert ("127.0.0.1", ports.outbound) in names(second.outbound)
    first.close()
    accepted, who = next(s for s in second.inbound if s.family == socket.AF_INET).accept()
    assert who == client.getsockname(), "who waits in the queue is not turned away"
    accepted.close()
    client.close()


def test_udp_doors_are_shared_with_nobody(opened, ports):
    opened()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", ports.dns))


def test_sockets_that_dial_do_not_block():
    with sockets.outwards(socket.AF_INET, socket.SOCK_DGRAM, 0) as sock:
        assert not sock.getblocking()
        assert sock.type == socket.SOCK_DGRAM


@pytest.mark.parametrize(("family", "caller"), [(socket.AF_INET, "192.0.2.7"), (socket.AF_INET6, "2001:db8::7")])
def test_a_transparent_socket_bears_anothers_address_or_leaves_nothing_open(family, caller):
    before = len(os.listdir("/proc/self/fd"))
    try:
        with sockets.towards(caller, family, 0x6D6E0002) as sock:
            assert sock.getsockname()[0] == caller
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x6D6E0002
    except PermissionError:
        assert os.geteuid(), "root may"
    assert len(os.listdir("/proc/self/fd")) == before
