"""The authority against a real API server: who gets which certificate, and what an agent's token cannot do.

Pods are objects without a kubelet here: what decides is what the API server says of them.
"""

from __future__ import annotations

import contextlib
import io
import time
from argparse import Namespace
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.commands import ca_cluster
from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.ca import Issuer
from agent.identity.kubernetes import objects
from agent.identity.kubernetes.authority import ClusterAuthority
from agent.identity.kubernetes.signer import KubernetesSigner
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Issued
from agent.kubernetes.api import ApiError, ApiServer, path_of
from agent.kubernetes.events import Events
from policy.model import Identity
from tests.kube.control_plane import SYSTEM, Cluster, ControlPlane

TILL = "spiffe://cluster.local/ns/shop/sa/till"
STORE = "spiffe://cluster.local/ns/shop/sa/store"
PODS = {  # what runs where, before each test
    "agent-a": (SYSTEM, "edgemesh-agent", "n-a"),
    "agent-b": (SYSTEM, "edgemesh-agent", "n-b"),
    "server-a": (SYSTEM, "edgemesh-server", "n-a"),
    "other-a": (SYSTEM, "other", "n-a"),
    "till-1": ("shop", "till", "n-a"),
    "store-1": ("shop", "store", "n-b"),
    "left-alone": ("outside", "till", "n-a"),
}


class Mesh:
    """A cluster with agents on n-a and n-b, and its authority at work with a server's token."""

    def __init__(self, cluster: Cluster, pods: dict[str, dict[str, Any]]) -> None:
        self.cluster = cluster
        self.pods = pods
        self.revoked: set[str] = set()
        self.authority: ClusterAuthority

    async def begin(self) -> None:
        server = await self.cluster.acting("edgemesh-server", self.pods["server-a"])
        self.authority = authority(server, self.revoked)

    async def agent(self, name: str = "agent-a") -> ApiServer:
        return await self.cluster.acting("edgemesh-agent", self.pods[name])

    async def signed(self, spiffe: str, who: ApiServer) -> Issued:
        key = csr.new_key()
        issued = await KubernetesSigner(who, SYSTEM, 86400.0).sign(spiffe, csr.request(key, spiffe))
        csr.check(issued.chain, key, spiffe, "".join(issued.bundle.roots), time.time())
        return issued

    async def refusal(self, spiffe: str, who: ApiServer) -> str:
        with pytest.raises(AuthorityRefused) as refused:
            await self.signed(spiffe, who)
        return refused.value.error


def authority(server: ApiServer, revoked: set[str], clock: Callable[[], float] = time.time) -> ClusterAuthority:
    def refused(node: str, identity: Identity | None, serial: str) -> str:
        return f"{node} is revoked" if node in revoked or (identity and identity.service_account in revoked) else ""

    return ClusterAuthority(server, SYSTEM, clock, 14 * 86400.0, refused, Events(server, "n-a"))


@pytest.fixture
async def cluster(control_plane_state: Path) -> AsyncIterator[Cluster]:
    plane = ControlPlane(control_plane_state)
    made = Cluster(plane)
    await made.begin()
    if not await made.exists(objects.secret(SYSTEM)) and await made.exists(objects.roots(SYSTEM)):
        await made.api.delete(objects.roots(SYSTEM))  # a test that failed has left it alone
    yield made
    await plane.aclose()


@contextlib.asynccontextmanager
async def working(cluster: Cluster) -> AsyncIterator[Mesh]:
    pods = {}
    for name, (namespace, account, node) in PODS.items():
        await cluster.gone(namespace, name)
        pods[name] = await cluster.pod(namespace, name, account, node)
    mesh = Mesh(cluster, pods)
    await mesh.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.authority.run)
        yield mesh
        nursery.cancel_scope.cancel()


