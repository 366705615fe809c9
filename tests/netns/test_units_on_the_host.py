"""Workloads that are systemd units: they share the host's namespace and are told apart by cgroup.

No systemd runs here: cgroups with the names that it would give them stand for units, in a namespace that stands for the host.
"""

import subprocess
import sys
import textwrap

import pytest

from agent.admin.client import get
from agent.kernel.host import FIRST_PORT
from agent.system import cgroup
from tests.netns.conftest import GET, HTTP_SERVER, Lab, mesh_config, routes

CALL = """
    import socket, sys
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    s = socket.socket(family); s.settimeout(3)
    if sys.argv[3] != "0": s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(sys.argv[3], 0))
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        s.sendall(b"GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
        said = b""
        while data := s.recv(4096): said += data
        print(said.split(b"\\r\\n")[0].decode(), said.rpartition(b"\\r\\n")[2].decode().split("\\n")[0])
    except OSError as error:
        print(type(error).__name__)
"""


class Unit:
    """A cgroup, and programs started in it, in the host's namespace."""

    def __init__(self, lab, root, name):
        self.lab, self.name = lab, f"{lab.prefix}{name}.service"
        self.folder = root / "system.slice" / self.name
        self.make()

    def make(self):
        self.folder.mkdir(parents=True, exist_ok=True)  # a run that was killed may have left it

    def remove(self):
        for pid in (self.folder / "cgroup.procs").read_text().split():
            subprocess.run(["kill", "-9", pid], check=False)
        for process in self.lab.processes:
            process.poll()  # a process that nobody waited for keeps its cgroup
        self.lab.wait(lambda: cgroup.leave(self.folder), "it ends")

    def enter(self):
        (self.folder / "cgroup.procs").write_text("0")

    def command(self, code, *words):
        home = f"--net=/run/netns/{self.lab.home.name}"
        return ["nsenter", home, sys.executable, "-u", "-c", textwrap.dedent(code), *map(str, words)]

    def http(self, port):
        return self.lab.start(
            self.command(HTTP_SERVER, self.name.removeprefix(self.lab.prefix).removesuffix(".service"), port),
            True,
            preexec_fn=self.enter,
        )

    def call(self, address, port, mark="0"):
        done = subprocess.run(
            self.command(CALL, address, port, mark),
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
            preexec_fn=self.enter,
        )
        return done.stdout.strip()


class Nobody(Unit):
    """A process of the host that is no unit."""

    def make(self):
        pass

    def remove(self):
        pass

    def enter(self):
        pass


@pytest.fixture(scope="module")
def host(tmp_path_factory, needs_cgroup):
    root = needs_cgroup
    lab = Lab(tmp_path_factory.mktemp("units"), "emku-", 88)
    slice_was_there = (root / "system.slice").exists()
    units = {}
    try:
        lab.home = home = lab.host("home")
        for name in ("buyer", "thief", "store"):
            units[name] = Unit(lab, root, name)
            # Loopback is an address of the host like any other; it is the units' only where their manifests say so.
            lab.workload(home, netns="", systemdUnit=units[name].name, addresses=[home.v4, home.v6, "127.0.0.1", "::1"])
            (lab.config / "workload-home.yaml").rename(lab.config / f"workload-{name}.yaml")
            text = (lab.config / f"workload-{name}.yaml").read_text()
            text = text.replace('"name": "home"', f'"name": "{name}"').replace(
                '"serviceAccount": "home"', f'"serviceAccount": "{name}"'
            )
            (lab.config / f"workload-{name}.yaml").write_text(text.replace('"app": "home"', f'"app": "{name}"'))
        pod = lab.host("pod")
        lab.workload(pod)
        lab.http(pod, 80)
        units["store"].http(8080)
        for app, port in (("store", 8080), ("pod", 80)):
            lab.service(app, [{"name": "http", "port": 80, "targetPort": port}])
        lab.write("routes", routes("get", {"name": "get", "methods": ["GET"]}))
        for source, destination in (("buyer", "store"), ("pod", "store"), ("buyer", "pod")):
            lab.allow(source, destination, GET)
        lab.write("mesh", mesh_config(enableEgress=True))
        lab.up()
        lab.units = units
        lab.nobody = Nobody(lab, root, "nobody")
        yield lab
    finally:
        lab.close()
        for unit in units.values():
            if unit.folder.exists():
                unit.remove()
        if not slice_was_there:
            (root / "system.slice").rmdir()


