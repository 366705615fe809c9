"""Callers outside the mesh come in by a listener of a Gateway: over sockets, in both lanes.

What a Gateway, its listeners and routes become is in tests/policy/translate/test_gateways.py.
"""

from __future__ import annotations

import json
import socket

import pytest
import trio

from nodeproxy.downstream.gateway import AGAIN
from tests.journeys.stand_ins import Caller
from tests.ports import free_port

V1, V2 = {"name": "bookstore-v1", "port": 14001}, {"name": "bookstore-v2", "port": 14001}
PORT = free_port()
OSM = ("IngressBackend", "UpstreamTrafficSetting")


def made(kind, name, spec, namespace="bookstore"):
    metadata = {"name": name, "namespace": namespace}
    version = "policy.openservicemesh.io/v1alpha1" if kind in OSM else "gateway.networking.k8s.io/v1"
    return "\n---\n" + json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})


def gateway(mesh, *listeners, port=PORT):
    said = listeners or ({"name": "http", "port": port, "protocol": "HTTP"},)
    spec = {"gatewayClassName": "edgemesh", "listeners": list(said), "addresses": [{"value": mesh.node}]}
    return made("GatewayClass", "edgemesh", {"controllerName": "edgemesh.io/gateway-controller"}) + made(
        "Gateway", "front", spec
    )


def route(*rules, name="books", **more):
    return made("HTTPRoute", name, {"parentRefs": [{"name": "front"}], "rules": list(rules), **more})


def rule(*backends, path="/", **more):
    return {"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": list(backends), **more}


def lets_in(mesh, backend="bookstore-v1", network=None):
    backends = [{"name": backend, "port": {"number": 14001, "protocol": "http"}}]
    sources = [{"kind": "IPRange", "name": network or f"{mesh.stranger}/32"}]
    return made("IngressBackend", backend, {"backends": backends, "sources": sources})


async def ask(mesh, path="/", host="books.example", port=PORT, caller=None, **more):
    call = await dial(mesh, host, port, caller)
    try:
        return await call.get(path, **more)
    finally:
        await call.stream.aclose()


async def dial(mesh, host="books.example", port=PORT, caller=None):
    sock = trio.socket.socket()
    await sock.bind((caller or mesh.stranger, 0))
    mesh._opened.append(sock)
    await sock.connect((mesh.node, port))
    return Caller(trio.SocketStream(sock), host)


async def test_a_caller_outside_reaches_what_its_host_and_path_say(mesh):
    mesh.web("store-v1"), mesh.web("store-v2")
    mesh.publish(
        gateway=gateway(mesh),
        route=route(rule(V1, path="/one"), rule(V2, path="/two"), hostnames=["books.example"]),
        let=lets_in(mesh) + lets_in(mesh, "bookstore-v2"),
    )
    assert (await ask(mesh, "/one/x")).body == "store-v1"
    assert (await ask(mesh, "/two")).body == "store-v2"
    answer = await ask(mesh, "/three")
    assert (answer.status, answer.reason) == (404, "no-route")
    assert (await ask(mesh, "/one", host="other.example")).status == 404
    assert (await ask(mesh, "/one", host=f"BOOKS.example:{PORT}")).body == "store-v1"


async def test_one_connection_is_routed_request_by_request(mesh):
    mesh.web("store-v1"), mesh.web("store-v2")
    mesh.publish(
        gateway=gateway(mesh),
        route=route(rule(V1, path="/one"), rule(V2, path="/two")),
        let=lets_in(mesh) + lets_in(mesh, "bookstore-v2"),
    )
    call = await dial(mesh)
    for _ in range(5):
        assert [(await call.get(path)).body for path in ("/one", "/two")] == ["store-v1", "store-v2"]
        assert (await call.get("/none")).status == 404


async def test_a_route_alone_opens_no_server_of_the_mesh(mesh):
    one = mesh.web("store-v1")
    mesh.publish(gateway=gateway(mesh), route=route(rule(V1)))
    answer = await ask(mesh)
    assert (answer.status, answer.reason) == (403, "no-identity")
    mesh.publish(let=lets_in(mesh, network="192.0.2.0/24"))
    assert (await ask(mesh)).status == 403
    assert one.peers == []
    mesh.publish(let=lets_in(mesh))
    assert (await ask(mesh)).body == "store-v1"
    assert one.requests[-1][3][b"x-forwarded-for"] == mesh.stranger.encode()