async def test_a_node_gets_its_own_certificate_and_those_of_what_runs_on_it(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent()
        own = csr.facts((await mesh.signed("spiffe://cluster.local/node/n-a", agent)).chain)
        assert own.node == "n-a"
        issued = await mesh.signed(TILL, agent)
        said = csr.facts(issued.chain)
        assert (said.spiffe, said.node) == (TILL, "n-a")
        assert said.not_after - time.time() < 86400 + 60, "as long as was asked for"
        assert issued.bundle.trust_domain == "cluster.local"
        server = await mesh.cluster.acting("edgemesh-server", mesh.pods["server-a"])
        assert csr.facts((await mesh.signed(TILL, server)).chain).spiffe == TILL, "a server's node is a node too"


async def test_no_identity_is_given_that_does_not_run_on_the_node_of_the_token(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        a = await mesh.agent("agent-a")
        assert "no pod of service account shop/store runs on node n-a" in await mesh.refusal(STORE, a)
        assert "neither node n-a itself nor a workload" in await mesh.refusal("spiffe://cluster.local/node/n-b", a)
        assert "is not in the mesh on node n-a: Namespace outside has neither label" in await mesh.refusal(
            "spiffe://cluster.local/ns/outside/sa/till", a
        )
        assert "neither node n-a" in await mesh.refusal("spiffe://other/ns/shop/sa/till", a)
        await mesh.signed(STORE, await mesh.agent("agent-b"))


async def test_a_node_that_asks_many_times_at_once_gets_as_many_answers(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent()
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(mesh.signed, TILL, agent)


async def test_a_pod_that_has_ended_gives_its_node_nothing(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent()
        await mesh.cluster.gone("shop", "till-1")
        await mesh.cluster.pod("shop", "till-1", "till", "n-a", "Succeeded")
        assert "no pod of service account shop/till" in await mesh.refusal(TILL, agent)
        await mesh.cluster.gone("shop", "till-1")
        await mesh.cluster.pod("shop", "till-1", "till", "n-b")
        assert "no pod of service account shop/till" in await mesh.refusal(TILL, agent), "it is elsewhere now"
        await mesh.signed(TILL, await mesh.agent("agent-b"))


async def test_what_is_revoked_gets_nothing(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent()
        mesh.revoked.add("till")
        assert "revoked" in await mesh.refusal(TILL, agent)
        await mesh.signed("spiffe://cluster.local/node/n-a", agent)
        mesh.revoked.add("n-a")
        assert "revoked" in await mesh.refusal("spiffe://cluster.local/node/n-a", agent)


async def test_other_accounts_and_tokens_without_a_pod_get_nothing(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        unbound = await mesh.cluster.acting("edgemesh-agent")
        assert "bound to no pod" in await mesh.refusal(TILL, unbound)
        # The administrator may make any request, and is no node.
        assert "no service account of edgemesh's pods" in await mesh.refusal(TILL, mesh.cluster.api)
        for account, pod in (("other", "other-a"),):
            who = await mesh.cluster.acting(account, mesh.pods[pod])
            with pytest.raises(AuthorityRefused, match="does not let us ask"):
                await mesh.signed(TILL, who)


async def conditions(mesh: Mesh, name: str) -> dict[str, Any]:
    with trio.fail_after(20):
        while True:
            found = await mesh.cluster.api.get(objects.request(name), objects.SigningRequest)
            if found.settled:
                return {one.type: one.reason for one in found.status.conditions}
            await trio.sleep(0.1)


def asking(spiffe: str, **spec: Any) -> dict[str, Any]:
    made = objects.new_request(csr.request(csr.new_key(), spiffe), 86400.0)
    made["spec"].update(spec)
    return made


async def test_what_a_requester_writes_about_itself_is_overwritten(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent("agent-a")
        forged = asking(
            STORE,
            username="system:serviceaccount:edgemesh-system:edgemesh-server",
            groups=["system:masters"],
            extra={
                "authentication.kubernetes.io/pod-name": ["agent-b"],
                "authentication.kubernetes.io/pod-uid": [mesh.pods["agent-b"]["metadata"]["uid"]],
                "authentication.kubernetes.io/node-name": ["n-b"],
            },
        )
        made = await agent.create(objects.REQUESTS, forged)
        spec = made["spec"]
        assert spec["username"] == "system:serviceaccount:edgemesh-system:edgemesh-agent"
        assert spec["extra"]["authentication.kubernetes.io/pod-name"] == ["agent-a"]
        assert spec["extra"]["authentication.kubernetes.io/pod-uid"] == [mesh.pods["agent-a"]["metadata"]["uid"]]
        assert "system:masters" not in spec["groups"]
        assert await conditions(mesh, made["metadata"]["name"]) == {"Denied": "NotOnThisNode"}
        # Nor later: the fields cannot be changed, and an agent may change nothing of a request at all.
        with pytest.raises(ApiError, match="forbidden"):
            await agent.replace(objects.request(made["metadata"]["name"]), made)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"usages": ["digital signature", "client auth"]}, "WrongUsages"),
        ({"usages": ["digital signature", "client auth", "server auth", "cert sign"]}, "WrongUsages"),
    ],
)
async def test_other_usages_are_denied(cluster: Cluster, changed: dict[str, Any], reason: str) -> None:
    async with working(cluster) as mesh:
        made = await (await mesh.agent()).create(objects.REQUESTS, asking(TILL, **changed))
        assert await conditions(mesh, made["metadata"]["name"]) == {"Denied": reason}


async def test_a_request_that_is_approved_by_hand_is_not_signed_without_a_right(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent("agent-a")
        made = await agent.create(objects.REQUESTS, asking(STORE))
        name = made["metadata"]["name"]
        condition = {"type": "Approved", "status": "True", "reason": "ByHand", "message": "an administrator"}
        with contextlib.suppress(ApiError):  # or the authority was faster, and has denied it
            made["status"]["conditions"] = [condition]
            await mesh.cluster.api.replace(f"{objects.request(name)}/approval", made)
        found = await conditions(mesh, name)
        assert found in ({"Approved": "ByHand", "Failed": "NotOnThisNode"}, {"Denied": "NotOnThisNode"})
        whole = await mesh.cluster.api.get(objects.request(name), objects.SigningRequest)
        assert whole.status.certificate == ""


async def test_a_deleted_agents_token_is_worth_nothing(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent("agent-b")
        await mesh.signed(STORE, agent)
        # A pod of the same name, elsewhere: it has another UID, and the old token is not its own.
        await mesh.cluster.gone(SYSTEM, "agent-b")
        await mesh.cluster.pod(SYSTEM, "agent-b", "edgemesh-agent", "n-a")
        for spiffe in (STORE, TILL, "spiffe://cluster.local/node/n-a", "spiffe://cluster.local/node/n-b"):
            with pytest.raises((AuthorityRefused, AuthorityUnreachable)) as failed:
                await mesh.signed(spiffe, agent)
            assert "is gone" in str(failed.value) or "401" in str(failed.value), "or the API server forgot it already"


async def test_a_request_of_a_pod_that_is_gone_when_it_is_decided_is_denied(cluster: Cluster) -> None:
    await cluster.gone(SYSTEM, "agent-c")
    pod = await cluster.pod(SYSTEM, "agent-c", "edgemesh-agent", "n-a")
    made = await (await cluster.acting("edgemesh-agent", pod)).create(objects.REQUESTS, asking(TILL))
    await cluster.gone(SYSTEM, "agent-c")
    await cluster.pod(SYSTEM, "agent-c", "edgemesh-agent", "n-a")
    async with working(cluster) as mesh:
        assert await conditions(mesh, made["metadata"]["name"]) == {"Denied": "PodGone"}
    await cluster.gone(SYSTEM, "agent-c")


FORBIDDEN: dict[str, tuple[str, str, Any]] = {
    "read the key": ("GET", path_of("v1", "secrets", SYSTEM, "edgemesh-ca"), None),
    "list Secrets": ("GET", path_of("v1", "secrets", SYSTEM), None),
    "list all Secrets": ("GET", path_of("v1", "secrets"), None),
    "read a Secret of an application": ("GET", path_of("v1", "secrets", "shop", "password"), None),
    "overwrite the key": ("PUT", path_of("v1", "secrets", SYSTEM, "edgemesh-ca"), {}),
    "overwrite the roots": ("PUT", path_of("v1", "configmaps", SYSTEM, "edgemesh-roots"), {}),
    "delete the roots": ("DELETE", path_of("v1", "configmaps", SYSTEM, "edgemesh-roots"), None),
    "make a pod": (
        "POST",
        path_of("v1", "pods", "shop"),
        {
            "metadata": {"name": "store-2"},
            "spec": {"serviceAccountName": "store", "nodeName": "n-a", "containers": [{"name": "x", "image": "x"}]},
        },
    ),
    "bind a pod": (
        "POST",
        path_of("v1", "pods", "shop", "store-1", "binding"),
        {"metadata": {"name": "store-1"}, "target": {"kind": "Node", "name": "n-a"}},
    ),
    "change a pod": ("PATCH", path_of("v1", "pods", "shop", "store-1"), {"metadata": {"labels": {"a": "b"}}}),
    "change a pod's status": ("PATCH", path_of("v1", "pods", "shop", "store-1", "status"), {"status": {}}),
    "change a node": ("PATCH", path_of("v1", "nodes", "", "n-a"), {"metadata": {"labels": {"a": "b"}}}),
    "make a node": ("POST", path_of("v1", "nodes"), {"metadata": {"name": "n-c"}}),
    "make a token": (
        "POST",
        path_of("v1", "serviceaccounts", SYSTEM, "edgemesh-server", "token"),
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    ),
    "make a token of another node's agent": (
        "POST",
        path_of("v1", "serviceaccounts", SYSTEM, "edgemesh-agent", "token"),
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "agent-b"}},
        },
    ),
    "take the lease": (
        "POST",
        path_of("coordination.k8s.io/v1", "leases", SYSTEM),
        {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "edgemesh-authority"}},
    ),
    "give itself rights": (
        "POST",
        path_of("rbac.authorization.k8s.io/v1", "clusterrolebindings"),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "mine"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        },
    ),
    "delete requests": ("DELETE", objects.REQUESTS, None),
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_an_agent_cannot(cluster: Cluster, what: str) -> None:
    await cluster.gone(SYSTEM, "agent-x")
    pod = await cluster.pod(SYSTEM, "agent-x", "edgemesh-agent", "n-a")
    agent = await cluster.acting("edgemesh-agent", pod)
    method, path, body = FORBIDDEN[what]
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    with pytest.raises(ApiError) as refused:
        await agent.request(method, path, body=b"" if body is None else body, content_type=kind)
    assert refused.value.status == 403, str(refused.value)
    assert "edgemesh-agent" in refused.value.message


async def test_an_agent_cannot_sign_or_approve_its_own_request(cluster: Cluster) -> None:
    await cluster.gone(SYSTEM, "agent-x")
    agent = await cluster.acting("edgemesh-agent", await cluster.pod(SYSTEM, "agent-x", "edgemesh-agent", "n-a"))
    made = await agent.create(objects.REQUESTS, asking(STORE))
    name = made["metadata"]["name"]
    made["status"]["conditions"] = [{"type": "Approved", "status": "True", "reason": "Me", "message": "me"}]
    for part in ("approval", "status"):
        with pytest.raises(ApiError) as refused:
            await agent.replace(f"{objects.request(name)}/{part}", made)
        assert refused.value.status == 403
    await cluster.api.delete(objects.request(name))


async def test_a_server_cannot_sign_for_other_signers(cluster: Cluster) -> None:
    """Whoever takes a server has the mesh's key; the cluster's own certificates it has not."""
    async with working(cluster) as mesh:
        server = await mesh.cluster.acting("edgemesh-server", mesh.pods["server-a"])
        made = await server.create(
            objects.REQUESTS, asking(TILL, signerName="kubernetes.io/kube-apiserver-client", usages=["client auth"])
        )
        name = made["metadata"]["name"]
        made["status"]["conditions"] = [{"type": "Approved", "status": "True", "reason": "Me", "message": "me"}]
        with pytest.raises(ApiError) as refused:
            await server.replace(f"{objects.request(name)}/approval", made)
        assert refused.value.status == 403
        await mesh.cluster.api.delete(objects.request(name))


async def test_a_lost_key_is_not_replaced_silently(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent()
        before = await mesh.signed(TILL, agent)
    secret = objects.secret(SYSTEM)
    kept = await mesh.cluster.api.get(secret, dict[str, Any])
    try:
        await mesh.cluster.api.delete(secret)
        async with working(cluster) as mesh:
            made = await (await mesh.agent()).create(objects.REQUESTS, asking(TILL))
            await trio.sleep(2)
            (problem,) = mesh.authority.problems()
            assert "Secret edgemesh-system/edgemesh-ca with the mesh's key is gone" in problem.message
            assert "restore the Secret" in problem.hint
            found = await mesh.cluster.api.get(objects.request(made["metadata"]["name"]), objects.SigningRequest)
            assert not found.settled, "it waits until the key is back"
            with pytest.raises(ApiError, match="404"):
                await mesh.cluster.api.get(secret)
    finally:
        restored = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "edgemesh-ca"}, "data": kept["data"]}
        with contextlib.suppress(ApiError):
            await mesh.cluster.api.create(path_of("v1", "secrets", SYSTEM), restored)
    async with working(cluster) as mesh:
        after = await mesh.signed(TILL, await mesh.agent())
        assert after.bundle.roots == before.bundle.roots
        assert (await conditions(mesh, made["metadata"]["name"])).get("Denied") == "PodGone", "its agent has gone"


