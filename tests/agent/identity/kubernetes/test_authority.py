"""The signing side: what is signed, what is refused and why, and what waits for better days."""

from __future__ import annotations

import contextlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import trio

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.state import RotationState
from agent.identity.kubernetes import authority as module
from agent.identity.kubernetes import objects, rotating
from agent.identity.kubernetes.authority import ClusterAuthority
from agent.identity.kubernetes.rotating import Answer, Asked
from agent.kubernetes.api import ApiError, ApiUnreachable
from agent.kubernetes.events import Events
from agent.system import state_files
from policy.model import Identity
from tests.agent.kubernetes.memory import MemoryApi

SYSTEM = "edgemesh-system"
NOW = 1_800_000_000.0
DAY = 86400.0
TILL = "spiffe://cluster.local/ns/shop/sa/till"
SECRET, ROOTS = objects.secret(SYSTEM), objects.roots(SYSTEM)
GIVEN = f"/apis/config.openservicemesh.io/v1alpha2/namespaces/{SYSTEM}/meshrootcertificates"


class Mesh:
    """A cluster with an agent on n-a, and a workload shop/till there. `now`: its clock."""

    def __init__(self) -> None:
        self.api = MemoryApi()
        self.now = NOW
        self.revoked: set[str] = set()
        self.api.add("/api/v1/namespaces/shop", metadata={"labels": {"openservicemesh.io/monitored-by": "osm"}})
        self.api.add("/api/v1/namespaces/outside")
        self.pod(SYSTEM, "agent-a", "edgemesh-agent")
        self.pod("shop", "till-1", "till")

    def pod(self, namespace: str, name: str, account: str, node: str = "n-a") -> dict[str, Any]:
        spec = {"nodeName": node, "serviceAccountName": account}
        return self.api.add(objects.pod(namespace, name), spec=spec, status={"phase": "Running"})

    def authority(self) -> ClusterAuthority:
        def refused(node: str, identity: Identity | None, serial: str) -> str:
            return f"{node} is revoked" if node in self.revoked else ""

        return ClusterAuthority(self.api, SYSTEM, lambda: self.now, 14 * DAY, refused, Events(self.api, "n-a"))

    @contextlib.asynccontextmanager
    async def signing(self) -> AsyncIterator[ClusterAuthority]:
        made = self.authority()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield made
            nursery.cancel_scope.cancel()

    def ask(self, spiffe: str = TILL, name: str = "edgemesh-1", **spec: Any) -> str:
        """Make a request, as the API server keeps it for the agent's token. Return its path."""
        pod = self.api.objects[objects.pod(SYSTEM, "agent-a")]["metadata"]
        made = objects.new_request(csr.request(csr.new_key(), spiffe), DAY)["spec"]
        made["username"] = f"system:serviceaccount:{SYSTEM}:edgemesh-agent"
        made["extra"] = {
            "authentication.kubernetes.io/pod-name": ["agent-a"],
            "authentication.kubernetes.io/pod-uid": [pod["uid"]],
        }
        self.api.add(objects.request(name), spec={**made, **spec}, status={})
        return objects.request(name)

    def decided(self, path: str) -> dict[str, str]:
        """Return the conditions of a request: type and reason."""
        return {one["type"]: one["reason"] for one in self.api.objects[path]["status"].get("conditions", ())}

    def facts(self, path: str) -> csr.Facts | None:
        chain = self.api.objects[path]["status"].get("certificate")
        return csr.facts(b64decode(chain), self.api.objects[ROOTS]["data"][objects.ROOTS_PEM]) if chain else None

    def standing(self) -> RotationState:
        """Return what the Secret says of the rotation."""
        sealed = b64decode(self.api.objects[SECRET]["data"]["rotation.json"])
        return msgspec.json.decode(state_files.unseal(sealed), type=RotationState)

    def events(self) -> list[dict[str, Any]]:
        return [one for path, one in self.api.objects.items() if "/events/" in path]


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Mesh:
    monkeypatch.setattr(module, "_AGAIN", 0.05)
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    return Mesh()


async def until(what: Callable[[], Any]) -> Any:
    """Return what `what` returns once it is true."""
    with trio.fail_after(60):
        while not (found := what()):
            await trio.sleep(0.005)
    return found


