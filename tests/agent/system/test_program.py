"""How edgemesh runs itself again, whatever it was installed as."""

import sys
from pathlib import Path

from agent.system import program


def test_from_source_and_from_one_file(monkeypatch):
    assert program.command() == [sys.executable, "-m", "agent"]
    monkeypatch.setattr(program, "file", Path("/opt/edgemesh"))
    assert program.command() == ["/opt/edgemesh"]