async def test_two_that_begin_at_once_make_one_key(cluster: Cluster) -> None:
    async with working(cluster) as mesh:
        server = await mesh.cluster.acting("edgemesh-server", mesh.pods["server-a"])
        await mesh.signed(TILL, await mesh.agent())
    for path in (objects.secret(SYSTEM), objects.roots(SYSTEM)):
        await cluster.api.delete(path)
    both = [authority(server, set()) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for one in both:
            nursery.start_soon(one.state.open, "cluster.local")
    assert len({one.authority.bundle().roots for one in both}) == 1
    assert await both[0].state.publish(both[0].authority.bundle())
    assert not await both[1].state.publish(both[1].authority.bundle()), "nothing is new in it"


# an authority that was made elsewhere


async def clean(cluster: Cluster) -> None:
    """Begin with no authority, and nothing given."""
    for path in (
        objects.secret(SYSTEM),
        objects.roots(SYSTEM),
        path_of("v1", "secrets", SYSTEM, "company-ca"),
        path_of("config.openservicemesh.io/v1alpha2", "meshrootcertificates", SYSTEM, "company"),
    ):
        if await cluster.exists(path):
            await cluster.api.delete(path)


async def give(cluster: Cluster, issuer: Issuer, **spec: Any) -> None:
    """Make the Secret, the right to read it, and the MeshRootCertificate, as a person would."""
    pem = [certificate.encode() for certificate in issuer.certificates]
    data = {"tls.crt": pem[0], "ca.crt": pem[-1], "tls.key": issuer.key}
    secret = {name: b64encode(value).decode() for name, value in data.items()}
    await cluster.make("v1", "secrets", {"kind": "Secret", "metadata": {"name": "company-ca"}, "data": secret}, SYSTEM)
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["company-ca"], "verbs": ["get"]}
    rbac, named = "rbac.authorization.k8s.io/v1", {"metadata": {"name": "company-ca"}}
    await cluster.make(rbac, "roles", {"kind": "Role", **named, "rules": [rule]}, SYSTEM)
    binding = {
        "kind": "RoleBinding",
        **named,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "company-ca"},
        "subjects": [{"kind": "ServiceAccount", "name": "edgemesh-server", "namespace": SYSTEM}],
    }
    await cluster.make(rbac, "rolebindings", binding, SYSTEM)
    body = {"provider": {"tresor": {"ca": {"secretRef": {"name": "company-ca"}}}}, **spec}
    one = {"kind": "MeshRootCertificate", "metadata": {"name": "company"}, "spec": body}
    await cluster.make("config.openservicemesh.io/v1alpha2", "meshrootcertificates", one, SYSTEM)


