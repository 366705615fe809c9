"""`edgemesh ca rotate` in a cluster: what is written for the server, and what its answer is told as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cli import main
from agent.commands import ca_cluster
from agent.identity.authority.rotation import Report, RootReport
from agent.identity.kubernetes import rotating
from agent.identity.kubernetes.objects import Metadata
from agent.identity.kubernetes.rotating import Answer, Asked
from tests.agent.kubernetes.objects import Cluster

ROOTS = "/api/v1/namespaces/edgemesh-system/configmaps/edgemesh-roots"
Captured = pytest.CaptureFixture[str]


def report(step: Any = "idle", **more: Any) -> Report:
    roots = (RootReport("a" * 64, 2_000_000_000.0, "signs"),)
    return Report("cluster.local", step, 1_800_000_000.0, roots, **more)


def roots(cluster: Cluster, answer: Answer | None = None) -> dict[str, Any]:
    notes = {rotating.ANSWER: rotating.write(answer)} if answer else {}
    return cluster.add(ROOTS, metadata={"annotations": notes, "resourceVersion": "7"}, data={})


def server(cluster: Cluster, answer: Callable[[Asked], Answer]) -> list[Asked]:
    """Have the server answer at once. The list has what it was asked for."""
    asked: list[Asked] = []

    def changed(verb: str, path: str) -> None:
        metadata = cluster.objects[ROOTS]["metadata"]
        wanted = rotating.asked(msgspec.convert(metadata, Metadata))
        if wanted is not None:
            asked.append(wanted)
            metadata["annotations"][rotating.ANSWER] = rotating.write(answer(wanted))

    cluster.changed = changed
    return asked


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca_cluster, "_LOOK", 0.01)


def test_where_it_stands(cluster: Cluster, capsys: Captured) -> None:
    roots(cluster, Answer(report("added", waits_for=("node n1",), more=2)))
    assert main(["ca", "rotate"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("rotation of the root: 1 of 3: nodes learn the new root")
    assert f"  root {'a' * 16}, until 2033-05-18: signs\n" in out
    assert "it waits for:\n  node n1\n  and 2 more\nback: edgemesh ca rotate undo\n" in out
    assert main(["ca", "rotate", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rotation"]["step"], document["blocking"], document["blocking_more"]) == ("added", ["node n1"], 2)
    assert cluster.objects[ROOTS]["metadata"]["annotations"].keys() == {rotating.ANSWER}, "nothing was asked for"


def test_until_when_unknown_certificates_are_waited_for(cluster: Cluster, capsys: Captured) -> None:
    roots(cluster, Answer(report("issuing", not_before=1_801_000_000.0), "1", "an old refusal"))
    assert main(["ca", "rotate", "status"]) == 0
    assert "edgemesh ca rotate retire: what was issued before the last one" in (out := capsys.readouterr().out)
    assert "2027-01-26 21:46 UTC" in out


def test_a_step(cluster: Cluster, capsys: Captured) -> None:
    roots(cluster)
    asked = server(cluster, lambda wanted: Answer(report("added"), wanted.id))
    assert main(["ca", "rotate", "add"]) == 0
    assert "next: edgemesh ca rotate issue" in capsys.readouterr().out
    (wanted,) = asked
    assert (wanted.step, wanted.force) == ("add", False)


def test_a_step_that_is_refused(cluster: Cluster, capsys: Captured) -> None:
    roots(cluster)
    asked = server(cluster, lambda wanted: Answer(report("added"), wanted.id, "who:\n  node n1", "wait"))
    assert main(["ca", "rotate", "issue", "--force"]) == 1
    assert capsys.readouterr().err == "edgemesh: who:\n  node n1\n  wait\n"
    assert asked[0].force


def test_without_an_answer_the_request_is_taken_back(
    cluster: Cluster, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ca_cluster, "PATIENCE", 0.1)
    roots(cluster, Answer(report(), "somebody-else-s"))
    assert main(["ca", "rotate", "add"]) == 1
    assert "no server has taken the step within" in capsys.readouterr().err
    assert cluster.objects[ROOTS]["metadata"]["annotations"].keys() == {rotating.ANSWER}


@pytest.mark.parametrize("words", [[], ["add"]])
def test_a_cluster_without_a_mesh(words: list[str], cluster: Cluster, capsys: Captured) -> None:
    assert main(["ca", "rotate", *words]) == 1
    assert "there is no ConfigMap edgemesh-system/edgemesh-roots" in capsys.readouterr().err
    assert main(["ca", "rotate", *words, "--mesh-namespace", "mesh"]) == 1
    assert "mesh/edgemesh-roots" in capsys.readouterr().err


def test_servers_that_do_not_know_rotation_yet(cluster: Cluster, capsys: Captured) -> None:
    roots(cluster)
    assert main(["ca", "rotate"]) == 1
    assert "does not say where the rotation stands" in capsys.readouterr().err


def test_who_may_not(cluster: Cluster, capsys: Captured) -> None:
    roots(cluster)
    cluster.forbidden = {("patch", "configmaps")}
    assert main(["ca", "rotate", "add"]) == 1
    assert "ann may not patch configmaps in namespace edgemesh-system" in capsys.readouterr().err


def test_a_folder_that_is_named_is_meant_and_other_verbs_say_where_to_look(
    cluster: Cluster, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots(cluster, Answer(report()))
    assert main(["ca", "rotate", "--state", str(tmp_path)]) == 1
    assert "there is no authority in" in (err := capsys.readouterr().err)
    assert "in a cluster" not in err
    assert main(["ca", "show"]) == 1
    assert "in a cluster its servers hold it: edgemesh ca rotate" in capsys.readouterr().err
