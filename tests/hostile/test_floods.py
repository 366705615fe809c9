"""Floods of one caller, each for some seconds: whoever calls beside it is served, memory is bounded and comes back, the admin socket answers.

What the daemon may take (`most`, MiB beside what it has in peace) is written beside each flood.
"""

from __future__ import annotations

import pytest

from agent.identity.node.store import IdentityStore
from tests.hostile.attackers import ATTACKS

# Of a workload, at its own outbound door: who, to whom; MiB. Whoever had us work for nothing is in debt afterwards: that is the vandal.
OF_A_WORKLOAD = {
    "streams_that_wait": ("thief", "pit", 150),
    "streams_of_callers_that_go": ("vandal", "pit", 80),
    "rapid_reset": ("vandal", "pit", 60),
    "made_you_reset": ("vandal", "pit", 60),
    "pipelined": ("thief", "pit", 100),
    "chunk_extensions": ("thief", "pit", 60),
    "connections": ("thief", "pit", 60),
    "denied": ("thief", "store", 60),
}


IN_PYTHON = (
    "streams_that_wait",
    "streams_of_callers_that_go",
    "rapid_reset",
    "pipelined",
)  # those that cost Python most
RUNS = [
    pytest.param(lane, name, id=f"{name}, {'native' if lane else 'Python'}")
    for lane in (True, False)
    for name in OF_A_WORKLOAD
    if lane or name in IN_PYTHON
]


@pytest.mark.parametrize(("node", "name"), RUNS, indirect=["node"])
def test_one_workload_floods(node, name):
    who, to, most = OF_A_WORKLOAD[name]
    hosts = node.lab.hosts
    node.flood(name, hosts[who], hosts[to].v4, 80, most)


def test_strangers_at_the_tunnel_door_keep_no_node_out(nodes):
    there = nodes.lab.nodes["n2"]
    nodes.flood("silent_strangers", nodes.lab.leaves["stranger"], there.v4, 15008, 100)


def test_strangers_at_the_signing_door_keep_no_node_out(nodes):
    hub = nodes.lab.nodes["hub"]
    before = len([r for r in nodes.lab.nodes["n2"].log().splitlines() if "authority cannot be reached" in r])
    nodes.flood("silent_strangers", nodes.lab.leaves["stranger"], hub.v4, 15012, 100)
    after = len([r for r in nodes.lab.nodes["n2"].log().splitlines() if "authority cannot be reached" in r])
    assert after == before, "a node that renews every few seconds noticed nothing"


def test_one_certificate_holds_no_more_than_its_share(nodes, tmp_path):
    """The thief's node is the attacker's: it has the keys of who runs there."""
    here, there = nodes.lab.nodes["n1"], nodes.lab.nodes["n2"]
    _, _, pairs = IdentityStore(here.state).load()
    (own,) = (pair.credentials for pair in pairs if pair.credentials.spiffe.endswith("/sa/thief"))
    nodes.lab.allow("thief", "store")
    nodes.lab.build()
    for name, content in (("chain", own.chain), ("key", own.key)):
        (tmp_path / name).write_bytes(content)
    server = f"{nodes.lab.leaves['store'].v4}:80"
    nodes.flood(
        "heads_without_end",
        nodes.lab.leaves["stranger"],
        there.v4,
        15008,
        250,
        identity=(tmp_path / "chain", tmp_path / "key", server),
    )


def test_each_attack_is_made():
    assert set(ATTACKS) == {*OF_A_WORKLOAD, "silent_strangers", "heads_without_end"}
