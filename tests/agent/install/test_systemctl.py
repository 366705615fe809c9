"""systemctl is asked, and what it says is told: a program of that name stands for it."""

import pytest

from agent.install import systemctl as module
from agent.install.systemctl import SystemdError, is_active, systemctl


@pytest.fixture
def said(tmp_path, monkeypatch):
    program = tmp_path / "systemctl"
    program.write_text(
        '#!/bin/sh\necho "$@" >>"$0.log"\ncase "$*" in *broken*) echo "Unit broken is masked." >&2; exit 5;; *down*) exit 3;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return lambda: (tmp_path / "systemctl.log").read_text().splitlines()


def test_it_is_asked_without_a_password(said):
    systemctl("start", "edgemesh.service")
    assert said() == ["--no-ask-password start edgemesh.service"]


def test_its_refusal_is_told_in_its_words(said):
    with pytest.raises(SystemdError, match=r"systemctl start broken: Unit broken is masked\."):
        systemctl("start", "broken")


def test_active_or_not(said):
    assert is_active("edgemesh.service")
    assert not is_active("down.service")


def test_a_box_without_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemdError, match="not run by systemd"):
        systemctl("start", "x")
    assert not module.is_there()


def test_one_that_hangs_is_given_up(said, tmp_path, monkeypatch):
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    with pytest.raises(SystemdError, match="no answer within"):
        systemctl("stop", "x")
