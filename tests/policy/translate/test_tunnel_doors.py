"""translate/tunnel_doors.py: tunnel doors, units that other nodes cannot reach, addresses that tell nothing."""

import pytest
import yaml

from policy.build import build
from policy.model import Node, Where
from policy.resources import RawObject

MESH = {
    "apiVersion": "config.openservicemesh.io/v1alpha2",
    "kind": "MeshConfig",
    "metadata": {"name": "m", "annotations": {"edgemesh.io/mtls": "disabled"}},
}


def workload(name, text, namespace="n"):
    data = {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": namespace},
    }
    return {**data, "spec": yaml.safe_load(text)}


def made(*objects, previous=None, nodes=(), node="n1"):
    raws = [RawObject(data, Where("w.yaml", line), {}) for line, data in enumerate(objects, 1)]
    return build(raws, previous, node=node, nodes=nodes)


def test_a_tunnel_port_is_taken():
    built = made(workload("a", "{tunnelPort: 16001}"), workload("b", "{}"))
    assert [w.tunnel_port for w in built.snapshot.workloads] == [16001, 0]
    assert built.problems == ()


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1"])
def test_a_tunnel_port_that_is_none(port):
    (problem,) = made(workload("a", f"{{tunnelPort: {port}}}")).problems
    assert (problem.severity, "spec.tunnelPort" in problem.message) == ("error", True)


CLASH = (workload("b", '{addresses: ["FD00::01", 10.0.0.1], tunnelPort: 16001, ports: [{port: 2}]}'),)
FIRST = workload("a", '{addresses: ["fd00::1"], tunnelPort: 16001, ports: [{port: 1}]}')


def test_two_workloads_cannot_have_one_door():
    built = made(FIRST, *CLASH)
    (problem,) = built.problems
    assert (problem.severity, problem.object, problem.where.line) == ("error", "Workload n/b", 2)
    assert problem.message == "the tunnel listener fd00::1 port 16001 is that of Workload n/a"
    assert [w.tunnel_port for w in built.snapshot.workloads] == [16001, 0], "it stays captured, without a door"
    again = made(FIRST, *CLASH, previous=built.accepted)
    assert (again.snapshot, again.problems) == (built.snapshot, built.problems)


def test_the_last_good_door_stays():
    good = made(FIRST, workload("b", '{addresses: ["fd00::1"], tunnelPort: 16002, ports: [{port: 2}]}'))
    assert good.problems == ()
    built = made(FIRST, *CLASH, previous=good.accepted)
    assert [w.tunnel_port for w in built.snapshot.workloads] == [16001, 16002]
    assert "the last good version stays" in built.problems[0].hint


@pytest.mark.parametrize(
    "text",
    [
        "{addresses: ['fd00::1'], tunnelPort: 16002, ports: [{port: 2}]}",
        "{addresses: ['fd00::2'], tunnelPort: 16001, ports: [{port: 2}]}",
        "{addresses: ['fd00::1'], tunnelPort: 16001, node: n2, ports: [{port: 2}]}",
    ],
)
def test_doors_that_differ(text):
    assert made(FIRST, workload("b", text)).problems == ()


UNIT = workload("u", "{systemdUnit: u.service, addresses: [10.0.0.1], ports: [{port: 1}]}")
AWAY = workload("v", "{node: n2}")


def test_a_unit_that_no_other_node_can_reach_is_pointed_out():
    (problem,) = made(UNIT, AWAY).problems
    assert (problem.severity, problem.object) == ("warning", "Workload n/u")
    assert "other nodes cannot reach it: node n1 does not say its addresses" in problem.message
    assert problem.hint == "give NodeConfig n1 addresses, or the Workload a tunnelPort"
    assert made(UNIT, nodes=[Node("n1"), Node("n2")]).problems == (problem,)


@pytest.mark.parametrize(
    ("objects", "nodes"),
    [
        ([UNIT], []),
        ([UNIT], [Node("n1")]),
        ([UNIT, workload("w", "{}")], []),
        ([UNIT, AWAY], [Node("n1", ("192.0.2.1",))]),
        ([{**UNIT, "spec": {**UNIT["spec"], "tunnelPort": 16001}}, AWAY], []),
        ([workload("u", "{netns: u}"), AWAY], []),
        ([MESH, UNIT, AWAY], []),
    ],
)
def test_units_that_can_be_reached_or_need_not_be(objects, nodes):
    assert made(*objects, nodes=nodes).problems == ()


def test_a_unit_of_another_node_is_meant_too():
    (problem,) = made({**UNIT, "spec": {**UNIT["spec"], "node": "n2"}}, nodes=[Node("n1", ("192.0.2.1",))]).problems
    assert "node n2 does not say its addresses" in problem.message


def shared(*ports):
    listed = ["" if number is None else f"{{port: {number}}}" for number in ports]
    return [workload("w", f"{{addresses: [10.0.0.1], ports: [{text}]}}", f"n{n}") for n, text in enumerate(listed)]


def test_ports_tell_apart_workloads_of_one_address():
    assert made(*shared(1, 2, 3)).problems == ()


def test_one_address_with_nothing_to_tell_who_is_meant():
    problems = made(*shared(1, None)).problems
    assert [(p.severity, p.object) for p in problems] == [("warning", "Workload n1/w")]
    assert "10.0.0.1 is the address of n0/w too" in problems[0].message
    assert len(made(*shared(None, None)).problems) == 2


def test_one_address_and_one_port():
    built = made(*shared(1, 2, 1))
    (problem,) = built.problems
    assert (problem.severity, problem.object) == ("warning", "Workload n2/w")
    assert problem.message == "port 1 of 10.0.0.1 is that of n0/w too; calls to it are taken for calls to n0/w"
    assert built.snapshot.workload_at("10.0.0.1", 1).key == "n0/w", "as it says"
