"""remove refuses what it cannot do before it touches anything. What it does is in tests/systemd, on a box."""

from argparse import Namespace

from agent.commands import NO, remove
from agent.install import files


def test_not_as_root(box, monkeypatch, capsys):
    monkeypatch.setattr(remove.os, "geteuid", lambda: 1000)
    assert remove.run(Namespace(purge=False, yes=False)) == NO
    assert capsys.readouterr().err.count("run it as root") == 1


def test_what_a_person_wrote_outlives_remove(box, capsys):
    files.CONFIG.mkdir(parents=True)
    files.NODE.write_text(files.NODE_TEXT)
    files.OPTIONS.write_text("x")
    (files.CONFIG / "shop.yaml").write_text("mine")
    remove._remove_config(purge=False)
    assert [path.name for path in files.CONFIG.iterdir()] == ["shop.yaml"]
    assert "shop.yaml is yours" in capsys.readouterr().out
    files.NODE.write_text(files.NODE_TEXT + "# mine\n")
    remove._remove_config(purge=False)
    assert files.NODE.exists()
    remove._remove_config(purge=True)
    assert not files.CONFIG.exists()
