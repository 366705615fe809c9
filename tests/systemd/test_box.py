"""The service on a box whose PID 1 is systemd itself: set up, units that begin captured, kill -9 in a loop, an update, removed."""

import hashlib
import json
import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.commands.update import family
from agent.ota.bundle import File, Manifest, write_head

KEY = Ed25519PrivateKey.generate()

SERVER = """[Service]
ExecStart=/usr/bin/python3 -u -c "import http.server,socketserver; \\
http.server.ThreadingHTTPServer(('127.0.0.1', %s), http.server.SimpleHTTPRequestHandler).serve_forever()"
WorkingDirectory=/usr/share/doc
Restart=always
RestartSec=0
"""
IDLE = "[Service]\nExecStart=/usr/bin/sleep infinity\n"


def manifests(*documents):
    return "\n---\n".join(json.dumps(document) for document in documents)


def workload(name, **spec):
    spec = {
        "serviceAccount": name,
        "labels": {"app": name},
        "addresses": ["127.0.0.1"],
        "systemdUnit": f"{name}.service",
    } | spec
    return {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }


SHOP = [
    workload("till"),
    workload("thief"),
    workload("stock", ports=[{"port": 8080}]),
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "stock", "namespace": "shop"},
        "spec": {"selector": {"app": "stock"}, "ports": [{"name": "http-api", "port": 80, "targetPort": 8080}]},
    },
    {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "stock", "namespace": "shop"},
        "spec": {"matches": [{"name": "read", "methods": ["GET"], "pathRegex": "/.*"}]},
    },
    {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {"name": "till-reads-stock", "namespace": "shop"},
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": "stock", "namespace": "shop"},
            "sources": [{"kind": "ServiceAccount", "name": "till", "namespace": "shop"}],
            "rules": [{"kind": "HTTPRouteGroup", "name": "stock", "matches": ["read"]}],
        },
    },
]


def call(box, unit, seconds=5):
    """As a process of that unit: the status of GET on the stock's server, 0 for none."""
    script = f'echo $$ >/sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs; exec curl -s -m {seconds} -o /dev/null -w "%{{http_code}}" http://127.0.0.1:8080/'
    return int(box.run("bash", "-c", script, check=False).stdout or 0)


def test_set_up_on_a_box_with_nothing(box):
    said = box.run(box.file, "setup").stdout
    assert "runs and enforces" in said
    assert box.show("ActiveState") == "active"
    assert box.show("Type") == "notify"
    assert "enforces policy" in box.show("StatusText")
    assert box.status()["enforcing"]
    as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    assert box.sh(f"{as_nobody} edgemesh version").startswith("edgemesh ")
    secret = box.sh(f"{as_nobody} find /var/lib/edgemesh/. -type f -readable 2>&1 || true")
    assert "Permission denied" in secret, "it cannot even be listed"


def test_again_it_changes_nothing(box):
    before, pid = (
        box.sh(
            "find /etc/edgemesh /etc/systemd/system /usr/local /var/lib/edgemesh/releases -printf '%p %T@ %i\n' | sort"
        ),
        box.main_pid(),
    )
    said = box.run(box.file, "setup").stdout
    assert "runs already" in said
    assert "wrote" not in said
    assert box.main_pid() == pid
    assert (
        box.sh(
            "find /etc/edgemesh /etc/systemd/system /usr/local /var/lib/edgemesh/releases -printf '%p %T@ %i\n' | sort"
        )
        == before
    )


def test_what_setup_writes_has_no_fault(box):
    assert "0 " not in box.edgemesh("check", "/etc/edgemesh").stderr
    assert box.edgemesh("check", "/etc/edgemesh").returncode == 0
    verified = box.run("systemd-analyze", "verify", "edgemesh.service", check=False)
    assert verified.returncode == 0, verified.stderr
    assert verified.stderr == ""


