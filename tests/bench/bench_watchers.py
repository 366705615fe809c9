"""What a thousand nodes cost an API server: lists and watches of as many daemons as asked for. Writes its part of BENCHMARKS.md.

    NODES=0 tests/kube/cluster/up /tmp/c
    .venv/bin/python tests/bench/bench_watchers.py /tmp/c [SESSIONSxNODES...]

The API server is real, with the add-on, and NODES MeshNodes of 30 pods each. One process plays SESSIONS daemons:
each is a client with a pace of its own, and has the lists and watches that a daemon has (agent/sources/kubernetes), of
all kinds, with the daemon's own account. It decodes what comes, and keeps versions only: the objects of a thousand daemons
would not fit into one machine.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec import Struct

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))
from bench import machine
from bench_lane import publish

from agent.kubernetes.api import ApiServer, path_of
from agent.kubernetes.discovery import DEFINITIONS, Served, served
from agent.kubernetes.reflector import Features, Reflector
from agent.sources.kubernetes.cluster import _OWN, _SPREAD, _definition, wanted
from policy.kinds.kubernetes import Nothing
from policy.registry import KINDS
from tests.kube.control_plane import SYSTEM, Cluster, ControlPlane

BEGIN, END = "<!-- watchers -->", "<!-- end of watchers -->"
MESH_NODES = path_of("edgemesh.io/v1alpha1", "meshnodes")
NAMESPACES = path_of("v1", "namespaces")
EDITED = "watched-by-all"
WORKLOADS = 30  # of a node
IDLE = 30.0  # seconds
AT_ONCE = 20  # daemons that begin at the same time: one process is slower than a thousand machines
TICK = os.sysconf("SC_CLK_TCK")


class Meta(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Kept(Struct, frozen=True):
    metadata: Meta = Meta()


class Load(Struct, frozen=True):
    cpu: float  # seconds
    memory: int  # bytes


class Server:
    """The process of the API server, and that of its storage."""

    def __init__(self, state: Path) -> None:
        top = int((state / "pid" / "2-n1").read_text().split()[0])
        children: dict[int, list[int]] = {}
        names: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
                names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
        inside, waiting = [], [top]
        while waiting:
            inside.append(waiting.pop())
            waiting += children.get(inside[-1], ())
        self.server = next(pid for pid in inside if " apiserver " in names[pid])
        self.storage = next(pid for pid in inside if " kine " in f"{names[pid]} ")

    def load(self) -> Load:
        return _load(self.server)

    def storage_load(self) -> Load:
        return _load(self.storage)


def _load(pid: int) -> Load:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Load((int(fields[11]) + int(fields[12])) / TICK, pages * resource.getpagesize())


class Session:
    """One daemon, as the API server sees it."""

    def __init__(self, api: ApiServer, number: int, kinds: Sequence[Served], spread: float) -> None:
        self.api = api
        self.edits: dict[str, float] = {}  # when each edit arrived, by the object's version
        self.synced_at = 0.0
        self._spread = spread
        features = Features(watch_list=True, ordered=True, spread=spread)
        decode = msgspec.json.Decoder(Kept).decode
        self.reflectors: list[Reflector[Any]] = []
        for one in kinds:
            row = KINDS.get(one.kind)
            own = one.kind in _OWN and not one.group
            made: Reflector[Kept] = Reflector(
                api,
                one.path,
                decode,
                self._take,
                features=features,
                query={"fieldSelector": f"{_OWN[one.kind]}=bench-{number}"} if own else {},
                metadata_only=row is not None and row.spec is Nothing,
            )
            self.reflectors.append(made)
        self.reflectors.append(
            Reflector(api, DEFINITIONS, _definition, lambda *_: None, features=features, tabled=True)
        )

    def _take(self, changes: Sequence[tuple[str, Kept | None]], _: bool) -> None:
        for key, one in changes:
            if one is not None and key in (EDITED, "bench-node-0000"):
                self.edits[one.metadata.resource_version] = time.monotonic()

    async def run(self, begins: trio.CapacityLimiter) -> None:
        await trio.sleep(self._spread * random.random())
        async with trio.open_nursery() as nursery:
            async with begins:
                for one in self.reflectors:
                    nursery.start_soon(one.run)
                for one in self.reflectors:
                    await one.synced.wait()
            self.synced_at = time.monotonic()

    @property
    def received(self) -> int:
        return sum(one.figures.received for one in self.reflectors)


async def prepare(cluster: Cluster, nodes: int, workloads: int) -> None:
    await cluster.begin()
    await cluster.make("v1", "namespaces", {"kind": "Namespace", "metadata": {"name": EDITED}})
    there = {one["metadata"]["name"] for one in await cluster.api.list(MESH_NODES)}
    names = [f"bench-node-{number:04}" for number in range(nodes)]
    for name in there.difference(names):
        await cluster.api.delete(f"{MESH_NODES}/{name}")
    for number, name in enumerate(names):
        if name not in there:
            await cluster.make("edgemesh.io/v1alpha1", "meshnodes", mesh_node(name, number, workloads))


def mesh_node(name: str, number: int, workloads: int) -> dict[str, Any]:
    places = [
        {
            "namespace": f"team-{pod % 10}",
            "name": f"service-{pod}-7d9f8b6c5d-{number:05}",
            "serviceAccount": f"service-{pod}",
            "addresses": [f"10.{64 + number // 256}.{number % 256}.{pod + 10}"],
            "enrolled": True,
        }
        for pod in range(workloads)
    ]
    address = f"172.20.{number // 256}.{number % 256}"
    return {"kind": "MeshNode", "metadata": {"name": name}, "spec": {"addresses": [address], "workloads": places}}


async def edited(
    cluster: Cluster, sessions: Sequence[Session], path: str, patch: dict[str, Any]
) -> tuple[float, float]:
    """Return the seconds from an edit until half of the sessions, and all of them, have it."""
    began = time.monotonic()
    made = await cluster.api.patch(path, patch)
    version = made["metadata"]["resourceVersion"]
    with trio.fail_after(120):
        while not all(version in one.edits for one in sessions):
            await trio.sleep(0.02)
    waits = [one.edits[version] - began for one in sessions]
    return statistics.median(waits), max(waits)


async def measure(state: Path, sessions: int, nodes: int, workloads: int) -> dict[str, Any]:
    plane = ControlPlane(state)
    cluster, server = Cluster(plane), Server(state)
    await prepare(cluster, nodes, workloads)
    spec = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 7200}}
    token = await cluster.api.create(path_of("v1", "serviceaccounts", SYSTEM, "edgemesh-agent", "token"), spec)
    kinds = list((await served(cluster.api, wanted().values(), {})).values())
    spread = sessions * _SPREAD
    await trio.sleep(5)
    made = [
        Session(plane.with_token(token["status"]["token"], paced=True), number, kinds, spread)
        for number in range(sessions)
    ]
    found: dict[str, Any] = {"sessions": sessions, "kinds": len(kinds) + 1, "nodes": nodes, "workloads": workloads}
    before, stored, own, began = server.load(), server.storage_load(), time.process_time(), time.monotonic()
    begins = trio.CapacityLimiter(AT_ONCE)
    async with trio.open_nursery() as nursery:
        for one in made:
            nursery.start_soon(one.run, begins)
        while not all(one.synced_at for one in made):
            await trio.sleep(0.2)
            print(f"\r{sum(bool(one.synced_at) for one in made)} of {sessions} synced", end="", file=sys.stderr)
        print(file=sys.stderr)
        now = server.load()
        found["synced"] = max(one.synced_at for one in made) - began
        found["bytes"] = statistics.mean(one.received for one in made)
        found["mesh_bytes"] = statistics.mean(
            one.figures.received for session in made for one in session.reflectors if one.path == MESH_NODES
        )
        found["requests"] = statistics.mean(one.api.pace.requests for one in made)
        found["failures"] = sum(one.api.reach.failures for one in made)
        found["why"] = Counter(one.api.reach.error for one in made).most_common(2)
        found["cpu"] = now.cpu - before.cpu
        found["storage_cpu"] = server.storage_load().cpu - stored.cpu
        found["own_cpu"] = time.process_time() - own
        found["memory"] = now.memory - before.memory, now.memory
        await trio.sleep(5)
        edits = [
            await edited(cluster, made, f"{NAMESPACES}/{EDITED}", {"metadata": {"labels": {"n": str(n)}}})
            for n in range(5)
        ]
        found["namespace"] = (
            statistics.median(half for half, _ in edits),
            statistics.median(whole for _, whole in edits),
        )
        edits = [
            await edited(cluster, made, f"{MESH_NODES}/bench-node-0000", {"spec": {"addresses": [f"172.31.0.{n}"]}})
            for n in range(5)
        ]
        found["mesh_node"] = (
            statistics.median(half for half, _ in edits),
            statistics.median(whole for _, whole in edits),
        )
        await trio.sleep(5)
        idle, received, failures = (
            server.load(),
            sum(one.received for one in made),
            sum(one.api.reach.failures for one in made),
        )
        await trio.sleep(IDLE)
        found["idle_cpu"] = (server.load().cpu - idle.cpu) / IDLE
        found["idle_bytes"] = (sum(one.received for one in made) - received) / sessions / IDLE
        found["idle_failures"] = sum(one.api.reach.failures for one in made) - failures
        found["idle_memory"] = server.load().memory
        nursery.cancel_scope.cancel()
    await plane.aclose()
    return found


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    def line(title: str, *cells: str) -> str:
        return f"| {title} | {' | '.join(cells)} |"

    one = rows[0]

    def each(title: str, make: Any) -> str:
        return line(title, *(make(row) for row in rows))

    return [
        BEGIN,
        "## A thousand nodes at one API server",
        "",
        f"{time.strftime('%Y-%m-%d')}, {machine()}, shared with other work; Kubernetes 1.37.2 with kine on SQLite"
        " (`tests/bench/bench_watchers.py`). One process plays the daemons, with the real client, TLS, lists and watches of"
        f" {one['kinds']} kinds each, among MeshNodes of {WORKLOADS} pods. It shares the two cores with the API"
        f" server; {AT_ONCE} of them begin at a time.",
        "",
        line("daemons", *(f"{row['sessions']:,}" for row in rows)),
        f"|---|{'---|' * len(rows)}",
        each("nodes that they read of", lambda row: f"{row['nodes']:,}"),
        each("connections", lambda row: f"{row['sessions'] * row['kinds']:,}"),
        each("until all are synced, s", lambda row: f"{row['synced']:.0f}"),
        each("bytes of the first sync, for each, MB", lambda row: f"{row['bytes'] / 1e6:.2f}"),
        each("of them MeshNodes, MB", lambda row: f"{row['mesh_bytes'] / 1e6:.2f}"),
        each("requests of the first sync, for each", lambda row: f"{row['requests']:.1f}"),
        each("requests that were refused or unanswered, all", lambda row: f"{row['failures']}"),
        each("CPU of the API server for all first syncs, s", lambda row: f"{row['cpu']:.0f}"),
        each("the same for one daemon, ms", lambda row: f"{1000 * row['cpu'] / row['sessions']:.0f}"),
        each("CPU of its storage, s", lambda row: f"{row['storage_cpu']:.1f}"),
        each("CPU of all daemons, s", lambda row: f"{row['own_cpu']:.0f}"),
        each("memory that the API server took for it, MiB", lambda row: f"{row['memory'][0] / 2**20:.0f}"),
        each(
            "an edit of a Namespace: half of them, all of them have it, s",
            lambda row: "{:.2f}, {:.2f}".format(*row["namespace"]),
        ),
        each("an edit of a MeshNode: the same, s", lambda row: "{:.2f}, {:.2f}".format(*row["mesh_node"])),
        each("idle: CPU of the API server, % of a core", lambda row: f"{100 * row['idle_cpu']:.1f}"),
        each("idle: bytes a second, for each", lambda row: f"{row['idle_bytes']:.0f}"),
        END,
    ]


def main() -> None:
    state, *asked = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    rows = []
    for one in asked or ["30x1000", "100x100", "1000x100"]:
        sessions, nodes = map(int, one.split("x"))
        rows.append(trio.run(measure, Path(state), sessions, nodes, WORKLOADS))
        print(rows[-1], file=sys.stderr)
    publish(table(rows))


if __name__ == "__main__":
    main()
