"""Capabilities and connections as /proc tells them."""

import json
import os
import subprocess
import sys

import pytest

from agent.kernel import capabilities

HEAD = "  sl  local_address rem_address   st\n"


def line(address, port, state="01"):
    return f"   0: {address}:{port:04X} 0200000A:0050 {state} 00000000:00000000\n"


def test_connections_are_counted_without_loopback_and_ours(monkeypatch, tmp_path):
    (tmp_path / "tcp").write_text(
        HEAD
        + line("0100000A", 4000)
        + line("0100000A", 4001, "0A")  # listens
        + line("0100007F", 4002)
        + line("0100000A", 15006)
    )
    six = "000000000000000000000000"
    (tmp_path / "tcp6").write_text(
        HEAD
        + line("000080FE" + "0" * 23 + "1", 4000)
        + line(six + "01000000", 4001)
        + line("0000000000000000FFFF00000100007F", 4002)
        + line("0000000000000000FFFF00000100000A", 4003)
    )
    monkeypatch.setattr(capabilities, "Path", lambda name: tmp_path / name.rpartition("/")[2])
    assert capabilities.established((15001, 15006)) == 3


def test_no_ipv6_is_no_fault(monkeypatch, tmp_path):
    (tmp_path / "tcp").write_text(HEAD + line("0100000A", 4000))
    monkeypatch.setattr(capabilities, "Path", lambda name: tmp_path / name.rpartition("/")[2])
    assert capabilities.established(()) == 1


@pytest.mark.parametrize(
    ("snmp", "count"),
    [
        ("Tcp: RtoMin CurrEstab\nTcp: 200 0\n", 0),
        ("Tcp: RtoMin CurrEstab\nTcp: 200 2\n", 1),
        ("Tcp: RtoMin CurrEstab\nTcp: 200\n", 1),
        ("Tcp: RtoMin\nTcp: 200\n", 1),
        ("", 1),
    ],
)
def test_a_namespace_without_connections_is_not_walked(monkeypatch, tmp_path, snmp, count):
    (tmp_path / "tcp").write_text(HEAD + line("0100000A", 4000))
    (tmp_path / "snmp").write_text(snmp)
    monkeypatch.setattr(capabilities, "Path", lambda name: tmp_path / name.rpartition("/")[2])
    assert capabilities.established(()) == count


def test_nobody_is_looked_at_where_nobody_is_asked_for():
    assert capabilities.powers_by_namespace([]) == {}
    assert capabilities.powers_of([]) == ()
    assert set(capabilities.powers_of([os.getpid(), 1 << 30])) <= {"NET_ADMIN", "NET_RAW"}
    status = os.stat("/proc/self/ns/net")
    found = capabilities.powers_by_namespace([(status.st_dev, status.st_ino)])
    assert set(found) <= {(status.st_dev, status.st_ino)}
    assert all(set(held) <= {"NET_ADMIN", "NET_RAW"} for held in found.values())


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as found:
        yield found.pid
        found.kill()


def container(tasks, name, pid, kind):
    folder = tasks / name
    folder.mkdir(parents=True)
    (folder / "init.pid").write_text(str(pid))
    (folder / "config.json").write_text(json.dumps({"annotations": {"io.kubernetes.cri.container-type": kind}}))


def test_the_process_that_holds_a_pods_namespaces_open_is_not_the_pod(monkeypatch, tmp_path, process):
    """By what the container runtime wrote down, not by a name that a pod could give its own process."""
    monkeypatch.setattr(capabilities, "_TASKS", (tmp_path / "none", tmp_path / "tasks"))
    monkeypatch.setattr(capabilities, "_held", lambda pid, users: {"NET_RAW"} if int(pid) == process else set())
    status = os.stat("/proc/self/ns/net")
    key = (status.st_dev, status.st_ino)
    assert capabilities.powers_by_namespace([key]) == {key: ("NET_RAW",)}
    container(tmp_path / "tasks", "app", process, "container")
    (tmp_path / "tasks" / "empty").mkdir()
    (tmp_path / "tasks" / "odd").mkdir()
    (tmp_path / "tasks" / "odd" / "init.pid").write_text(str(process))
    (tmp_path / "tasks" / "odd" / "config.json").write_text("[]")
    assert capabilities.powers_by_namespace([key]) == {key: ("NET_RAW",)}, "a container of the pod's own is the pod's"
    container(tmp_path / "tasks", "sandbox", process, "sandbox")
    assert capabilities.powers_by_namespace([key]) == {key: ()}
    assert capabilities.sandbox_processes() == {process}
