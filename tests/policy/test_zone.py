"""What names mean: each row of Kubernetes' specification of DNS, and what is none of our business."""

import msgspec
import pytest

from policy.build import build
from policy.resources import RawObject, Where
from policy.snapshot import Snapshot
from policy.zone import ABSENT, UNKNOWN, Found, Target

DOMAIN = "svc.cluster.local"


def raw(kind, name, spec=None, namespace="lab", labels=None, cluster=True, version="v1", **more):
    metadata = {"name": name, "labels": labels or {}}
    if namespace:
        metadata["namespace"] = namespace
    data = {"apiVersion": version, "kind": kind, "metadata": metadata, **more}
    if spec is not None:
        data["spec"] = spec
    return RawObject(data, Where(f"{'kubernetes:' if cluster else ''}{kind}/{namespace}/{name}", 1), {})


def endpoints(service, *entries, ports=(), kind="IPv4"):
    return raw(
        "EndpointSlice",
        f"{service}-{kind.lower()}",
        None,
        labels={"kubernetes.io/service-name": service},
        version="discovery.k8s.io/v1",
        addressType=kind,
        ports=[{"name": name, "port": port} for name, port in ports],
        endpoints=list(entries),
    )


def at(address, hostname=None, **conditions):
    entry = {"addresses": [address], "conditions": conditions}
    return entry | {"hostname": hostname} if hostname else entry


def pod(name, address, **spec):
    return raw("Pod", name, spec, status={"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"})


