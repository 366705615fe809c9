"""A real API server for tests: who they speak to it as, and the objects that a kubelet would have made."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import trio
import yaml

from agent.kernel import netns
from agent.kubernetes.access import Access, Material, kubeconfig
from agent.kubernetes.api import ApiError, ApiServer, path_of
from agent.kubernetes.pace import Pace
from tests.house import ROOT

SYSTEM = "edgemesh-system"
ADDON = ROOT / "k3s-addon" / "edgemesh.yaml"


class ControlPlane:
    """The API server of the cluster in the folder `state`, which listens in the network namespace of its node n1."""

    def __init__(self, state: Path) -> None:
        self.state = state
        pid = (state / "pid" / "2-n1").read_text().split()[0]
        self._namespace = Path(f"/proc/{pid}/ns/net")
        self._admin = kubeconfig([state / "admin.kubeconfig"])
        self._made: list[ApiServer] = []

    def __repr__(self) -> str:
        return f"<ControlPlane {self.state}>"

    def kubectl(self, *arguments: str, given: str = "") -> str:
        done = subprocess.run(
            [str(self.state / "kubectl"), *arguments], input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> None:
        """Apply the add-on without its DaemonSets, once for each cluster."""
        done = self.state / "edgemesh-installed"
        text = ADDON.read_text()
        if done.exists() and done.read_text() == text:
            return
        documents = [one for one in yaml.safe_load_all(text) if one and one["kind"] != "DaemonSet"]
        apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
        self.kubectl(*apply, given=yaml.safe_dump_all(documents))
        done.write_text(text)

    def admin(self) -> ApiServer:
        return self._server(self._admin, Pace(200, 200))

    def with_token(self, token: str, paced: bool = False) -> ApiServer:
        """Return a client that shows this token. `paced`: as slow as a daemon's."""
        access = Access(
            self._admin.host, self._admin.port, "a test", roots=self._admin.roots, token=Material(token.encode())
        )
        return self._server(access, Pace() if paced else Pace(200, 200))

    def _server(self, access: Access, pace: Pace) -> ApiServer:
        made = ApiServer(access, pace, dial=self._dial)
        self._made.append(made)
        return made

    async def aclose(self) -> None:
        for one in self._made:
            await one.aclose()

    async def _dial(self, host: str, port: int) -> trio.SocketStream:
        inside = netns.Namespace(str(self._namespace))
        try:
            with inside.entered():
                made = socket.socket()
        finally:
            inside.close()
        made.setblocking(False)
        connected = trio.socket.from_stdlib_socket(made)
        try:
            await connected.connect((host, port))
        except BaseException:
            connected.close()
            raise
        return trio.SocketStream(connected)


class Cluster:
    """What a test makes in a cluster, as its administrator."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.api = plane.admin()

    async def begin(self) -> None:
        """Make the namespaces, accounts, rules and nodes n-a and n-b that tests need; those that are there stay."""
        await trio.to_thread.run_sync(self.plane.install)
        for name, labels in (
            ("shop", {"openservicemesh.io/monitored-by": "osm"}),
            ("outside", {}),
        ):
            await self.make("v1", "namespaces", {"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        for namespace, name in (
            (SYSTEM, "other"),
            ("shop", "till"),
            ("shop", "store"),
            ("outside", "till"),
        ):
            await self.make("v1", "serviceaccounts", {"kind": "ServiceAccount", "metadata": {"name": name}}, namespace)
        for node in ("n-a", "n-b"):
            await self.make("v1", "nodes", {"kind": "Node", "metadata": {"name": node}})

    async def make(self, version: str, plural: str, one: dict[str, Any], namespace: str = "") -> None:
        try:
            await self.api.create(path_of(version, plural, namespace), {"apiVersion": version, **one})
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    async def exists(self, path: str) -> bool:
        try:
            await self.api.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    async def pod(
        self, namespace: str, name: str, account: str, node: str, phase: str = "Running", **metadata: Any
    ) -> dict[str, Any]:
        """Make a pod that runs, as far as the API server knows."""
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **metadata},
            "spec": {
                "serviceAccountName": account,
                "nodeName": node,
                "containers": [{"name": "one", "image": "none"}],
            },
        }
        await self.api.create(path_of("v1", "pods", namespace), body)
        return await self.api.patch(path_of("v1", "pods", namespace, name, "status"), {"status": {"phase": phase}})

    async def gone(self, namespace: str, name: str) -> None:
        """Remove a pod at once, if it is there."""
        try:
            await self.api.delete(path_of("v1", "pods", namespace, name), {"gracePeriodSeconds": 0})
        except ApiError as error:
            if error.status != 404:
                raise

    async def token(self, account: str, pod: dict[str, Any] | None = None, namespace: str = SYSTEM) -> str:
        """Return a token of a service account, bound to `pod`, as the kubelet asks for it."""
        spec: dict[str, Any] = {"expirationSeconds": 600}
        if pod is not None:
            bound = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            spec["boundObjectRef"] = bound
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        made = await self.api.create(path_of("v1", "serviceaccounts", namespace, account, "token"), body)
        return str(made["status"]["token"])

    async def acting(self, account: str, pod: dict[str, Any] | None = None, namespace: str = SYSTEM) -> ApiServer:
        return self.plane.with_token(await self.token(account, pod, namespace))
