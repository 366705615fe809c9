"""What is said on policy objects: conditions and Events, when something has changed and not otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio

from agent.cluster import verdicts as module
from agent.cluster.verdicts import Verdict, VerdictWriter, verdicts
from agent.kubernetes.events import Events
from policy.model import Problem, Service, Where
from policy.resources import RawObject
from policy.snapshot import Snapshot
from tests.agent.kubernetes.fake import Answer, Asked, FakeServer, api_of, serving, status

OSM, SMI = "policy.openservicemesh.io/v1alpha1", "access.smi-spec.io/v1alpha3"
SYSTEM = "edgemesh-system"


def one(kind: str, name: str, version: str, namespace: str = "shop", file: str = "") -> RawObject:
    data = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}
    return RawObject(data, Where(file or f"kubernetes:{kind}/{namespace}/{name}"), {})


INGRESS, TARGET = one("IngressBackend", "front", OSM), one("TrafficTarget", "till", SMI)


def problem(raw: RawObject, severity: Any = "error", message: str = "no such Service", **more: Any) -> Problem:
    return Problem(severity, raw.where, "it", message, **more)


def judged(raw: RawObject, *problems: Problem, of_roots: tuple[Problem, ...] = ()) -> Verdict:
    (found,) = verdicts([raw], problems, of_roots, SYSTEM).values()
    return found


def test_a_verdict_is_made_of_the_problems_of_the_object_alone() -> None:
    assert judged(INGRESS, problem(TARGET)) == Verdict(True, "InForce", "")
    assert judged(INGRESS, problem(INGRESS, hint="name one")) == Verdict(False, "Invalid", "no such Service (name one)")
    assert judged(INGRESS, problem(INGRESS, "warning", "nobody is that")) == Verdict(True, "Doubtful", "nobody is that")
    assert judged(INGRESS, problem(INGRESS, "warning", "no SNI", unmet=True)) == Verdict(True, "NotWhole", "no SNI")
    assert judged(INGRESS, problem(INGRESS, "notice")).reason == "InForce"
    both = judged(INGRESS, problem(INGRESS, "warning", "a"), problem(INGRESS, "error", "b"))
    assert (both.accepted, both.message) == (False, "b; a")


def test_a_message_is_bounded() -> None:
    long = judged(INGRESS, *(problem(INGRESS, message=f"{number} " + "x" * 900) for number in range(9)))
    assert len(long.message) <= 1024
    assert long.message.endswith("; and 4 more")


def test_only_policy_that_came_from_the_api_server_is_spoken_of() -> None:
    others = [
        one("Service", "front", "v1"),
        one("MeshNode", "n1", "edgemesh.io/v1alpha1"),
        one("IngressBackend", "front", OSM, file="/etc/edgemesh/front.yaml"),
        one("IngressBackend", "", OSM),
        one("NodeConfig", "n1", "edgemesh.io/v1alpha1"),
    ]
    assert verdicts(others, [], [], SYSTEM) == {}


def test_the_number_of_objects_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    assert len(verdicts([one("IngressBackend", f"b{number}", OSM) for number in range(9)], [], [], SYSTEM)) == 3


def test_a_mesh_root_certificate_says_what_the_authority_says_of_it() -> None:
    version = "config.openservicemesh.io/v1alpha2"
    wrong = Problem("error", Where(), "MeshRootCertificate", "there is no Secret")
    own, foreign = (one("MeshRootCertificate", "c", version, where) for where in (SYSTEM, "shop"))
    assert judged(own, of_roots=(wrong,)) == Verdict(False, "Invalid", "there is no Secret")
    assert judged(own, of_roots=(Problem("error", Where(), "authority", "x"),)).accepted
    assert judged(foreign, of_roots=(wrong,)) == Verdict(
        False, "NotRead", "it counts in namespace edgemesh-system only"
    )


class Api:
    """Holds objects, as the API server does; kinds in `statusless` have no status."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.statusless: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self.refuse = 0
        self.version = 1

    def add(self, raw: RawObject, **status_: Any) -> str:
        metadata = raw.data["metadata"]
        plural = f"{raw.data['kind'].lower()}s"
        path = f"/apis/{raw.data['apiVersion']}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
        self.held[path] = {"metadata": {"uid": "u-1", "generation": 3, "resourceVersion": "1"}, "status": status_}
        return path

    async def handle(self, asked: Asked, answer: Answer) -> None:
        path = asked.path.removesuffix("/status")
        if self.refuse:
            await answer.send(self.refuse, status(self.refuse, "No"))
        elif asked.path.endswith("/events"):
            self.events.append(asked.json)
            await answer.send(201, asked.json)
        elif path not in self.held or (path != asked.path and any(f"/{one}/" in path for one in self.statusless)):
            await answer.send(404, status(404, "NotFound"))
        elif asked.method == "GET":
            await answer.send(200, self.held[path])
        else:
            assert asked.json["metadata"] == {"resourceVersion": self.held[path]["metadata"]["resourceVersion"]}
            self.held[path]["status"].update(asked.json["status"])
            self.version += 1
            self.held[path]["metadata"]["resourceVersion"] = str(self.version)
            await answer.send(200, self.held[path])


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
async def server(api: Api) -> AsyncIterator[FakeServer]:
    async with serving(api.handle) as made:
        yield made


