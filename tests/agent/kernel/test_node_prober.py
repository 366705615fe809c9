"""Who the node's prober is and by which rule, without a kernel."""

import errno
import os
import socket
from types import SimpleNamespace

import pytest

from agent.config.schema import NodeConfig, ProbesConfig
from agent.kernel import node_prober
from agent.kernel.netlink import NetlinkError
from agent.kernel.node_prober import NodeProber
from agent.kernel.ruleset import NODE, NODE_BRIDGE, PROBER, Probing
from agent.system.fd_store import FdStore
from policy.model import Probe, Workload
from tests.ports import free_port

STORE = Workload("n", "store", "store", addresses=("10.0.0.3", "fd00::3"), probes=(Probe("http", 80), Probe("tcp", 7)))
HERE = SimpleNamespace(id=(0, 1), fd=-1)
THERE = SimpleNamespace(id=(0, 2), fd=-1)


class Kernel:
    """`refuse`: what a table of that family is answered with; a function of the ruleset. `listeners`: cgroups at the kubelet's port."""

    def __init__(self, patch):
        self.refuse, self.listeners, self.force, self.now = {}, set(), {}, 0.0
        self.unreached = set()
        self.wires = (("eth0",), (5,))
        kernel = self

        class Table:
            def __init__(self, name, kept=None, table=None):
                self.family, self.lent, self.owned = table.family, False, True
                self.socket = SimpleNamespace(fileno=lambda: -1)

            def put(self, ruleset):
                number = kernel.refuse.get(self.family, lambda _: 0)(ruleset)
                if number:
                    raise NetlinkError(number, "table")
                self.lent = False
                kernel.force[self.family] = ruleset

            def repair(self):
                return False

            def remove(self):
                kernel.force.pop(self.family, None)

            def close(self):
                pass

        patch.setattr(node_prober, "Table", Table)
        patch.setattr(node_prober, "listening", lambda port: set(self.listeners))
        patch.setattr(node_prober, "wires", lambda namespace: self.wires)
        patch.setattr(node_prober, "_answer", lambda *_: None)
        patch.setattr(node_prober.cgroup, "reaches", lambda group: group not in self.unreached)
        patch.setattr(node_prober.time, "monotonic", lambda: self.now)
        patch.setattr(NodeProber, "_clear_leavings", lambda _: None)


@pytest.fixture
def kernel(monkeypatch):
    return Kernel(monkeypatch)


def prober(listener=0):
    return NodeProber(NodeConfig(node="here", probes=ProbesConfig(listener)), FdStore())


def groups(ruleset):
    return {match.value.id for rule in ruleset.rules if rule.chain == "who" for match in rule.matches}


def told(found):
    return [problem.message for problem in found.problems()]


def test_a_node_with_nothing_to_probe_has_no_table(kernel):
    found = prober()
    assert found.admit(HERE, Workload("n", "a", "a", addresses=("10.0.0.4",)), anew=True) is None
    found.settle()
    assert kernel.force == {}


def test_any_process_of_the_node_comes_to_the_doors(kernel):
    found = prober()
    assert found.admit(HERE, STORE, anew=True) == Probing(("eth0",), (7, 80), direct=False)
    assert found.addresses == PROBER
    sets = {s.name: s.elements for s in kernel.force["inet"].sets}
    assert sets == {"probes4": ("10.0.0.3 7", "10.0.0.3 80"), "probes6": ("fd00::3 7", "fd00::3 80")}
    assert (kernel.force["inet"].name, kernel.force["bridge"].name) == (NODE, NODE_BRIDGE)
    assert kernel.force["bridge"].sets[0].elements == ("5",)
    assert told(found) == []


def test_what_is_let_go_is_taken_out_and_the_last_takes_the_tables_along(kernel):
    found = prober()
    found.admit(HERE, STORE, anew=True)
    found.admit(THERE, Workload("n", "b", "b", addresses=("10.0.0.9",), probes=(Probe("http", 81),)), anew=True)
    found.forget(HERE)
    assert {s.name: s.elements for s in kernel.force["inet"].sets}["probes4"] == ("10.0.0.9 81",)
    found.forget(THERE)
    assert kernel.force == {}


@pytest.mark.parametrize("open_node", [False, True])
def test_tables_stay_at_a_stop_unless_the_node_is_to_be_open(kernel, open_node):
    found = prober()
    found.admit(HERE, STORE, anew=True)
    found.release(open_node)
    found.forget(HERE)
    assert bool(kernel.force) is not open_node


def test_a_workload_whose_wires_lead_elsewhere_is_not_probed(kernel):
    kernel.wires = ((), ())
    assert prober().admit(HERE, STORE, anew=True) is None


def test_wires_are_looked_at_again_when_links_changed(kernel):
    found = prober()
    found.admit(HERE, STORE, anew=True)
    kernel.wires = (("net1",), (9,))
    assert found.admit(HERE, STORE, anew=False).interfaces == ("eth0",)
    assert found.admit(HERE, STORE, anew=True).interfaces == ("net1",)
    assert kernel.force["bridge"].sets[0].elements == ("9",)


def test_one_cgroup_comes_past_the_doors_and_is_followed(kernel):
    kernel.listeners = {42}
    found = prober(10250)
    assert found.admit(HERE, STORE, anew=True).direct
    assert groups(kernel.force["inet"]) == {42}
    kernel.listeners = {43}
    found.settle()
    assert groups(kernel.force["inet"]) == {43}


