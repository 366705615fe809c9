"""build.py, whatever the objects are: it never raises, it never hangs on their order, and every Problem says where."""

import copy
import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.sources.manifest import read
from policy.build import build
from policy.model import Where
from policy.registry import KINDS, row_name
from policy.resources import RawObject
from policy.snapshot import Snapshot

WORLD = b"""
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: m}, annotations: {openservicemesh.io/sidecar-injection: enabled, edgemesh.io/mtls: permissive}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: main, appProtocol: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web-2, namespace: shop}, spec: {internalTrafficPolicy: Local, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, clusterIP: 10.9.0.1, clusterIPs: [10.9.0.1, "fd00::1"], ports: [{port: 80}, {port: 53, protocol: UDP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: shop, labels: {kubernetes.io/service-name: web-2}}, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true, serving: true, terminating: false}, nodeName: n, hints: {forZones: [{name: east}], forNodes: [{name: n}]}, targetRef: {kind: Pod, name: p, namespace: shop}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop, labels: {app: web}, annotations: {openservicemesh.io/outbound-port-exclusion-list: "25"}}
spec: {serviceAccountName: web, nodeName: n, containers: [{ports: [{name: main, containerPort: 8080}], livenessProbe: {httpGet: {path: /live, port: main}}, readinessProbe: {tcpSocket: {port: 8080}}, startupProbe: {grpc: {port: 1}}, lifecycle: {preStop: {httpGet: {port: 80, host: a}}}}], initContainers: [{restartPolicy: Always, ports: [{containerPort: 1}]}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: shop}, spec: {template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{ports: [{name: main, containerPort: 9000}]}]}}}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: shop}, spec: {template: d, labels: {v: "1"}, addresses: [10.0.0.2], netns: w, ports: [{name: main, port: 8080, protocol: TCP}], tunnelPort: 15009}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2, labels: {topology.kubernetes.io/zone: east}}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: MeshNode, metadata: {name: n2}, spec: {addresses: [192.168.7.2], tunnelPort: 15008, workloads: [{namespace: shop, name: q, serviceAccount: web, addresses: [10.0.1.1, "fd00::9"], ports: [80], enrolled: true}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: HTTPFilter, metadata: {name: asks, namespace: shop}, spec: {extAuth: {service: web, port: 80, namespace: shop, path: /check, timeout: 2s, onFailure: failOpen, headers: {send: [cookie], take: [x-user]}}}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: r, namespace: shop}, spec: {matches: [{name: a, pathRegex: /a, methods: [GET], headers: [{x: y}]}]}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {name: t, namespace: shop}, spec: {matches: {ports: [80]}}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: UDPRoute, metadata: {name: u, namespace: shop}, spec: {matches: {ports: [53]}}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: t, namespace: shop}, spec: {destination: {kind: ServiceAccount, name: web}, rules: [{kind: HTTPRouteGroup, name: r, matches: [a]}, {kind: TCPRoute, name: t}, {kind: UDPRoute, name: u}], sources: [{kind: ServiceAccount, name: b, namespace: x}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop}, spec: {ports: [{port: 80}, {port: 53, protocol: UDP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: h, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {parentRefs: [{group: "", kind: Service, name: web, port: 80, sectionName: http}], hostnames: [a.example], rules: [{name: one, matches: [{path: {type: Exact, value: /a}, method: GET, headers: [{name: X, type: RegularExpression, value: "a+"}], queryParams: [{name: q, value: b}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: b}], add: [{name: x-b, value: c}], remove: [x-c]}}], backendRefs: [{name: web-2, port: 80, weight: 3, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}}]}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: g, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {parentRefs: [{group: "", kind: Service, name: web-2}], rules: [{name: one, matches: [{method: {type: RegularExpression, service: "a.B+", method: C}, headers: [{name: x, value: b}]}], backendRefs: [{name: web-2, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: edgemesh}, spec: {controllerName: edgemesh.io/gateway-controller, description: d}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: front, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {gatewayClassName: edgemesh, addresses: [{type: IPAddress, value: 192.0.2.1}], infrastructure: {labels: {a: b}}, allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: other}, matchExpressions: [{key: a, operator: DoesNotExist}]}}}, listeners: [{name: http, port: 80, protocol: HTTP, hostname: "*.example", allowedRoutes: {kinds: [{kind: HTTPRoute}], namespaces: {from: All}}}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {name: more, namespace: other}, spec: {parentRef: {name: front, namespace: shop}, listeners: [{name: extra, port: 81, protocol: HTTP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: other}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service, name: web}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: door, namespace: shop}, spec: {parentRefs: [{name: front, sectionName: http, port: 80}], hostnames: [a.example], rules: [{backendRefs: [{name: web, namespace: other, port: 80}, {name: web-2, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: streams, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {gatewayClassName: edgemesh, listeners: [{name: tls, port: 8443, protocol: TLS, hostname: "*.example", tls: {mode: Passthrough}}, {name: tcp, port: 5432, protocol: TCP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: t, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {parentRefs: [{name: streams, sectionName: tls}], hostnames: [a.example, "*.b.example"], rules: [{name: one, backendRefs: [{name: web-2, port: 80, weight: 2}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: t, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {parentRefs: [{name: streams, port: 5432}], rules: [{backendRefs: [{name: web-2, port: 80}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: edgemesh, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}, spec: {controller: edgemesh.io/ingress-controller}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: shop}, spec: {ingressClassName: edgemesh, defaultBackend: {service: {name: web-2, port: {number: 80}}}, tls: [{hosts: [a.example], secretName: s}], rules: [{host: "*.example", http: {paths: [{path: /a, pathType: Exact, backend: {service: {name: web-2, port: {number: 80}}}}]}}]}}
---
{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: s, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {service: other, matches: [{kind: HTTPRouteGroup, name: r}], backends: [{service: web-2, weight: 1}]}}
---
{apiVersion: config.openservicemesh.io/v1alpha2, kind: MeshConfig, metadata: {name: c, namespace: o}, spec: {traffic: {enableEgress: false, outboundIPRangeExclusionList: [10.0.0.0/8], outboundPortExclusionList: [25]}, featureFlags: {enableRetryPolicy: true}}}
---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: AccessControl, metadata: {name: a, namespace: shop}, spec: {backends: [{name: web, port: {number: 8080, protocol: http}}], sources: [{kind: IPRange, name: 10.0.0.0/24}, {kind: Service, namespace: shop, name: web-2}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: other}, spec: {ports: [{port: 80}]}}
---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: IngressBackend, metadata: {name: i, namespace: other}, spec: {backends: [{name: web, port: {number: 80, protocol: http}, tls: {skipClientCertValidation: true, sniHosts: [a]}}], sources: [{kind: IPRange, name: 10.0.0.0/24}, {kind: AuthenticatedPrincipal, name: a.b.cluster.local}], matches: [{kind: UpstreamTrafficSetting, name: u}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: LoadBalancing, metadata: {name: l, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {targetRef: {group: "", kind: Service, name: web}, algorithm: Maglev, hash: {header: x-user, cookie: null, sourceAddress: false}}}
---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, metadata: {name: u, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {host: web.shop.svc.cluster.local, connectionSettings: {tcp: {maxConnections: 9, connectTimeout: 5s}, http: {maxRequests: 9, maxRequestsPerConnection: 9, maxPendingRequests: 9, maxRetries: 9, circuitBreaking: {statTimeWindow: 1m, minRequestAmount: 9, degradedTimeWindow: 1m, slowTimeThreshold: 200ms, slowAmountThreshold: 9, slowRatioThreshold: 0.5, errorAmountThreshold: 9, errorRatioThreshold: 0.5, degradedStatusCode: 520, degradedResponseContent: later}}}, rateLimit: {local: {tcp: {connections: 9, unit: second, burst: 9}, http: {requests: 9, unit: minute, burst: 9, responseStatusCode: 503, responseHeadersToAdd: [{name: hello, value: world}]}}}, httpRoutes: [{path: "/a.*", rateLimit: {local: {requests: 9, unit: hour}}}], httpHeaders: [{headers: [{name: x, value: y}], rateLimit: {local: {requests: 9, unit: hour}}}]}}
---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: Retry, metadata: {name: r, namespace: other}, spec: {source: {kind: ServiceAccount, name: a, namespace: other}, destinations: [{kind: Service, name: web, namespace: other}], retryPolicy: {retryOn: "5xx, 409,reset", perTryTimeout: 1s, numRetries: 3, retryBackoffBaseInterval: 100ms}}}
---
{apiVersion: config.openservicemesh.io/v1alpha2, kind: MeshRootCertificate, metadata: {name: company, namespace: edgemesh-system}, spec: {trustDomain: cluster.local, provider: {tresor: {ca: {secretRef: {name: company-ca, namespace: edgemesh-system}}}}}}
---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: AccessCert, metadata: {name: scanner, namespace: partners}, spec: {subjectAltNames: [scanner.partners.cluster.local], secret: {name: scanner, namespace: partners}}}
---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: Egress, metadata: {name: out, namespace: shop}, spec: {sources: [{kind: ServiceAccount, name: web, namespace: shop}], hosts: [a.example, "*.b.example"], ipAddresses: [203.0.113.0/24], ports: [{number: 80, protocol: http}], matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: r}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Revocation, metadata: {name: stolen}, spec: {nodes: [till-3, till-4], identities: [{namespace: shop, serviceAccount: thief}], serials: ["0A:1B"]}}
---
{apiVersion: plugin.flomesh.io/v1alpha1, kind: Plugin, metadata: {name: cors}, spec: {priority: 165, pipyscript: "1"}}
---
{apiVersion: plugin.flomesh.io/v1alpha1, kind: PluginChain, metadata: {name: chain, namespace: shop}, spec: {chains: [{name: inbound-http, plugins: [cors]}]}}
---
{apiVersion: plugin.flomesh.io/v1alpha1, kind: PluginConfig, metadata: {name: config, namespace: shop}, spec: {plugin: cors, config: {a: 1}}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Isolation, metadata: {name: quarantine}, spec: {cidrs: [10.9.0.0/16, "fd00:9::/64"]}}
"""
OBJECTS = read(WORLD, "w.yaml").objects
GOOD = build(OBJECTS)

