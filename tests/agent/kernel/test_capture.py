"""What is wanted becomes places, one by one; a fault of one stops no other. Without namespaces: files stand for them."""

import errno

import pytest
import trio

from agent.config.schema import NodeConfig
from agent.kernel import capture as ground
from agent.kernel import rounds
from policy.model import Workload
from tests.agent.kernel.fake_places import Copy, FakePlace, settle, workload


def test_what_is_there_is_captured_and_the_rest_told(world):
    (world.folder / "a").touch()
    faults = settle(world, workload("a"), workload("gone"))
    assert world.heard == ["+a"]
    assert faults["n/a"] == ""
    assert "there is no such network namespace" in faults["n/gone"]
    (world.folder / "gone").touch()
    world.settle()
    assert world.heard == ["+a", "+gone"]
    assert not any(c.error for c in world.conditions().values())


def test_only_workloads_of_this_node_that_are_enrolled(world):
    for name in ("mine", "named", "far", "out"):
        (world.folder / name).touch()
    named, far = workload("named", node="here"), workload("far", node="there")
    settle(world, workload("mine"), named, far, workload("out", enrolled=False))
    assert world.heard == ["+mine", "+named"]


def test_a_fault_of_one_stops_no_other(world):
    for name in ("a", "b"):
        (world.folder / name).touch()
    FakePlace.refuse = {str(world.folder / "a"): (errno.ENOSPC, "no room")}
    faults = settle(world, workload("a"), workload("b"))
    assert world.heard == ["+b"]
    assert "no room" in faults["n/a"]
    FakePlace.refuse = {}
    world.settle()
    assert world.heard == ["+b"], "it is tried again, but not in every round"
    world._retry["n/a"] = 0
    world.settle()
    assert world.heard == ["+b", "+a"]


