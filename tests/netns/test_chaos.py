"""Policies are applied, edited, broken and removed at random under steady calls: each call is decided as a model says.

EDGEMESH_CHAOS_SECONDS (40): how long; `make soak` takes ten minutes. EDGEMESH_CHAOS_SEED: the same changes again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec import Struct, structs

from agent.admin import client
from agent.demo import documents
from agent.demo.mesh import is_ready
from agent.demo.surroundings import environment
from agent.demo.village import Village

SECONDS = float(os.environ.get("EDGEMESH_CHAOS_SECONDS", "40"))
SEED = int(os.environ.get("EDGEMESH_CHAOS_SEED", "0")) or random.randrange(1, 1 << 31)
GRACE = 0.3  # seconds from when a snapshot can be seen in status until every part of the daemon has it
IDLE = 60.0  # seconds in which connections to servers that nobody uses are closed
PATHS = ("/a", "/b", "/old/c")
# A policy that forbids a call ends its connection, also under way.
CUT = ("ConnectionResetError", "RemoteDisconnected", "BrokenPipeError")

# Calls without end, on kept and on new connections in turn; a line for each: when it began and ended, what it was, what came.
CALLER = """
import http.client, itertools, json, sys, time
kept = http.client.HTTPConnection("web.shop", timeout=10)
for number in itertools.count():
    path = sys.argv[1 + number % (len(sys.argv) - 1)]
    canary = number // 3 % 2
    one = kept if number % 2 else http.client.HTTPConnection("web.shop", timeout=10)
    began = time.time()
    try:
        one.request("GET", path, headers={"x-canary": "yes"} if canary else {})
        response = one.getresponse()
        body = response.read().decode().split()
        said = [response.status, body[0] if response.status == 200 and body else "", body[2] if response.status == 200 and len(body) > 2 else ""]
    except Exception as error:
        one.close()
        said = [0, type(error).__name__, ""]
    if one is not kept:
        one.close()
    sys.stdout.write(json.dumps([began, time.time(), path, canary, *said, "kept" if one is kept else "new"]) + "\\n")
    sys.stdout.flush()
    time.sleep(0.02)
"""


class World(Struct, frozen=True):
    """What the folder says, as it is in force."""

    target: Literal["none", "all", "a"] = "all"
    permissive: bool = False
    split: tuple[int, int] | None = None
    route: Literal["none", "canary", "rewrite", "redirect", "v2"] = "none"
    others: frozenset[str] = frozenset()  # policies that change nothing of what is asked: of `_others`

    def fits(self, path: str, canary: bool, status: int, server: str, asked: str) -> bool:
        """Return whether this may be the response to that call."""
        if self.route == "redirect" and path == "/old/c" and self._admits(path):
            return status == 302
        wanted = "/new/c" if self.route == "rewrite" and path == "/old/c" else path
        if not self._admits(wanted) and not self._admits(path):
            if status == 0 and server in CUT:
                return True
            return status in (403, 302) if self.route == "redirect" else status == 403
        if not (self._admits(wanted) and self._admits(path)):
            return True  # which of the two policy looks at is tested elsewhere
        return status == 200 and server in self._servers(canary) and asked == wanted

    def _admits(self, path: str) -> bool:
        return self.permissive or self.target == "all" or (self.target == "a" and path == "/a")

    def _servers(self, canary: bool) -> set[str]:
        if self.route == "v2":
            return {"web-v2"}
        if self.route == "canary":
            return {"web-v2" if canary else "web-v1"}
        first, second = self.split if self.split and self.route == "none" else (1, 1)
        return {name for name, weight in (("web-v1", first), ("web-v2", second)) if weight}


def texts(world: World) -> dict[str, str]:
    """Return the folder's files."""
    base = documents.fixed("chapter-web.yaml")
    found = {"web.yaml": base.partition("---\napiVersion: specs")[0]}
    found["mesh.yaml"] = json.dumps(
        {
            "apiVersion": "config.openservicemesh.io/v1alpha2",
            "kind": "MeshConfig",
            "metadata": {"name": "osm-mesh-config", "namespace": "osm-system"},
            "spec": {
                "traffic": {"enablePermissiveTrafficPolicyMode": world.permissive},
                "featureFlags": {"enableRetryPolicy": True},
            },
        }
    )
    matches = [{"name": "all", "pathRegex": "/a" if world.target == "a" else "/.*", "methods": ["*"]}]
    found["group.yaml"] = _object("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup", {"matches": matches})
    if world.target != "none":
        found["target.yaml"] = _object(
            "access.smi-spec.io/v1alpha3",
            "TrafficTarget",
            {
                "destination": {"kind": "ServiceAccount", "name": "web", "namespace": "shop"},
                "sources": [{"kind": "ServiceAccount", "name": "client", "namespace": "shop"}],
                "rules": [{"kind": "HTTPRouteGroup", "name": "web", "matches": ["all"]}],
            },
        )
    if world.split:
        backends = [{"service": f"web-v{number}", "weight": weight} for number, weight in enumerate(world.split, 1)]
        found["split.yaml"] = _object(
            "split.smi-spec.io/v1alpha4", "TrafficSplit", {"service": "web", "backends": backends}
        )
    if world.route != "none":
        parents = [{"group": "", "kind": "Service", "name": "web"}]
        rules = [*_RULES[world.route], {"backendRefs": [{"name": "web", "port": 80}]}]
        found["route.yaml"] = _object(
            "gateway.networking.k8s.io/v1", "HTTPRoute", {"parentRefs": parents, "rules": rules}
        )
    found |= {f"other-{name}.yaml": text for name, text in _others().items() if name in world.others}
    return found


