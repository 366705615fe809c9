"""setup refuses what it cannot do before it touches anything. What it does is in tests/systemd, on a box."""

from argparse import Namespace

from agent.commands import NO
from agent.commands import setup as module
from agent.install import files
from agent.store.disk import State
from agent.system import program


def arguments(**more):
    return Namespace(**{"node": None, "authority": False, "trust_domain": "", "trust": [], "start": True} | more)


def test_not_as_root(box, monkeypatch, capsys):
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    assert module.run(arguments()) == NO
    assert capsys.readouterr().err.count("run it as root") == 1


def test_not_from_sources(box, monkeypatch, capsys):
    monkeypatch.setattr(program, "file", None)
    assert module.run(arguments()) == NO
    assert "make dist" in capsys.readouterr().err


def test_without_systemd_it_starts_nothing(box, capsys):
    assert module.run(arguments()) == NO
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
    form = "apiVersion: edgemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: {0}, namespace: n}}\nspec: {{systemdUnit: {0}.service{1}}}\n"
    documents = [form.format("a", ""), form.format("b", ", node: here"), form.format("c", ", node: elsewhere")]
    (files.CONFIG / "all.yaml").write_text("---\n".join(documents))
    assert sorted(module._units("here")) == ["a.service", "b.service"]


def test_a_unit_that_is_captured_and_named_no_more_keeps_its_drop_in_until_it_is_let_go_of(box):
    files.CONFIG.mkdir(parents=True)
    typo = "apiVersion: edgemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: till, namespace: n}\nspec: {systemdUnit: tlil.service}\n"
    (files.CONFIG / "all.yaml").write_text(typo)
    State(files.STATE).save_places({"unit till.service": "n/till", "netns /run/netns/x": "n/x"})
    assert sorted(module._units("here")) == ["till.service", "tlil.service"]
    (files.CONFIG / "all.yaml").write_text(
        typo.replace("{systemdUnit: tlil.service}", "{systemdUnit: till.service, enrolled: false}")
    )
    assert sorted(module._units("here")) == []


def test_only_units_that_run_and_have_just_been_given_their_wait_are_to_be_restarted(box, monkeypatch, capsys):
    monkeypatch.setattr(module, "is_active", lambda unit: unit != "idle.service")
    wanted = ["idle.service", "old.service", "till.service"]
    module._advise(wanted, set())
    assert capsys.readouterr().out == ""
    module._advise(wanted, {module.drop_ins.drop_in(unit, files.UNITS) for unit in ("idle.service", "till.service")})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("till.service runs since before")


def test_a_second_setup_changes_nothing_and_advises_nothing(box, monkeypatch, capsys):
    """Written twice, with a unit that runs: the first time it is to be restarted, the second time it is not."""
    monkeypatch.setattr(module, "is_active", lambda unit: True)
    for expected in (1, 0):
        laid = {written.path for written in module.drop_ins.lay(["till.service"], files.UNITS) if written.changed}
        module._advise(["till.service"], laid)
        assert capsys.readouterr().out.count("systemctl restart till.service") == expected
