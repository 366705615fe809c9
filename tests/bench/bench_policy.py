"""Time what policy costs: building a snapshot, and deciding with it, as the number of policies grows. Prints Markdown."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import trio

from nodeproxy.routing.route import Outward
from nodeproxy.upstream.balance import Live
from policy.build import build
from policy.model import Request, Where, Workload
from policy.resources import RawObject
from policy.snapshot import Snapshot

_LINES: Mapping[str, int] = {}


def raw(kind: str, group: str, name: str, spec: dict, **metadata: object) -> RawObject:
    data = {"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": "n", **metadata}, "spec": spec}
    return RawObject(data, Where(f"{kind}.yaml", 1), _LINES)


def mesh(services: int, workloads: int, targets: int) -> list[RawObject]:
    """Every service has its share of the workloads; target i lets account i+1 call account i by two routes."""
    made = []
    for i in range(services):
        ports = [{"name": "http", "port": 80, "targetPort": "web"}]
        made.append(raw("Service", "v1", f"s{i}", {"selector": {"app": f"a{i}"}, "ports": ports}))
    for i in range(workloads):
        address = f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}"
        spec = {"serviceAccount": f"a{i % services}", "labels": {"app": f"a{i % services}"}, "addresses": [address]}
        made.append(
            raw("Workload", "edgemesh.io/v1alpha1", f"w{i}", {**spec, "ports": [{"name": "web", "port": 8080}]})
        )
    for i in range(targets):
        matches = [
            {"name": "read", "methods": ["GET"], "pathRegex": f"/v{i}/items/[0-9]+$"},
            {"name": "all", "pathRegex": f"/v{i}/.*"},
        ]
        made.append(raw("HTTPRouteGroup", "specs.smi-spec.io/v1alpha4", f"r{i}", {"matches": matches}))
        account = {"kind": "ServiceAccount", "namespace": "n"}
        spec = {
            "destination": {**account, "name": f"a{i % services}"},
            "sources": [{**account, "name": f"a{(i + 1) % services}"}],
            "rules": [{"kind": "HTTPRouteGroup", "name": f"r{i}"}],
        }
        made.append(raw("TrafficTarget", "access.smi-spec.io/v1alpha3", f"t{i}", spec))
    return made


def seconds(call: Callable[[], object], rounds: int = 3) -> float:
    """The median of a few runs; the first one is not counted."""
    took = []
    for number in range(rounds + 1):
        gc.collect()
        began = time.process_time()
        call()
        if number:
            took.append(time.process_time() - began)
    return statistics.median(took)


def microseconds(call: Callable[[], object], times: int = 20_000) -> float:
    def loop() -> None:
        for _ in range(times):
            call()

    return seconds(loop) / times * 1e6


def first(snapshot: Snapshot) -> float:
    """Seconds of the first decision with a new snapshot, which makes the indexes."""
    fresh = msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot)
    gc.collect()
    began = time.process_time()
    fresh.destination("10.0.0.0", 8080)
    assert not fresh.authorize(fresh.workloads[0].identity, fresh.workloads[0], 8080, None).allowed
    return time.process_time() - began


def lookups(snapshot: Snapshot) -> tuple[float, float, float, float]:
    """destination, an allowed request with two routes to look at, a denied request, and a pick: service, endpoint, rule."""
    service = snapshot.service("n/s0")
    assert service is not None
    address = service.addresses[0]
    server, caller = snapshot.workload("n/w0"), snapshot.workload("n/w1")
    assert server is not None
    assert caller is not None
    allowed, denied = Request("GET", "/v0/items/17"), Request("GET", "/elsewhere")
    assert snapshot.authorize(caller.identity, server, 8080, allowed).allowed
    assert not snapshot.authorize(caller.identity, server, 8080, denied).allowed
    return (
        microseconds(lambda: snapshot.destination(address, 80)),
        microseconds(lambda: snapshot.authorize(caller.identity, server, 8080, allowed)),
        microseconds(lambda: snapshot.authorize(caller.identity, server, 8080, denied)),
        trio.run(pick, snapshot, address, caller, allowed),
    )


async def pick(snapshot: Snapshot, address: str, caller: Workload, request: Request) -> float:
    context = SimpleNamespace(snapshot=snapshot, live=Live(1), captured=set())
    conn: Any = SimpleNamespace(context=context, workload=caller, identity=caller.identity, dialled=(address, 80))
    route = Outward(conn)
    return microseconds(lambda: route.pick(request))


def main() -> None:
    print(
        "| policies | build, ms | first decision, ms | destination, us | authorize an allowed request, us | a denied one, us | pick, us |"
    )
    print("|---|---|---|---|---|---|---|")
    for number in (10, 100, 1_000, 10_000):
        services = max(2, min(number, 2_000))
        objects = mesh(services, services, number)
        took = seconds(lambda objects=objects: build(objects))
        snapshot = build(objects).snapshot
        found, allowed, denied, picked = lookups(snapshot)
        indexed = first(snapshot) * 1000
        print(
            f"| {number:,} | {took * 1000:.0f} | {indexed:.1f} | {found:.2f} | {allowed:.1f} | {denied:.1f} | {picked:.1f} |"
        )
    objects = mesh(2_000, 10_000, 2_000)
    built = build(objects)
    print()
    print(
        f"2,000 services, 10,000 workloads, 2,000 targets with routes of their own: {seconds(lambda: build(objects)):.2f} s to build, "
        f"{first(built.snapshot) * 1000:.0f} ms for the first decision."
    )


if __name__ == "__main__":
    main()
