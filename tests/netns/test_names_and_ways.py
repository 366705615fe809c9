"""Names, routes, exclusions, splits and what status tells, on the wire."""

import subprocess
import sys
import textwrap

import pytest

from tests.netns.conftest import GET, own

RESOLVER = """
    import socket, struct, sys
    s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((sys.argv[1], 53))
    print("ready")
    while True:
        q, who = s.recvfrom(4096)
        # one A record, 192.0.2.7, whatever was asked
        end = q.index(b"\\0", 12) + 5
        s.sendto(q[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + q[12:end] + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4\\xc0\\0\\2\\7", who)
"""

ASK = """
    import socket, struct, sys
    name = b"".join(bytes([len(p)]) + p.encode() for p in sys.argv[2].split(".")) + b"\\0"
    s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.connect((sys.argv[1], 53))
    s.send(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\1\\0\\1")
    try:
        r = s.recv(4096)
        print(socket.inet_ntoa(r[-4:]) if r[7] else f"rcode {r[3] & 15}")
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def resolver(lab):
    outsider = lab.host("outsider")
    outsider.start(RESOLVER, outsider.v4)
    outsider.start(RESOLVER, outsider.v6)
    return outsider


def test_service_names_are_answered_whatever_resolver_is_asked(lab, resolver):
    buyer = lab.host("buyer")
    for asked in (resolver.v4, resolver.v6, "127.0.0.53", "192.0.2.1"):
        for name in ("store", "store.lab", "store.lab.svc", "store.lab.svc.cluster.local"):
            assert buyer.python(ASK, asked, name).startswith("240.240."), (asked, name)


def test_other_names_go_to_the_resolver_that_was_asked(lab, resolver):
    buyer = lab.host("buyer")
    for asked in (resolver.v4, resolver.v6):
        assert buyer.python(ASK, asked, "example.org") == "192.0.2.7", asked


def test_the_name_of_an_external_service_is_asked_of_the_resolver(lab, resolver):
    spec = {"type": "ExternalName", "externalName": "one.example"}
    lab.write(
        "service-ext",
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ext", "namespace": "lab"}, "spec": spec},
    )
    lab.build()
    assert lab.host("buyer").python(ASK, resolver.v4, "ext.lab.svc.cluster.local") == "192.0.2.7"


def test_other_names_asked_of_a_resolver_on_loopback_go_there(lab):
    """As systemd's, which listens on 127.0.0.53 inside the workload's own namespace."""
    thief = lab.host("thief")
    for address in ("127.0.0.53", "::1"):
        thief.start(RESOLVER, address)
        assert thief.python(ASK, address, "example.org") == "192.0.2.7", address
        assert thief.python(ASK, address, "store").startswith("240.240."), address


ASK_TCP = """
    import socket, struct, sys
    name = b"".join(bytes([len(p)]) + p.encode() for p in sys.argv[2].split(".")) + b"\\0"
    q = b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\1\\0\\1"
    try:
        s = socket.create_connection((sys.argv[1], 53), timeout=3)
        s.sendall(struct.pack("!H", len(q)) + q)
        print(socket.inet_ntoa(s.recv(4096)[-4:]))
    except OSError as error:
        print(type(error).__name__)
