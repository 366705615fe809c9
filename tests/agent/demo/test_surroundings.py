"""What the demo asks of the box, and how it says that something is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agent.demo import surroundings
from agent.demo.surroundings import Unsuited, enter_command, environment, find, prepare
from agent.system import program


def test_missing_programs_are_named_by_their_packages(monkeypatch):
    monkeypatch.setattr(
        surroundings, "find", lambda program: None if program in ("curl", "ip") else f"/usr/bin/{program}"
    )
    with pytest.raises(Unsuited, match="apt-get install curl iproute2"):
        prepare([])


def test_programs_of_sbin_are_found_on_a_users_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find("sh") in ("/usr/bin/sh", "/bin/sh")
    assert find("no-such-program-here") is None


def test_settings_of_the_boxs_own_daemon_do_not_reach_the_demos(monkeypatch):
    monkeypatch.setenv("EDGEMESH_SOCKET", "/run/edgemesh/edgemesh.sock")
    assert "EDGEMESH_SOCKET" not in environment()


def test_children_find_our_packages_from_any_folder(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import agent.demo"], cwd=tmp_path, env=environment(), check=False)
    assert done.returncode == 0


@pytest.fixture
def everything_is_installed(monkeypatch):
    monkeypatch.setattr(surroundings, "find", lambda program: f"/usr/bin/{program}")
    monkeypatch.delenv("EDGEMESH_DEMO_INSIDE", raising=False)


def test_root_with_a_writable_etc_stays_in_the_boxs_namespaces(everything_is_installed, monkeypatch):
    monkeypatch.setattr(surroundings, "_in_user_namespace", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert prepare([]) is False
    assert enter_command(False) == ""


@pytest.mark.parametrize(
    ("uid", "writable", "flags"),
    [(1000, False, ["--user", "--map-root-user", "--net", "--mount"]), (0, False, ["--net", "--mount"])],
)
def test_others_are_run_again_under_unshare(everything_is_installed, monkeypatch, uid, writable, flags):
    class Replaced(Exception):  # noqa: N818
        pass

    def execve(path: str, command: list[str], env: dict[str, str]) -> None:
        raise Replaced(path, command, env["EDGEMESH_DEMO_INSIDE"])

    monkeypatch.setattr(surroundings, "_in_user_namespace", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "access", lambda *_: writable)
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    with pytest.raises(Replaced) as caught:
        prepare(["--step", "3"])
    path, command, inside = caught.value.args
    assert path == "/usr/bin/unshare"
    assert command == ["/usr/bin/unshare", *flags, *program.command(), "demo", "--step", "3"]
    assert inside == "1"


def test_a_box_without_user_namespaces_says_what_to_set(everything_is_installed, monkeypatch):
    monkeypatch.setattr(surroundings, "_in_user_namespace", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "Operation not permitted")
    )
    with pytest.raises(Unsuited, match=r"Operation not permitted.*as root.*unprivileged_userns_clone"):
        prepare([])


def test_a_user_namespace_without_root_in_it_is_of_no_use(everything_is_installed, monkeypatch):
    monkeypatch.setattr(surroundings, "_in_user_namespace", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(Unsuited, match="--map-root-user"):
        prepare([])


@pytest.mark.parametrize(
    ("uid_map", "inside"),
    [
        ("         0          0 4294967295\n", False),
        ("         0       1000          1\n", True),
        ("0 0 1\n", True),
        ("0 100000 65536\n", True),
    ],
)
def test_a_user_namespace_is_recognised_by_its_map(tmp_path, monkeypatch, uid_map, inside):
    (tmp_path / "uid_map").write_text(uid_map)
    monkeypatch.setattr(surroundings, "_UID_MAP", tmp_path / "uid_map")
    assert surroundings._in_user_namespace() is inside


def test_other_terminals_are_told_how_to_enter(monkeypatch):
    monkeypatch.setattr(surroundings, "_in_user_namespace", lambda: True)
    assert enter_command(True) == f"nsenter --target {os.getpid()} --user --preserve-credentials --net --mount "
    monkeypatch.setattr(surroundings, "_in_user_namespace", lambda: False)
    assert enter_command(True) == f"nsenter --target {os.getpid()} --net --mount "