def company(now: float) -> Issuer:
    root = ca.make_root("company", now, 77)
    return ca.make_intermediate(root, "cluster.local", "cluster", now, 78)


async def test_a_new_mesh_signs_with_the_intermediate_that_it_is_given(cluster: Cluster) -> None:
    await clean(cluster)
    made = company(time.time())
    await give(cluster, made, trustDomain="cluster.local")
    async with working(cluster) as mesh:
        issued = await mesh.signed(TILL, await mesh.agent())
        assert mesh.authority.problems() == []
        assert issued.bundle.roots == (made.root,)
        assert len(csr.read(issued.chain)) == 2, "the intermediate is sent with it, the root is not"
    await clean(cluster)


async def test_a_new_mesh_has_the_trust_domain_that_it_is_given(cluster: Cluster) -> None:
    await clean(cluster)
    one = {"kind": "MeshRootCertificate", "metadata": {"name": "company"}, "spec": {"trustDomain": "corp.example"}}
    await cluster.make("config.openservicemesh.io/v1alpha2", "meshrootcertificates", one, SYSTEM)
    async with working(cluster) as mesh:
        agent = await mesh.agent()
        issued = await mesh.signed("spiffe://corp.example/ns/shop/sa/till", agent)
        assert issued.bundle.trust_domain == "corp.example"
        assert "neither node n-a" in await mesh.refusal(TILL, agent)
    await clean(cluster)


