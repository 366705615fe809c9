"""A unit waits until its own cgroup is captured, and not for ever."""

import os
from argparse import Namespace

import pytest

from agent.admin import client
from agent.commands import NO, OK
from agent.commands import wait as module
from agent.commands.wait import run


@pytest.fixture
def daemon(monkeypatch, tmp_path):
    """What the daemon says next, the last for ever; what it was asked."""
    (tmp_path / "system.slice" / "till.service").mkdir(parents=True)
    monkeypatch.setattr(module.cgroup, "mount", lambda: tmp_path)
    monkeypatch.setattr(module.cgroup, "current", lambda: "/system.slice/till.service")
    answers, asked = [], []

    def get(socket, path, query):
        asked.append((socket, path, dict(query)))
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "get", get)
    return Namespace(answers=answers, asked=asked, root=tmp_path)


def arguments(**more):
    return Namespace(**{"unit": "till.service", "daemon": False, "timeout": 5.0, "socket": "/s"} | more)


def answer(captured, known=True, detail=""):
    return {"known": known, "captured": captured, "detail": detail}


def test_until_it_is_captured(daemon):
    daemon.answers[:] = [
        client.NotRunning("nobody"),
        client.Answered(503, "no policy yet", ""),
        answer(False),
        answer(True),
    ]
    assert run(arguments()) == OK
    assert len(daemon.asked) == 4
    number = (daemon.root / "system.slice" / "till.service").stat().st_ino
    assert daemon.asked[0] == ("/s", "/unit", {"name": "till.service", "cgroup": str(number)})


def test_a_control_group_below_it_is_its_own(daemon, monkeypatch):
    (daemon.root / "system.slice" / "till.service" / ".control").mkdir()
    monkeypatch.setattr(module.cgroup, "current", lambda: "/system.slice/till.service/.control")
    daemon.answers[:] = [answer(True)]
    assert run(arguments()) == OK


def test_a_unit_that_is_no_workload_has_nothing_to_wait_for(daemon, capsys):
    daemon.answers[:] = [answer(False, known=False)]
    assert run(arguments()) == OK
    assert "no workload of this node" in capsys.readouterr().out


def test_it_gives_up_and_says_why(daemon, capsys):
    daemon.answers[:] = [answer(False, detail="port 15100 is taken")]
    assert run(arguments(timeout=0.05)) == NO
    assert "till.service is not captured after 0.05 s: port 15100 is taken" in capsys.readouterr().err


def test_run_from_elsewhere_it_does_not_pass(daemon, capsys):
    assert run(arguments(unit="other.service")) == NO
    assert "run this from the unit itself" in capsys.readouterr().err
    assert daemon.asked == []


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "s.lock"


def for_daemon(lock, timeout=5.0):
    return arguments(unit=None, daemon=True, timeout=timeout, socket=str(lock.with_suffix("")))


def test_the_daemon_of_our_container_leads(lock):
    lock.write_text(f"{os.getppid()}\n")  # it has our mount namespace
    assert run(for_daemon(lock)) == OK


@pytest.mark.parametrize("written", [None, "", "unknown", "4194305\n"])
def test_until_the_daemon_of_our_container_leads(lock, written, capsys):
    if written is not None:
        lock.write_text(written)
    assert run(for_daemon(lock, timeout=0.05)) == NO
    assert "no daemon leads" in capsys.readouterr().err


def test_the_daemon_of_another_container_leads(lock, monkeypatch, capsys):
    lock.write_text(f"{os.getppid()}\n")
    monkeypatch.setattr(module.os.path, "samefile", lambda one, other: False)
    assert run(for_daemon(lock, timeout=0.05)) == NO
    assert f"process {os.getppid()} leads" in capsys.readouterr().err


def test_the_daemon_of_our_container_has_ended(lock, monkeypatch, capsys):
    monkeypatch.setattr(module, "_in_company", lambda: False)
    monkeypatch.setattr(module, "_ROUNDS", 1)
    assert run(for_daemon(lock)) == NO
    assert "it has ended" in capsys.readouterr().err


def test_who_is_in_company():
    assert module._in_company(), "pytest's parent has our mount namespace"