PORTS = [{"name": "http", "port": 80}, {"name": "sql", "port": 5432}]
OBJECTS = [
    raw("Namespace", "lab", namespace=""),
    raw("Namespace", "empty", namespace=""),
    raw("Service", "store", {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd00:43::7"], "ports": PORTS}),
    raw("Service", "db", {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
    endpoints("db", at("10.42.0.1", "db-0"), at("10.42.0.2", "db-1"), at("10.42.0.3"), ports=[("sql", 15432)]),
    endpoints("db", at("fd00:42::1", "db-0"), ports=[("sql", 15432)], kind="IPv6"),
    raw("Service", "peers", {"clusterIP": "None"}),
    endpoints("peers", at("10.42.0.8", "peer-0"), at("10.42.0.9", "peer-1", ready=False)),
    raw("Service", "out", {"type": "ExternalName", "externalName": "www.example.com"}),
    raw("Service", "odd", {"type": "ExternalName", "externalName": "no name"}),
    pod("solo", "10.42.0.77", serviceAccountName="solo"),
    pod("agent", "192.0.2.1", hostNetwork=True),
]


@pytest.fixture(scope="module")
def zone():
    return build(OBJECTS, node="here").snapshot.zone


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("store", ("10.43.0.7", "fd00:43::7")),
        ("store.lab", ("10.43.0.7", "fd00:43::7")),
        ("STORE.lab.svc.cluster.local", ("10.43.0.7", "fd00:43::7")),
        ("db.lab.svc.cluster.local", ("10.42.0.1", "10.42.0.2", "10.42.0.3", "fd00:42::1")),
        ("db-0.db.lab.svc.cluster.local", ("10.42.0.1", "fd00:42::1")),
        ("DB-1.db.lab.svc.cluster.local.", ("10.42.0.2",)),
        ("db-1.db.lab.svc", ("10.42.0.2",)),
        ("10-42-0-3.db.lab.svc.cluster.local", ("10.42.0.3",)),
        ("fd00-42--1.db.lab.svc.cluster.local", ("10.42.0.1", "fd00:42::1")),
        ("peers.lab", ("10.42.0.8",)),
        ("peers.lab.svc.cluster.local", ("10.42.0.8",)),
        ("peer-0.peers.lab.svc.cluster.local", ("10.42.0.8",)),
        ("10-42-0-77.lab.pod.cluster.local", ("10.42.0.77",)),
    ],
)
def test_addresses(zone, name, found):
    assert sorted(zone.find(name, "lab").addresses) == sorted(found)


TAKERS = [
    {"type": "ExternalName", "externalName": "elsewhere.example"},
    {"clusterIP": "None"},
    {"clusterIP": "10.43.6.6", "clusterIPs": ["10.43.6.6"], "ports": [{"port": 80}]},
]


@pytest.mark.parametrize("spec", TAKERS)
@pytest.mark.parametrize(("host", "service"), [("db-0", "db"), ("peer-0", "peers")])
def test_a_host_of_a_headless_service_is_no_service_of_another_namespace(zone, host, service, spec):
    """db-0.db.lab.svc is what a search list would make of db-0.db, too: then a namespace called db would have it."""
    taker = raw("Service", host, spec, namespace=service)
    name = f"{host}.{service}.lab.{DOMAIN}"
    taken = build([*OBJECTS, raw("Namespace", service, namespace=""), taker], node="here").snapshot.zone
    assert taken.find(name, "lab") == zone.find(name, "lab") != ABSENT


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("_http._tcp.store.lab.svc.cluster.local", [("store.lab.svc.cluster.local", 80)]),
        ("_SQL._tcp.store.lab.svc", [("store.lab.svc.cluster.local", 5432)]),
        (
            "store.lab.svc.cluster.local",
            [("store.lab.svc.cluster.local", 80), ("store.lab.svc.cluster.local", 5432)],
        ),
        (
            "_sql._tcp.db.lab.svc.cluster.local",
            [
                ("10-42-0-3.db.lab.svc.cluster.local", 15432),
                ("db-0.db.lab.svc.cluster.local", 15432),
                ("db-0.db.lab.svc.cluster.local", 15432),
                ("db-1.db.lab.svc.cluster.local", 15432),
            ],
        ),
    ],
)
def test_ports(zone, name, targets):
    found = zone.find(name, "lab", targets=True).targets
    assert sorted((one.host, one.port) for one in found) == sorted(targets)
    assert all(isinstance(one, Target) and zone.find(one.host, "x").addresses for one in found)


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("7.0.43.10.in-addr.arpa", "store.lab.svc.cluster.local"),
        ("1.0.42.10.in-addr.arpa", "db-0.db.lab.svc.cluster.local"),
        ("3.0.42.10.in-addr.arpa", "10-42-0-3.db.lab.svc.cluster.local"),
        ("77.0.42.10.IN-ADDR.arpa", "10-42-0-77.lab.pod.cluster.local"),
        (f"7.{'0.' * 19}3.4.0.0.0.0.d.f.ip6.arpa", "store.lab.svc.cluster.local"),
    ],
)
def test_addresses_have_names(zone, name, pointer):
    if "ip6" in name:
        name = ".".join("fd000043000000000000000000000007"[::-1]) + ".ip6.arpa"
    assert zone.find(name, "lab").pointers == (pointer,)
    assert zone.find(pointer, "x").addresses


@pytest.mark.parametrize(
    "name",
    [
        "1.2.0.192.in-addr.arpa",  # the node's own: a hostNetwork pod is not its name
        "1.1.1.1.in-addr.arpa",
        "256.1.1.1.in-addr.arpa",
        "1.1.1.in-addr.arpa",
        "in-addr.arpa",
        "zz.ip6.arpa",
        "example.com",
        "www.example.lab",
        "nothing",
        "nothing.lab",
        "nothing.lab.svc",
        "lab.svc",
        "cluster.local",
        "db-0.db.lab",
        "10-42-0-78.lab.pod.cluster.local",
        "10-42-0-77.empty.pod.cluster.local",
        "ns.dns.cluster.local",
        "dns-version.cluster.local",
    ],
)
def test_what_others_may_know(zone, name):
    assert zone.find(name, "lab") == UNKNOWN