async def test_another_root_is_taken_over_step_by_step(cluster: Cluster) -> None:
    await clean(cluster)
    later = 0.0

    def clock() -> float:
        return time.time() + later

    async with working(cluster) as mesh:
        agent = await mesh.agent()
        before = await mesh.signed(TILL, agent)
        made = company(time.time())
        await give(cluster, made)
        step = mesh.authority._keep_state_once
        await step()
        bundle = mesh.authority.authority.bundle()
        assert (len(bundle.roots), bundle.issuer) == (2, before.bundle.issuer), "it is trusted, and does not sign"
        await step()
        again = mesh.authority.authority.bundle()
        assert (again.roots, again.issuer) == (bundle.roots, bundle.issuer), "the node has not heard of it yet"
        server = await cluster.acting("edgemesh-server", mesh.pods["server-a"])
    # Another holder of the lease, days later: it knows nothing of what was issued, but when the last step was.
    other = authority(server, set(), clock)
    await other._keep_state_once()
    assert other.authority.bundle().issuer == before.bundle.issuer
    later = 15 * 86400.0
    await other._keep_state_once()
    assert (len(other.authority.bundle().roots), other.authority.bundle().issuer) == (2, made.fingerprint)
    later = 30 * 86400.0
    await other._keep_state_once()
    assert other.authority.bundle().roots == (made.root,)
    assert other.problems() == []
    found = await cluster.api.get(objects.roots(SYSTEM), objects.RootsMap)
    assert objects.split(found.data[objects.ROOTS_PEM]) == [made.root.strip()]
    await clean(cluster)