"""


def test_names_over_tcp(lab):
    for asked in ("192.0.2.1", "127.0.0.53", "2001:db8::1"):
        assert lab.host("buyer").python(ASK_TCP, asked, "store").startswith("240.240."), asked


def test_a_call_by_name_needs_no_default_route(lab):
    buyer = lab.host("buyer")
    address = buyer.python(ASK, "192.0.2.1", "store")
    for version in ("-4", "-6"):
        buyer.run("ip", version, "route", "del", "default")
    try:
        assert buyer.curl(f"http://{address}/").status == 200
        assert buyer.python(ASK, "127.0.0.53", "store") == address
    finally:
        buyer.run("ip", "route", "add", "default", "via", f"{lab.subnet}.254")
        buyer.run("ip", "-6", "route", "add", "default", "via", f"{lab.subnet6}::254")


def test_host_names_another_service(lab):
    """What was dialled decides, and not Host."""
    lab.service("other", [{"port": 80}], {"app": "nobody"})
    lab.build()
    assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/", "-H", "Host: other").status == 200


def test_a_path_that_reads_two_ways_is_answered_400(lab):
    for path in ("/a/..%2fb", "/%2e%2e/b", "/a%5cb", "/a%00"):
        answer = lab.host("buyer").curl(f"http://{lab.host('store').v4}{path}", "--path-as-is")
        assert (answer.status, answer.reason) == (400, "bad-path"), path


def test_outside_the_mesh_passes_while_egress_is_enabled(lab):
    from tests.netns.conftest import mesh_config

    buyer, outsider = lab.host("buyer"), lab.host("outsider")
    lab.http(outsider, 8080)
    assert buyer.curl(f"http://{outsider.v4}:8080/").status == 200
    assert buyer.curl(f"http://[{outsider.v6}]:8080/").status == 200
    lab.write("mesh", mesh_config(enableEgress=False))
    lab.build()
    try:
        assert buyer.curl(f"http://{outsider.v4}:8080/").refused
    finally:
        lab.write("mesh", mesh_config(enableEgress=True))
        lab.build()


def test_excluded_ports_and_networks_are_left_alone(lab):
    from tests.netns.conftest import mesh_config

    thief, store = lab.host("thief"), lab.host("store")
    lab.tcp(store, 2222, "plain")
    connect = (
        "import socket, sys; print(socket.create_connection((sys.argv[1], 2222), timeout=3).recv(99).decode().strip())"
    )
    assert thief.python(connect, store.v4) == ""
    lab.write("mesh", mesh_config(enableEgress=True, outboundPortExclusionList=[2222], inboundPortExclusionList=[2222]))
    lab.build()
    try:
        for address in (store.v4, store.v6):
            lab.wait(lambda address=address: thief.python(connect, address) == "plain", "the port is left alone")
        assert thief.curl(f"http://{store.v4}/").refused, "only that port"
        ranges = [f"{store.v4}/32", f"{store.v6}/128"]
        lab.write(
            "mesh", mesh_config(enableEgress=True, outboundIPRangeExclusionList=ranges, inboundPortExclusionList=[2222])
        )
        lab.build()
        lab.wait(lambda: thief.python(connect, store.v4) == "plain", "the network is left alone")
        assert thief.curl(f"http://{store.v4}/").reason == "no-identity", (
            "not captured at the caller, so a stranger at the server"
        )
    finally:
        lab.write("mesh", mesh_config(enableEgress=True))
        lab.build()
    assert thief.python(connect, store.v4) == ""


def test_an_interface_that_is_excluded_is_left_alone_and_no_other(lab):
    from tests.netns.conftest import mesh_config, sh

    thief, store = lab.host("thief"), lab.host("store")
    sh("ip", "link", "add", "side1", "netns", thief.name, "type", "veth", "peer", "name", "side1", "netns", store.name)
    there = {}
    for number, host in enumerate((thief, store), 1):
        there[host] = f"198.51.100.{number}"
        sh("ip", "-n", host.name, "addr", "add", f"{there[host]}/24", "dev", "side1")
        sh("ip", "-n", host.name, "link", "set", "side1", "up")
    lab.tcp(store, 2223, "plain")
    connect = "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).recv(99).decode().strip())"
    by_side = there[store]
    assert thief.python(connect, by_side, "2223") == ""
    lab.write("mesh", mesh_config(enableEgress=True, networkInterfaceExclusionList=["side1"]))
    lab.build()
    try:
        lab.wait(lambda: thief.python(connect, by_side, "2223") == "plain", "the interface is left alone")
        assert thief.python(connect, store.v4, "2223") == "", "the other one is captured"
        for port in ("15001", "15006"):
            assert thief.python(connect, by_side, port) == "", "nobody gets at a listener of ours"
        assert thief.curl("http://store.lab/").refused, "a Service is called through the mesh"
    finally:
        lab.write("mesh", mesh_config(enableEgress=True))
        lab.build()
    lab.wait(lambda: thief.python(connect, by_side, "2223") == "", "it is captured again")
    sh("ip", "-n", thief.name, "link", "del", "side1")


def test_status_tells_what_it_cannot_hold(lab):
    import time

    buyer = lab.host("buyer")
    lab.host("late")
    buyer.start(
        "import ctypes, time\nctypes.CDLL(None).prctl(1, 9)\nprint('up')\ntime.sleep(60)",
    )
    buyer.python("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.9', 999))")
    time.sleep(0.1)
    holes = {(h["kind"], h["workload"]): h["count"] for h in lab.status()["holes"]}
    assert holes[("udp", "lab/buyer")] >= 1
    assert holes[("powers", "lab/buyer")] == 2, "NET_ADMIN and NET_RAW"
    assert ("powers", "lab/late") not in holes
    assert ("older", "lab/buyer") not in holes


OLDER = """
    import socket, sys
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
    print("open", flush=True)
    for line in sys.stdin:
        try:
            s.sendall(line.encode()); print(s.recv(100).decode().strip(), flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("calls", [False, True])
def test_connections_older_than_the_capture_are_counted(lab, calls, tracked):
    """Calls into the workload that connection tracking knew pass until they end; everything else is reset at its next packet."""
    name = f"late{calls:d}{tracked:d}"
    late, outsider = lab.host(name), lab.host("outsider")
    if tracked:
        late.run(
            "nft",
            "add table inet own; add chain inet own c { type filter hook input priority 0; }; add rule inet own c ct state new",
        )
    client, server = (late, outsider) if calls else (outsider, late)
    port = 2300 + len(lab.hosts)
    lab.tcp(server, port)
    command = [sys.executable, "-c", textwrap.dedent(OLDER), server.v4, str(port)]
    process = lab.start(["ip", "netns", "exec", client.name, *command], wait=True, stdin=subprocess.PIPE)
    try:
        lab.workload(late)
        lab.build()
        lab.wait(
            lambda: any(w["workload"] == f"lab/{name}" and w["state"] == "captured" for w in lab.status()["workloads"]),
            "captured",
        )
        assert [
            h["count"] for h in lab.status()["holes"] if (h["kind"], h["workload"]) == ("older", f"lab/{name}")
        ] == [1]
        process.stdin.write(b"still there\n")
        process.stdin.flush()
        said = process.stdout.readline().strip().decode()
        assert said == ("echo still there" if tracked and not calls else "ConnectionResetError")
    finally:
        process.stdin.close()


def test_a_split_is_exact(lab):
    second = lab.host("second")
    lab.http(second, 80)
    lab.workload(second, "store", labels={"app": "store-two"})
    for name, app in (("one", "store"), ("two", "store-two")):
        lab.service(f"store-{name}", [{"name": "http", "port": 80}], {"app": app})
    spec = {
        "service": "store",
        "backends": [{"service": "store-one", "weight": 3}, {"service": "store-two", "weight": 1}],
    }
    split = {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"name": "s", "namespace": "lab"},
        "spec": spec,
    }
    lab.write("split", split)
    lab.build()
    lab.wait(
        lambda: any(w["workload"] == "lab/second" and w["state"] == "captured" for w in lab.status()["workloads"]),
        "captured",
    )
    buyer = lab.host("buyer")
    address = buyer.python(ASK, "192.0.2.1", "store")
    told = buyer.curl(f"http://{address}/[1-40]").body
    assert (told.count("store saw"), told.count("second saw")) == (30, 10), told


def test_a_workload_that_does_not_run_is_told_and_stops_nobody(lab):
    lab.write("absent", own("Workload", "absent", {"netns": f"{lab.prefix}absent", "addresses": ["10.255.0.1"]}))
    lab.build()
    absent = next(w for w in lab.status()["workloads"] if w["workload"] == "lab/absent")
    assert absent["state"] == "not captured"
    assert "no such network namespace" in absent["detail"]
    assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/").status == 200
    (lab.config / "absent.yaml").unlink()


def test_policy_by_route_and_method(lab):
    lab.allow("thief", "store", GET)
    lab.build()
    thief, store = lab.host("thief"), lab.host("store")
    assert thief.curl(f"http://{store.v4}/").status == 200
    assert thief.curl(f"http://{store.v4}/", "-d", "x=1").reason == "no-http-match"
    lab.forbid("thief", "store")
    lab.build()
    assert thief.curl(f"http://{store.v4}/").reason == "no-rule"
