"""The town with real namespaces, real applications and no mesh: what it needs to be before a policy can be tried on it."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from agent.demo import mesh, network, stage, town
from agent.demo.database import STAND_IN_NOTE, installed
from agent.demo.plan import hosts
from agent.demo.processes import StartFailed
from agent.demo.steps import STEPS
from agent.demo.town import Town

PREFIX = "emt-"
PRIVATE = not os.access("/etc", os.W_OK)  # the rootless run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, or to run under unshare"),
    pytest.mark.skipif(
        shutil.which("ip") is None or shutil.which("setpriv") is None, reason="needs iproute2 and util-linux"
    ),
]


def direct(nodes: int) -> tuple[str, ...]:
    """Nobody answers DNS here: the applications are given addresses."""
    address = {host.name: host.address4 for host in hosts(nodes)}
    return (
        f"store={address['bookstore-v1']}:14001",
        f"warehouse={address['bookwarehouse']}:14001",
        f"database={address['mysql']}:3306",
        "interval=0.02",
        "pause_least=0",
        "pause_most=0",
    )


DIRECT = direct(1)

STUB = """
import sys, time
from agent.demo import apps
if sys.argv[1] == "demo":
    sys.exit(apps.run(sys.argv[3:]))
time.sleep(600)
"""
RECORD = """
import socket
mine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mine.connect(("10.71.0.9", 9))
given = "" if sys.argv[1] == "run" else sys.stdin.read().strip()
with open({record!r}, "a") as file:
    file.write("|".join((mine.getsockname()[0], " ".join(sys.argv[1:]), given)) + chr(10))
if sys.argv[1] == "run":
    time.sleep(600)
print("the token")
"""


@pytest.fixture(autouse=True)
def without_a_mesh(monkeypatch):
    for module in (stage, mesh):
        monkeypatch.setattr(module, "self_command", lambda: [sys.executable, "-c", STUB])
    monkeypatch.setattr(stage, "SETTINGS", (*stage.SETTINGS, *DIRECT))


@pytest.mark.parametrize(
    "real", [pytest.param(True, marks=pytest.mark.skipif(installed() is None, reason="no MariaDB")), False]
)
def test_everything_runs_counts_and_goes_away(tmp_path, monkeypatch, eventually, real):
    if not real:
        monkeypatch.setattr(town, "installed", lambda: None)
    said: list[str] = []
    with Town(tmp_path / "demo", private=PRIVATE, prefix=PREFIX, say=said.append) as there:
        assert [line.split()[0] for line in said] == ["making", "starting"], "people are told what takes its time"
        assert ("MariaDB" in said[1], "stand-in" in said[1]) == (True, not real)
        assert there.notes == ([] if real else [STAND_IN_NOTE])
        there.apply(STEPS[0])
        assert {path.name for path in there.config.path.iterdir()} > {
            "mesh.yaml",
            "services.yaml",
            "node.yaml",
            "workload-mysql.yaml",
        }
        assert not (there.config.path / "workload-bookstore-v2.yaml").exists()

        def books(owner: str) -> int:
            return there.sample().counts.get(owner, -1)

        for owner in ("bookbuyer", "bookthief", "bookstore-v1", "bookwarehouse", "mysql"):
            eventually(lambda owner=owner: books(owner) >= 3)
        assert there.stored() >= 3
        assert books("bookstore-v2") == -1

        there.apply(STEPS[5])
        eventually(lambda: books("bookstore-v2") == 0)
        assert (there.config.path / "workload-bookstore-v2.yaml").exists()
        there.start_mesh(lambda _: True)
        assert said[2].startswith("starting the mesh")
        assert there.processes.ended() == ""
        there.apply(STEPS[0])
        assert books("bookstore-v2") == -1
    assert not (tmp_path / "demo").exists()
    assert not list(network.RUN.glob(f"{PREFIX}*"))


def test_two_nodes_are_one_town_and_their_daemons_are_enrolled(tmp_path, monkeypatch, eventually):
    """The stub of `edgemesh` writes down how it was called, where, and what it was given."""
    stub = STUB.replace("time.sleep(600)", RECORD.format(record=str(tmp_path / "record")))
    monkeypatch.setattr(mesh, "self_command", lambda: [sys.executable, "-c", stub])
    monkeypatch.setattr(stage, "SETTINGS", (*stage.SETTINGS[: -len(DIRECT)], *direct(2)))
    with Town(tmp_path / "demo", private=PRIVATE, prefix=PREFIX, nodes=2) as there:
        there.apply(STEPS[0])
        configs = {path.name for path in there.config.path.iterdir()}
        assert configs > {"node-1.yaml", "node-2.yaml", "workload-mysql.yaml"}
        assert "node.yaml" not in configs
        for owner in ("bookbuyer", "bookstore-v1", "mysql"):
            eventually(lambda owner=owner: there.sample().counts.get(owner, -1) >= 3)
        asked = []
        there.start_mesh(lambda socket: asked.append(socket) or True)
        assert asked == [tmp_path / "demo" / node / "admin.sock" for node in ("node-1", "node-2")]
        assert {"edgemesh-node-1", "edgemesh-node-2"} <= set(there.processes._running)
        eventually(lambda: len((tmp_path / "record").read_text().splitlines()) == 5)
        lines = [line.split("|") for line in (tmp_path / "record").read_text().splitlines()]
        states = [f"--state {tmp_path}/demo/node-{number}/state" for number in (1, 2)]
        run = f"run --config {there.config.path}"
        by_node = {
            "10.71.0.1": [
                f"ca init {states[0]}",
                f"{run} --authority --node node-1",
                f"ca token --node node-2 {states[0]}",
            ],
            "10.71.0.2": [
                f"join --authority 10.71.0.1:{mesh.AUTHORITY_PORT} --node node-2 {states[1]}",
                f"{run} --node node-2",
            ],
        }
        for address, expected in by_node.items():
            assert sorted(words for where, words, _ in lines if where == address) == sorted(expected)
        assert [given for _, words, given in lines if words.startswith("join")] == ["the token"]
    assert not list(network.RUN.glob(f"{PREFIX}*"))


def test_a_node_that_is_not_let_in_is_told_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(mesh, "self_command", lambda: [sys.executable, "-c", "raise SystemExit('no such authority')"])
    with Town(tmp_path / "demo", private=PRIVATE, prefix=PREFIX, nodes=2) as there:
        there.apply(STEPS[0])
        with pytest.raises(StartFailed, match=r"edgemesh ca init --state .*: no such authority"):
            there.start_mesh(lambda _: True)
