"""build.py: last good versions, references, duplicates, order, services and endpoints."""

import random

import pytest
import yaml

from policy.build import build
from policy.model import Identity, Request, Where
from policy.resources import RawObject

BASE = """
{apiVersion: v1, kind: Service, metadata: {name: store, namespace: shop}, spec: {selector: {app: store}, ports: [{name: http-web, port: 80, targetPort: web}, {name: db, port: 3306, appProtocol: tcp-server-first}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: store-v1, namespace: shop}, spec: {selector: {app: store, version: v1}, ports: [{name: web, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: quiet, namespace: shop}, spec: {clusterIP: None, ports: [{port: 80}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: s1, namespace: shop}, spec: {serviceAccount: store, labels: {app: store, version: v1}, addresses: [10.0.0.1], ports: [{name: web, port: 8080}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: s2, namespace: shop}, spec: {serviceAccount: store, labels: {app: store, version: v2}, addresses: [10.0.0.2], ports: [{name: web, port: 9090}]}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: r, namespace: shop}, spec: {matches: [{name: a, pathRegex: /a, methods: [GET]}]}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: t, namespace: shop}, spec: {destination: {kind: ServiceAccount, name: store}, rules: [{kind: HTTPRouteGroup, name: r, matches: [a]}], sources: [{kind: ServiceAccount, name: buyer, namespace: buy}]}}
---
{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: s, namespace: shop}, spec: {service: store.shop.svc.cluster.local, backends: [{service: store-v1, weight: 1}]}}
"""
BUYER = Identity("buy", "buyer")


def raws(text=BASE):
    return [RawObject(data, Where("x.yaml", line), {}) for line, data in enumerate(yaml.safe_load_all(text), 1)]


def made(objects, previous=None, addresses=None):
    return build(objects, previous or {}, addresses or {}, "node")


def of(objects, kind, name=None):
    return next(raw for raw in objects if raw.data["kind"] == kind and name in {None, raw.data["metadata"]["name"]})


def changed(objects, kind, **spec):
    old = of(objects, kind)
    return [
        RawObject({**raw.data, "spec": {**raw.data["spec"], **spec}}, raw.where, {}) if raw is old else raw
        for raw in objects
    ]


def allowed(built, path="/a"):
    snapshot = built.snapshot
    return snapshot.authorize(BUYER, snapshot.workload("shop/s1"), 8080, Request("GET", path)).allowed


def test_services_endpoints_protocols_and_addresses():
    snapshot = made(raws()).snapshot
    store = snapshot.service("shop/store")
    assert [str(e) for e in store.ports[0].endpoints] == ["10.0.0.1:8080", "10.0.0.2:9090"]
    assert [p.protocol for p in store.ports] == ["http", "tcp-server-first"]
    assert store.addresses[0].startswith("240.240.")
    assert store.addresses[1].startswith("fdce:ed6e:5e55:")
    assert snapshot.service("shop/quiet").addresses == ()
    assert snapshot.destination(store.addresses[0], 80).port.name == "http-web"
    assert snapshot.destination(store.addresses[0], 81).kind == "no-port"
    assert snapshot.destination("10.0.0.2", 9090).protocol == "http"
    assert snapshot.destination("10.9.9.9", 80).kind == "external"
    assert snapshot.candidates(store, 80, None).rule.backends[0].service == "shop/store-v1"
    for host in ("store", "STORE.shop", "store.shop.svc:80", "store.shop.svc.cluster.local."):
        assert snapshot.named(host, "shop") is store
    assert snapshot.named("store", "buy") is None
    assert snapshot.named("store.shop.com", "shop") is None


def test_the_order_of_the_input_changes_nothing():
    first = made(raws())
    for seed in range(5):
        shuffled = raws()
        random.Random(seed).shuffle(shuffled)
        again = made(shuffled)
        assert (again.snapshot, again.problems, again.accepted) == (first.snapshot, first.problems, first.accepted)


def test_services_keep_their_addresses():
    kept = {"shop/store": ("240.240.7.7", "fdce:ed6e:5e55::7")}
    assert made(raws(), addresses=kept).snapshot.service("shop/store").addresses == kept["shop/store"]


@pytest.mark.parametrize(
    "junk",
    [
        {},
        {"kind": 3},
        {"kind": "Service"},
        {"kind": "List", "items": [1, {}]},
        {"kind": "Pod", "apiVersion": "v1", "metadata": []},
    ],
)
def test_junk_never_raises(junk):
    built = made([*raws(), RawObject(junk, Where("j.yaml", 1), {})])
    assert allowed(built)
    assert any(p.where.file == "j.yaml" for p in built.problems)


def test_a_pod_and_a_workload_of_one_name_are_pointed_out():
    pod = RawObject(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "s1", "namespace": "shop"}}, Where("p.yaml", 1), {}
    )
    built = made([*raws(), pod])
    assert built.snapshot.workload("shop/s1").addresses == ("10.0.0.1",)
    assert any(p.object == "Workload shop/s1" and "a Pod shop/s1 too" in p.message for p in built.problems)


def test_a_port_of_another_transport_does_not_make_a_backend():
    udp = [
        raw
        if raw.data["metadata"]["name"] != "store-v1"
        else RawObject({**raw.data, "spec": {"ports": [{"port": 80, "protocol": "UDP"}]}}, raw.where, {})
        for raw in raws()
    ]
    assert any("store-v1 has no port 80" in p.message for p in made(udp).problems)