def service(lab, name, family="v4"):
    found = next(s for s in get(lab.socket, "/snapshot")["services"] if s["name"] == name)
    return next(a for a in found["addresses"] if (":" in a) == (family == "v6"))


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_unit_to_unit(host, family):
    own = host.home.v6 if family == "v6" else host.home.v4
    for address, port in ((service(host, "store", family), 80), (own, 8080)):
        assert host.units["buyer"].call(address, port).startswith("HTTP/1.1 200 OK store saw"), address
        assert "403" in host.units["thief"].call(address, port), address


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_over_loopback_too(host, address):
    said = host.units["buyer"].call(address, 8080)
    assert said.startswith("HTTP/1.1 200 OK store saw"), said
    assert "403" in host.units["thief"].call(address, 8080)


@pytest.mark.parametrize("mark", ["0", "0x6d6e0001", "0x6d6e0002", "0x539"])
def test_who_is_no_unit_is_refused_over_loopback(host, mark):
    for address in ("127.0.0.1", "::1", host.home.v4, host.home.v6):
        assert host.nobody.call(address, 8080, mark) in (
            "ConnectionRefusedError",
            "ConnectionResetError",
            "TimeoutError",
        ), address


def test_a_units_door_cannot_be_dialled_itself(host):
    """Who could dial a door would be taken for its unit, and a door that is told to dial itself would do so without end."""
    for port in range(FIRST_PORT, FIRST_PORT + 9):
        for address in ("127.0.0.1", "::1", host.home.v4):
            assert host.nobody.call(address, port) == "ConnectionRefusedError", (address, port)
            said = host.units["thief"].call(address, port)
            assert "200" not in said, (address, port, said)
        assert host.host("outsider").curl(f"http://{host.home.v4}:{port}/").exit_code == 7
    assert len(host.records()) < 1000, "no door dialled itself"
    assert not [c for c in get(host.socket, "/connections") if "151" in c["dialled"]]


def test_from_outside_the_box(host):
    outsider = host.host("outsider")
    for address in (host.home.v4, f"[{host.home.v6}]"):
        assert outsider.curl(f"http://{address}:8080/").reason == "no-identity"


@pytest.mark.parametrize("mark", ["0x6d6e0001", "0x6d6e0002"])
def test_a_unit_that_sets_our_marks_is_captured_all_the_same(host, mark):
    for address, port in ((host.home.v4, 8080), ("127.0.0.1", 8080), (service(host, "store"), 80)):
        said = host.units["thief"].call(address, port, mark)
        assert "200" not in said, (address, said)


def test_units_and_namespaces_call_each_other(host):
    pod = host.host("pod")
    assert host.units["buyer"].call(service(host, "pod"), 80).startswith("HTTP/1.1 200 OK pod saw")
    assert "403" in host.units["thief"].call(service(host, "pod"), 80)
    assert f"{pod.v4} " in pod.curl(f"http://{service(host, 'store')}/").body
    assert "store saw" in pod.curl(f"http://{host.home.v4}:8080/").body


def test_a_restarted_unit_is_captured_again(host):
    store, thief = host.units["store"], host.units["thief"]
    before = cgroup.identify(store.folder, cgroup.mount())
    store.remove()
    host.wait(lambda: not captured(host, "store"), "it is seen to be gone")
    store.make()
    assert cgroup.identify(store.folder, cgroup.mount()) != before
    host.wait(lambda: captured(host, "store"), "it is captured again")
    store.http(8080)
    assert host.units["buyer"].call(host.home.v4, 8080).startswith("HTTP/1.1 200")
    assert "403" in thief.call(host.home.v4, 8080)
    assert "Refused" in host.nobody.call("127.0.0.1", 8080)


def captured(lab, name):
    return any(w["workload"] == f"lab/{name}" and w["state"] == "captured" for w in lab.status()["workloads"])


