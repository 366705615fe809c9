"""Who calls from outside, through a Service, is judged by the address that it had before any masquerading."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from policy.translate.mtls import ANNOTATION
from tests.kube import clusters
from tests.kube.clusters import Cluster, pod, service, until
from tests.kube.daemons import KINDS, TREE, Daemon

MESH = {"openservicemesh.io/monitored-by": "osm"}
PROBE = str(clusters.PROGRAMS / "probe")
OUTSIDE = "172.31.77.1"  # of the switch between the nodes (tests/kube/cluster/up)


BY = ("AccessControl", "IngressBackend")  # the second also in strict mode


class Scene:
    """A captured server on the first node, and callers: the outside, an ingress and a load balancer that are pods."""

    def __init__(self, cluster: Cluster, mesh: str, others: str) -> None:
        self.cluster, self.mesh, self.others = cluster, mesh, others
        self.node, self.other_node = cluster.nodes[:2]
        named = ((mesh, MESH), (others, {}))
        cluster.apply(
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": labels}} for n, labels in named),
            pod("web", mesh, ["probe", "serve"], self.node),
            pod("inside", mesh, node=self.node),
            pod("ingress", others, node=self.node),
            pod("far-ingress", others, node=self.other_node, labels={"app": "ingress"}),
            pod("hostnet", others, node=self.node, hostNetwork=True),
            service("web", mesh, {"http": 8080}, type="NodePort"),
            service("local", mesh, {"http": 8080}, type="NodePort", externalTrafficPolicy="Local", selector={"app": "web"}),
            service("ingress", others, {"http": 80}),
        )  # fmt: skip
        for namespace in (mesh, others):
            cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        self.address = cluster.get("pod", "web", mesh)["status"]["podIP"]
        self.nodes = [cluster.address(node) for node in (self.node, self.other_node)]
        self.ports = {
            name: cluster.get("service", name, mesh)["spec"]["ports"][0]["nodePort"] for name in ("web", "local")
        }
        for node, port in ((0, "web"), (1, "web"), (0, "local")):
            until("kube-proxy knows the Services", lambda n=node, p=port: self.outside(n, p) == "200")
        self.gateway = f"{self.address.rpartition('.')[0]}.1"
        self.daemon = Daemon(cluster, self.node, mesh, others)

    def outside(self, node: int, port: str = "web") -> str:
        return _status(self.cluster.outside(PROBE, "get", f"http://{self.nodes[node]}:{self.ports[port]}/").stdout)

    def of_pod(self, namespace: str, name: str, at: str) -> str:
        done = self.cluster.tried("-n", namespace, "exec", name, "--", "probe", "get", f"http://{at}/", timeout=30)
        return _status(done.stdout)

    def admit(self, by: str = "", *sources: tuple[str, str]) -> None:
        """An object of kind `by` with these sources alone, in a strict namespace where that is an IngressBackend; "": none."""
        namespace = self.cluster.get("namespace", self.mesh)
        if by == "AccessControl":
            namespace["metadata"].setdefault("annotations", {})[ANNOTATION] = "permissive"
        spec = {
            "backends": [{"name": "web", "port": {"number": 8080, "protocol": "http"}}],
            "sources": [{"kind": kind, "name": name, "namespace": self.others} for kind, name in sources],
        }
        kind = {"apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": by}
        control = [kind | {"metadata": {"name": "outside", "namespace": self.mesh}, "spec": spec}] if by else []
        items = self.cluster.list(KINDS, self.mesh)
        self.daemon.write(self.mesh, namespace, *items, *control)
        self.daemon.settle()

    def record(self, source: str) -> dict[str, object]:
        """The newest record of a request from that address."""
        wanted = {"kind": "request", "source_address": source}
        return until("its record", lambda: [r for r in self.daemon.records() if wanted.items() <= r.items()])[-1]


def _status(said: str) -> str:
    return said.split(maxsplit=1)[0] if said else "nothing"


@pytest.fixture(scope="module")
def scene(cluster: Cluster) -> Iterator[Scene]:
    if cluster.folder is None or len(cluster.nodes) < 2:
        pytest.skip("it works on two nodes themselves, and this cluster is reached by its API only")
    number = int(time.time()) % 100000
    made = Scene(cluster, f"outside-{number}", f"others-{number}")
    try:
        made.daemon.read()
        made.daemon.start()
        yield made
    finally:
        made.daemon.close()
        cluster.kubectl("delete", "namespace", made.mesh, made.others, "--wait=false", check=False)


def test_in_strict_mode_the_outside_is_refused_and_named(scene: Scene) -> None:
    scene.admit()
    assert (scene.outside(0), scene.outside(1), scene.outside(0, "local")) == ("403", "403", "403")
    record = scene.record(OUTSIDE)
    assert record["flag"] == "no-identity"
    assert {r["nat_address"] for r in scene.daemon.records() if r["source_address"] == OUTSIDE} == {scene.gateway, ""}
    assert scene.of_pod(scene.others, "hostnet", f"{scene.nodes[0]}:{scene.ports['web']}") == "403"
    assert scene.of_pod(scene.others, "ingress", f"{scene.address}:8080") == "403"


@pytest.mark.parametrize("by", BY)
def test_a_rule_admits_the_address_that_was_there_before(scene: Scene, by: str) -> None:
    scene.admit(by, ("IPRange", f"{OUTSIDE}/32"))
    assert scene.outside(0) == "200", "through the node port of the server's node"
    assert scene.record(OUTSIDE)["rule"] == f"{by} {scene.mesh}/outside"
    assert scene.outside(0, "local") == "200", "which keeps the address"
    seen = scene.cluster.outside(PROBE, "get", f"http://{scene.nodes[0]}:{scene.ports['web']}/").stdout
    assert f" to {OUTSIDE}:" in seen, "the server sees it too"
    assert scene.outside(1) == "403", "the other node alone knows from where this came"
    for name in ("ingress", "hostnet"):
        for at in (f"{scene.address}:8080", f"{scene.nodes[0]}:{scene.ports['web']}"):
            assert scene.of_pod(scene.others, name, at) == "403", (name, at)
    assert scene.cluster.inside_tried(scene.node, PROBE, "get", f"http://{scene.address}:8080/").stdout.startswith(
        "403"
    )


@pytest.mark.parametrize("by", BY)
def test_the_range_of_pods_admits_pods_and_not_what_nodes_masquerade(scene: Scene, by: str) -> None:
    """Both come with addresses of that range."""
    scene.admit(by, ("IPRange", "10.42.0.0/16"), ("IPRange", f"{scene.gateway}/32"))
    at = f"{scene.address}:8080"
    assert scene.of_pod(scene.others, "ingress", at) == "200"
    assert scene.of_pod(scene.others, "far-ingress", at) == "200"
    assert scene.of_pod(scene.others, "ingress", f"{scene.nodes[0]}:{scene.ports['web']}") == "200"
    assert (scene.outside(0), scene.outside(1), scene.outside(0, "local")) == ("403", "403", "403")
    assert scene.of_pod(scene.others, "hostnet", at) == "403"
    assert scene.cluster.inside_tried(scene.other_node, PROBE, "get", f"http://{at}/").stdout.startswith("403")


@pytest.mark.parametrize("by", BY)
def test_an_ingress_that_is_a_pod_is_admitted_by_its_service(scene: Scene, by: str) -> None:
    scene.admit(by, ("Service", "ingress"))
    assert scene.of_pod(scene.others, "ingress", f"{scene.address}:8080") == "200"
    assert scene.of_pod(scene.others, "far-ingress", f"{scene.address}:8080") == "200"
    assert (scene.outside(0), scene.outside(1), scene.outside(0, "local")) == ("403", "403", "403")


@pytest.mark.parametrize("by", BY)
def test_a_load_balancer_that_is_a_pod_and_masquerades_is_that_pod(scene: Scene, by: str) -> None:
    """As klipper-lb does: the outside comes to a pod, which gives it its own address on its way to the Service."""
    netns = until("the pod's namespace", lambda: _netns(scene, scene.others, "ingress"))
    cluster_ip = scene.cluster.get("service", "web", scene.mesh)["spec"]["clusterIP"]
    balancer = scene.cluster.get("pod", "ingress", scene.others)["status"]["podIP"]
    rules = f"""
        sysctl -qw net.ipv4.ip_forward=1
        iptables -t nat -A PREROUTING -p tcp --dport 9999 -j DNAT --to-destination {cluster_ip}:8080
        iptables -t nat -A POSTROUTING -d {cluster_ip}/32 -p tcp -j MASQUERADE
    """
    enter = ["nsenter", f"--net={netns}", "sh", "-c"]
    scene.cluster.inside(scene.node, *enter, textwrap.dedent(rules))
    network = f"{balancer.rpartition('.')[0]}.0/24"
    scene.cluster.outside("ip", "route", "replace", network, "via", scene.nodes[0])
    try:
        call = [PROBE, "get", f"http://{balancer}:9999/"]
        scene.admit(by, ("IPRange", f"{OUTSIDE}/32"))
        assert _status(scene.cluster.outside(*call).stdout) == "403", (
            "the caller that the server's node sees is the pod"
        )
        scene.admit(by, ("Service", "ingress"))
        assert _status(scene.cluster.outside(*call).stdout) == "200"
        assert scene.record(balancer)["nat_address"] == ""
    finally:
        scene.cluster.outside("ip", "route", "del", network)


def _netns(scene: Scene, namespace: str, name: str) -> str:
    address = scene.cluster.get("pod", name, namespace)["status"]["podIP"]
    for path in scene.cluster.inside(scene.node, "sh", "-c", "ls -d /run/netns/*").split():
        shown = scene.cluster.inside(scene.node, "nsenter", f"--net={path}", "ip", "-br", "address", check=False)
        if f" {address}/" in shown:
            return path
    return ""


def test_a_look_into_conntrack_costs_little(scene: Scene) -> None:
    """For each plain connection that comes with an address of the node, and for no other."""
    code = """
        import time
        from agent.kernel.conntrack import first_source
        began = time.process_time()
        for n in range(1000):
            first_source(("10.42.0.1", 20000 + n), ("10.42.0.2", 8080))
        print((time.process_time() - began) * 1000)
    """
    command = ["env", f"PYTHONPATH={TREE}", sys.executable, "-c", textwrap.dedent(code)]
    micros = float(scene.cluster.inside(scene.node, *command))
    assert micros < 500, f"{micros:.0f} us of CPU for each"
