"""places.py: each row of the table, and what is done with rules, listeners and descriptors in it. Files stand for namespaces."""

import itertools
import typing

import pytest
from msgspec import structs

from agent.config.schema import NodeConfig
from agent.kernel import places as module
from agent.kernel.context import CaptureContext
from agent.kernel.places import MOVES, Facts, Move, Places, State, move_of, there
from agent.system.fd_store import FdStore
from nodeproxy.capture import Marks
from policy.model import Workload

NAMES = [field.name for field in structs.fields(Facts)]
EVERY = [Facts(*values) for values in itertools.product((False, True), repeat=len(NAMES))]


@pytest.mark.parametrize(
    ("state", "facts", "move"),
    [
        ("served", Facts(named=True, sought=True), "keep"),
        ("served", Facts(named=True, sought=True, released=True, pod=True), "keep"),
        ("served", Facts(there=False), "drop"),
        ("served", Facts(there=False, sought=True, released=True), "drop"),
        ("served", Facts(sought=True), "pass on"),
        ("served", Facts(sought=True, released=True), "pass on"),
        ("served", Facts(released=True), "open"),
        ("served", Facts(released=True, pod=True), "open"),
        ("served", Facts(pod=True), "shut early"),
        ("served", Facts(), "shut"),
        ("served", Facts(outside=True), "shut"),
        ("closed", Facts(), "keep"),
        ("closed", Facts(outside=True), "keep"),
        ("closed", Facts(there=False, released=True), "drop"),
        ("closed", Facts(sought=True, released=True), "drop"),
        ("closed", Facts(released=True), "open"),
        ("early", Facts(), "keep"),
        ("early", Facts(there=False), "drop"),
        ("early", Facts(sought=True), "drop"),
        ("early", Facts(outside=True), "open"),
        ("early", Facts(released=True), "open"),
    ],
)
def test_what_becomes_of_a_place(state, facts, move):
    assert move_of(state, facts) == move


def test_every_case_has_a_row_and_every_row_a_case():
    states = typing.get_args(State)
    met = {(state, move_of(state, facts)) for state in states for facts in EVERY}
    assert met == {(state, move) for those, _, move in MOVES for state in those}
    assert {move for _, move in met} == set(typing.get_args(Move))


def test_rules_are_removed_only_where_somebody_lets_go_or_the_pod_is_none_of_the_meshs():
    for state in typing.get_args(State):
        for facts in EVERY:
            if move_of(state, facts) == "open":
                assert facts.there
                assert not facts.sought
                assert facts.released or (state == "early" and facts.outside)


class Socket:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def fileno(self):
        return 7

    def dup(self):
        return Socket(self.log, f"copy of {self.name}")

    def close(self):
        self.log.append(f"{self.name} closed")


class Doors(list):
    def close(self):
        for door in self:
            door.close()


class Table:
    def __init__(self, socket):
        self.socket = socket


class Place:
    log, refuse = (), None

    def __init__(self, capture, workload, path, addresses=()):
        if self.refuse:
            raise self.refuse
        self.workload, self.addresses = workload, addresses
        self.namespace = type("Namespace", (), {"path": path, "id": module.netns.identity(path)})
        self.name = f"namespace {path}"
        for sock in capture.kept.take(self.name):
            self.log.append(f"took {sock.name}")
        self.doors, self.table = Doors([Socket(self.log, "door")]), Table(Socket(self.log, "table"))

    def remove(self):
        self.log.append("rules removed")

    def close(self):
        self.log.append("closed")


class Prober:
    def __init__(self, log):
        self.log = log

    def forget(self, namespace):
        self.log.append("probes forgotten")


class Kept(FdStore):
    """`held`: names of descriptors that outlive us, of each place."""

    def __init__(self):
        super().__init__()
        self.held = {}

    def hold(self, name, sockets):
        self.held[name] = [sock.name for sock in sockets]

    def drop(self, name):
        self.held.pop(name, None)


class World:
    def __init__(self, folder):
        self.folder, self.log, self.kept = folder, [], Kept()
        Place.log = self.log
        capture = CaptureContext(NodeConfig(node="here"), Marks(), None, self.kept, Prober(self.log))
        self.places = Places(capture)
        self.places.detach = lambda key: self.log.append(f"-{key}")
        (folder / "a").touch()
        self.path = str(folder / "a")
        self.which = module.netns.identity(self.path)

    def put(self, state):
        """A place in that state."""
        if state == "served":
            place = self.places.serve(Workload("n", "a", "a"), self.path, ("10.0.0.7",))
        else:
            self.places.hold(Workload("n", "a", "a"), self.path, early=state == "early")
            (place,) = self.places
        assert self.places.state(place) == state
        del self.log[:]
        return place

    def keeps(self, place):
        return [sock.name for sock in self.kept.take(place.name)]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CapturedNamespace", Place)
    monkeypatch.setattr(Place, "refuse", None)
    return World(tmp_path)


