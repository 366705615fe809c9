"""AccessCerts: the Secret that is made and renewed, what is refused, and that nobody else's Secret is touched."""

from __future__ import annotations

import contextlib
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.kubernetes import access_certs as module
from agent.identity.kubernetes.access_certs import AccessCerts
from agent.kubernetes.api import ApiError, ApiUnreachable
from agent.kubernetes.events import Events
from tests.agent.identity.kubernetes.test_authority import DAY, NOW, ROOTS, Mesh, Person, mesh, until  # noqa: F401

CERT = "/apis/policy.openservicemesh.io/v1alpha1/namespaces/partners/accesscerts/scanner"
SECRET = "/api/v1/namespaces/partners/secrets/scanner-certificate"
SPIFFE = "spiffe://cluster.local/ns/partners/sa/scanner"
HOST = "scanner.partners.cluster.local"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOOK": 0.02, "EACH": 0.0, "CHECK": 0.05, "AGAIN": 0.02, "REST": 0.0, "ABSENT": 0.05}.items():
        monkeypatch.setattr(module, name, value)


class Client:
    """Who wants a certificate in namespace partners, outside the mesh."""

    def __init__(self, mesh: Mesh) -> None:  # noqa: F811
        self.mesh, self.api = mesh, mesh.api
        self.certs: AccessCerts
        self.workloads: set[str] = set()
        self.api.add("/api/v1/namespaces/partners")

    def ask(self, *names: str, path: str = CERT, **secret: str) -> None:
        spec = {"subjectAltNames": list(names or (HOST,)), "secret": {"name": "scanner-certificate", **secret}}
        held = self.api.objects.get(path, {})
        generation = held.get("metadata", {}).get("generation", 0) + 1
        self.api.add(path, spec=spec, status=held.get("status", {}), metadata={"generation": generation})

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        async with self.mesh.signing() as authority:
            events = Events(self.api, "n-a")
            certs = AccessCerts(self.api, authority, events, lambda: self.mesh.now, self.workloads.__contains__)
            self.certs, authority.behind = certs, certs.behind
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certs.run)
                yield
                nursery.cancel_scope.cancel()

    def ready(self, path: str = CERT) -> tuple[str, str]:
        """Return status and reason of the condition."""
        for one in self.api.objects[path].get("status", {}).get("conditions", ()):
            if one["type"] == "Ready":
                return one["status"], one["reason"]
        return "", ""

    def message(self) -> str:
        return next(one["message"] for one in self.api.objects[CERT]["status"]["conditions"] if one["type"] == "Ready")

    def files(self, path: str = SECRET) -> dict[str, bytes]:
        return {name: b64decode(value) for name, value in self.api.objects[path]["data"].items()}

    def facts(self) -> csr.Facts:
        files = self.files()
        return csr.facts(files["tls.crt"], files["ca.crt"])

    async def has(self, status: str, reason: str) -> None:
        with trio.move_on_after(20):
            return await until(lambda: self.ready() == (status, reason))
        raise AssertionError(f"it is {self.ready()}")

    def secrets(self) -> list[str]:
        return [verb for verb, path in self.api.writes if "/namespaces/partners/secrets" in path]


@pytest.fixture
def client(mesh: Mesh) -> Client:  # noqa: F811
    return Client(mesh)


async def test_the_secret_has_what_the_client_needs(client: Client) -> None:
    client.ask()
    async with client.served():
        await client.has("True", "Issued")
    said, files = client.facts(), client.files()
    assert (said.spiffe, said.node, said.not_after) == (SPIFFE, "", NOW + 14 * DAY)
    assert said.root == client.api.objects[ROOTS]["data"]["issuer"]
    assert files["ca.crt"].decode() == client.api.objects[ROOTS]["data"]["roots.pem"]
    ca.restore(files["tls.crt"].decode(), files["tls.key"])  # they belong together
    secret = client.api.objects[SECRET]
    assert secret["type"] == "kubernetes.io/tls"
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == (
        "AccessCert",
        "scanner",
        client.api.objects[CERT]["metadata"]["uid"],
    )
    status = client.api.objects[CERT]["status"]
    assert status["notAfter"] == "2027-01-29T08:00:00Z"
    assert b"PRIVATE" not in repr(status).encode()


async def test_nothing_is_read_and_nothing_is_written_without_a_reason(client: Client) -> None:
    client.ask()
    async with client.served():
        await client.has("True", "Issued")
        await until(lambda: client.certs.behind() == [])
        before = len(client.api.writes)
        await trio.sleep(0.5)
        assert client.api.writes[before:] == []
    assert client.secrets() == ["create"]
    read = [path for verb, path in client.api.asked if verb in ("get", "list", "watch") and "/partners/secrets" in path]
    assert read == []