@pytest.mark.parametrize(
    ("listener", "kubernetes", "rule"),
    [(None, True, "group"), (None, False, "process"), (0, True, "process"), (10250, False, "group")],
)
def test_in_a_cluster_the_kubelet_is_the_prober_unless_it_is_said_otherwise(kernel, listener, kubernetes, rule):
    kernel.listeners = {77}
    config = NodeConfig(node="here", probes=ProbesConfig(listener))
    found = NodeProber(config, FdStore(), kubernetes=kubernetes)
    found.admit(HERE, STORE, anew=True)
    assert found.rule == rule
    assert groups(kernel.force["inet"]) == ({77} if rule == "group" else set())


@pytest.mark.parametrize("listeners", [set(), {1, 2}], ids=["nobody", "two"])
def test_where_not_one_cgroup_listens_nobody_may_probe_and_it_is_told(kernel, listeners):
    kernel.listeners = {42}
    found = prober(10250)
    found.admit(HERE, STORE, anew=True)
    kernel.listeners = listeners
    found.settle()
    assert not any(rule.verdict == "set-bit" for rule in kernel.force["inet"].rules)
    assert "not one cgroup of root listens at port 10250" in told(found)[0]
    kernel.listeners = {42}
    found.settle()
    assert (groups(kernel.force["inet"]), told(found)) == ({42}, [])


def test_a_kernel_that_cannot_tell_cgroups_admits_any_process_by_the_doors_and_says_so(kernel):
    kernel.listeners = {42}
    kernel.refuse["inet"] = lambda ruleset: errno.EOPNOTSUPP if groups(ruleset) else 0
    found = prober(10250)
    assert found.admit(HERE, STORE, anew=True) == Probing(("eth0",), (7, 80), direct=False)
    assert (found.rule, found.addresses) == ("process", PROBER)
    assert told(found)[0].endswith("declared probes are admitted from any process of the node")


def test_from_a_private_cgroup_namespace_no_rule_reaches_the_prober_and_that_is_told(kernel):
    """The kernel takes such a rule, and it never matches."""
    kernel.listeners = kernel.unreached = {77}
    found = NodeProber(NodeConfig(node="here", probes=ProbesConfig(10250)), FdStore(), "Permission denied")
    assert found.admit(HERE, STORE, anew=True) == Probing(("eth0",), (7, 80), direct=False)
    assert found.rule == "process"
    assert groups(kernel.force["inet"]) == set()
    assert "not in the node's cgroup namespace: Permission denied" in told(found)[0]
    assert "any process of the node" in told(found)[0]


def test_where_no_table_can_be_made_the_weakest_rule_is_named_until_one_can(kernel):
    kernel.refuse["inet"] = lambda _: errno.EPERM
    found = prober()
    assert found.admit(HERE, STORE, anew=True) is None
    assert (found.rule, found.addresses) == ("address", None), "as the doors know it: the node's own"
    assert told(found)[0].endswith("whoever has the node's address, which NAT lends to others")
    kernel.refuse.clear()
    found.settle()
    assert found.rule == "address", "not in every round"
    kernel.now = 3.0
    found.settle()
    assert (found.rule, told(found)) == ("process", [])


def test_without_bridges_in_the_kernel_what_is_not_looked_at_is_told(kernel):
    kernel.refuse["bridge"] = lambda _: errno.EOPNOTSUPP
    found = prober()
    assert found.admit(HERE, STORE, anew=True) is not None
    assert "a neighbour may forge" in told(found)[0]


def test_tables_that_an_earlier_daemon_held_go_on_being_used_and_are_kept(kernel, monkeypatch):
    given = {name: socket.socketpair() for name in ("node table inet", "node table bridge")}
    kept = FdStore({name: [pair[0].detach()] for name, pair in given.items()})
    taken = {}
    made = node_prober.Table

    def table(name, kept=None, table=None):
        taken[table.family] = kept
        return made(name, kept, table)

    monkeypatch.setattr(node_prober, "Table", table)
    found = NodeProber(NodeConfig(node="here"), kept)
    found.admit(HERE, STORE, anew=True)
    assert all(isinstance(sock, socket.socket) for sock in taken.values()) and set(taken) == {"inet", "bridge"}
    for sock in (*taken.values(), *(pair[1] for pair in given.values())):
        sock.close()


def test_who_listens_is_asked_of_the_kernel():
    """In the cgroup where its socket was made, and only of root: another's socket there says nothing."""
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        socket.create_server(("::1", port), family=socket.AF_INET6),
    ):
        found = node_prober.listening(port)
        assert len(found) == (1 if os.geteuid() == 0 else 0)
    assert node_prober.listening(port) == set()


def test_who_is_not_root_takes_the_place_of_no_prober():
    """A process that listens at the kubelet's port while that is started again."""
    mine = os.geteuid()
    os.seteuid(65534 if mine == 0 else mine)
    try:
        other = socket.create_server(("127.0.0.1", 0))
    finally:
        os.seteuid(mine)
    with other:
        assert node_prober.listening(other.getsockname()[1]) == set()


def test_tables_that_were_lent_are_put_in_force_anew(kernel):
    found = prober()
    found.admit(HERE, STORE, anew=True)
    kernel.force.clear()
    for table in found.tables:
        table.lent = True
    found.settle()
    assert set(kernel.force) == {"inet", "bridge"}


def test_an_https_probe_is_missed_only_where_the_prober_is_not_known_by_its_socket(kernel):
    web = Workload("n", "web", "web", addresses=("10.0.0.5",), probes=(Probe("https", 8443),))
    kernel.listeners = {77}
    known, guessed = prober(10250), prober()
    for one in (known, guessed):
        assert one.admit(HERE, web, anew=True).ports == (8443,)
    assert told(known) == []
    (problem,) = guessed.problems()
    assert problem.object == "Workload n/web"
    assert "its HTTPS probe is refused" in problem.message
    guessed.forget(HERE)
    assert told(guessed) == []
