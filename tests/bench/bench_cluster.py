"""A node of a cluster: the daemon's memory, and how soon it enforces with its API server and without. bench_cluster.py [FILE...]

Twenty captured pods on the node, and 10, 100 and 1,000 on others, by an API server of the tests' that speaks TLS, signs
certificates and knows every kind. FILE: what `make dist` made, to be measured instead of the source tree. Writes its part of
BENCHMARKS.md. Needs root and `unshare`: it makes network namespaces, in a network and a mount namespace of its own.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
import trio
from bench import ROOT, _ready, machine
from bench_lane import publish
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.agent.kubernetes.fake import Answer, Asked, FakeServer, certified
from tests.agent.sources.kubernetes.test_cluster import PLURALS, FakeCluster

BEGIN, END = "<!-- cluster -->", "<!-- end of cluster -->"
HERE, ELSEWHERE = 20, (10, 100, 1000)
ON_EACH = 30  # pods of another node
SETTLED = 12.0  # seconds: what only the start needed has been given back by then
STARTS = 5
ACCOUNT = Path("/run/secrets/kubernetes.io/serviceaccount")  # a pod's, in a /run of our own
NODE, DOMAIN, NAMESPACE = "bench", "cluster.local", "edgemesh-system"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


class Signing(FakeCluster):
    """A cluster that signs every CertificateSigningRequest, with a root of its own."""

    def __init__(self) -> None:
        super().__init__(*(plural for plural in PLURALS if plural != "endpointslices"))
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
        made = self._certificate(self.name, self.key.public_key(), 365)
        made = made.add_extension(x509.BasicConstraints(True, None), critical=True)
        root = made.sign(self.key, hashes.SHA256())
        self.root = root.public_bytes(serialization.Encoding.PEM).decode()
        self.issuer = root.fingerprint(hashes.SHA256()).hex()
        self.requests: dict[str, dict[str, Any]] = {}

    def _certificate(self, subject: x509.Name, key: Any, days: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
        return made.not_valid_after(now + datetime.timedelta(days=days))

    def sign(self, pem: bytes) -> str:
        asked = x509.load_pem_x509_csr(pem)
        made = self._certificate(asked.subject, asked.public_key(), 14)
        for extension in asked.extensions:
            made = made.add_extension(extension.value, extension.critical)
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        signed = made.add_extension(both, False).sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    async def __call__(self, asked: Asked, answer: Answer) -> None:
        if asked.path == REQUESTS and asked.method == "POST":
            name = f"edgemesh-{len(self.requests)}"
            chain = self.sign(base64.b64decode(asked.json["spec"]["request"]))
            self.requests[name] = {
                **self.made(name, ""),
                "status": {"certificate": base64.b64encode(chain.encode()).decode()},
            }
            await answer.send(201, self.requests[name])
        elif asked.path.startswith(f"{REQUESTS}/"):
            await answer.send(200, self.requests[asked.path.rpartition("/")[2]])
        elif asked.path == f"/api/v1/namespaces/{NAMESPACE}/configmaps/edgemesh-roots":
            data = {"roots.pem": self.root, "trustDomain": DOMAIN, "issuer": self.issuer}
            await answer.send(200, {**self.made("edgemesh-roots", NAMESPACE), "data": data})
        else:
            await super().__call__(asked, answer)


async def fill(cluster: Signing, elsewhere: int) -> None:
    """Make what a cluster has: each service with three pods, with an account of its own, and a policy for its next one."""
    mesh = {"openservicemesh.io/monitored-by": "osm"}
    await cluster.put("namespaces", "shop")
    cluster.objects["/api/v1/namespaces shop"]["metadata"]["labels"] = mesh
    await cluster.put("nodes", NODE)
    here = [(f"pod-{n}", f"10.99.0.{n + 10}", f"app-{n}", NODE) for n in range(HERE)]
    away = [
        (f"far-{n}", f"10.{100 + n // ON_EACH // 250}.{n // ON_EACH % 250}.{n % ON_EACH + 2}", f"far-{n // 3}", "")
        for n in range(elsewhere)
    ]
    for name, address, app, _ in here:
        await cluster.put(
            "pods",
            f"shop/{name}",
            spec={
                "nodeName": NODE,
                "serviceAccountName": app,
                "containers": [{"name": "main", "ports": [{"containerPort": 80}]}],
            },
            status={"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        )
        cluster.objects[f"/api/v1/pods shop/{name}"]["metadata"].update(
            labels={"app": app}, uid=f"uid-{name}", annotations={"kubernetes.io/config.seen": "now"}
        )
    for node in range(0, elsewhere, ON_EACH):
        workloads = [
            {"namespace": "shop", "name": name, "serviceAccount": app, "addresses": [address]}
            for name, address, app, _ in away[node : node + ON_EACH]
        ]
        number = node // ON_EACH
        spec = {"addresses": [f"10.98.{number // 250}.{number % 250 + 2}"], "workloads": workloads}
        await cluster.put("meshnodes", f"far-{number}", spec=spec)
    for n, app in enumerate(sorted({app for _, _, app, _ in (*here, *away)})):
        await cluster.put("serviceaccounts", f"shop/{app}")
        await cluster.put(
            "services",
            f"shop/{app}",
            spec={"clusterIP": f"10.43.{n // 250}.{n % 250 + 1}", "selector": {"app": app}, "ports": [{"port": 80}]},
        )
        behind = [(name, address, node) for name, address, of, node in (*here, *away) if of == app]
        endpoints = [
            {
                "addresses": [address],
                "nodeName": node or "far",
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": name},
            }
            for name, address, node in behind
        ]
        await cluster.put(
            "endpointslices", f"shop/{app}-1", addressType="IPv4", endpoints=endpoints, ports=[{"port": 80}]
        )
        cluster.objects[f"{cluster.path('endpointslices')} shop/{app}-1"]["metadata"]["labels"] = {
            "kubernetes.io/service-name": app
        }
        await cluster.put(
            "traffictargets",
            f"shop/{app}",
            spec={
                "destination": {"kind": "ServiceAccount", "name": app, "namespace": "shop"},
                "sources": [{"kind": "ServiceAccount", "name": f"app-{n % HERE}", "namespace": "shop"}],
                "rules": [{"kind": "HTTPRouteGroup", "name": app, "matches": ["all"]}],
            },
        )
        matches = [{"name": "all", "pathRegex": f"/{app}/[a-z]+$", "methods": ["GET"]}]
        await cluster.put("httproutegroups", f"shop/{app}", spec={"matches": matches})


class Site:
    """The API server, in a thread of this process."""

    def __init__(self, folder: Path, elsewhere: int) -> None:
        self.folder = folder
        self.cluster = Signing()
        trio.run(fill, self.cluster, elsewhere)
        made = certified("127.0.0.1")
        self.server = FakeServer(self.cluster, made.server(folder))
        ACCOUNT.mkdir(parents=True, exist_ok=True)
        for name, content in (("token", b"token"), ("ca.crt", made.root), ("namespace", NAMESPACE.encode())):
            (ACCOUNT / name).write_bytes(content)
        self._token: trio.lowlevel.TrioToken | None = None

    def start(self) -> None:
        up = threading.Event()

        async def run() -> None:
            self._token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                self._stop = nursery.cancel_scope
                await nursery.start(self.server.run)
                up.set()

        self._thread = threading.Thread(target=trio.run, args=(run,), daemon=True)
        self._thread.start()
        up.wait()

    def stop(self) -> None:
        assert self._token is not None
        self._token.run_sync_soon(self._stop.cancel)
        self._thread.join()
        self.server.scopes.clear()
        self.cluster.watchers.clear()


def pods() -> None:
    """Make the namespaces of this node's pods, with what the container runtime records of them."""
    results = Path("/var/lib/cni/results")
    results.mkdir(parents=True)
    run("ip link add cni0 type bridge", "ip addr add 10.99.0.1/24 dev cni0", "ip link set cni0 up")
    for n in range(HERE):
        name, address = f"pod-{n}", f"10.99.0.{n + 10}"
        run(
            f"ip netns add {name}",
            f"ip link add veth{n} type veth peer name eth0 netns {name}",
            f"ip link set veth{n} master cni0 up",
            f"ip -n {name} link set lo up",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} addr add {address}/24 dev eth0",
            f"ip -n {name} route add default via 10.99.0.1",
        )
        said = [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", name], ["K8S_POD_UID", f"uid-{name}"]]
        record = {
            "netns": f"/run/netns/{name}",
            "containerId": hashlib.sha256(name.encode()).hexdigest(),
            "cniArgs": said,
            "result": {"ips": [{"address": f"{address}/24"}]},
        }
        (results / name).write_text(json.dumps(record))


def run(*lines: str) -> None:
    for line in lines:
        subprocess.run(line.split(), check=True)


class Started:
    """One daemon."""

    def __init__(self, command: Sequence[str], folder: Path, port: int, *options: str) -> None:
        """`port`: of the API server. `options`: instead of it."""
        self.socket = folder / "sock"
        self.log = folder / "log"
        words = [
            *command,
            "run",
            "--node",
            NODE,
            "--state-dir",
            str(folder / "state"),
            "--socket",
            str(self.socket),
            *(options or ["--kubernetes"]),
        ]
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(port),
        }
        with self.log.open("wb") as out:
            self.began = time.monotonic()
            self.process = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=out, env=variables)

    def enforcing(self, seconds: float = 60.0) -> float:
        """Wait until policy is enforced; return the seconds that it took from the start of the program."""
        while time.monotonic() < self.began + seconds:
            if _ready(self.socket):
                return time.monotonic() - self.began
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        raise SystemExit(f"it does not enforce:\n{self.log.read_text()}")

    def spent(self) -> float:
        """Return the seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[float, float, float]:
        """Return MiB: RSS, PSS, and what of RSS no file stands behind."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        found = [int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1]) / 1024 for name in ("Rss", "Pss", "Anonymous")]  # type: ignore[index]
        return found[0], found[1], found[2]

    def get(self, path: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.socket))
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: local\r\nconnection: close\r\n\r\n".encode())
            data = b"".join(iter(lambda: sock.recv(65536), b""))
        found: dict[str, Any] = json.loads(data.partition(b"\r\n\r\n")[2])
        return found

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)