TEXT = st.text("a1.*/:-{[ \x00é", max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    ["", "*", "(", "::1", "10.0.0.1", "shop", "web", "web.other", "80", "None", "2024", "ServiceAccount", "\x00"]
)


def parts(value, path=()):
    """The path of every value inside."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from parts(inner, (*path, key))


PLACES = [(number, path) for number, raw in enumerate(OBJECTS) for path in parts(raw.data) if path]


def replaced(number, path, value):
    data = copy.deepcopy(OBJECTS[number].data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return RawObject(data, Where("changed.yaml", 5), {})


def revoked(built):
    found = built.snapshot.revoked
    return {*found.nodes, *found.identities, *found.serials}


def answer(built):
    return built.snapshot, built.problems, built.accepted


def test_the_world_has_no_problem():
    told = [p for p in GOOD.problems if p.severity != "notice"]
    assert {p.object.partition(" ")[0] for p in told} == {"Plugin", "PluginChain", "PluginConfig"}, "which nothing runs"
    rows = {row_name(raw.data["apiVersion"].rpartition("/")[0], raw.data["kind"]) for raw in OBJECTS}
    assert rows == set(KINDS) - {"ServiceAccount"}
    assert len(revoked(GOOD)) == 4
    assert [(g.destination, g.ports, g.networks) for g in GOOD.snapshot.plain] == [
        ("shop/p", (8080,), ("10.0.0.0/24", "10.0.0.1/32")),
        ("shop/w", (8080,), ("10.0.0.0/24", "10.0.0.1/32")),
    ]


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_the_world_from_its_bytes_is_the_same(codec):
    data = codec.encode(GOOD.snapshot)
    copy = codec.decode(data, type=Snapshot)
    assert (copy, codec.encode(copy)) == (GOOD.snapshot, data)


@given(st.permutations(range(len(OBJECTS))))
def test_the_order_of_objects_changes_nothing(order):
    assert answer(build([OBJECTS[i] for i in order])) == answer(GOOD)


@settings(max_examples=50)
@given(
    st.lists(
        st.dictionaries(TEXT | st.sampled_from(["kind", "apiVersion", "metadata", "spec", "items"]), JSON), max_size=4
    )
)
def test_any_data_makes_problems_and_nothing_else(objects):
    raws = [RawObject(data, Where("any.yaml", 1), {}) for data in objects]
    built = build([*OBJECTS, *raws])
    assert built.snapshot.grants == GOOD.snapshot.grants


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), st.just(...) | WORDS | JSON)
def test_any_change_to_a_good_object_makes_problems_at_most(place, value):
    number, path = place
    good = GOOD
    changed = replaced(number, path, value)
    raws = [changed if i == number else raw for i, raw in enumerate(OBJECTS)]
    built = build(raws, good.accepted, good.snapshot.addresses)
    assert all(p.where.file in ("w.yaml", "changed.yaml") and p.where.line for p in built.problems)
    assert len(built.snapshot.grants) <= len(good.snapshot.grants), "nothing is granted by accident"
    assert sum(len(g.ports) for g in built.snapshot.plain) <= sum(len(g.ports) for g in good.snapshot.plain)
    if any(p.severity == "error" for p in built.problems):
        assert revoked(good) <= revoked(built), "what cannot be read lifts no revocation"
    # The same objects again, now with what was accepted as the previous ones: nothing drifts.
    again = build(raws, built.accepted, built.snapshot.addresses)
    assert (again.snapshot, again.accepted) == (built.snapshot, built.accepted)


@given(st.randoms(use_true_random=False))
def test_the_order_of_broken_objects_changes_nothing(chance):
    broken = [
        replaced(number, path, chance.choice(["", "(", 3, None, []])) for number, path in chance.sample(PLACES, 5)
    ]
    raws = [*OBJECTS, *(RawObject(raw.data, Where("b.yaml", line), {}) for line, raw in enumerate(broken, 1))]
    first = answer(build(raws))
    random.Random(chance.random()).shuffle(raws)
    assert answer(build(raws)) == first


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("kind: TrafficTarget\nmetadata: {name: t}\n", 1, "without apiVersion"),
        ("apiVersion: access.smi-spec.io/v1alpha1\nkind: TrafficTarget\nmetadata: {name: t}\n", 1, "version v1alpha1"),
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\nspec:\n  ports:\n    - port: 80\n    - port: many\n",
            8,
            "spec.ports[1].port",
        ),
        (
            "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\nmetadata: {name: r}\nspec:\n  matches:\n    - name: a\n      pathRegex: '('\n",
            7,
            "pathRegex",
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: specs.smi-spec.io/v1alpha4\n  kind: TCPRoute\n  metadata: {name: r}\n  spec:\n    matches:\n      portz: [1]\n",
            9,
            "unknown field spec.matches.portz",
        ),
    ],
)
def test_a_problem_has_the_line_of_what_is_wrong(text, line, says):
    (problem,) = build(read(text.encode(), "f.yaml").objects).problems
    assert (str(problem.where), problem.severity) == (f"f.yaml:{line}", "error")
    assert says in problem.message