async def test_a_permissive_mesh_lets_everybody_in_by_a_route(mesh):
    mesh.web("store-v1")
    mesh.publish(gateway=gateway(mesh), route=route(rule(V1)), mesh=mesh.permissive)
    assert (await ask(mesh)).body == "store-v1"


async def test_filters_and_weights_act_as_for_calls_of_the_mesh(mesh):
    one, _ = mesh.web("store-v1"), mesh.web("store-v2")
    header = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-shop", "value": "edge"}]}}
    away = {"type": "RequestRedirect", "requestRedirect": {"hostname": "there.example", "statusCode": 301}}
    mesh.publish(
        gateway=gateway(mesh),
        route=route(
            rule(V1, path="/one", filters=[header]),
            rule(V1 | {"weight": 3}, V2 | {"weight": 1}, path="/both"),
            {"matches": [{"path": {"value": "/away"}}], "filters": [away]},
            rule({"name": "absent", "port": 80}, path="/absent"),
        ),
        let=lets_in(mesh) + lets_in(mesh, "bookstore-v2"),
    )
    await ask(mesh, "/one")
    assert one.requests[-1][3][b"x-shop"] == b"edge"
    call = await dial(mesh)
    bodies = [(await call.get("/both")).body for _ in range(20)]
    assert (bodies.count("store-v1"), bodies.count("store-v2")) == (15, 5)
    answer = await ask(mesh, "/away/x?y=z")
    assert (answer.status, answer.headers["location"]) == (301, "http://there.example/away/x?y=z")
    assert (await ask(mesh, "/absent")).status == 500


async def test_a_listener_that_is_gone_is_closed_and_its_connections_end(mesh):
    mesh.web("store-v1")
    mesh.publish(gateway=gateway(mesh), route=route(rule(V1)), let=lets_in(mesh))
    call = await dial(mesh)
    assert (await call.get()).body == "store-v1"
    mesh.publish(gateway="")
    assert await call.is_over()
    with pytest.raises(OSError):
        await dial(mesh)
    mesh.publish(gateway=gateway(mesh))
    with trio.fail_after(AGAIN * 2):
        assert (await ask(mesh)).body == "store-v1"


async def test_what_no_longer_may_come_in_is_cut(mesh):
    mesh.web("store-v1")
    mesh.publish(gateway=gateway(mesh), route=route(rule(V1)), let=lets_in(mesh))
    call = await dial(mesh)
    assert (await call.get()).status == 200
    mesh.publish(let="")
    assert (await call.get()).status == 403


async def test_a_port_that_another_program_has_stays_its_own(mesh):
    mesh.web("store-v1")
    port = free_port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((mesh.node, port))
        other.listen()
        mesh.publish(gateway=gateway(mesh, port=port), route=route(rule(V1)), let=lets_in(mesh))
        await trio.testing.wait_all_tasks_blocked()
        assert list(mesh.proxy.gateway.faults) == [(mesh.node, port)]
        with socket.create_connection((mesh.node, port)):
            other.accept()[0].close()
    mesh.proxy.gateway.follow(mesh.built.snapshot)
    assert not mesh.proxy.gateway.faults
    assert (await ask(mesh, port=port)).body == "store-v1"


async def test_one_source_does_not_take_every_place(mesh):
    mesh.web("store-v1")
    mesh.limit(connections=8)
    mesh.publish(gateway=gateway(mesh), route=route(rule(V1)), let=lets_in(mesh, network="127.0.0.0/8"))
    calls = [await dial(mesh) for _ in range(2)]
    for call in calls:
        assert (await call.get()).status == 200
    third = await dial(mesh)
    assert await third.is_over()
    assert (await ask(mesh, caller=mesh.addresses["thief"])).body == "store-v1"
    for call in calls:
        assert (await call.get()).status == 200


async def test_http_2_with_prior_knowledge(mesh):
    mesh.web("store-v1")
    mesh.publish(gateway=gateway(mesh), route=route(rule(V1)), let=lets_in(mesh))
    call = await dial(mesh)
    await call.stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    assert (await call.stream.receive_some(9))[3] == 4  # SETTINGS


async def test_a_backend_that_is_this_listener_is_refused_before_it_is_dialled(mesh):
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "loop", "namespace": "bookstore", "labels": {"kubernetes.io/service-name": "loop"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [mesh.node]}],
        "ports": [{"name": "http", "port": PORT}],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "loop", "namespace": "bookstore"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }
    loop = "".join(f"\n---\n{json.dumps(one)}" for one in (service, slice_))
    mesh.publish(gateway=gateway(mesh), route=route(rule({"name": "loop", "port": 80})), loop=loop)
    answer = await ask(mesh)
    assert [record.flag for record in mesh.records if record.kind == "request"] == ["own-port"], answer.status


