"""translate/core.py: pods, workloads, services and what serves them."""

import pytest
import yaml

from policy.build import build
from policy.model import Identity, Probe, Where
from policy.resources import RawObject

WORLD = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: edgemesh}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: out}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "FD00::0001"], selector: {app: web}, ports: [{name: web, port: 80, targetPort: main, appProtocol: http}, {name: dns, port: 53, protocol: UDP, targetPort: 5353}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}, annotations: {openservicemesh.io/outbound-port-exclusion-list: "22, 25,x"}}
spec:
  nodeName: box
  containers:
  - ports: [{name: main, containerPort: 8080}]
    livenessProbe: {httpGet: {path: /live, port: main}}
    readinessProbe: {tcpSocket: {port: 8080}}
    startupProbe: {httpGet: {port: 8443, scheme: HTTPS}}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: "fd01::1"}], conditions: [{type: Ready, status: "True"}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-2, namespace: shop, labels: {app: web}}, spec: {containers: []}, status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: "False"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: left, namespace: shop, annotations: {openservicemesh.io/sidecar-injection: disabled}}, spec: {containers: []}, status: {podIP: 10.1.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: shop}, spec: {hostNetwork: true, containers: []}, status: {podIP: 192.168.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: done, namespace: shop}, spec: {containers: []}, status: {phase: Succeeded, podIP: 10.1.0.4}}