async def test_what_runs_there_is_approved_and_signed(mesh: Mesh) -> None:
    before = mesh.ask(name="edgemesh-before")
    async with mesh.signing():
        said = await until(lambda: mesh.facts(before))
        assert (said.spiffe, said.node, said.not_after) == (TILL, "n-a", NOW + DAY)
        assert said.root == mesh.api.objects[ROOTS]["data"][objects.ISSUER]
        assert mesh.decided(before) == {"Approved": "RunsThere"}
        later = mesh.ask("spiffe://cluster.local/node/n-a", "edgemesh-later")
        assert (await until(lambda: mesh.facts(later))).node == "n-a"
    assert [path for verb, path in mesh.api.writes if path.startswith(before)] == [
        f"{before}/approval",
        f"{before}/status",
    ]
    assert not mesh.events()


async def test_what_does_not_run_there_is_denied_and_the_pod_is_told(mesh: Mesh) -> None:
    mesh.pod("outside", "till-1", "till")
    mesh.pod("shop", "store-1", "store", "n-b")
    asked = {
        "spiffe://cluster.local/ns/shop/sa/store": "NotOnThisNode",
        "spiffe://cluster.local/ns/outside/sa/till": "NotInTheMesh",
        "spiffe://cluster.local/node/n-b": "Refused",
        "spiffe://elsewhere/ns/shop/sa/till": "Refused",
    }
    async with mesh.signing():
        for number, (spiffe, reason) in enumerate(asked.items()):
            path = mesh.ask(spiffe, f"edgemesh-{number}")
            assert await until(lambda: mesh.decided(path)) == {"Denied": reason}, spiffe  # noqa: B023
            assert mesh.facts(path) is None
        told = await until(lambda: mesh.events() if len(mesh.events()) == len(asked) else [])
    assert {one["involvedObject"]["name"] for one in told} == {"agent-a"}
    assert [one["reason"] for one in told] == list(asked.values())


async def test_nobody_is_told_of_a_request_that_no_pod_of_ours_made(mesh: Mesh) -> None:
    async with mesh.signing():
        path = mesh.ask(username="ann", extra={})
        assert await until(lambda: mesh.decided(path)) == {"Denied": "NotAnAgent"}
    assert not mesh.events()


