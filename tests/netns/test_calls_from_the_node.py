"""The node's own address is no identity: from it only declared probes are admitted. The daemon runs in a namespace that stands for the host."""

import pytest

from agent.admin.client import get
from tests.netns.conftest import GET, Lab, mesh_config, named, own, routes

CONNECT = """
    import socket, sys
    try:
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
        if sys.argv[3]: s.sendall(sys.argv[3].encode())
        s.settimeout(0.5)
        print("closed" if s.recv(100) == b"" else "answered")
    except TimeoutError:
        print("open")
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("home"), "emkh-", 87)
    try:
        lab.home = lab.host("home")
        store = lab.host("store")
        lab.http(store, 80)
        lab.tcp(store, 7)
        lab.tcp(store, 9)
        probes = {
            "livenessProbe": {"httpGet": {"path": "/health", "port": 80}},
            "readinessProbe": {"tcpSocket": {"port": 7}},
        }
        template = {"metadata": {"labels": {"app": "store"}}, "spec": {"containers": [{"name": "store", "image": "store", **probes}]}}
        spec = {"selector": {"matchLabels": {"app": "store"}}, "template": template}
        lab.write("deployment", {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named("store"), "spec": spec})
        lab.workload(store, template="store")
        lab.workload(lab.host("buyer"))
        lab.service("store", [{"name": "http", "port": 80}])
        lab.write("routes", routes("get", {"name": "get", "methods": ["GET"]}))
        lab.allow("buyer", "store", GET)
        lab.write("mesh", mesh_config(enableEgress=True))
        yield lab.up()
    finally:
        lab.close()


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_declared_probe_is_admitted_and_nothing_else(lab, family):
    address = lab.host("store").v4 if family == "v4" else f"[{lab.host('store').v6}]"
    probe = lab.home.curl(f"http://{address}/health")
    assert probe.status == 200
    assert (f":{lab.home.v4} " if family == "v4" else f" {lab.home.v6} ") in probe.body, "from the node's own address"
    for path, words in (("/", ()), ("/healthz", ()), ("/health/../", ()), ("/health", ("-X", "DELETE"))):
        assert lab.home.curl(f"http://{address}{path}", *words).status in (400, 403), (path, words)
    assert lab.home.curl(f"http://{address}/").reason == "no-identity"


def test_only_the_node_is_asked_no_identity_for_its_probe(lab):
    outsider = lab.host("outsider")
    assert outsider.curl(f"http://{lab.host('store').v4}/health").reason == "no-identity"


def test_a_tcp_probe_finds_the_port_open_and_carries_nothing(lab):
    store = lab.host("store")
    assert lab.home.python(CONNECT, store.v4, 7, "") == "open"
    assert lab.home.python(CONNECT, store.v4, 7, "hello\n") in ("open", "closed", "ConnectionResetError"), "this server echoes"
    assert lab.home.python(CONNECT, store.v4, 9, "hello\n") in ("open", "closed", "ConnectionResetError")


def test_workloads_are_served_as_ever(lab):
    assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/").status == 200


def test_the_hosts_own_namespace_is_not_taken_for_a_workload(lab):
    """Its rules would capture every program of the host."""
    lab.write("home", own("Workload", "home", {"netns": lab.home.name, "addresses": [lab.home.v4]}))
    try:
        lab.build()
        found = next(w for w in get(lab.socket, "/status")["workloads"] if w["workload"] == "lab/home")
        assert found["state"] == "not captured"
        assert "host's own network namespace" in found["detail"]
        assert "edgemesh" not in lab.home.run("nft", "list", "tables").stdout
    finally:
        (lab.config / "home.yaml").unlink()
        lab.build()
