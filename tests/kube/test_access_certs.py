"""AccessCert against a real API server: what the servers may do with Secrets, and what becomes of those."""

from __future__ import annotations

import contextlib
import subprocess
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.kubernetes import access_certs
from agent.identity.kubernetes.access_certs import RIGHT, VERSION, AccessCerts
from agent.kubernetes.api import ApiError, ApiServer, path_of
from agent.kubernetes.events import Events
from tests.kube.control_plane import SYSTEM, Cluster, ControlPlane
from tests.kube.test_authority import authority
from tests.readme.place import held
from tests.readme.script import TREE, Command, read

NAMESPACE = "partners"
SPIFFE = "spiffe://cluster.local/ns/partners/sa/scanner"
CERT = path_of(VERSION, "accesscerts", NAMESPACE, "scanner")
SECRET = path_of("v1", "secrets", NAMESPACE, "scanner-certificate")
BINDING = path_of("rbac.authorization.k8s.io/v1", "rolebindings", NAMESPACE, RIGHT)


@pytest.fixture
async def cluster(control_plane_state: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    for name, value in {"LOOK": 0.1, "CHECK": 0.5, "AGAIN": 0.5, "REST": 0.0}.items():
        monkeypatch.setattr(access_certs, name, value)
    plane = ControlPlane(control_plane_state)
    made = Cluster(plane)
    await made.begin()
    await made.make("v1", "namespaces", {"kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for path in (CERT, SECRET, BINDING):
        with contextlib.suppress(ApiError):  # there is none, or it has gone with its owner just now
            await made.api.delete(path)
    await made.gone(SYSTEM, "server-a")
    await made.pod(SYSTEM, "server-a", "edgemesh-server", "n-a")
    yield made
    await plane.aclose()


async def server(cluster: Cluster) -> ApiServer:
    return await cluster.acting("edgemesh-server", await cluster.api.get(path_of("v1", "pods", SYSTEM, "server-a")))


@contextlib.asynccontextmanager
async def serving(cluster: Cluster) -> AsyncIterator[AccessCerts]:
    api = await server(cluster)
    signer = authority(api, set())
    certs = AccessCerts(api, signer, Events(api, "n-a"), signer._clock)
    signer.behind = certs.behind
    async with trio.open_nursery() as nursery:
        nursery.start_soon(signer.run)
        nursery.start_soon(certs.run)
        yield certs
        nursery.cancel_scope.cancel()


async def allow(cluster: Cluster) -> None:
    """Do what the condition says: kubectl create rolebinding."""
    account = f"{SYSTEM}:edgemesh-server"
    words = ("create", "rolebinding", RIGHT, f"--clusterrole={RIGHT}", f"--serviceaccount={account}")
    await trio.to_thread.run_sync(lambda: cluster.plane.kubectl("--namespace", NAMESPACE, *words))


async def ask(cluster: Cluster, *names: str) -> None:
    spec = {"subjectAltNames": names or ["scanner.partners.cluster.local"], "secret": {"name": "scanner-certificate"}}
    await cluster.make(
        VERSION, "accesscerts", {"kind": "AccessCert", "metadata": {"name": "scanner"}, "spec": spec}, NAMESPACE
    )


async def condition(cluster: Cluster, reason: str) -> dict[str, Any]:
    """Return the condition Ready, once it has this reason."""
    seen: Any = None
    with trio.move_on_after(30):
        while True:
            found = await cluster.api.get(CERT)
            seen = found.get("status", {}).get("conditions", ())
            for one in seen:
                if one["type"] == "Ready" and one["reason"] == reason:
                    return one
            await trio.sleep(0.1)
    raise AssertionError(f"{reason} was awaited: {seen}")


async def secret(cluster: Cluster) -> dict[str, bytes]:
    found = await cluster.api.get(SECRET)
    return {name: b64decode(value) for name, value in found["data"].items()}


async def test_a_client_gets_its_certificate_once_a_person_has_opened_the_namespace(cluster: Cluster) -> None:
    await ask(cluster)
    async with serving(cluster):
        refused = await condition(cluster, "NoRight")
        assert f"create rolebinding {RIGHT}" in refused["message"]
        assert not await cluster.exists(SECRET)
        await allow(cluster)
        await condition(cluster, "Issued")
        files = await secret(cluster)
        ca.restore(files["tls.crt"].decode(), files["tls.key"])
        assert csr.facts(files["tls.crt"], files["ca.crt"]).spiffe == SPIFFE
        assert csr.facts(files["tls.crt"], files["ca.crt"]).root, "it leads to the root beside it"
        # Another name: the same Secret is updated, by its UID.
        before = (await cluster.api.get(SECRET))["metadata"]["uid"]
        await cluster.api.patch(CERT, {"spec": {"subjectAltNames": ["client.example.com"]}})
        with trio.fail_after(30):
            while csr.facts((await secret(cluster))["tls.crt"]).spiffe:
                await trio.sleep(0.1)
        assert (await cluster.api.get(SECRET))["metadata"]["uid"] == before
    columns = await trio.to_thread.run_sync(lambda: cluster.plane.kubectl("-n", NAMESPACE, "get", "acct"))
    assert columns.splitlines()[1].split()[:3] == ["scanner", "scanner-certificate", "True"]


async def test_another_server_goes_on_with_what_the_first_has_made(cluster: Cluster) -> None:
    await allow(cluster)
    await ask(cluster)
    async with serving(cluster):
        await condition(cluster, "Issued")
    before = await secret(cluster)
    async with serving(cluster) as certs:
        with trio.fail_after(30):
            while certs.behind():
                await trio.sleep(0.1)
        await trio.sleep(1.5)
        assert (await secret(cluster), certs.made) == (before, 0)
        await cluster.api.delete(SECRET)
        with trio.fail_after(30):
            while not await cluster.exists(SECRET):
                await trio.sleep(0.1)
        assert await secret(cluster) != before


async def test_a_secret_that_somebody_else_made_stays_as_it_is(cluster: Cluster) -> None:
    await allow(cluster)
    mine = {"kind": "Secret", "metadata": {"name": "scanner-certificate"}, "data": {"password": "aHVudGVyMg=="}}
    await cluster.make("v1", "secrets", mine, NAMESPACE)
    await ask(cluster)
    async with serving(cluster):
        await condition(cluster, "SecretExists")
        assert (await cluster.api.get(SECRET))["data"] == mine["data"]
        await cluster.api.delete(SECRET)
        await condition(cluster, "Issued")
    # One that takes the place of ours is somebody else's too: the API server compares UIDs.
    await cluster.api.delete(SECRET)
    await cluster.make("v1", "secrets", mine, NAMESPACE)
    async with serving(cluster):
        await condition(cluster, "SecretExists")
        assert (await cluster.api.get(SECRET))["data"] == mine["data"]


async def test_the_secret_goes_with_its_access_cert(cluster: Cluster) -> None:
    await allow(cluster)
    await ask(cluster)
    async with serving(cluster):
        await condition(cluster, "Issued")
        await cluster.api.delete(CERT)
        with trio.fail_after(60):
            while await cluster.exists(SECRET):
                await trio.sleep(0.2)


async def test_the_right_lets_the_servers_read_nothing(cluster: Cluster) -> None:
    await allow(cluster)
    mine = {"kind": "Secret", "metadata": {"name": "password"}, "data": {"password": "aHVudGVyMg=="}}
    await cluster.make("v1", "secrets", mine, NAMESPACE)
    api = await server(cluster)
    one, all_of_them = path_of("v1", "secrets", NAMESPACE, "password"), path_of("v1", "secrets", NAMESPACE)
    for method, path, body in (
        ("GET", one, b""),
        ("GET", all_of_them, b""),
        ("PATCH", one, {}),
        ("DELETE", one, b""),
        ("DELETE", all_of_them, b""),
        ("POST", path_of("v1", "secrets", "shop"), mine),
        ("PUT", path_of("v1", "secrets", "shop", "password"), mine),
        ("POST", path_of("v1", "secrets", "kube-system"), mine),
    ):
        with pytest.raises(ApiError) as refused:
            await api.request(
                method,
                path,
                body=body,
                content_type="application/merge-patch+json" if method == "PATCH" else "application/json",
            )
        assert refused.value.status == 403, (method, path)
    with pytest.raises(ApiError) as refused:
        async with api.watch(all_of_them, {"watch": "1"}):
            pass
    assert refused.value.status == 403
    # An update as a trial answers with what was sent, not with what is there.
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"}, "data": {}}
    answer = await api.request("PUT", one, {"dryRun": "All"}, body)
    assert b"aHVudGVyMg" not in answer.body
    assert (await cluster.api.get(one))["data"] == mine["data"]


async def test_an_agent_has_no_part_in_it(cluster: Cluster) -> None:
    await allow(cluster)
    await cluster.gone(SYSTEM, "agent-x")
    agent = await cluster.acting("edgemesh-agent", await cluster.pod(SYSTEM, "agent-x", "edgemesh-agent", "n-a"))
    for method, path in (("POST", path_of("v1", "secrets", NAMESPACE)), ("PATCH", f"{CERT}/status")):
        with pytest.raises(ApiError) as refused:
            await agent.request(
                method, path, body={"metadata": {"name": "x"}}, content_type="application/merge-patch+json"
            )
        assert refused.value.status == 403


def typed(step: Command, folder: Path) -> None:
    words = ["bash", "-c", f"export PATH={folder}/bin:$PATH; cd {folder}; {step.words}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    held(step, done.returncode, done.stdout + done.stderr)


async def test_the_page_does_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    await cluster.api.delete(path_of("v1", "namespaces", name=NAMESPACE))
    with trio.fail_after(60):
        while await cluster.exists(path_of("v1", "namespaces", name=NAMESPACE)):
            await trio.sleep(0.2)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").write_text(f'#!/bin/sh\nexec {cluster.plane.state}/kubectl "$@"\n')
    (tmp_path / "bin" / "kubectl").chmod(0o755)
    steps = list(read((TREE / "docs/howto/outside-client.md").read_text("utf-8")))
    async with serving(cluster):
        for step in steps:
            if isinstance(step, Command):
                assert step.where == "admin"
                await trio.to_thread.run_sync(typed, step, tmp_path)
            elif step.file:
                (tmp_path / step.file).write_text(step.text)
    assert csr.facts((await secret(cluster))["tls.crt"]).spiffe == SPIFFE
