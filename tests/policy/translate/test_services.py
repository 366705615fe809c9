"""translate/services.py: Services, their ports, and what serves them."""

import pytest
import yaml

from policy.build import build
from policy.model import Identity, Where
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
    return build(
        [RawObject(data, Where("w.yaml", n), {}) for n, data in enumerate(yaml.safe_load_all(text), 1)], {}, {}, "box"
    )


def test_selectors_find_ready_pods_and_workloads_by_their_own_port():
    service = made(WORLD).snapshot.service("shop/web")
    assert service.addresses == ("10.96.0.1", "fd00::1")
    assert [str(e) for e in service.ports[0].endpoints] == ["10.1.0.1:8080", "10.1.0.9:9000"]
    assert service.ports[1].transport == "udp"
    assert {e.port for e in service.ports[1].endpoints} == {5353}


def test_slices_go_before_selectors():
    service = made(WORLD + "---" + SLICE).snapshot.service("shop/web")
    assert [(str(e), e.workload) for e in service.ports[0].endpoints] == [
        ("10.1.0.1:8080", "shop/web-1"),
        ("10.7.7.7:8080", ""),
    ]


def test_a_pod_in_the_slices_of_two_families_is_one_endpoint():
    six = (
        SLICE.replace("addressType: IPv4", "addressType: IPv6")
        .replace("10.1.0.1", "'fd01::1'")
        .replace("10.7.7.7", "'fd00::7'")
    )
    six = six.replace("name: web-x", "name: web-y")
    service = made(WORLD + "---" + SLICE + "---" + six).snapshot.service("shop/web")
    assert [(str(e), e.workload) for e in service.ports[0].endpoints] == [
        ("10.1.0.1:8080", "shop/web-1"), ("10.7.7.7:8080", ""), ("[fd00::7]:8080", ""),
    ]  # fmt: skip


def test_a_udp_port_is_no_tcp_destination():
    assert made(WORLD).snapshot.destination("10.96.0.1", 53).kind == "no-port"


def test_mesh_config():
    snapshot = made(WORLD).snapshot
    assert snapshot.mesh.permissive
    assert not snapshot.mesh.egress
    pod = snapshot.workload("shop/web-1")
    assert snapshot.authorize(Identity("a", "b"), pod, 1).rule == "permissive mode"
    assert snapshot.authorize(None, pod, 1).reason == "no-identity"


def test_shared_addresses_are_told_apart_by_port():
    unit = "{{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {{name: {0}, namespace: n}}, spec: {{addresses: [10.0.0.1], ports: [{{port: {1}}}], systemdUnit: {0}.service}}}}"
    snapshot = made(unit.format("a", 80) + "\n---\n" + unit.format("b", 81)).snapshot
    assert snapshot.workload_at("10.0.0.1", 81).name == "b"
    assert snapshot.workload_at("10.0.0.1", 82) is None
    assert snapshot.destination("10.0.0.1", 82).kind == "external"


UNIT = "{{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {{name: {0}, namespace: n}}, spec: {1}}}"


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
    ("said", "idle"),
    [
        ("7200", 7200.0),
        ("off", 0.0),
        ("web=off, 81=5", 0.0),
        ("80=30.5", 30.5),
        ("other=30", None),
        ("soon", None),
        ("web=-1", None),
        ("0", None),
        ("1e9", None),
    ],
)
def test_how_long_connections_of_a_port_may_be_quiet(said, idle):
    service = SERVICE.format("{port: 80, name: web}").replace(
        "name: s,", f"name: s, annotations: {{edgemesh.io/idle-timeout: '{said}'}},"
    )
    built = made(service)
    assert built.snapshot.service("n/s").ports[0].idle == idle
    assert [p.severity for p in built.problems] == (["warning"] if said in ("soon", "web=-1", "0", "1e9") else [])


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
    assert [
        str(e) for e in made(f"{SERVICE.format(port)}\n---\n{workload}").snapshot.service("n/s").ports[0].endpoints
    ] == endpoints


def test_a_port_that_a_service_sends_to_tells_units_apart_too():
    text = f"{SERVICE.format('{port: 80, targetPort: 8080}')}\n---\n" + UNIT.format(
        "a", "{labels: {app: a}, addresses: [10.0.0.1]}"
    )
    snapshot = made(text + "\n---\n" + UNIT.format("b", "{addresses: [10.0.0.1], ports: [{port: 9090}]}")).snapshot
    assert snapshot.workload_at("10.0.0.1", 8080).name == "a"
    assert snapshot.workload_at("10.0.0.1", 9090).name == "b"


def test_a_service_without_room_in_the_range_is_pointed_out():
    objects = [
        RawObject(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": f"s{n}", "namespace": "n"},
                "spec": {"ports": [{"port": 80}]},
            },
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


def test_an_external_service_is_a_name_only_and_that_is_said():
    """Kubernetes DNS specification: a CNAME."""
    built = made(
        "{apiVersion: v1, kind: Service, metadata: {name: ext, namespace: n}, spec: {type: ExternalName, externalName: one.example}}"
    )
    assert built.snapshot.named("ext.n.svc.cluster.local", "n") is None
    assert built.snapshot.searched("ext.n.svc.cluster.local.lan", "n") is None
    (problem,) = built.problems
    assert problem.severity == "notice"
    assert "calls to one.example leave the mesh" in problem.message
    assert built.snapshot.zone.find("ext.n.svc.cluster.local", "n").alias == "one.example"


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ("", 0.0),
        ("sessionAffinity: None", 0.0),
        ("sessionAffinity: ClientIP", 10800.0),
        ("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}", 60.0),
        ("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}", 10800.0),
        ("sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}", 0.0),
    ],
)
def test_session_affinity(more, seconds):
    text = SERVICE.format("{port: 80}").replace("spec: {", f"spec: {{{more}, " if more else "spec: {")
    assert made(text).snapshot.service("n/s").affinity == seconds


def test_a_headless_service_without_ports_is_left_to_the_resolver():
    text = SERVICE.replace("spec: {{", "spec: {{clusterIP: None, ")
    assert made(text.format("")).snapshot.named("s.n", "n") is None
    assert made(text.format("{port: 80}")).snapshot.named("s.n", "n") is not None


def test_the_endpoints_of_another_namespace_give_a_workload_no_ports():
    """They could say that any port of a node is that of a pod which shares its addresses."""
    text = """
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: bank}, spec: {hostNetwork: true, containers: [{ports: [{containerPort: 80}]}]}, status: {podIP: 192.0.2.1}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: NAMESPACE}, spec: {ports: [{port: 6443}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, namespace: NAMESPACE, labels: {kubernetes.io/service-name: s}}, ports: [{port: 6443}], endpoints: [{addresses: [192.0.2.1], targetRef: {kind: Pod, name: p, namespace: bank}}]}
"""
    for namespace, ports in (("bank", (80, 6443)), ("other", (80,))):
        assert made(text.replace("NAMESPACE", namespace)).snapshot.workload("bank/p").ports == ports
