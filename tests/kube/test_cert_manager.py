"""cert-manager as the one that signs, against a real API server: a stand-in for its controller signs for real."""

from __future__ import annotations

import contextlib
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.ca import Issuer
from agent.identity.kubernetes import cert_manager, objects
from agent.identity.kubernetes.authority import ClusterAuthority
from agent.identity.kubernetes.signer import KubernetesSigner
from agent.identity.protocol import AuthorityRefused, Issued
from agent.kubernetes.api import ApiError, ApiServer, path_of
from agent.kubernetes.events import Events
from policy.kinds.osm import CertManager
from tests.kube.control_plane import SYSTEM, Cluster, ControlPlane

TILL = "spiffe://cluster.local/ns/shop/sa/till"
ROOTS = "config.openservicemesh.io/v1alpha2"
REQUESTS = path_of(cert_manager.VERSION, "certificaterequests", SYSTEM)
DEFINITION: dict[str, Any] = {  # as cert-manager's, without its schema
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "certificaterequests.cert-manager.io"},
    "spec": {
        "group": "cert-manager.io",
        "scope": "Namespaced",
        "names": {"kind": "CertificateRequest", "plural": "certificaterequests", "singular": "certificaterequest"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


class Controller:
    """Does what cert-manager's CA issuer does: it takes key, subject and names from the request, whatever they are."""

    def __init__(self, api: ApiServer, issuer: Issuer) -> None:
        self.api = api
        self.issuer = issuer
        self.answers = True
        self.says: Callable[[dict[str, Any]], dict[str, Any]] = lambda status: status
        self.names: list[str] | None = None  # other names than those of the request
        self.signed: list[str] = []

    async def run(self) -> None:
        while True:
            found = await self.api.get(REQUESTS)
            for one in found["items"]:
                if self.answers and "status" not in one:
                    one["status"] = self.says(self.status(one["spec"]))
                    with contextlib.suppress(ApiError):  # it is gone
                        await self.api.replace(f"{REQUESTS}/{one['metadata']['name']}/status", one)
                        self.signed.append(one["metadata"]["name"])
            await trio.sleep(0.05)

    def status(self, spec: dict[str, Any]) -> dict[str, Any]:
        asked = x509.load_pem_x509_csr(b64decode(spec["request"]))
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if self.names is not None:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in self.names])
        above = x509.load_pem_x509_certificate(self.issuer.certificates[0].encode())
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder(above.subject, asked.subject, asked.public_key(), x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(seconds=int(spec["duration"].removesuffix("s"))))
            .add_extension(names, critical=not list(asked.subject))
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
            )
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .sign(serialization.load_pem_private_key(self.issuer.key, None), hashes.SHA256())  # type: ignore[arg-type]
        )
        chain = made.public_bytes(serialization.Encoding.PEM) + self.issuer.sent.encode()
        return {
            "certificate": b64encode(chain).decode(),
            "ca": b64encode(self.issuer.root.encode()).decode(),
            "conditions": [{"type": "Ready", "status": "True", "reason": "Issued"}],
        }


class Mesh:
    def __init__(
        self, cluster: Cluster, pods: dict[str, Any], authority: ClusterAuthority, manager: Controller
    ) -> None:
        self.cluster = cluster
        self.pods = pods
        self.authority = authority
        self.manager = manager

    async def signed(self, spiffe: str = TILL, node: str = "n-a") -> Issued:
        agent = await self.cluster.acting("edgemesh-agent", self.pods["agent-a"])
        key = csr.new_key()
        issued = await KubernetesSigner(agent, SYSTEM, 86400.0).sign(spiffe, csr.request(key, spiffe, node))
        csr.check(issued.chain, key, spiffe, "".join(issued.bundle.roots), time.time())
        return issued

    async def refusal(self, **asked: str) -> str:
        with pytest.raises(AuthorityRefused) as refused:
            await self.signed(**asked)
        return refused.value.error


async def clean(cluster: Cluster) -> None:
    for path in (
        objects.secret(SYSTEM),
        objects.roots(SYSTEM),
        path_of(ROOTS, "meshrootcertificates", SYSTEM, "company"),
        path_of("v1", "secrets", SYSTEM, "company-root"),
        path_of("rbac.authorization.k8s.io/v1", "roles", SYSTEM, "company-root"),
        path_of("rbac.authorization.k8s.io/v1", "rolebindings", SYSTEM, "company-root"),
    ):
        if await cluster.exists(path):
            await cluster.api.delete(path)
    for one in (await cluster.api.get(REQUESTS))["items"]:
        await cluster.api.delete(f"{REQUESTS}/{one['metadata']['name']}")


@pytest.fixture
async def cluster(control_plane_state: Path) -> AsyncIterator[Cluster]:
    plane = ControlPlane(control_plane_state)
    made = Cluster(plane)
    await made.begin()
    await made.make("apiextensions.k8s.io/v1", "customresourcedefinitions", DEFINITION)
    with trio.fail_after(20):
        while True:
            with contextlib.suppress(ApiError):  # 404, then 429: its storage begins
                await made.api.get(REQUESTS)
                break
            await trio.sleep(0.1)
    await clean(made)
    yield made
    await clean(made)
    await plane.aclose()


