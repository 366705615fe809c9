"""translate/core.py and translate/osm.py: pods, slices, enrolment, probes, exclusions, MeshConfig."""

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
    assert built.snapshot.workloads == ()
    assert "no Deployment n/gone" in built.problems[0].message


def test_shared_addresses_are_told_apart_by_port():
    unit = "{{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {{name: {0}, namespace: n}}, spec: {{addresses: [10.0.0.1], ports: [{{port: {1}}}], systemdUnit: {0}.service}}}}"
    snapshot = made(unit.format("a", 80) + "\n---\n" + unit.format("b", 81)).snapshot
    assert snapshot.workload_at("10.0.0.1", 81).name == "b"
    assert snapshot.workload_at("10.0.0.1", 82) is None
    assert snapshot.destination("10.0.0.1", 82).kind == "external"