def test_a_namespace_replaced_under_its_name_is_let_go_and_taken_again(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    (world.folder / "new").touch()
    (world.folder / "new").rename(world.folder / "a")
    world.settle()
    assert world.heard == ["+a", "-n/a", "+a"]
    assert FakePlace.made[0].log == ["made", "closed"], "there may be processes left in it, and its rules keep them in"
    (world.folder / "a").unlink()
    world.settle()
    assert world.heard[-1] == "-n/a"
    assert not world.conditions()["n/a"].captured


def test_a_namespace_that_goes_to_another_workload_is_open_at_no_moment(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world, workload("renamed", netns="a"))
    assert world.heard == ["+a", "-n/a", "+renamed"]
    assert FakePlace.made[0].log == ["made", "closed"], "its rules are replaced, not taken away"
    assert FakePlace.made[1].given == ["a door of a", "table"], (
        "the proxy closes its own later: the ports would be taken"
    )


def test_doors_of_a_namespace_that_another_workload_did_not_get_after_all_are_closed(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    before = FakePlace.refuse
    FakePlace.refuse = {str(world.folder / "a"): (errno.ENOSPC, "no room")}
    settle(world, workload("renamed", netns="a"))
    assert Copy.closed == []
    settle(world)
    assert Copy.closed == ["a door of a", "table"]
    FakePlace.refuse = before
    settle(world, workload("a"))
    assert FakePlace.made[-1].given == []


def test_the_place_that_a_workload_moves_away_from_is_closed_until_a_person_lets_go_of_it(world):
    for name in ("a", "b"):
        (world.folder / name).touch()
    settle(world, workload("x", netns="a"))
    settle(world, workload("x", netns="b"))
    assert FakePlace.made[0].log == ["made"], "its rules stay"
    assert world.heard == ["+x", "-n/x", "+x"], "and nobody serves its doors"
    assert world.conditions()["n/x"].where == str(world.folder / "b")
    assert world.closed() == {f"netns {world.folder}/a": "n/x"}
    assert world.let_go("n/x")
    world.settle()
    assert FakePlace.made[0].log == ["made", "removed", "closed"]
    assert world.closed() == {}
    assert not world.let_go("n/y")


@pytest.mark.parametrize("moved", [False, True])
def test_to_let_go_of_one_that_is_where_it_should_be_opens_nothing_later(world, moved):
    for name in ("a", "b"):
        (world.folder / name).touch()
    settle(world, workload("x", netns="b" if moved else "a"))
    if moved:
        settle(world, workload("x", netns="a"))
    assert world.let_go("n/x") == moved
    world.settle()
    settle(world, workload("x", netns="a", node="their"))
    assert world.closed() == {f"netns {world.folder}/a": "n/x"}


@pytest.mark.parametrize("typo", [{"netns": "aa"}, {"node": "their"}, {"netns": "", "unit": "aa.service"}])
def test_a_typing_error_in_where_it_runs_opens_nothing(world, typo):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world, workload("a", **typo))
    (place,) = FakePlace.made
    assert place.log == ["made"]
    assert world.closed() == {f"netns {world.folder}/a": "n/a"}
    settle(world, workload("a"))
    assert world.closed() == {}
    assert world.conditions()["n/a"].captured
    assert place.log == ["made", "closed"], "its rules are replaced by those of the next, without a moment between"


def test_one_that_lost_its_place_and_is_sought_by_its_address_stays_where_it_was(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world, workload("a", netns="", node="here"))
    assert FakePlace.made[0].log == ["made", "kept"]
    assert world.conditions()["n/a"].captured


def test_one_that_is_to_be_left_alone_is_opened(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world, workload("a", enrolled=False))
    assert FakePlace.made[0].log == ["made", "removed", "closed"]
    assert (world.closed(), world.remembered.places) == ({}, {})


def test_another_that_names_the_place_of_an_abandoned_one_gets_it(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world)
    settle(world, workload("b", netns="a"))
    assert [place.workload.name for place in FakePlace.made] == ["a", "b"]
    assert FakePlace.made[0].log == ["made", "closed"]
    assert world.remembered.places == {f"netns {world.folder}/a": "n/b"}
    settle(world, workload("b", netns="a", enrolled=False))
    assert FakePlace.made[1].log == ["made", "removed", "closed"]


def test_after_a_reboot_a_place_that_nothing_names_is_closed_when_it_is_there(world, monkeypatch):
    again = ground.CaptureManager(
        NodeConfig(node="here"), places={f"netns {world.folder}/a": "n/a", f"netns {world.folder}/b": "n/b"}
    )
    again.serve(lambda w, _: world.heard.append(f"+{w.name}"), lambda key: world.heard.append(f"-{key}"))
    (world.folder / "b").touch()
    settle(again, workload("b"))
    (world.folder / "a").touch()
    again.settle()
    assert [(place.workload.name, place.log) for place in FakePlace.made] == [("b", ["made"]), ("a", ["made", "shut"])]
    assert world.heard == ["+b"]
    assert again.closed() == {f"netns {world.folder}/a": "n/a"}
    assert again.remembered.places == {f"netns {world.folder}/a": "n/a", f"netns {world.folder}/b": "n/b"}
    (world.folder / "a").unlink()
    again.settle()
    assert again.closed() == {}
    assert FakePlace.made[1].log == ["made", "shut", "closed"], "its namespace is not kept alive by us"


def test_a_place_that_cannot_be_closed_is_told(world):
    again = ground.CaptureManager(NodeConfig(node="here"), places={f"netns {world.folder}/a": "n/a"})
    (world.folder / "a").touch()
    FakePlace.refuse[str(world.folder / "a")] = (errno.EPERM, "Operation not permitted")
    settle(again)
    assert again.unclosed() == {f"netns {world.folder}/a": "Operation not permitted"}
    FakePlace.refuse.clear()
    again.settle()
    assert (again.unclosed(), again.closed()) == ({}, {f"netns {world.folder}/a": "n/a"})


def test_a_namespace_that_was_found_by_its_address_is_closed_while_it_is_there(world, monkeypatch):
    path = str(world.folder / "pod")
    (world.folder / "pod").touch()
    monkeypatch.setattr(world.finder, "path_of", lambda _: path)
    pod = Workload("n", "pod", "pod", ("10.0.0.9",), node="here")
    settle(world, pod)
    settle(world)
    assert world.closed() == {f"netns {path}": "n/pod"}
    assert world.remembered.places == {}, "such a name does not last"
    assert world.let_go("n/pod")
    world.settle()
    assert FakePlace.made[0].log == ["made", "removed", "closed"]


def test_closed_places_are_lent_too(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world)
    world.lend()
    assert FakePlace.made[0].table.lent
    world.release(open_node=False)
    assert FakePlace.made[0].log == ["made", "closed"]


def test_an_open_node_opens_them(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world)
    world.release(open_node=True)
    assert FakePlace.made[0].log == ["made", "removed", "closed"]


def test_another_name_of_the_same_namespace_changes_nothing(world):
    (world.folder / "a").touch()
    (world.folder / "same").hardlink_to(world.folder / "a")
    settle(world, workload("x", netns="a"))
    settle(world, workload("x", netns="same"))
    (world.folder / "a").unlink()
    world.settle()
    assert world.heard == ["+x"]


def test_doors_that_could_be_opened_late_are_served(world, monkeypatch):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    monkeypatch.setattr(FakePlace, "keep", lambda self, *_: object())
    world.settle()
    assert world.heard == ["+a", "+a"]


def test_a_newer_wish_ends_the_round(world):
    for name in ("a", "b"):
        (world.folder / name).touch()
    world.want([workload("a"), workload("b")])
    steps = world._steps()
    next(steps)
    world.want([workload("b")])
    assert list(steps) == []
    assert world.heard == ["+a"]
    assert not world.settled
    world.settle()
    assert world.heard == ["+a", "-n/a", "+b"]
    assert world.settled


def test_who_is_named_no_more_is_closed(world, caplog):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    settle(world)
    assert FakePlace.made[0].log == ["made"]
    assert world.heard == ["+a", "-n/a"]
    assert world.conditions() == {}
    (said,) = [record for record in caplog.records if "is closed" in record.message]
    assert said.levelname == "WARNING"
    assert said.message.startswith(f"{world.folder / 'a'} is closed: ")
    assert "edgemesh release n/a" in said.message


def test_rules_stay_at_a_stop_unless_the_node_is_to_be_open(world):
    (world.folder / "a").touch()
    for open_node, log in ((False, ["made", "closed"]), (True, ["made", "removed", "closed"])):
        settle(world, workload("a"))
        world.release(open_node)
        assert FakePlace.made[-1].log == log


def test_a_namespace_holds_one_workload(world):
    (world.folder / "a").touch()
    (world.folder / "same").hardlink_to(world.folder / "a")
    faults = settle(world, workload("a"), workload("same"))
    assert "n/a's already" in faults["n/same"]


@pytest.mark.parametrize("name", ["a", "z"])
def test_it_stays_his_who_had_it_over_a_restart_too(world, name):
    (world.folder / "a").touch()
    other = workload(name, netns=str(world.folder / "." / "a"))
    settle(world, workload("m", netns="a"))
    assert "is n/m's already" in settle(world, workload("m", netns="a"), other)[f"n/{name}"]
    again = ground.CaptureManager(NodeConfig(node="here"), places=world.remembered.places)
    again.serve(lambda *_: None, lambda _: None)
    assert "is n/m's already" in settle(again, other, workload("m", netns="a"))[f"n/{name}"]
    settle(again, other)
    assert again.remembered.places == {f"netns {world.folder}/a": f"n/{name}"}, "until he names it no more"


def test_the_hosts_own_namespace_is_no_workloads(world):
    faults = settle(world, workload("host", netns="/proc/self/ns/net"))
    assert "host's own network namespace" in faults["n/host"]
    assert not FakePlace.made


def test_a_pod_is_found_by_its_address(world, monkeypatch):
    (world.folder / "cni-1").touch()
    monkeypatch.setattr(ground.netns, "inspect", lambda path: (hash(path), frozenset(["10.0.0.7"])))
    pod, other = (
        workload(name, netns="", node="here", addresses=(address,))
        for name, address in (("pod", "10.0.0.7"), ("other", "10.0.0.8"))
    )
    faults = settle(world, pod, other)
    assert world.heard == ["+pod"]
    assert "no network namespace has its addresses" in faults["n/other"]


def test_an_address_that_two_namespaces_claim_finds_neither(world, monkeypatch):
    (world.folder / "cni-1").touch()
    (world.folder / "cni-2").touch()
    monkeypatch.setattr(ground.netns, "inspect", lambda path: (hash(path), frozenset(["10.0.0.7"])))
    faults = settle(world, workload("pod", netns="", node="here", addresses=("10.0.0.7",)))
    assert "several network namespaces" in faults["n/pod"]
    assert not world.heard


def test_who_may_not_enter_namespaces_is_told_what_it_lacks(world, monkeypatch):
    (world.folder / "a").touch()
    monkeypatch.setattr(ground.netns, "may_enter", lambda: False)
    monkeypatch.setattr(world.finder, "path_of", lambda workload: "")
    faults = settle(world, workload("a"), workload("pod", netns="", node="here", addresses=("10.0.0.7",)))
    for fault in faults.values():
        assert "cannot be entered; edgemesh needs root's NET_ADMIN, SYS_ADMIN" in fault
        assert "no network namespace has its addresses" not in fault
    assert set(faults) == {"n/a", "n/pod"} and not world.heard


def test_what_the_kernel_does_not_permit_is_told_with_what_it_takes(world, monkeypatch):
    (world.folder / "a").touch()
    monkeypatch.setitem(FakePlace.refuse, str(world.folder / "a"), (errno.EPERM, "Operation not permitted"))
    assert "Operation not permitted; edgemesh needs root's NET_ADMIN" in settle(world, workload("a"))["n/a"]


def test_sockets_are_made_where_the_workload_is(world):
    (world.folder / "a").touch()
    settle(world, workload("a"))
    assert world.towards(workload("a"), "10.0.0.1", 2) == ("towards", "n/a", "10.0.0.1", 2)
    with pytest.raises(OSError, match="not captured here"):
        world.towards(workload("gone"), "10.0.0.1", 2)


def test_the_nodes_addresses_are_looked_up_now_and_then(world, monkeypatch):
    looks = []
    monkeypatch.setattr(ground.netns, "addresses", lambda: looks.append(1) or frozenset(["10.0.0.254"]))
    monkeypatch.setattr(ground.netns, "routers", lambda: frozenset(["10.42.2.0"]))
    assert world.node_addresses() == world.node_addresses() == {"10.0.0.254"}
    assert world.lent_addresses() == {"10.0.0.254", "10.42.2.0"}
    assert len(looks) == 1


async def test_a_new_namespace_is_heard_of(world, monkeypatch):
    monkeypatch.setattr(rounds, "POLL", 60)
    attached = trio.Event()
    world.serve(lambda *_: attached.set(), lambda _: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        world.want([workload("a")])
        while not world.settled:
            await trio.lowlevel.checkpoint()
        (world.folder / "a").touch()
        with trio.fail_after(30):
            await attached.wait()
        nursery.cancel_scope.cancel()


def test_attaching_before_serving_is_a_mistake(world, monkeypatch):
    fresh = ground.CaptureManager(NodeConfig(node="here"))
    (world.folder / "a").touch()
    fresh.want([workload("a")])
    with pytest.raises(RuntimeError, match=r"CaptureManager\.serve comes first"):
        fresh.settle()