async def test_what_a_person_has_approved_fails_where_it_may_not_be_signed(mesh: Mesh) -> None:
    path = mesh.ask("spiffe://cluster.local/ns/shop/sa/store")
    mesh.api.objects[path]["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "ByHand"}]}
    other = mesh.ask(TILL, "edgemesh-2")
    mesh.api.objects[other]["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "ByHand"}]}
    async with mesh.signing():
        await until(lambda: len(mesh.decided(path)) > 1)
        assert mesh.decided(path) == {"Approved": "ByHand", "Failed": "NotOnThisNode"}
        await until(lambda: mesh.facts(other))
        assert mesh.decided(other) == {"Approved": "ByHand"}


async def test_who_is_revoked_gets_nothing(mesh: Mesh) -> None:
    mesh.revoked.add("n-a")
    async with mesh.signing():
        path = mesh.ask()
        assert await until(lambda: mesh.decided(path)) == {"Denied": "Refused"}
        assert "n-a is revoked" in mesh.api.objects[path]["status"]["conditions"][0]["message"]


@pytest.mark.parametrize("error", [ApiUnreachable("gone"), ApiError(500, "InternalError", "oh"), ApiError(409, "", "")])
async def test_what_cannot_be_decided_now_is_decided_later(mesh: Mesh, error: Exception) -> None:
    failures = 0

    def fails(verb: str, path: str) -> None:
        nonlocal failures
        if failures < 3 and path in (objects.pod(SYSTEM, "agent-a"), f"{objects.request('edgemesh-1')}/status"):
            failures += 1
            raise error

    mesh.api.fails = fails
    async with mesh.signing() as authority:
        path = mesh.ask()
        await until(lambda: mesh.facts(path))
        assert failures == 3
        assert mesh.decided(path) == {"Approved": "RunsThere"}
        assert authority.problems() == []


async def test_a_request_that_is_gone_is_forgotten(mesh: Mesh) -> None:
    def fails(verb: str, path: str) -> None:
        if verb == "get" and path == objects.request("edgemesh-1"):
            raise ApiError(404, "NotFound", "it is gone")

    mesh.api.fails = fails
    async with mesh.signing():
        mesh.ask()
        other = mesh.ask(name="edgemesh-2")
        await until(lambda: mesh.facts(other))
        await trio.sleep(0.1)
    assert [path for _, path in mesh.api.asked].count(objects.request("edgemesh-1")) == 1


async def test_requests_are_listed_again_when_the_watch_breaks(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    broken = 0

    def fails(verb: str, path: str) -> None:
        nonlocal broken
        if verb == "watch" and path == objects.REQUESTS and broken < 3:
            broken += 1
            mesh.ask(name=f"edgemesh-{broken}")  # while nobody watches
            raise ApiUnreachable("the stream broke")

    mesh.api.fails = fails
    async with mesh.signing():
        await until(lambda: broken == 3 and all(mesh.facts(objects.request(f"edgemesh-{n}")) for n in (1, 2, 3)))
    assert "cannot be followed: the stream broke" in caplog.text


async def test_requests_to_other_signers_and_decided_ones_are_left_alone(mesh: Mesh) -> None:
    other = mesh.ask(signerName="kubernetes.io/kubelet-serving")
    decided = mesh.ask(name="edgemesh-2")
    mesh.api.objects[decided]["status"] = {"conditions": [{"type": "Denied", "status": "True", "reason": "ByHand"}]}
    async with mesh.signing():
        await until(lambda: mesh.api.objects.get(ROOTS))
        last = mesh.ask(name="edgemesh-3")
        await until(lambda: mesh.facts(last))
    assert (mesh.decided(other), mesh.decided(decided)) == ({}, {"Denied": "ByHand"})


# the Secret and the ConfigMap


async def test_a_key_that_is_lost_is_not_made_anew(mesh: Mesh) -> None:
    async with mesh.signing():
        await until(lambda: mesh.api.objects.get(ROOTS))
    kept = mesh.api.objects[SECRET]
    mesh.api.drop(SECRET)
    async with mesh.signing() as authority:
        path = mesh.ask()
        (problem,) = await until(authority.problems)
        assert "with the mesh's key is gone" in problem.message
        assert f"delete configmap {objects.ROOTS}" in problem.hint
        await trio.sleep(0.1)
        assert (mesh.decided(path), SECRET in mesh.api.objects) == ({}, False)
        mesh.api.add(SECRET, data=kept["data"])
        await until(lambda: mesh.facts(path))
        assert authority.problems() == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"rotation.json": "%%%"}, "no base64"),
        ({"rotation.json": b64encode(b"{}").decode()}, "cannot be read"),
        ({}, "rotation.json cannot be read"),
    ],
)
async def test_a_key_that_is_damaged_signs_nothing_and_is_not_replaced(
    mesh: Mesh, data: dict[str, str], said: str
) -> None:
    mesh.api.add(SECRET, data=data)
    async with mesh.signing() as authority:
        path = mesh.ask()
        (problem,) = await until(authority.problems)
        assert said in problem.message
        await trio.sleep(0.1)
        assert mesh.decided(path) == {}
        assert mesh.api.objects[SECRET]["data"] == data


async def test_roots_that_somebody_changed_or_removed_are_put_right(mesh: Mesh) -> None:
    async with mesh.signing():
        good = dict((await until(lambda: mesh.api.objects.get(ROOTS)))["data"])
        mesh.api.add(ROOTS, data={**good, objects.ROOTS_PEM: ca.make_root("forged", NOW, 7).root})
        await until(lambda: mesh.api.objects[ROOTS]["data"] == good)
        mesh.api.drop(ROOTS)
        await until(lambda: mesh.api.objects.get(ROOTS, {}).get("data") == good)


async def test_while_the_api_server_is_away_what_was_read_goes_on(mesh: Mesh) -> None:
    async with mesh.signing() as authority:
        await until(lambda: mesh.api.objects.get(ROOTS))

        def fails(verb: str, path: str) -> None:
            if path == SECRET:
                raise ApiUnreachable("the API server is away")

        mesh.api.fails = fails
        (problem,) = await until(authority.problems)
        assert problem.message == "the API server is away"
        path = mesh.ask()
        assert await until(lambda: mesh.facts(path))


# an authority that is given


