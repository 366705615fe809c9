"""An Ingress with TLS on a real cluster: the Secret is read with the right that a person gives, and curl comes in from outside."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Callable

import pytest

from tests.kube.clusters import Cluster, account, pod, service, until
from tests.kube.meshes import Mesh
from tests.mint import Mint

HOST = "shop.example"
ROLE = "edgemesh-gateway-certificates"


class Scene:
    """A server of the mesh on the first node, behind an Ingress."""

    def __init__(self, mesh: Mesh, mint: Mint) -> None:
        self.mesh, self.mint, self.cluster = mesh, mint, mesh.cluster
        self.name = "ingress-test"
        self.node = self.cluster.nodes[0]
        labels = {"openservicemesh.io/monitored-by": "osm"}
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}},
            account("web", self.name),
            service("web", self.name, {"http": 8080}),
        )
        serves = {"ports": [{"containerPort": 8080}], "command": ["probe", "serve"]}
        self.cluster.apply(pod("web", self.name, node=self.node, serviceAccountName="web", container=serves))
        self.cluster.kubectl("-n", self.name, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")

    def secret(self) -> None:
        made = self.mint.credentials(dns=(HOST,))
        data = {"tls.crt": b64encode(made.chain).decode(), "tls.key": b64encode(made.key).decode()}
        self._apply("v1", "Secret", "shop-tls", type="kubernetes.io/tls", data=data)

    def ingress(self) -> None:
        backend = {"service": {"name": "web", "port": {"number": 8080}}}
        rule = {"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
        tls = [{"hosts": [HOST], "secretName": "shop-tls"}]
        spec = {"ingressClassName": "edgemesh", "rules": [rule], "tls": tls}
        self._apply("networking.k8s.io/v1", "Ingress", "web", spec=spec)

    def lets_in(self) -> None:
        spec = {
            "backends": [{"name": "web", "port": {"number": 8080, "protocol": "http"}}],
            "sources": [{"kind": "IngressClass", "name": "edgemesh"}],
        }
        self._apply("policy.openservicemesh.io/v1alpha1", "IngressBackend", "web", spec=spec)

    def _apply(self, version: str, kind: str, name: str, **fields: object) -> None:
        metadata = {"name": name, "namespace": self.name}
        self.cluster.apply({"apiVersion": version, "kind": kind, "metadata": metadata, **fields})

    def status(self, url: str) -> str:
        """The status that curl outside gets; 000 where nothing answers."""
        port = "443" if url.startswith("https") else "80"
        resolve = f"{HOST}:{port}:{self.cluster.address(self.node)}"
        said = self.cluster.outside(
            "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", "--resolve", resolve, url
        )
        return said.stdout.strip()

    def serial(self) -> str:
        """The certificate that a client outside is shown."""
        address = self.cluster.address(self.node)
        said = self.cluster.outside(
            "sh", "-c", f"openssl s_client -connect {address}:443 -servername {HOST} </dev/null 2>/dev/null"
        )
        begin, end = said.stdout.find("-----BEGIN"), said.stdout.find("-----END CERTIFICATE-----")
        return (
            ssl.PEM_cert_to_DER_cert(said.stdout[begin:end] + "-----END CERTIFICATE-----").hex() if begin >= 0 else ""
        )

    def problems(self) -> str:
        return self.mesh.edgemesh(self.node, "status", check=False)


@pytest.fixture
def scene(mesh: Mesh, mint: Mint) -> Scene:
    return Scene(mesh, mint)


def test_an_ingress_is_served_with_the_right_to_its_secret_alone(scene: Scene) -> None:
    cluster: Cluster = scene.cluster
    said: Callable[[str, str], Callable[[], bool]] = lambda url, status: lambda: scene.status(url) == status  # noqa: E731
    assert scene.status(f"http://{HOST}/") == "000"  # no Ingress, nothing listens
    scene.secret()
    scene.ingress()
    until("port 80 is open", said(f"http://{HOST}/", "403"))  # the server of the mesh admits nobody yet
    scene.lets_in()
    until("the server is reached in plain text", said(f"http://{HOST}/", "200"))
    assert scene.status(f"https://{HOST}/") == "000"
    until("status names the binding", lambda: f"create rolebinding {ROLE} --namespace {scene.name}" in scene.problems())
    # a right to this Secret and no other
    words = ("create", "role", ROLE, "--verb=get,watch", "--resource=secrets", "--resource-name=shop-tls")
    cluster.kubectl("-n", scene.name, *words)
    accounts = [f"--serviceaccount=edgemesh-system:edgemesh-{who}" for who in ("agent", "server")]
    cluster.kubectl("-n", scene.name, "create", "rolebinding", ROLE, f"--role={ROLE}", *accounts)
    until("the Secret is read", said(f"https://{HOST}/", "200"), 90)
    assert ROLE not in scene.problems()
    before = scene.serial()
    scene.secret()
    until("the renewed certificate is shown", lambda: scene.serial() not in ("", before))
    addresses = {one["ip"] for one in cluster.get("ingress", "web", scene.name)["status"]["loadBalancer"]["ingress"]}
    assert cluster.address(scene.node) in addresses
    cluster.kubectl("-n", scene.name, "delete", "ingress", "web")
    until("nothing listens any more", said(f"http://{HOST}/", "000"))
    assert scene.status(f"https://{HOST}/") == "000"
    cluster.kubectl("delete", "namespace", scene.name, "--wait=false")