def test_what_is_no_business_of_the_mesh_is_left_alone(host):
    """Processes of the host that are no units call out, and serve, as if we were not there."""
    server = host.start(host.nobody.command(HTTP_SERVER, "plain", 9090), True)
    assert host.nobody.call("127.0.0.1", 9090).startswith("HTTP/1.1 200 OK plain")
    assert host.host("outsider").curl(f"http://{host.home.v4}:9090/").status == 200
    assert host.units["buyer"].call("127.0.0.1", 9090).startswith("HTTP/1.1 200 OK plain"), "egress"
    server.kill()


@pytest.mark.parametrize("damage", ["mistyped", "gone"])
def test_a_unit_whose_name_is_mistyped_or_gone_opens_nothing(host, damage):
    """Also when it starts anew, with another cgroup; and its right name gets it back."""
    file = host.config / "workload-store.yaml"
    text, store = file.read_text(), host.units["store"]
    assert "Refused" in host.nobody.call(host.home.v4, 8080)
    if damage == "mistyped":
        file.write_text(text.replace(store.name, "stroe.service"))
        host.wait(lambda: host.status()["state"] == "degraded", "a unit that nobody knows is a fault")
        (told,) = [item for item in host.status()["problems"] if item["severity"] == "error"]
        assert "systemd has no unit of that name" in told["message"]
    else:
        file.unlink()
    host.build()
    try:
        assert "200" not in host.nobody.call(host.home.v4, 8080)
        assert "200" not in host.units["thief"].call(host.home.v4, 8080)
        assert any(
            item["severity"] == "warning" and "edgemesh release lab/store" in item["hint"]
            for item in host.status()["problems"]
        )
        store.remove()
        store.make()
        store.http(8080)
        assert "200" not in host.nobody.call(host.home.v4, 8080)
        host.down(9)
        assert "200" not in host.nobody.call(host.home.v4, 8080)
    finally:
        file.write_text(text)
        if host.daemon.poll() is not None:
            host.up()
    host.wait(lambda: host.units["buyer"].call(host.home.v4, 8080).startswith("HTTP/1.1 200"), "it is the store again")
    assert host.status()["state"] == "enforcing"


def test_rules_stay_when_the_daemon_is_killed(host):
    host.down(9)
    assert host.units["buyer"].call(host.home.v4, 8080) == "ConnectionRefusedError"
    assert "200" not in host.nobody.call("127.0.0.1", 8080)
    host.up()
    assert host.units["buyer"].call(host.home.v4, 8080).startswith("HTTP/1.1 200")


ASK = """
    import socket, sys, time
    began = time.monotonic()
    s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(4)
    try:
        s.connect((sys.argv[1], 53))
        s.send(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\5store\\3lab\\0\\0\\1\\0\\1")
        print(socket.inet_ntoa(s.recv(4096)[-4:]))
    except OSError as error:
        print(type(error).__name__, "at once" if time.monotonic() - began < 2 else "late")
"""

ASK_TCP = ASK.replace("SOCK_DGRAM", "SOCK_STREAM")


def test_a_unit_resolves_names_without_a_default_route_and_others_are_told_at_once_that_they_cannot(host):
    """The way for questions over lo is the whole host's; whoever is no unit must not wait for an answer on it."""
    home = host.home
    for version in ("-4", "-6"):
        home.run("ip", version, "route", "del", "default")
    try:
        for asked in ("192.0.2.1", "2001:db8::1"):
            buyer = host.units["buyer"]
            done = subprocess.run(
                buyer.command(ASK, asked),
                capture_output=True,
                text=True,
                timeout=15,
                check=False,
                preexec_fn=buyer.enter,
            )
            assert done.stdout.startswith("240.240."), asked
            assert home.python(ASK, asked) == "PermissionError at once", asked
            assert home.python(ASK_TCP, asked).endswith("at once"), asked
    finally:
        home.run("ip", "route", "add", "default", "via", f"{host.subnet}.254")
        home.run("ip", "-6", "route", "add", "default", "via", f"{host.subnet6}::254")