async def test_one_that_cannot_be_used_is_said_and_changes_nothing(mesh: Mesh) -> None:
    async with mesh.signing() as authority:
        before = dict((await until(lambda: mesh.api.objects.get(ROOTS)))["data"])
        spec = {"provider": {"tresor": {"ca": {"secretRef": {"name": "nowhere"}}}}}
        mesh.api.add(f"{GIVEN}/company", spec=spec)
        (problem,) = await until(authority.problems)
        assert (problem.object, "there is no Secret" in problem.message) == ("MeshRootCertificate", True)
        path = mesh.ask()
        await until(lambda: mesh.facts(path))
        mesh.api.add(f"{GIVEN}/company", spec={"trustDomain": "other"})
        (problem,) = await until(lambda: [one for one in authority.problems() if "trust domain" in one.message])
        assert problem.hint == "the trust domain of a mesh cannot be changed"
        assert mesh.api.objects[ROOTS]["data"] == before


async def test_a_step_towards_another_root_that_is_not_written_is_not_taken(mesh: Mesh) -> None:
    made = ca.make_intermediate(ca.make_root("company", NOW, 77), "cluster.local", "cluster", NOW, 78)
    files = {"tls.crt": made.certificates[0], "ca.crt": made.root, "tls.key": made.key.decode()}
    data = {name: b64encode(text.encode()).decode() for name, text in files.items()}
    async with mesh.signing() as authority:
        before = (await until(lambda: mesh.api.objects.get(ROOTS)))["data"]
        refused = 0

        def fails(verb: str, path: str) -> None:
            nonlocal refused
            if verb == "update" and path == SECRET and refused < 3:
                refused += 1
                raise ApiError(409, "Conflict", "the object has been modified")

        mesh.api.fails = fails
        mesh.api.add(f"/api/v1/namespaces/{SYSTEM}/secrets/company-ca", data=data)
        mesh.api.add(f"{GIVEN}/company", spec={"provider": {"tresor": {"ca": {"secretRef": {"name": "company-ca"}}}}})
        await until(lambda: refused == 3)
        assert authority.authority.bundle().roots == tuple(f"{root}\n" for root in objects.split(before["roots.pem"]))
        await until(lambda: len(objects.split(mesh.api.objects[ROOTS]["data"]["roots.pem"])) == 2)
        assert mesh.api.objects[ROOTS]["data"][objects.ISSUER] == before[objects.ISSUER], "the old one signs"
        assert mesh.standing().step == "added"


# a rotation that a person asks for