def test_units_that_ran_before_are_told_and_wait_from_then_on(box):
    for name in ("till", "thief"):
        box.write(f"/etc/systemd/system/{name}.service", IDLE)
    box.write("/etc/systemd/system/stock.service", SERVER % 8080)
    box.sh("systemctl daemon-reload; systemctl start till thief stock")
    box.write("/etc/edgemesh/shop.yaml", manifests(*SHOP))
    box.wait(lambda: [w["state"] for w in box.status()["workloads"]] == ["captured"] * 3, "all are captured")
    late = [hole["workload"] for hole in box.status()["holes"] if hole["kind"] == "late"]
    assert late == ["shop/stock", "shop/thief", "shop/till"]
    assert "not captured at start" in box.edgemesh("status").stdout
    said = box.run(box.file, "setup").stdout
    assert "systemctl restart stock.service when it suits" in said
    box.sh("systemctl restart till thief stock")
    assert [hole for hole in box.status()["holes"] if hole["kind"] == "late"] == []
    box.wait(lambda: call(box, "till") == 200, "the till is served")
    assert call(box, "thief") == 403


def test_a_unit_is_captured_at_its_first_byte(box):
    """Its very first process calls at once; before the drop-in, some of these came through."""
    first = "[Service]\nType=oneshot\nExecStart=/usr/bin/curl -s -m 5 -o /dev/null -w %{http_code} http://127.0.0.1:8080/\nStandardOutput=append:/run/first\n"
    box.write("/etc/systemd/system/early.service", first.replace("%", "%%"))
    box.write("/etc/edgemesh/early.yaml", manifests(workload("early")))
    box.run(box.file, "setup")
    for _ in range(20):
        box.sh("systemctl start early.service")
    assert set(re.findall("...", box.sh("cat /run/first"))) == {"403"}


def test_a_namespace_that_comes_later_is_captured(box):
    """The service sees what is mounted after its start, and may enter it."""
    box.write(
        "/etc/edgemesh/pump.yaml", manifests(workload("pump", systemdUnit="", netns="pump", addresses=["10.9.0.2"]))
    )
    box.sh(
        "ip netns add pump; ip link add p0 type veth peer name eth0 netns pump; ip addr add 10.9.0.1/24 dev p0; ip link set p0 up"
    )
    box.sh("ip -n pump addr add 10.9.0.2/24 dev eth0; ip -n pump link set eth0 up; ip -n pump link set lo up")
    box.wait(
        lambda: {w["workload"]: w["state"] for w in box.status()["workloads"]}.get("shop/pump") == "captured",
        "it is captured",
    )
    assert "edgemesh" in box.sh("nsenter --net=/run/netns/pump nft list tables")
    assert call_from_pump(box) == 403


def call_from_pump(box):
    stock = json.loads(box.edgemesh("routes", "-o", "json").stdout)[0]["addresses"][0]
    return int(box.sh(f"nsenter --net=/run/netns/pump curl -s -m 20 -o /dev/null -w '%{{http_code}}' http://{stock}/"))


def test_a_unit_does_not_start_where_nothing_enforces(box):
    never, brief = "/run/systemd/system/edgemesh.service.d/never.conf", "/run/systemd/system/early.service.d/brief.conf"
    box.write(never, "[Unit]\nConditionPathExists=/nowhere\n")
    box.write(brief, "[Service]\nTimeoutStartSec=2\n")
    box.sh("systemctl daemon-reload; systemctl stop edgemesh")
    box.sh("rm -f /run/first")
    assert box.run("systemctl", "start", "early.service", check=False).returncode != 0
    assert box.run("test", "-s", "/run/first", check=False).returncode != 0, "nothing of it ran"
    assert call(box, "till", 2) == 0, "closed while it is stopped"
    box.sh(f"rm {never} {brief}; systemctl daemon-reload; systemctl reset-failed; systemctl start early.service")
    assert box.sh("cat /run/first") == "403"


