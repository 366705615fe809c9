"""examples/ is good: `edgemesh check` has nothing against it, the schemas take it, and each kind that is read has an example."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from agent import cli
from policy.registry import KINDS
from policy.resources import plain

TREE = Path(__file__).parents[2]
EXAMPLES = TREE / "examples"
# bookstore-k8s has several versions of some objects, which kubectl applies in turn: tests/kube/test_bookstore.py.
FOLDERS = sorted({path.parent for path in EXAMPLES.rglob("*.yaml")} - {EXAMPLES / "bookstore-k8s"})
# Examples that are a warning: tests/policy/translate, test_access_certs.py (from a directory), test_plugins.py
WARNED = ("accesscert.yaml", "plugin.yaml", "pluginchain.yaml", "pluginconfig.yaml")
SCHEMAS = TREE / "docs/schemas"


def documents(folder: Path) -> list[dict]:
    return [
        document for path in sorted(folder.rglob("*.yaml")) for document in yaml.safe_load_all(path.read_text("utf-8"))
    ]


def validator() -> jsonschema.Draft202012Validator:
    """all.json, which refers to its neighbours by name as an editor does."""
    resources = [
        (path.name, Resource.from_contents(json.loads(path.read_text("utf-8")))) for path in SCHEMAS.glob("*.json")
    ]
    every = json.loads((SCHEMAS / "all.json").read_text("utf-8"))
    return jsonschema.Draft202012Validator(every, registry=Registry().with_resources(resources))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(EXAMPLES)))
def test_check_has_nothing_against_an_example(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(str(path) for path in folder.glob("*.yaml") if path.name not in WARNED)
    assert cli.main(["check", "--strict", *files, "--node", "shop-1"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(EXAMPLES)))
def test_the_schemas_take_an_example(folder: Path) -> None:
    schema = validator()
    for document in documents(folder):
        schema.validate(document)


def test_every_kind_has_an_example_of_its_own() -> None:
    shown = {(document["apiVersion"], document["kind"]) for document in documents(EXAMPLES / "kinds")}
    for name, kind in KINDS.items():
        assert (f"{kind.group}/{kind.versions[-1]}".lstrip("/"), plain(name)) in shown
        assert (EXAMPLES / "kinds" / f"{name.lower()}.yaml").exists()
    assert ("edgemesh.io/v1alpha1", "NodeConfig") in shown


def test_every_schema_is_one() -> None:
    for path in SCHEMAS.glob("*.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text("utf-8")))


TILL = {
    "apiVersion": "edgemesh.io/v1alpha1",
    "kind": "Workload",
    "metadata": {"name": "till"},
    "spec": {"netns": "till"},
}
GROUP = {"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": {"name": "a"}}
NODE = {"apiVersion": "edgemesh.io/v1alpha1", "kind": "NodeConfig", "metadata": {"name": "default"}}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (TILL | {"spec": {"netnz": "till"}}, "'netnz' was unexpected"),
        (TILL | {"spec": {"enrolled": "no"}}, "'no' is not of type 'boolean'"),
        (TILL | {"spec": {"ports": [{"port": 70000}]}}, "70000 is greater than the maximum"),
        (TILL | {"apiVersion": "edgemesh.io/v1"}, "'edgemesh.io/v1' is not one of"),
        (GROUP | {"spec": {"matches": [{"name": "a", "methods": []}]}}, "[] "),
        (NODE | {"spec": {"accessLog": "some"}}, "'some' is not one of"),
        (NODE | {"spec": {"limits": {"conections": 5}}}, "'conections' was unexpected"),
        (NODE | {"spec": {"dns": {"tll": 5}}}, "'tll' was unexpected"),
    ],
)
def test_the_schemas_find_a_mistake(document: dict, words: str) -> None:
    errors = list(validator().iter_errors(document))
    assert any(words in error.message for one in errors for error in (one, *one.context)), [
        error.message for error in errors
    ]


def test_what_others_define_passes() -> None:
    assert not list(
        validator().iter_errors(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"any": 1}}
        )
    )