@contextlib.contextmanager
def silent(port: int) -> Iterator[None]:
    """A server that takes connections and never says a word, as one behind a cut cable."""
    with socket.create_server(("127.0.0.1", port), backlog=64):
        yield


def middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def measure(command: Sequence[str], elsewhere: int, starts: int = STARTS) -> dict[str, float]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name:
        folder = Path(name)
        site = Site(folder, elsewhere)
        site.start()
        port = site.server.port
        one = Started(command, folder, port)
        try:
            one.enforcing()
            until = time.monotonic() + 20
            while len(site.cluster.requests) < HERE + 1 and time.monotonic() < until:
                time.sleep(0.2)
            status = one.get("/status")
            captured = sum(workload["state"] == "captured" for workload in status["workloads"])
            if captured < HERE or len(site.cluster.requests) < HERE + 1:
                raise SystemExit(
                    f"{captured} captured, {len(site.cluster.requests)} certificates:\n{one.log.read_text()}"
                )
            time.sleep(SETTLED)
            found["first"], _, found["first anonymous"] = one.memory()
        finally:
            one.stop()
        again = []
        for _ in range(starts):
            one = Started(command, folder, port)
            again.append(one.enforcing())
            time.sleep(1)
            if _ == starts - 1:
                time.sleep(SETTLED)
                found["rss"], found["pss"], found["anonymous"] = one.memory()
            one.stop()
        found["again"] = middle(again)
        site.stop()
        for what, server in (("gone", contextlib.nullcontext()), ("mute", silent(site.server.port))):
            took, spent = [], []
            with server:
                for _ in range(starts):
                    one = Started(command, folder, port)
                    took.append(one.enforcing())
                    spent.append(one.spent())
                    one.stop(signal.SIGKILL)
            found[what], found[f"{what} longest"], found[f"{what} cpu"] = middle(took), max(took), middle(spent)
    return found