class Person:
    """Who asks for steps, and reads the answers."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.number = 0

    def asks(self, step: Any, force: bool = False, at: float = 0.0) -> str:
        self.number += 1
        name = f"request-{self.number}"
        note = {rotating.ASKED: rotating.write(Asked(step, name, at, force))}
        held = self.mesh.api.objects[ROOTS]
        annotations = {**held["metadata"].get("annotations", {}), **note}
        self.mesh.api.add(ROOTS, data=held["data"], metadata={"annotations": annotations})
        return name

    def told(self) -> Answer | None:
        return rotating.answered(msgspec.convert(self.mesh.api.objects[ROOTS]["metadata"], objects.Metadata))

    async def gets(self, step: Any, force: bool = False, at: float = 0.0) -> Answer:
        name = self.asks(step, force, at)

        def answer() -> Answer | None:
            told = self.told()
            return told if told is not None and told.id == name else None

        return await until(answer)

    def roots(self) -> list[str]:
        return [csr.fingerprint(root) for root in objects.split(self.mesh.api.objects[ROOTS]["data"]["roots.pem"])]


async def certified(mesh: Mesh, name: str, spiffe: str = TILL) -> csr.Facts:
    path = mesh.ask(spiffe, name)
    return await until(lambda: mesh.facts(path))


async def test_a_root_is_changed_in_three_steps_and_each_waits_for_every_node(mesh: Mesh) -> None:
    person = Person(mesh)
    async with mesh.signing():
        await until(lambda: mesh.api.objects.get(ROOTS))
        first = (await certified(mesh, "edgemesh-1")).root
        told = await person.gets("add")
        assert (told.refused, told.report.step, told.report.waits_for) == ("", "added", ("node n-a",))
        assert person.roots()[0] == first
        new = person.roots()[1]
        told = await person.gets("issue")
        assert "have not fetched the bundle with it:\n  node n-a" in told.refused
        assert "--force" in told.hint
        assert (await certified(mesh, "edgemesh-2")).root == first
        told = await person.gets("issue")
        assert (told.refused, told.report.step) == ("", "issuing")
        assert mesh.api.objects[ROOTS]["data"][objects.ISSUER] == new
        told = await person.gets("retire")
        assert f"still lead to the old root:\n  {TILL} on node n-a" in told.refused
        assert (await certified(mesh, "edgemesh-3")).root == new
        told = await person.gets("retire")
        assert (told.refused, told.report.step, person.roots()) == ("", "idle", [new])
        told = await person.gets("undo")
        assert (told.refused, sorted(person.roots())) == ("", sorted([first, new]))


async def test_a_step_is_taken_once_whoever_leads_then(mesh: Mesh) -> None:
    """A server that ends between the Secret and the answer has taken the step; the next one says so."""
    person = Person(mesh)
    async with mesh.signing():
        await until(lambda: mesh.api.objects.get(ROOTS))

        def fails(verb: str, path: str) -> None:
            if verb == "update" and path == ROOTS:
                raise ApiUnreachable("the API server is away")

        mesh.api.fails = fails
        name = person.asks("add")
        await until(lambda: mesh.standing().step == "added")
        path = mesh.ask()
        await trio.sleep(0.2)
        assert mesh.decided(path) == {}, "nothing is signed whose receiver would not read the new root"
    other, mesh.api.fails = mesh.standing().other, lambda verb, path: None
    async with mesh.signing():
        told = await until(lambda: (answer := person.told()) and answer.id == name and answer)
        assert (told.refused, told.report.step, mesh.standing().other) == ("", "added", other)
        assert await until(lambda: mesh.facts(path))


async def test_a_new_holder_of_the_lease_waits_for_what_it_does_not_know(mesh: Mesh) -> None:
    person = Person(mesh)
    async with mesh.signing():
        await until(lambda: mesh.api.objects.get(ROOTS))
        await certified(mesh, "edgemesh-1")
        await person.gets("add")
    mesh.now += DAY
    async with mesh.signing():
        told = await person.gets("issue")
        assert "another server of the cluster kept it" in told.refused
        assert told.report.not_before == NOW + 14 * DAY
        mesh.now += 13 * DAY + 1
        told = await person.gets("issue")
        assert (told.refused, told.report.step) == ("", "issuing")


async def test_force_goes_on_without_who_is_behind(mesh: Mesh) -> None:
    person = Person(mesh)
    async with mesh.signing():
        await until(lambda: mesh.api.objects.get(ROOTS))
        await certified(mesh, "edgemesh-1")
        await person.gets("add")
        assert (await person.gets("issue", force=True)).report.step == "issuing"


async def test_an_old_request_is_not_carried_out(mesh: Mesh) -> None:
    person = Person(mesh)
    mesh.api.date = NOW
    async with mesh.signing():
        await until(lambda: mesh.api.objects.get(ROOTS))
        told = await person.gets("add", at=NOW - rotating.GOOD - 1)
        assert (told.refused, told.report.step) == ("the request is too old to be carried out", "idle")
        assert (await person.gets("add", at=NOW)).report.step == "added"


async def test_a_mesh_whose_root_is_given_follows_that_alone(mesh: Mesh) -> None:
    made = ca.make_intermediate(ca.make_root("company", NOW, 77), "cluster.local", "cluster", NOW, 78)
    files = {"tls.crt": made.certificates[0], "ca.crt": made.root, "tls.key": made.key.decode()}
    data = {name: b64encode(text.encode()).decode() for name, text in files.items()}
    mesh.api.add(f"/api/v1/namespaces/{SYSTEM}/secrets/company-ca", data=data)
    mesh.api.add(f"{GIVEN}/company", spec={"provider": {"tresor": {"ca": {"secretRef": {"name": "company-ca"}}}}})
    person = Person(mesh)
    async with mesh.signing():
        await until(lambda: mesh.api.objects.get(ROOTS))
        told = await person.gets("add")
        assert "a MeshRootCertificate says who signs" in told.refused
        assert (told.report.step, person.roots()) == ("idle", [made.fingerprint])


async def test_what_somebody_else_noted_on_the_roots_stays(mesh: Mesh) -> None:
    async with mesh.signing():
        held = await until(lambda: mesh.api.objects.get(ROOTS))
        annotations = {**held["metadata"].get("annotations", {}), "team": "edge", rotating.ASKED: "nonsense"}
        mesh.api.add(ROOTS, data={}, metadata={"annotations": annotations})
        await until(lambda: mesh.api.objects[ROOTS]["data"])
        assert mesh.api.objects[ROOTS]["metadata"]["annotations"]["team"] == "edge"