def _others() -> dict[str, str]:
    limits = {
        "local": {"http": {"requests": 100000, "unit": "second"}, "tcp": {"connections": 100000, "unit": "second"}}
    }
    broken = {"statTimeWindow": "1m", "degradedTimeWindow": "1m", "errorAmountThreshold": 100000}
    setting = {"host": "web", "rateLimit": limits, "connectionSettings": {"http": {"circuitBreaking": broken}}}
    account = {"kind": "ServiceAccount", "name": "client", "namespace": "shop"}
    retry = {
        "source": account,
        "destinations": [{"kind": "Service", "name": "web", "namespace": "shop"}],
        "retryPolicy": {"retryOn": "5xx", "numRetries": 2},
    }
    osm = "policy.openservicemesh.io/v1alpha1"
    return {
        "setting": _object(osm, "UpstreamTrafficSetting", setting),
        "retry": _object(osm, "Retry", retry),
        "egress": documents.fixed("egress.yaml"),
        "gateway": documents.fixed("gateway.yaml"),
        "fault": _object("edgemesh.io/v1alpha1", "HTTPFilter", {"fault": {"abort": {"status": 503}}}),
    }


_OLD = [{"path": {"type": "PathPrefix", "value": "/old"}}]
_RULES: Mapping[str, list[dict[str, Any]]] = {
    "canary": [
        {
            "matches": [{"headers": [{"name": "x-canary", "value": "yes"}]}],
            "backendRefs": [{"name": "web-v2", "port": 80}],
        },
        {"backendRefs": [{"name": "web-v1", "port": 80}]},
    ],
    "v2": [{"backendRefs": [{"name": "web-v2", "port": 80}]}],
    "rewrite": [
        {
            "matches": _OLD,
            "filters": [
                {
                    "type": "URLRewrite",
                    "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}},
                }
            ],
            "backendRefs": [{"name": "web", "port": 80}],
        }
    ],
    "redirect": [
        {"matches": _OLD, "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "other.shop"}}]}
    ],
}


def _object(version: str, kind: str, spec: Mapping[str, Any]) -> str:
    return json.dumps(
        {"apiVersion": version, "kind": kind, "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}
    )


class Chaos:
    """Changes the folder, and knows what then holds."""

    def __init__(self, village: Village) -> None:
        self.village = village
        self.random = random.Random(SEED)
        self.world = World()
        self.broken: dict[str, str] = {}  # files that say nonsense: what they said last holds
        self.history: list[tuple[float, float, World]] = []  # written, in force, what
        self.done: Counter[str] = Counter()

    def put(self, what: str) -> None:
        files = self._files()
        written = time.time()
        changed = self.village.config.hold_exactly(files)
        self.done[what] += 1
        if changed:
            self._wait(written)
        self.history.append((written, time.time() + GRACE, self.world))

    def start(self) -> None:
        """Write the first files, and start the daemon."""
        self.village.config.hold_exactly(self._files())
        self.village.start_mesh(is_ready)
        self.history.append((0.0, time.time() + GRACE, self.world))

    def _files(self) -> dict[str, str]:
        """Return the folder's files: the world's, save those that are broken."""
        (site,) = self.village.network.sites
        files = texts(self.world) | self.broken
        for host in self.village.network.hosts:
            if host.name in documents.MEMBERS:
                files[f"workload-{host.name}.yaml"] = documents.workload(host, self.village.network)
        node = json.loads(documents.node_config(site, self.village.network, self.village.folder))
        node["spec"]["accessLog"] = "all"
        return files | {"node.yaml": json.dumps(node)}

    def step(self) -> None:
        """Make one change."""
        one = self.random
        steps: dict[str, Callable[[], None]] = {
            "target": lambda: self._change(target=one.choice(["none", "all", "all", "a"])),
            "permissive": lambda: self._change(permissive=one.random() < 0.3),
            "split": lambda: self._change(split=one.choice([None, (1, 1), (1, 0), (0, 1), (90, 10)])),
            "route": lambda: self._change(route=one.choice(["none", "canary", "rewrite", "redirect", "v2"])),
            "others": lambda: self._change(others=frozenset(name for name in _others() if one.random() < 0.5)),
            "break": self._break,
            "mend": self.broken.clear,
        }
        name = one.choice(list(steps))
        steps[name]()
        self.put(name)

    def _change(self, **fields: Any) -> None:
        # A file that is broken is not edited meanwhile: it would be mended by that.
        names = {
            "others": {f"other-{name}.yaml" for name in _others()},
            "target": {"target.yaml", "group.yaml"},
            "permissive": {"mesh.yaml"},
            "split": {"split.yaml"},
            "route": {"route.yaml"},
        }
        if not any(names[field] & set(self.broken) for field in fields):
            self.world = structs.replace(self.world, **fields)

    def _break(self) -> None:
        name = self.random.choice(sorted(texts(self.world)))
        # None of it says which objects there are, so that what the file said last holds.
        nonsense = ["{", "kind: [", "- \x00", "}{", "a: b: c", ""]
        self.broken[name] = self.random.choice(nonsense)

    def _wait(self, written: float) -> None:
        (site,) = self.village.network.sites
        until = time.monotonic() + 20
        while time.monotonic() < until:
            snapshot = client.get(str(self.village.mesh.socket(site)), "/status")["snapshot"]
            if snapshot["built"] >= written:
                return
            time.sleep(0.02)
        raise AssertionError(f"not in force after 20 s: {self.village.processes.tail('edgemesh', 40)}")

    def worlds(self, began: float, ended: float) -> list[World]:
        """Return which of them a call of that time may have met."""
        found = []
        for (written, _, world), following in zip(self.history, [*self.history[1:], None], strict=True):
            if written <= ended and (following is None or began <= following[1]):
                found.append(world)
        return found


@pytest.fixture
def village(tmp_path: Path) -> Iterator[Village]:
    with Village(tmp_path / "demo", not os.access("/etc", os.W_OK), "emt-") as there:
        yield there


def _around(log: Path, when: float) -> Iterator[str]:
    """Yield what the daemon said of calls within a second of that time."""
    for line in log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = datetime.fromisoformat(json.loads(line)["time"]).timestamp()
            if abs(said - when) < 1:
                yield line


def _usage(pid: int) -> tuple[int, int]:
    """Return descriptors, and resident KiB."""
    (resident,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return len(os.listdir(f"/proc/{pid}/fd")), int(resident.split()[1])


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_every_call_is_decided_as_one_of_the_policies_of_its_time_says(village: Village) -> None:
    chaos = Chaos(village)
    chaos.start()
    enter = ["ip", "netns", "exec", village.network.name("client")]
    lines = village.folder / "calls"
    with lines.open("a") as out:
        callers = [
            subprocess.Popen([*enter, sys.executable, "-c", CALLER, *PATHS], stdout=out, env=environment())
            for _ in range(3)
        ]
        try:
            pid = village.processes.pid("edgemesh")
            time.sleep(3)
            before = _usage(pid)
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                chaos.step()
                time.sleep(chaos.random.uniform(0, 0.5))
            chaos.world = World()
            chaos.broken.clear()
            chaos.put("end")  # what it has open is compared with the beginning's
        finally:
            for caller in callers:
                caller.terminate()
                caller.wait()
    wrong, calls, cut, late = [], 0, 0, 0
    for line in lines.read_text().splitlines():
        if not line.endswith("]"):
            continue  # cut by its end
        began, ended, path, canary, status, server, asked, which = json.loads(line)
        calls += 1
        cut += status == 0
        if server == "gaierror":  # the machine is so busy that the resolver's two seconds are over
            late += 1
            continue
        met = chaos.worlds(began, ended)
        # The call before on that connection may count as under way for a moment after its response has arrived.
        closed = status == 0 and server in CUT and which == "kept" and len(met) > 1
        if not closed and not any(one.fits(path, bool(canary), status, server, asked) for one in met):
            wrong.append(f"{line}: {met}")
    print(f"seed {SEED}: {calls} calls, {cut} cut, {dict(chaos.done)}")
    if wrong:  # shown beside the failure
        print(*_around(village.folder / "logs" / "edgemesh.log", json.loads(wrong[0].partition(": [")[0])[0]), sep="\n")
    assert not wrong, f"seed {SEED}: {len(wrong)} of {calls}, the first: {wrong[:5]}"
    assert cut <= 3 * sum(chaos.done.values()), f"{cut} calls were cut by {chaos.done}"
    assert late <= calls / 100, f"{late} of {calls} had no name in time"
    assert calls > SECONDS * 10, f"only {calls} calls"
    assert village.processes.ended() == ""
    until = time.monotonic() + IDLE
    while (after := _usage(pid))[0] > before[0] + 4 and time.monotonic() < until:
        time.sleep(1)
    print(f"descriptors and KiB: {before} before, {after} after")
    assert after[0] <= before[0] + 4, f"seed {SEED}: {before} -> {after}"
    assert after[1] <= before[1] + 12 * 1024, f"seed {SEED}: {before} -> {after}"