def box(command: Sequence[str], starts: int = STARTS) -> dict[str, float]:
    """The same for a box without a cluster, whose manifests name the namespaces."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name:
        folder = Path(name)
        (folder / "config").mkdir()
        text = "".join(
            "---\napiVersion: edgemesh.io/v1alpha1\nkind: Workload\n"
            f'metadata: {{name: pod-{n}, namespace: shop}}\nspec: {{serviceAccount: app-{n}, addresses: ["10.99.0.{n + 10}"], netns: pod-{n}}}\n'
            for n in range(HERE)
        )
        (folder / "config" / "all.yaml").write_text(text)
        took, spent = [], []
        for number in range(starts + 1):
            one = Started(command, folder, 0, "--config", str(folder / "config"))
            took.append(one.enforcing())
            spent.append(one.spent())
            time.sleep(SETTLED if number == starts else 1.0)
            if number == starts:
                found["rss"], found["pss"], found["anonymous"] = one.memory()
            one.stop()
        found["again"], found["cpu"] = middle(took[1:]), middle(spent[1:])
    return found


def isolated() -> None:
    """Go on in a network and a mount namespace of our own, where the node's directories are empty."""
    if os.environ.get("EDGEMESH_BENCH") == "inside":
        return
    script = (
        'for at in /run /var/lib; do mount -t tmpfs tmpfs $at; done; mkdir /run/netns; ip link set lo up; exec "$@"'
    )
    words = [
        "unshare",
        "--net",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        *sys.argv,
    ]
    os.execvpe("unshare", words, {**os.environ, "EDGEMESH_BENCH": "inside"})


