"""What the one file changes in modules (build/freeze.yml) is still there to be changed: a text that is not found is left as it is, silently."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

CHANGES = yaml.safe_load((Path(__file__).resolve().parents[2] / "build" / "freeze.yml").read_text())
REPLACED = [
    pytest.param(module["module-name"], text, id=f"{module['module-name']}: {text.strip()[:40]}")
    for module in CHANGES
    for change in module["anti-bloat"]
    for text in change.get("replacements_plain", ())
]


@pytest.mark.parametrize(("module", "text"), REPLACED)
def test_a_text_that_is_replaced_stands_in_its_module_once(module, text):
    assert Path(importlib.util.find_spec(module).origin).read_text().count(text) == 1


def test_no_module_of_ours_reads_its_folder_without_being_changed():
    """In the static form no file lies beside a module."""
    changed = {module["module-name"] for module in CHANGES}
    root = Path(__file__).resolve().parents[2]
    for path in (path for part in ("agent", "nodeproxy", "policy") for path in (root / part).rglob("*.py")):
        if "resources.files(" in path.read_text():
            assert ".".join(path.relative_to(root).with_suffix("").parts) in changed
