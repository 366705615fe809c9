"""The address plan: no two things have one address, and with two nodes each has its own subnet."""

from __future__ import annotations

import ipaddress

import pytest

from agent.demo.plan import MOST_NODES, NAMES, ON_THE_SECOND, hosts, sites


@pytest.mark.parametrize("nodes", range(1, MOST_NODES + 1))
def test_each_box_has_addresses_of_its_own_in_the_subnet_of_its_node(nodes: int) -> None:
    places = {site.number: site for site in sites(nodes)}
    assert len(places) == nodes
    assert [host.name for host in hosts(nodes)] == list(NAMES)
    taken = [address for site in places.values() for address in (site.gateway4, site.gateway6)]
    for host in hosts(nodes):
        four, six = (ipaddress.ip_network(subnet) for subnet in places[host.site].subnets)
        assert ipaddress.ip_address(host.address4) in four
        assert ipaddress.ip_address(host.address6) in six
        taken += [host.address4, host.address6]
    assert len(set(taken)) == len(taken)


def test_two_nodes_are_joined_by_a_link_that_is_in_neither_subnet() -> None:
    first, second = sites(2)
    assert {first.link4, second.link4} == {"10.71.0.1", "10.71.0.2"}
    for site in (first, second):
        assert all(ipaddress.ip_address(first.link4) not in ipaddress.ip_network(subnet) for subnet in site.subnets[:1])
    assert {host.name for host in hosts(2) if host.site == 2} == ON_THE_SECOND