---
{apiVersion: v1, kind: Pod, metadata: {name: alien, namespace: out}, spec: {containers: []}, status: {podIP: 10.1.0.5}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: shop}, spec: {template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{ports: [{name: main, containerPort: 9000}]}]}}}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: shop}, spec: {template: d, addresses: [10.1.0.9], netns: w}}
---
{apiVersion: config.openservicemesh.io/v1alpha2, kind: MeshConfig, metadata: {name: osm-mesh-config, namespace: osm-system}, spec: {sidecar: {logLevel: error}, traffic: {enablePermissiveTrafficPolicyMode: true, enableEgress: false, outboundIPRangeExclusionList: [10.9.0.0/16], outboundPortExclusionList: [25]}}}
"""
SLICE = """
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: web, port: 8080, protocol: TCP}], endpoints: [{addresses: [10.1.0.1], conditions: {ready: true}}, {addresses: [10.1.0.2], conditions: {ready: false}}, {addresses: [10.7.7.7]}]}
"""


def made(text):
    return build([RawObject(data, Where("w.yaml", n), {}) for n, data in enumerate(yaml.safe_load_all(text), 1)], {}, {}, "box")


def test_who_is_enrolled():
    found = {workload.key: workload.enrolled for workload in made(WORLD).snapshot.workloads}
    assert found == {"out/alien": False, "shop/host": False, "shop/left": False, "shop/w": True, "shop/web-1": True, "shop/web-2": True}


def test_pods_are_read():
    built = made(WORLD)
    pod = built.snapshot.workload("shop/web-1")
    assert pod.identity == Identity("shop", "default")
    assert pod.addresses == ("10.1.0.1", "fd01::1")
    assert pod.probes == (Probe("http", 8080, "/live"), Probe("tcp", 8080))
    assert pod.exclusions.outbound_ports == (22, 25)
    assert pod.exclusions.outbound_cidrs == ("10.9.0.0/16",)
    warnings = [p.message for p in built.problems if p.object == "Pod shop/web-1"]
    assert any("'x' is no port" in message for message in warnings)
    assert any("HTTPS probe" in message for message in warnings)


def test_selectors_find_ready_pods_and_workloads_by_their_own_port():
    service = made(WORLD).snapshot.service("shop/web")
    assert service.addresses == ("10.96.0.1", "fd00::1")
    assert [str(e) for e in service.ports[0].endpoints] == ["10.1.0.1:8080", "10.1.0.9:9000"]
    assert service.ports[1].transport == "udp"
    assert {e.port for e in service.ports[1].endpoints} == {5353}


def test_slices_go_before_selectors():
    service = made(WORLD + "---" + SLICE).snapshot.service("shop/web")
    assert [(str(e), e.workload) for e in service.ports[0].endpoints] == [("10.1.0.1:8080", "shop/web-1"), ("10.7.7.7:8080", "")]


def test_a_udp_port_is_no_tcp_destination():
    assert made(WORLD).snapshot.destination("10.96.0.1", 53).kind == "no-port"


def test_mesh_config():
    snapshot = made(WORLD).snapshot
    assert snapshot.mesh.permissive
    assert not snapshot.mesh.egress
    pod = snapshot.workload("shop/web-1")
    assert snapshot.authorize(Identity("a", "b"), pod, 1).rule == "permissive mode"
    assert snapshot.authorize(None, pod, 1).reason == "no-identity"


def test_a_template_that_is_not_there_is_reported():
    text = "{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: n}, spec: {template: gone}}"
    built = made(text)
    (workload,) = built.snapshot.workloads
    assert workload.service_account == "default"
    assert workload.enrolled, "left out of the mesh it would be left open"
    assert "no Deployment n/gone" in built.problems[0].message


def test_shared_addresses_are_told_apart_by_port():
    unit = "{{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {{name: {0}, namespace: n}}, spec: {{addresses: [10.0.0.1], ports: [{{port: {1}}}], systemdUnit: {0}.service}}}}"
    snapshot = made(unit.format("a", 80) + "\n---\n" + unit.format("b", 81)).snapshot
    assert snapshot.workload_at("10.0.0.1", 81).name == "b"
    assert snapshot.workload_at("10.0.0.1", 82) is None
    assert snapshot.destination("10.0.0.1", 82).kind == "external"


UNIT = "{{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {{name: {0}, namespace: n}}, spec: {1}}}"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{netns: a, systemdUnit: a.service}", "both netns and systemdUnit"),
        ("{addresses: [10.0.0.0/8]}", "is no IP address"),
        ("{addresses: [fe80::1%eth0]}", "is no IP address"),
        ("{netns: a/b}", "neither a name nor an absolute path"),
        ("{netns: ..}", "neither a name nor an absolute path"),
        ('{netns: "a\\0b"}', "neither a name nor an absolute path"),
        ("{systemdUnit: till}", "is no unit's name"),
        ("{systemdUnit: ../x.service}", "is no unit's name"),
        ("{ports: [{port: 0}]}", "spec.ports[0].port"),
        ("{adresses: []}", "unknown field spec.adresses"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(spec, says):
    built = made(UNIT.format("w", spec))
    assert [p.severity for p in built.problems] == ["error"]
    assert says in built.problems[0].message
    assert built.snapshot.workloads == ()


@pytest.mark.parametrize(
    "spec", ["{netns: a}", "{netns: /proc/1/ns/net}", "{systemdUnit: till@1.service}", "{}", '{addresses: ["FD00::0001"]}']
)
def test_a_workload_that_can_be_is_taken(spec):
    built = made(UNIT.format("w", spec))
    assert built.problems == ()
    assert len(built.snapshot.workloads) == 1
    assert built.snapshot.workloads[0].addresses in ((), ("fd00::1",))


SERVICE = "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: n}}, spec: {{selector: {{app: a}}, ports: [{0}]}}}}"


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        ("{port: 80}", ""),
        ("{port: 80, name: http}", "http"),
        ("{port: 80, name: http-web}", "http"),
        ("{port: 80, name: httpx}", ""),
        ("{port: 80, name: tcp-echo}", "tcp"),
        ("{port: 80, name: tcp-server-first-db}", "tcp-server-first"),
        ("{port: 80, name: http, appProtocol: tcp}", "tcp"),
        ("{port: 80, name: http, appProtocol: HTTPS}", "tcp"),
        ("{port: 80, name: grpc-api}", "grpc"),
        ("{port: 80, appProtocol: kubernetes.io/h2c}", "grpc"),
        ("{port: 80, name: http, appProtocol: smoke}", ""),
    ],
)
def test_the_protocol_that_a_service_declares(port, protocol):
    built = made(SERVICE.format(port))
    assert built.snapshot.service("n/s").ports[0].protocol == protocol
    assert [p.severity for p in built.problems] == (["warning"] if "smoke" in port else [])


@pytest.mark.parametrize(
    ("port", "endpoints"),
    [
        ("{port: 80}", ["10.0.0.1:80"]),
        ("{port: 80, targetPort: 81}", ["10.0.0.1:81"]),
        ("{port: 80, targetPort: '82'}", ["10.0.0.1:82"]),
        ("{port: 80, targetPort: web}", ["10.0.0.1:8080"]),
        ("{port: 80, targetPort: gone}", []),
        ("{port: 80, targetPort: 70000}", []),
        ("{port: 80, targetPort: ''}", ["10.0.0.1:80"]),
    ],
)
def test_the_target_port(port, endpoints):
    workload = UNIT.format("w", "{labels: {app: a}, addresses: [10.0.0.1], ports: [{port: 8080, name: web}]}")
    assert [str(e) for e in made(f"{SERVICE.format(port)}\n---\n{workload}").snapshot.service("n/s").ports[0].endpoints] == endpoints


def test_a_port_that_a_service_sends_to_tells_units_apart_too():
    text = f"{SERVICE.format('{port: 80, targetPort: 8080}')}\n---\n" + UNIT.format("a", "{labels: {app: a}, addresses: [10.0.0.1]}")
    snapshot = made(text + "\n---\n" + UNIT.format("b", "{addresses: [10.0.0.1], ports: [{port: 9090}]}")).snapshot
    assert snapshot.workload_at("10.0.0.1", 8080).name == "a"
    assert snapshot.workload_at("10.0.0.1", 9090).name == "b"


def test_a_service_without_room_in_the_range_is_pointed_out():
    objects = [
        RawObject(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"s{n}", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}},
            Where("s", n),
            {},
        )
        for n in range(1, 4)
    ]
    built = build(objects, ranges=["10.0.0.0/30"])
    assert [p.object for p in built.problems] == ["Service n/s3"]
    assert [len(s.addresses) for s in built.snapshot.services] == [1, 1, 0]
    again = build(objects, addresses=built.snapshot.addresses, ranges=["10.0.0.0/30"])
    assert again.snapshot == built.snapshot