def test_killed_in_a_loop_it_loses_no_listening_socket(box):
    """Who dials meanwhile waits in the socket's queue and is answered by the next daemon; nobody forbidden is ever admitted."""
    box.sh("systemctl restart edgemesh")  # units that do not run have no doors from then on
    doors = int(box.sh("ss -Hltn | grep -c :151; true"))
    box.wait(lambda: int(box.show("NFileDescriptorStore")) > doors > 10, "all doors are kept, and what owns the table")
    kept = int(box.show("NFileDescriptorStore"))
    restarts = int(box.show("NRestarts"))
    for number in range(5):
        pid = box.main_pid()
        box.sh(f"kill -9 {pid}")
        assert call(box, "till", 20) == 200, f"the {number}. time"
        assert call(box, "thief", 20) == 403
        box.wait(lambda: box.show("ActiveState") == "active", "it is ready again")
        assert call_from_pump(box) == 403, "by a door that was made in a cgroup that is gone"
    assert int(box.show("NRestarts")) == restarts + 5
    box.wait(lambda: int(box.show("NFileDescriptorStore")) == kept, "the same descriptors are kept")


def test_one_that_hangs_is_replaced(box):
    pid = box.main_pid()
    box.sh(f"kill -STOP {pid}")
    box.wait(lambda: box.main_pid() != pid, "the watchdog bites")
    assert call(box, "till", 20) == 200


def bundle(version, epoch):
    """A release that is this very file, by another name."""
    program = f'#!/bin/sh\n# {version}\nexec /usr/local/bin/edgemesh-file "$@"\n'.encode()
    file = File(family(), len(program), hashlib.sha256(program).hexdigest())
    return write_head(Manifest(version, epoch, (file,)), [KEY]) + program


def test_an_update_is_followed_by_the_manager(box):
    """From one main process to the next, back again, and killed: always one that systemd watches over."""
    box.write("/run/key.pub", KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
    box.edgemesh("update", "trust", "/run/key.pub")
    restarts = box.show("NRestarts")
    for words in (["update", "/run/bundle"], ["update", "rollback"]):
        pid = box.main_pid()
        box.write("/run/bundle", bundle("9.0", 9))
        box.edgemesh(*words)
        assert box.main_pid() != pid
        assert box.show("ActiveState") == "active"
        box.wait(lambda pid=pid: box.run("test", "-e", f"/proc/{pid}", check=False).returncode, "the old one ends")
        assert call(box, "till") == 200
        assert call(box, "thief") == 403
    assert box.show("NRestarts") == restarts
    pid = box.main_pid()
    box.sh(f"kill -9 {pid}")
    assert call(box, "till", 20) == 200
    assert box.main_pid() != pid
    assert box.edgemesh("update", "history").stdout.count("took over") == 2


def test_removed_it_leaves_nothing(box):
    refused = box.edgemesh("ca", "init")
    assert refused.returncode == 0
    assert box.edgemesh("remove", check=False).returncode == 1, "the authority is not thrown away by the way"
    said = box.edgemesh("remove", "--yes", check=False)
    assert said.returncode == 0, said.stderr
    assert "early.yaml, pump.yaml, shop.yaml are yours" in said.stdout
    left = box.sh("find /etc /var /run /usr/local /root /home /tmp -name '*edgemesh*'").split()
    of_the_test = {
        box.file,
        "/etc/systemd/system/edgemesh.service.d",
        "/run/edgemesh.log",
        "/run/systemd/system/edgemesh.service.d",
    }
    assert set(left) - of_the_test == {"/etc/edgemesh"}
    assert "edgemesh" not in box.sh(
        "nsenter --net=/run/netns/pump nft list tables; nft list tables; ip rule; ip -6 rule; ip route show table all"
    )
    assert box.run("systemctl", "is-active", "edgemesh.service", check=False).stdout != "active\n"
    box.sh("systemctl restart till thief stock")
    box.wait(lambda: call(box, "thief") == 200, "without edgemesh everybody may call")
    assert box.run(box.file, "remove", "--purge").returncode == 0
    assert box.run("test", "-e", "/etc/edgemesh", check=False).returncode == 1