FOR = {
    ("served", "keep"): Facts(named=True, sought=True),
    ("served", "drop"): Facts(there=False),
    ("served", "pass on"): Facts(sought=True),
    ("served", "open"): Facts(released=True),
    ("served", "shut early"): Facts(pod=True),
    ("served", "shut"): Facts(),
    ("closed", "keep"): Facts(),
    ("closed", "drop"): Facts(there=False),
    ("closed", "open"): Facts(released=True),
    ("early", "keep"): Facts(),
    ("early", "drop"): Facts(sought=True),
    ("early", "open"): Facts(outside=True),
}
DONE = {
    ("served", "keep"): ([], "served"),
    ("served", "drop"): (["-n/a", "closed"], ""),
    ("served", "pass on"): (["-n/a", "closed"], ""),
    ("served", "open"): (["-n/a", "rules removed", "closed"], ""),
    ("served", "shut early"): (["-n/a", "probes forgotten"], "early"),
    ("served", "shut"): (["-n/a", "probes forgotten"], "closed"),
    ("closed", "keep"): ([], "closed"),
    ("closed", "drop"): (["closed"], ""),
    ("closed", "open"): (["rules removed", "closed"], ""),
    ("early", "keep"): ([], "early"),
    ("early", "drop"): (["closed"], ""),
    ("early", "open"): (["rules removed", "closed"], ""),
}


@pytest.mark.parametrize(("state", "move"), DONE)
def test_what_a_move_does(world, state, move):
    place = world.put(state)
    done, after = DONE[state, move]
    assert world.places.move(place, FOR[state, move]) == move
    assert world.log == done
    assert (world.places.state(place) if place in list(world.places) else "") == after
    assert world.places.early == ({world.which} if after == "early" else set())
    assert world.places.captured == ({world.which} if after in ("served", "closed") else set())
    assert world.places.taken == ({world.which} if after else set())
    assert world.places.closed == ([place] if after == "closed" else [])
    if move == "pass on":
        assert world.keeps(place) == ["copy of door", "copy of table"], "connections wait in their queue"
    if after in ("closed", "early"):
        assert world.kept.held == {place.name: ["table"]}, "and no listener"
    elif not after:
        assert world.kept.held == {}


def test_each_move_of_the_table_is_tried():
    assert FOR.keys() == DONE.keys() == {(state, move) for states, _, move in MOVES for state in states}


def test_what_is_held_listens_to_nobody(world):
    world.places.hold(Workload("n", "a", "a"), world.path, early=False)
    assert world.log == ["door closed"]


@pytest.mark.parametrize("state", ["served", "closed", "early"])
def test_what_cannot_be_captured_changes_nothing(world, state):
    Place.refuse = OSError("refused")
    with pytest.raises(OSError, match="refused"):
        world.put(state)
    assert list(world.places) == []


def test_who_takes_a_place_over_gets_its_listeners(world):
    world.places.move(world.put("served"), Facts(sought=True))
    del world.log[:]
    world.places.serve(Workload("n", "b", "b"), world.path)
    assert world.log == ["took copy of door", "took copy of table"]
    world.places.forget_passed(())
    assert len(world.log) == 2, "they are its own now"


def test_listeners_that_nobody_takes_over_are_closed(world):
    place = world.put("served")
    world.places.move(place, Facts(sought=True))
    del world.log[:]
    world.places.forget_passed({world.which})
    assert world.log == []
    world.places.forget_passed({None})
    assert world.log == ["copy of door closed", "copy of table closed"]
    assert world.keeps(place) == []


@pytest.mark.parametrize("open_node", [False, True])
@pytest.mark.parametrize("state", ["served", "closed", "early"])
def test_at_the_end_rules_stay_unless_the_node_is_to_be_open(world, state, open_node):
    world.put(state)
    world.places.release(open_node)
    assert ("rules removed" in world.log) == open_node
    assert world.log[-1] == "closed"
    assert list(world.places) == []
    assert world.places.early == set()


def test_a_place_is_there_as_long_as_its_path_leads_to_it(world):
    place = world.put("served")
    assert there(place)
    place.namespace.path = str(world.folder / "gone")
    assert not there(place)
    (world.folder / "gone").touch()
    assert not there(place), "another one has its name"


def test_attaching_before_serving_is_a_mistake(tmp_path):
    places = Places(CaptureContext(NodeConfig(node="here"), Marks(), None, FdStore()))
    with pytest.raises(RuntimeError, match=r"CaptureManager\.serve comes first"):
        places.attach(Workload("n", "a", "a"), None)