async def give(cluster: Cluster, **provider: Any) -> None:
    body = {"provider": {"certManager": {"issuerName": "company", "issuerKind": "ClusterIssuer", **provider}}}
    one = {"kind": "MeshRootCertificate", "metadata": {"name": "company"}, "spec": body}
    await cluster.make(ROOTS, "meshrootcertificates", one, SYSTEM)


def company() -> Issuer:
    root = ca.make_root("company", time.time(), 77)
    return ca.make_intermediate(root, "cluster.local", "cluster", time.time(), 78)


@contextlib.asynccontextmanager
async def working(cluster: Cluster, answers: bool = True) -> AsyncIterator[Mesh]:
    pods = {}
    for namespace, name, account in (
        (SYSTEM, "agent-a", "edgemesh-agent"),
        (SYSTEM, "server-a", "edgemesh-server"),
        ("shop", "till-1", "till"),
    ):
        await cluster.gone(namespace, name)
        pods[name] = await cluster.pod(namespace, name, account, "n-a")
    server = await cluster.acting("edgemesh-server", pods["server-a"])
    authority = ClusterAuthority(server, SYSTEM, time.time, 14 * 86400.0, lambda *_: "", Events(server, "n-a"))
    mesh = Mesh(cluster, pods, authority, Controller(cluster.plane.admin(), company()))
    mesh.manager.answers = answers
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.manager.run)
        nursery.start_soon(authority.run)
        yield mesh
        nursery.cancel_scope.cancel()


async def left(cluster: Cluster) -> list[str]:
    return [one["metadata"]["name"] for one in (await cluster.api.get(REQUESTS))["items"]]


async def test_a_new_mesh_has_what_cert_manager_signs(cluster: Cluster) -> None:
    await give(cluster)
    async with working(cluster) as mesh:
        issued = await mesh.signed()
        said = csr.facts(issued.chain, mesh.manager.issuer.root)
        assert (said.spiffe, said.node) == (TILL, "n-a"), "the node is in it, so that its Revocation holds"
        assert issued.bundle.roots == (mesh.manager.issuer.root,), (
            "seen in status.ca; no root of edgemesh's own beside it"
        )
        assert len(csr.read(issued.chain)) == 2, "the intermediate is sent with it, the root is not"
        own = await mesh.signed("spiffe://cluster.local/node/n-a")
        assert csr.facts(own.chain, mesh.manager.issuer.root).root == mesh.manager.issuer.fingerprint
        assert mesh.authority.problems() == []
        assert await left(cluster) == []
        held = await cluster.api.get(objects.secret(SYSTEM), objects.SecretObject)
        assert not any(b"PRIVATE" in b64decode(one) for one in (held.data or {}).values()), "there is no key here"


async def test_the_root_may_be_named(cluster: Cluster) -> None:
    await give(cluster, secretName="company-root")
    async with working(cluster, answers=False) as mesh:
        with trio.fail_after(20):
            while not mesh.authority.problems():
                await trio.sleep(0.1)
        assert "may not read Secret edgemesh-system/company-root" in mesh.authority.problems()[0].message
        data = {"ca.crt": b64encode(mesh.manager.issuer.root.encode()).decode()}
        secret = {"kind": "Secret", "metadata": {"name": "company-root"}, "data": data}
        await cluster.make("v1", "secrets", secret, SYSTEM)
        rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["company-root"], "verbs": ["get"]}
        rbac, named = "rbac.authorization.k8s.io/v1", {"metadata": {"name": "company-root"}}
        await cluster.make(rbac, "roles", {"kind": "Role", **named, "rules": [rule]}, SYSTEM)
        binding = {
            "kind": "RoleBinding",
            **named,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "company-root"},
            "subjects": [{"kind": "ServiceAccount", "name": "edgemesh-server", "namespace": SYSTEM}],
        }
        await cluster.make(rbac, "rolebindings", binding, SYSTEM)
        with trio.fail_after(20):
            while mesh.authority.problems():
                await trio.sleep(0.1)
        mesh.manager.answers = True
        assert (await mesh.signed()).bundle.roots == (mesh.manager.issuer.root,)
        assert len(mesh.manager.signed) == 1, "the root was not asked for"


async def test_nobody_gets_from_cert_manager_what_the_authority_refuses(cluster: Cluster) -> None:
    await give(cluster)
    async with working(cluster) as mesh:
        await mesh.signed()
        before = len(mesh.manager.signed)
        assert "no pod of service account shop/store" in await mesh.refusal(
            spiffe="spiffe://cluster.local/ns/shop/sa/store"
        )
        assert "is for a certificate of node 'n-b'" in await mesh.refusal(node="n-b")
        assert len(mesh.manager.signed) == before, "it was never asked"
        assert "must be the request's, OU=n-a" in await mesh.refusal(node="")


