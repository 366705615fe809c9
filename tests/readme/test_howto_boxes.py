"""The how-tos that are typed on boxes, in their order, on boxes with systemd as PID 1; they need the built file: `make box`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.readme.place import held
from tests.readme.script import TREE, Command, Manifest, read
from tests.readme.test_boxes import HOME, MISSING, boxes, type_there, until_it_holds
from tests.systemd.conftest import Box

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}"), pytest.mark.timeout(900)]


def script(name: str) -> list[Command | Manifest]:
    return list(read((TREE / f"docs/howto/{name}.md").read_text("utf-8")))


def typed(made: dict[str, Box], steps: Iterable[Command | Manifest]) -> None:
    """What goes into a file goes into it on every box. A command that is to say something, or that waits for nodes, is typed until it does."""
    for step in steps:
        if isinstance(step, Manifest):
            for box in made.values():
                box.write(step.file, step.text)
        elif step.prints or "ca rotate" in step.words:
            until_it_holds(
                made[step.where], step, 330 if "retire" in step.words else 30
            )  # nodes renew within five minutes
        else:
            type_there(made[step.where], step)
            if step.words.endswith("> token"):
                made["shop-2"].write(f"{HOME}/token", made[step.where].sh(f"cat {HOME}/token"))


def roots(box: Box) -> set[str]:
    done = box.run("edgemesh", "certs", "-o", "json", check=False)
    return set() if done.returncode else {root["fingerprint"] for root in json.loads(done.stdout)["roots"]}


def test_two_nodes_and_their_root() -> None:
    with boxes("shop-1", "shop-2") as made:
        typed(made, script("two-nodes"))
        before = roots(made["shop-1"])
        assert len(before) == 1
        typed(made, script("rotate-the-root"))
        for box in made.values():
            box.wait(lambda box=box: len(now := roots(box)) == 1 and now != before, "the new root alone is believed")
        typed(made, [step for step in script("two-nodes") if step.section == "Call"])


def test_update_a_fleet(tmp_path: Path) -> None:
    steps = [step for step in script("update-a-fleet") if isinstance(step, Command)]
    # Who makes the release: the tree, and in dist/ the next version, which is this very file by another name.
    (tmp_path / "build").symlink_to(TREE / "build")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/edgemesh-0.2.0-linux-x86_64").write_text(f'#!/bin/sh\n# 0.2.0\nexec {Box.file} "$@"\n')
    (tmp_path / "dist/edgemesh-0.2.0-linux-x86_64.cdx.json").write_text("{}")
    make, *signing = [step for step in steps if not step.where]
    assert make.words == "make dist-all"
    for command in signing:
        environment = {**os.environ, "EDGEMESH_KEY_PASSPHRASE": ""}
        done = subprocess.run(
            ["bash", "-c", command.words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        held(command, done.returncode, done.stdout + done.stderr)
    with boxes("shop-1", "shop-2") as made:
        for name, box in made.items():
            box.sh(f"cd {HOME} && ./edgemesh-0.1.0-linux-x86_64 setup --node {name}")
            for file in ("release.pub", "edgemesh.bundle") if name == "shop-1" else ("release.pub",):
                box.write(f"{HOME}/{file}", (tmp_path / file).read_bytes())
        typed(made, [step for step in steps if step.where])