async def test_a_person_without_a_right_to_the_key_changes_the_root(cluster: Cluster) -> None:
    """What `edgemesh ca rotate` does: with the right to read and patch the ConfigMap, and no other."""
    await clean(cluster)
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [objects.ROOTS],
        "verbs": ["get", "patch"],
    }
    rbac, named = "rbac.authorization.k8s.io/v1", {"metadata": {"name": "rotates"}}
    await cluster.make(rbac, "roles", {"kind": "Role", **named, "rules": [rule]}, SYSTEM)
    binding = {
        "kind": "RoleBinding",
        **named,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rotates"},
        "subjects": [{"kind": "ServiceAccount", "name": "other", "namespace": SYSTEM}],
    }
    await cluster.make(rbac, "rolebindings", binding, SYSTEM)
    person = await cluster.acting("other")

    async def asks(step: str, *more: str) -> tuple[int, str]:
        arguments = Namespace(step=step, force="--force" in more, mesh_namespace=SYSTEM, output="json")
        written = io.StringIO()
        with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
            code = await ca_cluster.rotate(arguments, person)
        return code, written.getvalue()

    async with working(cluster) as mesh:
        agent = await mesh.agent()
        first = await mesh.signed(TILL, agent)
        code, out = await asks("add")
        assert (code, '"blocking": [' in out, "node n-a" in out) == (0, True, True), out
        code, out = await asks("issue")
        assert (code, "have not fetched the bundle with it:\n  node n-a" in out) == (1, True), out
        again = await mesh.signed(TILL, agent)
        assert (again.bundle.issuer, len(again.bundle.roots)) == (first.bundle.issuer, 2)
        code, out = await asks("issue")
        assert code == 0, out
        code, out = await asks("retire")
        assert (code, f"{TILL} on node n-a" in out) == (1, True), out
        last = await mesh.signed(TILL, agent)
        code, out = await asks("retire")
        assert code == 0, out
        found = await cluster.api.get(objects.roots(SYSTEM), objects.RootsMap)
        assert [root.strip() for root in objects.split(found.data[objects.ROOTS_PEM])] == [
            root.strip() for root in last.bundle.roots if csr.fingerprint(root) == last.bundle.issuer
        ]
        with pytest.raises(ApiError, match="forbidden"):
            await person.get(objects.secret(SYSTEM))
    await clean(cluster)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"provider": {"tresor": {"ca": {"secretRef": {"name": "nowhere"}}}}},
            "may not read Secret edgemesh-system/nowhere",
        ),
        ({"provider": {"tresor": {"ca": {"secretRef": {"name": "edgemesh-ca"}}}}}, "is edgemesh's own"),
        (
            {"provider": {"tresor": {"ca": {"secretRef": {"name": "x", "namespace": "shop"}}}}},
            "in namespace edgemesh-system only",
        ),
        ({"provider": {"vault": {"host": "vault"}}}, "its provider is not used here"),
        ({"trustDomain": "other"}, "is for the trust domain other, and this mesh is cluster.local"),
    ],
)
async def test_what_cannot_be_used_changes_nothing_and_is_said(
    cluster: Cluster, spec: dict[str, Any], said: str
) -> None:
    async with working(cluster) as mesh:
        agent = await mesh.agent()
        before = await mesh.signed(TILL, agent)
        other = company(time.time())
        if "trustDomain" in spec:
            root = ca.make_root("company", time.time(), 77)
            other = ca.make_intermediate(root, "other", "cluster", time.time(), 78)
        await give(cluster, other, **spec)
        await mesh.authority._keep_state_once()
        (problem,) = mesh.authority.problems()
        assert said in problem.message
        assert (await mesh.signed(TILL, agent)).bundle.roots == before.bundle.roots
    await clean(cluster)