def main() -> None:
    programs = {"source tree": [sys.executable, "-m", "agent"]}
    if sys.argv[1:]:
        programs = {Path(path).name: [str(Path(path).resolve())] for path in sys.argv[1:]}
    pods()
    rows = []
    for what, command in programs.items():
        for elsewhere in ELSEWHERE:
            found = measure(command, elsewhere)
            shown = [f"{found[name]:.1f}" for name in ("first", "rss", "anonymous")]
            shown += [f"{found[name]:.2f}" for name in ("again", "gone", "mute", "gone cpu")]
            rows.append(f"| {what}, {HERE} + {elsewhere} | {' | '.join(shown)} |")
            print(rows[-1], flush=True)
        found = box(command)
        shown = [
            "",
            f"{found['rss']:.1f}",
            f"{found['anonymous']:.1f}",
            f"{found['again']:.2f}",
            "",
            "",
            f"{found['cpu']:.2f}",
        ]
        rows.append(f"| {what}, a box, {HERE} workloads | {' | '.join(shown)} |")
        print(rows[-1], flush=True)
    publish(
        [
            BEGIN,
            "## A node of a cluster",
            "",
            f"{time.strftime('%Y-%m-%d')}, {machine()}; {HERE} captured pods on the node, each with a certificate, and so many on other"
            f" nodes; medians of {STARTS} starts (`tests/bench/bench_cluster.py`). RSS in MiB, times in s from the start of the program"
            " until it enforces, with what the last run saved.",
            "",
            "| pods | RSS after it asked for certificates | RSS after a restart | of that, anonymous | start | start, API server refuses | start, API server is silent | processor time of that start |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            END,
        ]
    )


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("the measurement makes network namespaces: run it as root")
    isolated()
    main()