async def test_what_it_signs_wrongly_is_not_given_out(cluster: Cluster) -> None:
    await give(cluster)
    async with working(cluster) as mesh:
        await mesh.signed()
        mesh.manager.names = ["spiffe://cluster.local/ns/shop/sa/store"]
        assert "what cert-manager signed is not given out: the certificate is for" in await mesh.refusal()
        mesh.manager.names = [TILL, "spiffe://cluster.local/ns/shop/sa/store"]
        assert "not for spiffe://cluster.local/ns/shop/sa/till alone" in await mesh.refusal()
        mesh.manager.names = None
        mesh.manager.issuer, known = company(), mesh.manager.issuer
        assert "does not lead to a root that is believed" in await mesh.refusal()
        assert "does not lead to a root" in mesh.authority.problems()[-1].message
        mesh.manager.issuer = known
        await mesh.signed()
        assert mesh.authority.problems() == []
        assert await left(cluster) == []


async def test_a_refusal_and_silence_are_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cert_manager, "PATIENCE", 1.0)
    await give(cluster)
    async with working(cluster) as mesh:
        await mesh.signed()
        failed = {"conditions": [{"type": "Ready", "status": "False", "reason": "Failed", "message": "out of paper"}]}
        mesh.manager.says = lambda _: failed
        assert "ClusterIssuer company of cert-manager has refused: Failed: out of paper" in await mesh.refusal()
        mesh.manager.says, mesh.manager.answers = (lambda status: status), False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mesh.signed)
            with trio.fail_after(20):
                while not mesh.authority.problems():
                    await trio.sleep(0.1)
            (problem,) = mesh.authority.problems()
            assert "ClusterIssuer company of cert-manager has not answered CertificateRequest" in problem.message
            assert "describe certificaterequest" in problem.hint
            mesh.manager.answers = True  # the request waits, and is signed
        assert mesh.authority.problems() == []


async def test_a_new_mesh_waits_for_cert_manager(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cert_manager, "PATIENCE", 1.0)
    await give(cluster)
    async with working(cluster, answers=False) as mesh:
        with trio.fail_after(20):
            while len(mesh.authority.problems()) < 2:
                await trio.sleep(0.1)
        assert "waits for the one that it is given" in mesh.authority.problems()[0].message
        assert not await cluster.exists(objects.secret(SYSTEM)), "no root of its own that nobody wanted"
        mesh.manager.answers = True
        await mesh.signed()
        assert mesh.authority.problems() == []


async def test_another_issuer_under_the_same_root_signs_at_once(cluster: Cluster) -> None:
    await give(cluster)
    async with working(cluster) as mesh:
        before = await mesh.signed()
        await cluster.api.delete(path_of(ROOTS, "meshrootcertificates", SYSTEM, "company"))
        await give(cluster, issuerName="other")
        await mesh.authority._keep_state_once()
        assert b'"other"' in mesh.authority.authority.elsewhere()
        asked: list[str] = []

        def note(status: dict[str, Any]) -> dict[str, Any]:
            asked.append("signed")
            return status

        mesh.manager.says = note
        after = await mesh.signed()
        assert (after.bundle.roots, asked) == (before.bundle.roots, ["signed"])
        # Another holder of the lease finds it in the Secret.
        server = await cluster.acting("edgemesh-server", mesh.pods["server-a"])
        second = ClusterAuthority(server, SYSTEM, time.time, 14 * 86400.0, lambda *_: "", Events(server, "n-b"))
        await second.state.open("cluster.local")
        assert second.authority.elsewhere() == mesh.authority.authority.elsewhere()
        assert mesh.authority.problems() == []


async def test_a_mesh_with_a_root_of_its_own_goes_over_step_by_step(cluster: Cluster) -> None:
    later = 0.0
    async with working(cluster) as mesh:
        before = await mesh.signed()
        await give(cluster)
        await mesh.authority._keep_state_once()
        both = mesh.authority.authority.bundle()
        assert (len(both.roots), both.issuer) == (2, before.bundle.issuer), "it is trusted, and does not sign"
        count = len(mesh.manager.signed)
        assert (await mesh.signed()).bundle.issuer == before.bundle.issuer
        assert len(mesh.manager.signed) == count
        server = await cluster.acting("edgemesh-server", mesh.pods["server-a"])
        issuer = mesh.manager.issuer
        known = {cert_manager.who(CertManager("company", "ClusterIssuer")): issuer.root.encode()}

        def other() -> ClusterAuthority:
            made = ClusterAuthority(
                server, SYSTEM, lambda: time.time() + later, 14 * 86400.0, lambda *_: "", Events(server, "n-b")
            )
            made._seen.update(known)
            return made

    later = 15 * 86400.0
    second = other()
    await second._keep_state_once()
    assert second.authority.bundle().issuer == issuer.fingerprint
    assert second.authority.elsewhere()
    later = 30 * 86400.0
    await second._keep_state_once()
    assert second.authority.bundle().roots == (issuer.root,)
    assert second.problems() == []
    # Without the MeshRootCertificate it goes on as it is: nothing is given up because an object was deleted.
    await cluster.api.delete(path_of(ROOTS, "meshrootcertificates", SYSTEM, "company"))
    third = other()
    await third._keep_state_once()
    assert third.authority.bundle().roots == (issuer.root,)
    assert third.authority.elsewhere()