async def test_it_is_renewed_in_time_also_by_another_server(client: Client) -> None:
    client.ask()
    async with client.served():
        await client.has("True", "Issued")
        first = client.facts().serial
        client.mesh.now += 2.5 * DAY
        await trio.sleep(0.3)
        assert client.facts().serial == first
    async with client.served():
        await trio.sleep(0.3)
        assert client.facts().serial == first, "it knows from the status what was made"
        client.mesh.now += 0.6 * DAY
        await until(lambda: client.facts().serial != first)
        await client.has("True", "Issued")
        assert client.facts().not_after == client.mesh.now + 14 * DAY
    assert client.secrets() == ["create", "update"]


async def test_another_name_is_another_certificate(client: Client) -> None:
    client.ask()
    async with client.served():
        await client.has("True", "Issued")
        client.ask("spiffe://cluster.local/ns/partners/sa/other")
        await until(lambda: client.facts().spiffe.endswith("/sa/other"))
        client.ask("client.example.com")
        await until(lambda: client.facts().spiffe == "")
        await until(lambda: "proves no identity of the mesh" in client.message())
        client.ask(HOST, name="another")
        await until(lambda: SECRET.replace("scanner-certificate", "another") in client.api.objects)


async def test_a_secret_that_somebody_else_made_is_not_overwritten(client: Client) -> None:
    client.api.add(SECRET, data={"password": "aHVudGVyMg=="})
    client.ask()
    async with client.served():
        await client.has("False", "SecretExists")
        assert "delete it, or name another" in client.message()
        assert client.api.objects[SECRET]["data"] == {"password": "aHVudGVyMg=="}
        client.api.drop(SECRET)
        await client.has("True", "Issued")
        # Ours is deleted, and somebody else makes one of that name.
        client.api.drop(SECRET)
        client.api.add(SECRET, data={"password": "aHVudGVyMg=="})
        await client.has("False", "SecretExists")
        client.mesh.now += 5 * DAY
        await trio.sleep(0.3)
        assert client.api.objects[SECRET]["data"] == {"password": "aHVudGVyMg=="}
        assert "what was given before ends at 2027-01-29T08:00:00Z" in client.message()


async def test_a_secret_that_was_deleted_is_made_anew_and_one_that_was_changed_put_right(client: Client) -> None:
    client.ask()
    async with client.served():
        await client.has("True", "Issued")
        client.api.drop(SECRET)
        await until(lambda: SECRET in client.api.objects)
        await client.has("True", "Issued")
        client.api.add(SECRET, data={"tls.key": ""})
        client.mesh.now += 4 * DAY
        await until(lambda: "tls.crt" in client.api.objects[SECRET]["data"])


async def test_without_the_right_nothing_is_signed_and_what_to_do_is_said(client: Client) -> None:
    allowed = False

    def fails(verb: str, path: str) -> None:
        if not allowed and "/namespaces/partners/secrets" in path:
            raise ApiError(
                403, "Forbidden", 'User "edgemesh-server" cannot create resource "secrets" in the namespace "partners"'
            )

    client.api.fails = fails
    client.ask()
    async with client.served():
        await client.has("False", "NoRight")
        assert (
            "kubectl --namespace partners create rolebinding edgemesh-access-certs --clusterrole=edgemesh-access-certs"
            " --serviceaccount=edgemesh-system:edgemesh-server" in client.message()
        )
        await trio.sleep(0.2)
        assert client.certs.made == 0
        assert [one["reason"] for one in client.mesh.events()] == ["NoRight"], "once"
        allowed = True
        await client.has("True", "Issued")


async def test_what_admission_refuses_is_said_as_it_says_it(client: Client) -> None:
    def fails(verb: str, path: str) -> None:
        if "/namespaces/partners/secrets" in path:
            raise ApiError(403, "Forbidden", "exceeded quota: secrets=10")

    client.api.fails = fails
    client.ask()
    async with client.served():
        await client.has("False", "NotAdmitted")
        assert client.message() == "exceeded quota: secrets=10"


async def test_an_identity_of_the_mesh_is_not_given(client: Client) -> None:
    labels = {"openservicemesh.io/monitored-by": "osm"}
    client.ask("till.shop.cluster.local")
    async with client.served():
        await client.has("False", "CrossNamespace")
        client.ask()
        await client.has("True", "Issued")
        client.api.add("/api/v1/namespaces/partners", metadata={"labels": labels})
        await client.has("False", "MeshWorkload")
        client.ask("a.example.com")  # that is no identity
        await client.has("True", "Issued")
        client.api.add("/api/v1/namespaces/partners", metadata={"labels": {}})
        client.workloads.add("partners")
        client.ask()
        await client.has("False", "MeshWorkload")
        assert "namespace partners has Workloads" in client.message()
        client.ask("stock.shop")
        await client.has("False", "ServiceName")
    assert client.certs.made == 2