@pytest.mark.parametrize(
    "name",
    [
        "nothing.lab.svc.cluster.local",
        "example.com.lab.svc.cluster.local",
        "example.com.svc.cluster.local",
        "example.com.cluster.local",
        "db-2.db.lab.svc.cluster.local",
        "peer-1.peers.lab.svc.cluster.local",  # not ready
        "db-0.store.lab.svc.cluster.local",
        "_http._udp.store.lab.svc.cluster.local",
        "_other._tcp.store.lab.svc.cluster.local",
        "a.b.c.store.lab.svc.cluster.local",
        "nothing.svc.cluster.local",
        "odd.lab.svc.cluster.local",
    ],
)
def test_what_does_not_exist(zone, name):
    assert zone.find(name, "lab") == ABSENT


@pytest.mark.parametrize(
    "name",
    ["svc.cluster.local", "lab.svc.cluster.local", "empty.svc.cluster.local", "_tcp.store.lab.svc.cluster.local"],
)
def test_what_exists_and_has_nothing(zone, name):
    assert zone.find(name, "lab") == Found(inside=True)


def test_another_name_for_a_host_outside(zone):
    assert zone.find("out.lab.svc.cluster.local", "x") == Found(alias="www.example.com", inside=True)
    assert zone.find("out", "lab").alias == zone.find("out.lab.svc.cluster.local.lan", "x").alias == "www.example.com"


def test_without_a_cluster_nothing_is_said_to_be_absent():
    objects = [RawObject(one.data, Where("box.yaml", 1), {}) for one in OBJECTS]
    zone = build(objects, node="here").snapshot.zone
    assert zone.find("nothing.lab.svc.cluster.local", "lab") == UNKNOWN
    assert zone.find("db-0.db.lab.svc.cluster.local", "lab").addresses
    assert repr(zone) == "<Zone cluster.local, incomplete>"


def test_a_service_that_could_not_be_read_is_not_said_to_be_absent():
    broken = raw("Service", "broken", {"clusterIP": "10.43.0.9", "ports": [{"port": 0}]})
    zone = build([*OBJECTS, broken], node="here").snapshot.zone
    for name in ("broken.lab.svc.cluster.local", "a-0.broken.lab.svc.cluster.local"):
        assert zone.find(name, "lab") == UNKNOWN
    assert zone.find("broken.empty.svc.cluster.local", "lab") == ABSENT


def test_workloads_that_a_headless_service_selects_have_their_own_names():
    spec = {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"name": "sql", "port": 5432}]}
    workload = {"serviceAccount": "db", "labels": {"app": "db"}, "addresses": ["10.9.0.1", "fd00:9::1"]}
    named = pod("db-pod", "10.9.0.2", hostname="db-first")
    named.data["metadata"]["labels"] = {"app": "db"}
    zone = build(
        [
            raw("Service", "db", spec),
            raw("Workload", "db-0", workload, version="edgemesh.io/v1alpha1"),
            named,
        ],
        node="here",
    ).snapshot.zone
    assert zone.find("db-0.db.lab.svc.cluster.local", "x").addresses == ("10.9.0.1", "fd00:9::1")
    assert zone.find("db-first.db.lab.svc.cluster.local", "x").addresses == ("10.9.0.2",)


def test_that_are_not_ready_only_where_the_service_publishes_them():
    def made(publish):
        spec = {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 5432}]}
        waiting = pod("db-0", "10.9.0.2")
        waiting.data["metadata"]["labels"] = {"app": "db"}
        waiting.data["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
        return build(
            [raw("Service", "db", spec | {"publishNotReadyAddresses": publish}), waiting], node="here"
        ).snapshot

    assert made(True).zone.find("db-0.db.lab.svc.cluster.local", "x").addresses == ("10.9.0.2",)
    assert made(False).zone.find("db-0.db.lab.svc.cluster.local", "x") in (ABSENT, UNKNOWN)


def test_the_snapshot_says_the_same_after_it_was_stored(zone):
    snapshot = build(OBJECTS, node="here").snapshot
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=Snapshot)
    for name in ("db-0.db.lab.svc.cluster.local", "out.lab", "no.lab.svc.cluster.local", "1.0.42.10.in-addr.arpa"):
        assert again.zone.find(name, "lab") == zone.find(name, "lab")