async def test_the_rate_of_a_server_holds_for_callers_of_a_listener(mesh):
    mesh.web("store-v1")
    rate = {"host": "bookstore-v1", "rateLimit": {"local": {"http": {"requests": 2, "unit": "hour"}}}}
    limits = made("UpstreamTrafficSetting", "limits", rate)
    mesh.publish(gateway=gateway(mesh), route=route(rule(V1)), let=lets_in(mesh), limits=limits)
    call = await dial(mesh)
    assert [(await call.get("/")).status for _ in range(4)] == [200, 200, 429, 429]


async def test_a_node_that_has_joined_no_mesh_calls_the_servers_that_it_has(mesh):
    mesh.web("store-v1")
    far = """
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: store-far, namespace: bookstore}
spec: {serviceAccount: bookstore, labels: {app: bookstore, version: v1}, addresses: [192.0.2.7], node: elsewhere, ports: [{port: 14001}]}
"""
    mesh.publish(gateway=gateway(mesh), route=route(rule(V1)), let=lets_in(mesh), far=far)
    service = mesh.built.snapshot.service("bookstore/bookstore-v1")
    assert {one.workload for one in service.ports[0].endpoints} == {"bookstore/store-v1", "bookstore/store-far"}
    for _ in range(8):
        assert (await ask(mesh)).body == "store-v1"
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "far", "namespace": "bookstore"}}
    spec = {"selector": {"only": "far"}, "ports": [{"name": "http", "port": 14001}]}
    alone = f"\n---\n{json.dumps(service | {'spec': spec})}"
    labelled = far.replace("version: v1", 'only: "far"')
    mesh.publish(far=labelled + alone, route=route(rule({"name": "far", "port": 14001})), let=lets_in(mesh, "far"))
    answer = await ask(mesh)
    assert (answer.status, answer.reason) == (503, "no-certificate")
    (refused,) = [record for record in mesh.records if record.kind == "request" and record.flag]
    assert "is on node elsewhere" in refused.detail


async def test_requests_that_filters_make_are_of_the_caller_outside(mesh):
    """A copy, and a question: the Service that gets them has to let in the caller's address."""
    one, two = mesh.web("store-v1"), mesh.web("store-v2")
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": V2}}
    named = {"group": "edgemesh.io", "kind": "HTTPFilter", "name": "asks"}
    asks = {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "HTTPFilter",
        "metadata": {"name": "asks", "namespace": "bookstore"},
        "spec": {"extAuth": {"service": "bookstore-v2", "port": 14001, "path": "/check", "onFailure": "failOpen"}},
    }
    cors = {"type": "CORS", "cors": {"allowOrigins": ["https://shop.example"], "allowMethods": ["PUT"]}}
    mesh.publish(
        gateway=gateway(mesh),
        asks="\n---\n" + json.dumps(asks),
        route=route(
            rule(V1, path="/copied", filters=[cors, mirror]),
            rule(V1, path="/asked", filters=[{"type": "ExtensionRef", "extensionRef": named}]),
        ),
        let=lets_in(mesh),
    )
    assert (await ask(mesh, "/copied")).body == "store-v1"
    answer = await ask(mesh, "/asked")
    assert (answer.status, len(one.requests)) == (503, 1), "the caller may not ask, also where silence opens"
    await mesh.until(lambda: not mesh.proxy.asides.running)
    assert two.requests == []
    fields = {"origin": "https://shop.example", "access_control_request_method": "PUT"}
    answer = await ask(mesh, "/copied", method="OPTIONS", **fields)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, "https://shop.example")
    mesh.publish(let=lets_in(mesh) + lets_in(mesh, "bookstore-v2"))
    assert (await ask(mesh, "/copied", method="POST", body=b"hello")).body == "store-v1"
    assert (await ask(mesh, "/asked")).body == "store-v1"
    await mesh.until(lambda: len(two.requests) == 2)
    assert sorted((method, path, body) for _, method, path, _, body in two.requests) == [
        ("GET", "/check/asked", b""),
        ("POST", "/copied", b"hello"),
    ]
    assert {headers[b"x-forwarded-for"] for *_, headers, _ in two.requests} == {mesh.stranger.encode()}
