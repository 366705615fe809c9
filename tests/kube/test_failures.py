"""What fails in a cluster, under load: no decision is wrong.

In the namespace there are servers on both nodes, a client that may call them and one that may not, on the first node. Both call
both servers all the time (`probe load`), while something fails. Who may not call never gets a 200, and who may never a 403; where
the daemon and the way stay, every call gets what it is to get.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.house import ROOT
from tests.kube import long_calls
from tests.kube.clusters import Cluster, Manifest, Problem, account, answers, pod, service, until
from tests.kube.meshes import DAEMONS, SYSTEM, Mesh, image

MAY, MAY_NOT = "buyer", "thief"


class Town:
    """Servers `web-NODE`, client `buyer`, which may call them, and `thief`, which may not; loads between them."""

    def __init__(self, mesh: Mesh, namespace: str) -> None:
        self.mesh, self.cluster, self.namespace = mesh, mesh.cluster, namespace
        self.near, self.far = self.cluster.nodes[0], self.cluster.nodes[-1]
        self.uids: dict[str, str] = {}  # of pods, by name

    def up(self) -> None:
        name = self.namespace
        servers = [self.server(node) for node in sorted({self.near, self.far})]
        clients = [pod(who, name, node=self.near, serviceAccountName=who) for who in (MAY, MAY_NOT)]
        doors = [service(server["metadata"]["name"], name, {"http": 8080}) for server in servers]
        self.cluster.apply(*(account(who, name) for who in (MAY, MAY_NOT, "web")), strict(), *self.policy([MAY]))
        self.cluster.apply(*servers, *doors, *clients)
        self.cluster.kubectl("-n", name, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        self.uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in self.cluster.list("pods", name)}
        for node in (self.near, self.far):
            until(f"{MAY} may call web-{node}", lambda node=node: self.answers(MAY, node) == {"200"})
            until(f"{MAY_NOT} may not call web-{node}", lambda node=node: self.answers(MAY_NOT, node) == {"403"})

    def server(self, node: str) -> Manifest:
        made = pod(f"web-{node}", self.namespace, ["probe", "serve"], node, serviceAccountName="web")
        made["spec"]["containers"][0] |= {
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 2},
            "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 2, "failureThreshold": 3},
        }
        return made

    def policy(self, sources: list[str], name: str = "web") -> list[Manifest]:
        """Who of `sources` may GET at the servers."""
        metadata = {"name": name, "namespace": self.namespace}
        routes = {
            "apiVersion": "specs.smi-spec.io/v1alpha4",
            "kind": "HTTPRouteGroup",
            "metadata": metadata,
            "spec": {"matches": [{"name": "get", "methods": ["GET"], "pathRegex": ".*"}]},
        }
        target = {
            "apiVersion": "access.smi-spec.io/v1alpha3",
            "kind": "TrafficTarget",
            "metadata": metadata,
            "spec": {
                "destination": {"kind": "ServiceAccount", "name": "web", "namespace": self.namespace},
                "rules": [{"kind": "HTTPRouteGroup", "name": name, "matches": ["get"]}],
                "sources": [{"kind": "ServiceAccount", "name": one, "namespace": self.namespace} for one in sources],
            },
        }
        return [routes, target]

    def url(self, node: str) -> str:
        return f"http://web-{node}.{self.namespace}:8080/"

    def answers(self, who: str, node: str, count: int = 3) -> set[str]:
        """What so many calls of a client to the server of a node ended with."""
        said = self.cluster.exec(self.namespace, who, "probe", "get", self.url(node), str(count), check=False)
        return answers(said)

    @contextmanager
    def load(self, seconds: float, *nodes: str) -> Iterator[dict[tuple[str, str], dict[str, Any]]]:
        """Calls of both clients to the servers of `nodes` for so long; what became of them is in the dictionary at the end.

        They run in the clients' own pods by the node, not by the API server, which may be gone.
        """
        running: dict[tuple[str, str], subprocess.Popen[str]] = {}
        for who in (MAY, MAY_NOT):
            for node in nodes or (self.near, self.far):
                enter = [
                    "nsenter",
                    "-t",
                    str(self.pid(who)),
                    "-n",
                    "-m",
                    "/bin/probe",
                    "load",
                    self.url(node),
                    str(seconds),
                    "50ms",
                ]
                running[who, node] = self.cluster.start_inside(self.near, *enter, stdout=subprocess.PIPE)
        became: dict[tuple[str, str], dict[str, Any]] = {}
        try:
            yield became
            for key, process in running.items():
                became[key] = json.loads(process.communicate(timeout=seconds + 60)[0])
        finally:
            for process in running.values():
                process.kill()
                process.wait()
                assert process.stdout
                process.stdout.close()

    def pid(self, who: str, node: str = "") -> int:
        """A process of a pod that sleeps, by its number in its node, which is the clients' if none is named."""
        uid = self.uids[who]
        script = 'grep -l "$0" /proc/[0-9]*/cgroup | cut -d/ -f3 | while read p; do grep -qz "^sleep" /proc/$p/cmdline && echo $p; done'
        said = self.cluster.inside(node or self.near, "sh", "-c", script, uid, check=False).split()
        if not said:
            raise Problem(f"no process of {who}")
        return int(said[0])


