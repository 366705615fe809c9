"""setup and remove refuse what they cannot do before they touch anything. What they do is in tests/systemd, on a box."""

from argparse import Namespace
from pathlib import Path

import pytest

from agent import program
from agent.box import files
from agent.commands import NO
from agent.commands import setup as module


def arguments(**more):
    return Namespace(
        **{"node": None, "authority": False, "trust_domain": "", "trust": [], "start": True, "purge": False, "yes": False} | more
    )


@pytest.fixture
def box(tmp_path, monkeypatch):
    """Root on a box without systemd, whose places are below tmp_path."""
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(program, "file", Path("/dev/null"))
    monkeypatch.setattr(module, "is_there", lambda: False)
    for name in ("STATE", "CONFIG", "CACHE", "RUNTIME", "UNITS", "PROGRAM", "OPTIONS", "NODE"):
        there = tmp_path / str(getattr(files, name)).lstrip("/")
        monkeypatch.setattr(module, name, there)
        monkeypatch.setattr(files, name, there)
    return tmp_path


def test_not_as_root(box, monkeypatch, capsys):
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    assert module.setup(arguments()) == NO
    assert module.remove(arguments()) == NO
    assert capsys.readouterr().err.count("run it as root") == 2


def test_not_from_sources(box, monkeypatch, capsys):
    monkeypatch.setattr(program, "file", None)
    assert module.setup(arguments()) == NO
    assert "make dist" in capsys.readouterr().err


def test_without_systemd_it_starts_nothing(box, capsys):
    assert module.setup(arguments()) == NO
    assert "--no-start" in capsys.readouterr().err
    assert list(box.iterdir()) == []


def test_options_of_a_second_time_are_laid_over_those_of_the_first(box):
    text = lambda: [line for line in files.OPTIONS.read_text().splitlines() if not line.startswith("#")]  # noqa: E731
    assert module._options(arguments(node="shop-1")).changed
    assert text() == ["EDGEMESH_NODE=shop-1"]
    files.OPTIONS.write_text("EDGEMESH_NODE=shop-1\nEDGEMESH_OPTIONS=--access-log=all\nOTHER=1\n")
    assert not module._options(arguments()).changed
    assert module._options(arguments(authority=True)).changed
    assert text() == ["EDGEMESH_NODE=shop-1", "OTHER=1", 'EDGEMESH_OPTIONS="--access-log=all --authority"']
    assert not module._options(arguments(authority=True)).changed
    assert module._options(arguments(node="shop-2")).changed
    assert "EDGEMESH_NODE=shop-2" in text()
    assert module._node("") == "shop-2"


def test_units_of_this_node_and_of_no_other(box):
    files.CONFIG.mkdir(parents=True)
    form = (
        "apiVersion: edgemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: {0}, namespace: n}}\nspec: {{systemdUnit: {0}.service{1}}}\n"
    )
    documents = [form.format("a", ""), form.format("b", ", node: here"), form.format("c", ", node: elsewhere")]
    (files.CONFIG / "all.yaml").write_text("---\n".join(documents))
    assert sorted(module._units("here")) == ["a.service", "b.service"]


def test_what_a_person_wrote_outlives_remove(box, capsys):
    files.CONFIG.mkdir(parents=True)
    files.NODE.write_text(files.NODE_TEXT)
    files.OPTIONS.write_text("x")
    (files.CONFIG / "shop.yaml").write_text("mine")
    module._remove_config(purge=False)
    assert [path.name for path in files.CONFIG.iterdir()] == ["shop.yaml"]
    assert "shop.yaml is yours" in capsys.readouterr().out
    files.NODE.write_text(files.NODE_TEXT + "# mine\n")
    module._remove_config(purge=False)
    assert files.NODE.exists()
    module._remove_config(purge=True)
    assert not files.CONFIG.exists()