async def test_who_is_revoked_gets_none(client: Client) -> None:
    client.mesh.revoked.add("")  # whoever has no node
    client.ask()
    async with client.served():
        await client.has("False", "Refused")
        assert "is revoked" in client.message()
    assert SECRET not in client.api.objects


async def test_a_root_is_changed_only_after_every_secret_has_it(client: Client) -> None:
    person = Person(client.mesh)
    client.ask()
    async with client.served():
        await client.has("True", "Issued")
        stuck = True

        def fails(verb: str, path: str) -> None:
            if stuck and verb == "update" and "/partners/secrets/" in path:
                raise ApiUnreachable("the API server is away")

        client.api.fails = fails
        told = await person.gets("add")
        late = "AccessCert partners/scanner: its Secret does not have the new root yet"
        told = await person.gets("issue")
        assert (late in told.refused, told.report.step) == (True, "added")
        await until(lambda: (answer := person.told()) and late in answer.report.waits_for)
        assert "AccessCert partners/scanner cannot be looked after" in client.certs.trouble
        stuck = False
        await until(lambda: client.files()["ca.crt"].count(b"BEGIN") == 2)
        await until(lambda: not client.certs.behind())
        old = client.facts().root
        told = await person.gets("issue")
        assert (told.refused, told.report.step) == ("", "issuing")
        await until(lambda: client.facts().root != old)
        await until(lambda: not client.certs.behind())
        told = await person.gets("retire")
        assert (told.refused, told.report.step) == ("", "idle")
        await until(lambda: client.files()["ca.crt"].count(b"BEGIN") == 1)
        assert client.facts().root == person.roots()[0]


async def test_a_root_is_not_retired_under_a_client(client: Client) -> None:
    person = Person(client.mesh)
    client.ask()
    async with client.served():
        await client.has("True", "Issued")
        await person.gets("add")
        await until(lambda: not client.certs.behind())

        def fails(verb: str, path: str) -> None:
            if verb == "update" and "/partners/secrets/" in path:
                raise ApiUnreachable("the API server is away")

        client.api.fails = fails
        assert (await person.gets("issue")).refused == ""
        told = await person.gets("retire")
        assert "still lead to the old root:\n  AccessCert partners/scanner" in told.refused


async def test_a_new_leader_knows_nobody_before_it_has_looked(client: Client) -> None:
    client.ask()
    person = Person(client.mesh)
    async with client.served():
        await client.has("True", "Issued")
        await person.gets("add")
        await until(lambda: not client.certs.behind())

    def fails(verb: str, path: str) -> None:
        if path == CERT:
            raise ApiUnreachable("the API server is away")

    client.api.fails = fails
    async with client.served():
        assert client.certs.behind() == ["AccessCerts, which are not known yet"]
        await until(lambda: "partners/scanner" in client.certs.trouble)
        assert len(client.certs.behind()) == 1
        assert "AccessCert partners/scanner" in (await person.gets("issue")).refused
        client.api.fails = lambda verb, path: None
        await until(lambda: not client.certs.behind())


async def test_an_access_cert_that_is_gone_is_forgotten(client: Client) -> None:
    client.ask()
    async with client.served():
        await client.has("True", "Issued")
        client.api.drop(CERT)
        await trio.sleep(0.2)
        assert (client.certs.behind(), client.certs.trouble) == ([], "")


async def test_a_cluster_without_the_kind_waits_for_none(client: Client) -> None:
    served = False

    def fails(verb: str, path: str) -> None:
        if not served and "accesscerts" in path:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")

    client.api.fails = fails
    async with client.served():
        await until(lambda: client.api.objects.get(ROOTS))
        await until(lambda: client.certs.behind() == [])
        served = True
        client.ask()
        await client.has("True", "Issued")


async def test_a_definition_that_keeps_no_status_gets_no_certificate(client: Client) -> None:
    """As fsm's own: what was made would be forgotten."""
    client.ask()
    real = client.api.patch

    async def patch(path: str, object: Any, **more: Any) -> dict[str, Any]:
        return await real(path, {"status": {}}, **more)

    client.api.patch = patch  # type: ignore[method-assign]
    async with client.served():
        await until(lambda: "keeps no status of ours" in client.certs.trouble)
    assert SECRET not in client.api.objects


async def test_there_are_so_many_and_no_more(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    for number in range(3):
        client.ask(path=CERT.replace("scanner", f"scanner-{number}"), name=f"s{number}")
    async with client.served():
        await until(lambda: client.certs.made == 2)
        await trio.sleep(0.2)
        assert client.certs.made == 2