class Talks:
    """Servers on both nodes that connections to last (tests/kube/long_calls.py), which `buyer` may call.

    They and their callers are this machine's Python, in the network namespaces of pods that sleep.
    """

    def __init__(self, town: Town) -> None:
        self.town, self.cluster = town, town.cluster
        self.servers: list[subprocess.Popen[str]] = []
        self.addresses: list[str] = []

    def up(self) -> None:
        town, name = self.town, self.town.namespace
        ports = {"tcp-talk": long_calls.TCP, "http-talk": long_calls.UPGRADE, "grpc-talk": long_calls.STREAM}
        nodes = sorted({town.near, town.far})
        pods = [pod(f"talk-{node}", name, node=node, serviceAccountName="talk") for node in nodes]
        doors = [service(one["metadata"]["name"], name, ports) for one in pods]
        self.cluster.apply(account("talk", name), *self._policy(), *pods, *doors)
        self.cluster.kubectl("-n", name, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        for one in self.cluster.list("pods", name):
            town.uids[one["metadata"]["name"]] = one["metadata"]["uid"]
        for node in nodes:
            server = f"talk-{node}"
            self.addresses.append(self.cluster.get("service", server, name)["spec"]["clusterIP"])
            self.servers.append(self._run(node, town.pid(server, node), "serve", "0.0.0.0"))
        until("a connection of each kind is served", lambda: lasted(self._call(0.5)), 90)

    def down(self) -> None:
        for server in self.servers:
            _end(server)

    def _policy(self) -> list[Manifest]:
        metadata = {"name": "talk", "namespace": self.town.namespace}
        target = self.town.policy([MAY], "talk")[1]
        target["spec"]["destination"]["name"] = "talk"
        plain = {
            "apiVersion": "specs.smi-spec.io/v1alpha4",
            "kind": "TCPRoute",
            "metadata": metadata,
            "spec": {"matches": {"name": "talk", "ports": [long_calls.TCP]}},
        }
        routes = {
            "apiVersion": "specs.smi-spec.io/v1alpha4",
            "kind": "HTTPRouteGroup",
            "metadata": metadata,
            "spec": {"matches": [{"name": "get", "methods": ["*"], "pathRegex": ".*"}]},
        }
        of_tcp = target | {"metadata": metadata | {"name": "talk-tcp"}}
        of_tcp["spec"] = target["spec"] | {"rules": [{"kind": "TCPRoute", "name": "talk"}]}
        return [plain, routes, target, of_tcp]

    def _run(self, node: str, pid: int, *words: str) -> subprocess.Popen[str]:
        enter = [
            "nsenter",
            "-t",
            str(pid),
            "-n",
            "env",
            f"PYTHONPATH={ROOT}",
            sys.executable,
            "-m",
            "tests.kube.long_calls",
        ]
        return self.cluster.start_inside(node, *enter, *words, stdout=subprocess.PIPE)

    def _call(self, seconds: float) -> dict[str, dict[str, Any]]:
        with self.last(seconds) as said:
            pass
        return said

    @contextmanager
    def last(self, seconds: float) -> Iterator[dict[str, dict[str, Any]]]:
        """A connection of each kind to each server for so long; what became of them is in the dictionary at the end."""
        said: dict[str, dict[str, Any]] = {}
        caller = self._run(self.town.near, self.town.pid(MAY), "call", str(seconds), *self.addresses)
        try:
            yield said
            said |= json.loads(caller.communicate(timeout=seconds + 60)[0])
        finally:
            _end(caller)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def lasted(said: dict[str, dict[str, Any]]) -> bool:
    """Every connection lasted until its time, and each of its words came back."""
    assert said
    for which, one in said.items():
        assert one["fault"] == "", f"{which}: {one}"
        assert one["words"] > 0, f"{which}: {one}"
    return True


def strict() -> Manifest:
    metadata = {"name": "osm-mesh-config", "namespace": "edgemesh-system"}
    spec = {"traffic": {"enablePermissiveTrafficPolicyMode": False}}
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": metadata,
        "spec": spec,
    }