class Policy:
    def __init__(self, *objects: RawObject) -> None:
        self.number, self.objects, self.problems = 1, list(objects), list[Problem]()
        self.snapshot: Snapshot | None = None

    def __call__(self) -> tuple[int, list[RawObject], list[Problem], Snapshot | None]:
        return self.number, self.objects, self.problems, self.snapshot

    def now(self, *problems: Problem) -> None:
        self.number, self.problems = self.number + 1, list(problems)


@contextlib.asynccontextmanager
async def writing(server: FakeServer, policy: Policy, patch: pytest.MonkeyPatch) -> AsyncIterator[VerdictWriter]:
    for name, value in (("LOOK", 0.02), ("EACH", 0.0), ("AGAIN", 0.1)):
        patch.setattr(module, name, value)
    client = api_of(server)
    writer = VerdictWriter(client, Events(client, "n-a"), policy, namespace=SYSTEM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        yield writer
        nursery.cancel_scope.cancel()


async def until(what: Callable[[], Any]) -> None:
    with trio.fail_after(10):
        while not what():
            await trio.sleep(0.01)


def accepted(api: Api, path: str) -> dict[str, Any]:
    return next((c for c in api.held[path]["status"].get("conditions", ()) if c["type"] == "Accepted"), {})


async def test_a_condition_follows_the_build(api: Api, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"type": "Theirs", "status": "True"}
    path = api.add(INGRESS, conditions=[other], currentStatus="kept")
    policy = Policy(INGRESS)
    async with writing(server, policy, monkeypatch) as writer:
        await until(lambda: accepted(api, path).get("status") == "True")
        first = accepted(api, path)
        assert (first["reason"], first["observedGeneration"]) == ("InForce", 3)
        asked = len(server.asked)
        policy.now()
        await trio.sleep(0.2)
        assert len(server.asked) == asked, "another build, and nothing new: nothing is asked"
        policy.now(problem(INGRESS))
        await until(lambda: accepted(api, path).get("status") == "False")
        assert accepted(api, path)["message"] == "no such Service"
        assert api.held[path]["status"]["currentStatus"] == "kept"
        assert other in api.held[path]["status"]["conditions"], "what others say stays"
        await until(lambda: writer.writes == 2)
        assert api.events == []


async def test_another_leader_writes_nothing_that_stands_there(
    api: Api, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = api.add(INGRESS)
    async with writing(server, Policy(INGRESS), monkeypatch):
        await until(lambda: accepted(api, path))
    async with writing(server, Policy(INGRESS), monkeypatch) as writer:
        await until(lambda: len(server.asked) == 3)
        await trio.sleep(0.1)
        assert (writer.writes, [one.method for one in server.asked]) == (0, ["GET", "PATCH", "GET"])


async def test_a_kind_without_a_status_has_events(
    api: Api, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.add(TARGET)
    api.add(INGRESS)
    api.statusless.add("ingressbackends")
    policy = Policy(TARGET, INGRESS)
    async with writing(server, policy, monkeypatch):
        await trio.sleep(0.2)
        assert api.events == [], "nothing is wrong"
        policy.now(problem(TARGET, hint="name one"), problem(INGRESS, "warning", "nobody is that"))
        await until(lambda: len(api.events) == 2)
        said = {one["involvedObject"]["kind"]: (one["reason"], one["message"]) for one in api.events}
        assert said == {
            "TrafficTarget": ("Invalid", "no such Service (name one)"),
            "IngressBackend": ("Doubtful", "nobody is that"),
        }
        assert api.events[0]["involvedObject"]["uid"] == "u-1"
        policy.now(problem(TARGET, hint="name one"), problem(INGRESS, "warning", "nobody is that"))
        await trio.sleep(0.2)
        assert len(api.events) == 2, "only on change"


async def test_what_is_gone_is_forgotten(api: Api, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    api.add(TARGET)
    policy = Policy(TARGET)
    policy.now(problem(TARGET))
    async with writing(server, policy, monkeypatch) as writer:
        await until(lambda: len(api.events) == 1)
        policy.objects = []
        policy.now()
        await until(lambda: repr(writer) == "<VerdictWriter of 0 objects>")
        policy.objects = [TARGET]
        policy.now(problem(TARGET))
        await until(lambda: len(api.events) == 2)


async def test_another_object_of_the_same_name_is_told_of_itself(
    api: Api, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted and made again between two looks."""
    first, second = (one("IngressBackend", "front", OSM) for _ in range(2))
    first.data["metadata"]["uid"], second.data["metadata"]["uid"] = "u-1", "u-2"
    api.add(first)
    policy = Policy(first)
    async with writing(server, policy, monkeypatch) as writer:
        await until(lambda: writer.writes == 1)
        path = api.add(second)
        policy.objects = [second]
        policy.now()
        await until(lambda: accepted(api, path).get("status") == "True")


async def test_an_edit_that_changes_no_verdict_is_said_to_be_seen(
    api: Api, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = (one("IngressBackend", "front", OSM) for _ in range(2))
    before.data["metadata"]["generation"], after.data["metadata"]["generation"] = 3, 4
    target = [one("TrafficTarget", "till", SMI) for _ in range(2)]
    target[1].data["metadata"]["generation"] = 2
    path = api.add(before)
    api.add(target[0])
    policy = Policy(before, target[0])
    policy.now(problem(target[0]))
    async with writing(server, policy, monkeypatch):
        await until(lambda: accepted(api, path).get("observedGeneration") == 3)
        policy.objects = [after, target[1]]
        policy.now(problem(target[0]))
        await until(lambda: accepted(api, path).get("observedGeneration") == 4)
        assert len(api.events) == 1, "an Event tells of a fault once"


async def test_a_refusal_is_told_and_tried_again(api: Api, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = api.add(INGRESS)
    api.refuse = 403
    async with writing(server, Policy(INGRESS), monkeypatch) as writer:
        await until(lambda: writer.trouble)
        assert "IngressBackend shop/front cannot be written: 403" in writer.trouble
        asked = len(server.asked)
        await trio.sleep(0.25)
        assert len(server.asked) - asked < 4, "not in a loop"
        api.refuse = 0
        await until(lambda: accepted(api, path))
        assert writer.trouble == ""


async def test_a_route_has_conditions_for_each_parent_and_no_event(
    api: Api, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = one("HTTPRoute", "r", "gateway.networking.k8s.io/v1")
    ref = {"group": "", "kind": "Service", "name": "web"}
    route.data["spec"] = {"parentRefs": [ref, {"name": "gate"}]}
    foreign = one("HTTPRoute", "f", "gateway.networking.k8s.io/v1")
    foreign.data["spec"] = {"parentRefs": [{"name": "gate"}]}
    theirs = {"controllerName": "example.org/gate", "parentRef": {"name": "gate"}, "conditions": []}
    path = api.add(route, parents=[theirs])
    policy = Policy(route, foreign)
    policy.snapshot = Snapshot("n", services=(Service("shop", "web"),))
    async with writing(server, policy, monkeypatch) as writer:
        await until(lambda: writer.writes == 1)
        held, mine = api.held[path]["status"]["parents"]
        assert (held, mine["parentRef"]) == (theirs, ref)
        assert [(c["type"], c["status"], c["observedGeneration"]) for c in mine["conditions"]] == [
            ("Accepted", "True", 3),
            ("ResolvedRefs", "True", 3),
        ]
        policy.now(problem(route, message="no path"))
        await until(lambda: writer.writes == 2)
        _, mine = api.held[path]["status"]["parents"]
        said = mine["conditions"][0]
        assert (said["status"], said["reason"], said["message"]) == ("False", "UnsupportedValue", "no path")
        assert api.events == []
        assert not any("/f" in asked.path for asked in server.asked), "a route of others is left alone"
    async with writing(server, policy, monkeypatch) as writer:
        await trio.sleep(0.2)
        assert writer.writes == 0, "it stands there"