def right(became: dict[tuple[str, str], dict[str, Any]]) -> None:
    """No wrong decision: a 200 only for who may, a 403 only for who may not."""
    for (who, node), load in became.items():
        wrong = "200" if who == MAY_NOT else "403"
        assert wrong not in load["answers"], f"{who} to {node}: {load}"


def faultless(became: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Every call got what it is to get."""
    for (who, node), load in became.items():
        assert set(load["answers"]) == {"200" if who == MAY else "403"}, f"{who} to {node}: {load}"


@pytest.fixture(scope="module")
def cluster(mesh: Mesh) -> Cluster:
    return mesh.cluster


@pytest.fixture(scope="module")
def town(mesh: Mesh) -> Iterator[Town]:
    if mesh.cluster.folder is None:
        pytest.skip("it works on the nodes themselves, and this cluster is reached by its API only")
    name = f"town-{int(time.time())}"
    labels = {"openservicemesh.io/monitored-by": "osm"}
    mesh.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    made = Town(mesh, name)
    made.up()
    yield made
    mesh.cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture
def calm(town: Town) -> Town:
    """The town as it is when nothing fails: both daemons ready, both decisions right."""
    town.mesh.ready()
    for node in (town.near, town.far):
        until(f"{MAY} may call web-{node}", lambda node=node: town.answers(MAY, node) == {"200"}, 90)
        until(f"{MAY_NOT} may not call web-{node}", lambda node=node: town.answers(MAY_NOT, node) == {"403"}, 90)
    return town


def test_the_api_server_is_gone(calm: Town, cluster: Cluster) -> None:
    """Decisions stay; a policy that is applied later is in force soon after the API server is back."""
    with calm.load(15) as became:
        cluster.restart(calm.near, "apiserver", 10)
    faultless(became)
    until("the API server answers", cluster.api_answers)
    cluster.apply(*calm.policy([MAY, MAY_NOT]))
    until("the new policy is in force", lambda: calm.answers(MAY_NOT, calm.far) == {"200"})
    cluster.apply(*calm.policy([MAY]))
    until("the old policy is in force", lambda: calm.answers(MAY_NOT, calm.far) == {"403"})


@pytest.mark.parametrize("service", ["kubelet", "containerd", "proxy", "controller-manager", "kine"])
def test_a_part_of_the_node_is_killed(calm: Town, cluster: Cluster, service: str) -> None:
    with calm.load(10) as became:
        cluster.restart(calm.near, service, 3)
    faultless(became)


def test_the_daemon_is_killed(calm: Town) -> None:
    """Where it is gone callers wait or fail, and nobody is let in; with it all is as it was."""
    before = calm.mesh.restarts(calm.near)
    with calm.load(12) as became:
        calm.mesh.kill(calm.near)
        took = calm.mesh.back(calm.near, before)
    right(became)
    print(f"the daemon is ready again after {took:.1f} s")


def test_the_daemon_begins_while_the_api_server_is_gone(calm: Town, cluster: Cluster) -> None:
    """It enforces what it last knew, from its disk."""
    cluster.restart(calm.near, "apiserver", "never")
    try:
        with calm.load(20) as became:
            cluster.inside(calm.near, "pkill", "-KILL", "-f", "edgemesh run", check=False)
        right(became)
        for (who, node), load in became.items():
            last = load["changes"][-1]["answer"]
            assert last == ("200" if who == MAY else "403"), f"{who} to {node}: {load}"
    finally:
        cluster.restart(calm.near, "apiserver")
        until("the API server answers", cluster.api_answers)


@pytest.mark.long
def test_the_daemons_are_rolled(calm: Town, cluster: Cluster) -> None:
    """kubectl rollout restart of both DaemonSets under load: no call is refused, and the daemons of new pods serve."""
    before = {node: calm.mesh.agent(node)["metadata"]["name"] for node in (calm.near, calm.far)}
    with calm.load(60) as became:
        cluster.kubectl("-n", "edgemesh-system", "rollout", "restart", *DAEMONS)
        calm.mesh.ready()
    print(json.dumps({f"{who} {node}": load["answers"] for (who, node), load in became.items()}))
    faultless(became)
    for node, old in before.items():
        assert calm.mesh.agent(node)["metadata"]["name"] != old
        assert "took over from pid" in calm.mesh.logs(node)


@pytest.fixture(scope="module")
def talks(town: Town) -> Iterator[Talks]:
    made = Talks(town)
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.mark.long
@pytest.mark.parametrize("order", [("agent", "server"), ("server", "agent")], ids="-".join)
def test_connections_outlast_another_version(
    calm: Town, cluster: Cluster, talks: Talks, order: tuple[str, str], tmp_path: Path
) -> None:
    """A new image, in one DaemonSet after the other, in either order. No call fails, and old pods end with their last connections."""
    version = f"0.1.{int(time.time())}"
    cluster.load_image(image(tmp_path, version))
    images = {one["spec"]["containers"][0]["image"] for one in calm.mesh.pods()}
    old = {one["metadata"]["name"] for one in calm.mesh.pods()}
    new = f"edgemesh.io/edgemesh:{version}"
    with calm.load(75) as became, talks.last(75) as said:
        for one in order:
            cluster.kubectl("-n", SYSTEM, "set", "image", f"daemonset/edgemesh-{one}", f"edgemesh={new}")
            if one == order[0]:
                until(f"an {one} is new", lambda: any(_is(pod, new) for pod in calm.mesh.pods()), 90)
                calm.mesh.replaced(new, *images)
        calm.mesh.replaced(new)
        assert old <= {one["metadata"]["name"] for one in calm.mesh.pods()}, "they serve what they had accepted"
    print(json.dumps({f"{who} {node}": load["answers"] for (who, node), load in became.items()}), json.dumps(said))
    faultless(became)
    lasted(said)
    until("the old pods have ended", lambda: not old & {one["metadata"]["name"] for one in calm.mesh.pods()})
    for node in (calm.near, calm.far):
        assert calm.mesh.edgemesh(node, "--version").split()[-1] == version


def _is(pod: Manifest, image: str) -> bool:
    return bool(pod["spec"]["containers"][0]["image"] == image)


KILLS = {  # at which line of the old daemon's log, and who
    "the old one while the new one proves itself": ("handing over to process", "old"),
    "the new one while it proves itself": ("handing over to process", "new"),
    "the old one once it has handed over": ("handed over to edgemesh", "old"),
    "the new one once it has taken over": ("handed over to edgemesh", "new"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", KILLS)
def test_one_is_killed_in_the_middle_of_a_handover(calm: Town, cluster: Cluster, case: str) -> None:
    """No decision is wrong, the rollout ends without a hand, and nothing fails where one of both goes on."""
    line, who = KILLS[case]
    mesh, node = calm.mesh, calm.near
    name, log = mesh.agent(node)["metadata"]["name"], mesh.log(node)
    (old,) = mesh.pids(node)
    seen = int(cluster.inside(node, "sh", "-c", 'wc -l <"$0"', log))
    script = 'for i in $(seq 6000); do tail -n +$4 "$1" | grep -q "$0" && break; sleep 0.02; done; '
    script += 'if [ "$3" = old ]; then kill -KILL $2; else kill -KILL $(pgrep -f "(^|/)edgemesh run" | grep -vx $2); fi'
    with calm.load(75) as became:
        with cluster.start_inside(node, "sh", "-c", script, line, log, str(old), who, str(seen + 1)) as killer:
            which = "server" if "edgemesh-server" in name else "agent"
            cluster.kubectl("-n", SYSTEM, "rollout", "restart", f"daemonset/edgemesh-{which}")
            assert killer.wait(120) == 0
        mesh.ready()
    print(case, json.dumps({f"{who} {node}": load["answers"] for (who, node), load in became.items()}))
    right(became)
    if case == "the new one while it proves itself":
        faultless(became)
    for (one, to), load in became.items():
        assert load["changes"][-1]["answer"] == ("200" if one == MAY else "403"), f"{one} to {to}: {load}"
    assert mesh.agent(node)["metadata"]["name"] != name


@pytest.mark.long
def test_the_pod_before_has_no_socket_for_the_handover(calm: Town, cluster: Cluster) -> None:
    """As one of an earlier build has none. The rollout ends without a hand all the same, with calls that fail, none that passes."""
    mesh, node = calm.mesh, calm.near
    name = mesh.agent(node)["metadata"]["name"]
    cluster.inside(node, "rm", "/run/edgemesh/edgemesh.sock.handover")
    with calm.load(75) as became:
        which = "server" if "edgemesh-server" in name else "agent"
        cluster.kubectl("-n", SYSTEM, "rollout", "restart", f"daemonset/edgemesh-{which}")
        mesh.ready()
    print(json.dumps({f"{who} {node}": load["answers"] for (who, node), load in became.items()}))
    print(mesh.logs(node))  # shown if something below fails
    print(cluster.inside(node, "cat", "/var/lib/edgemesh/last-good.json"))
    right(became)
    for (one, to), load in became.items():
        assert load["changes"][-1]["answer"] == ("200" if one == MAY else "403"), f"{one} to {to}: {load}"
    assert mesh.agent(node)["metadata"]["name"] != name


def test_a_node_is_cut_off(calm: Town, cluster: Cluster) -> None:
    """Calls within a node go on; those to the other node fail until the cable is back, and then go well again."""
    with calm.load(30) as became:
        cluster.cable(calm.far, up=False)
        time.sleep(10)
        cluster.cable(calm.far, up=True)
    right(became)
    faultless({key: load for key, load in became.items() if key[1] == calm.near})
    for (who, node), load in became.items():
        last = load["changes"][-1]["answer"]
        assert last == ("200" if who == MAY else "403"), f"{who} to {node}: {load}"


def test_a_namespace_is_deleted_with_all_that_is_in_it(mesh: Mesh, cluster: Cluster, calm: Town) -> None:
    """The neighbours notice nothing, and the daemons keep nothing of it."""
    name = f"gone-{int(time.time())}"
    labels = {"openservicemesh.io/monitored-by": "osm"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    other = Town(mesh, name)
    other.up()
    with calm.load(15) as became:
        cluster.kubectl("delete", "namespace", name, "--timeout=120s")
    faultless(became)
    for node in cluster.nodes:
        until(f"{node} keeps nothing of it", lambda node=node: name not in mesh.edgemesh(node, "status", "-o", "json"))


@pytest.mark.long
def test_a_policy_is_in_force_on_both_nodes_soon_after_kubectl_apply(calm: Town, cluster: Cluster) -> None:
    """From the start of `kubectl apply` until the servers of both nodes answer by the new policy; figures are printed (-s)."""
    took: list[float] = []
    for allowed in [True, False] * 5:
        with calm.load(6) as became:
            began = time.monotonic()
            time.sleep(1)
            asked = time.monotonic() - began
            cluster.apply(*calm.policy([MAY, MAY_NOT] if allowed else [MAY]))
        for node in (calm.near, calm.far):
            load = became[MAY_NOT, node]
            assert [one["answer"] for one in load["changes"]] == (["403", "200"] if allowed else ["200", "403"]), load
            took.append(load["changes"][1]["at"] - asked)
    took.sort()
    print(f"kubectl apply to enforced: p50 {took[len(took) // 2]:.2f} s, longest {took[-1]:.2f} s, of {len(took)}")
    assert took[-1] < 5
