"""What README.md says of boxes, typed in its order on boxes with systemd as PID 1 (tests/systemd); it needs the built file: `make smoke`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme.place import held
from tests.readme.script import TREE, Command, commands, manifests
from tests.systemd.conftest import FILE, INIT, Box

MISSING = "root" if os.geteuid() else "systemd" if not INIT.exists() else "" if FILE else "the built file: make smoke"
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}"), pytest.mark.timeout(600)]
HOME = "/root"


@contextlib.contextmanager
def boxes(*names: str) -> Iterator[dict[str, Box]]:
    """Boxes of these names, each with the file as README.md calls it; two are joined by a link, 192.168.7.1 and .2."""
    made: dict[str, Box] = {}
    try:
        for name in names:
            made[name] = box = Box(name)
            box.sh(f"ln -s {box.file} {HOME}/edgemesh-0.1.0-linux-x86_64; hostname {name}")
        if len(names) == 2:
            one, other = made.values()
            subprocess.run(
                [
                    "nsenter",
                    "-t",
                    str(one.init),
                    "-n",
                    "ip",
                    "link",
                    "add",
                    "eth0",
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    str(other.init),
                ],
                check=True,
            )
            for number, box in enumerate((one, other), 1):
                box.sh(f"ip addr add 192.168.7.{number}/24 dev eth0; ip link set eth0 up")
        yield made
    finally:
        for box in made.values():
            box.close()


def type_there(box: Box, command: Command) -> None:
    done = box.run("bash", "-c", f"cd {HOME} && {command.words}", check=False)
    held(command, done.returncode, done.stdout + done.stderr)


def until_it_holds(box: Box, command: Command, seconds: float = 30) -> None:
    """A person who sees nothing yet looks again."""
    until = time.monotonic() + seconds
    while True:
        try:
            return type_there(box, command)
        except AssertionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def test_on_a_box_and_its_updates(tmp_path: Path) -> None:
    install, *looks = [command for command in commands("On a box") if command.where]
    signing = [command for command in commands("Updates") if not command.where]
    there = [command for command in commands("Updates") if command.where]
    assert [command.where for command in (install, *looks, *there)] == ["box"] * (1 + len(looks) + len(there))
    # Who makes the release: the tree, and in dist/ the next version, which is this very file by another name, and an SBOM beside it.
    (tmp_path / "build").symlink_to(TREE / "build")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/edgemesh-0.2.0-linux-x86_64").write_text(f'#!/bin/sh\n# 0.2.0\nexec {Box.file} "$@"\n')
    (tmp_path / "dist/edgemesh-0.2.0-linux-x86_64.cdx.json").write_text("{}")
    for command in signing:
        environment = {**os.environ, "EDGEMESH_KEY_PASSPHRASE": ""}
        done = subprocess.run(
            ["bash", "-c", command.words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        held(command, done.returncode, done.stdout + done.stderr)
    with boxes("box") as made:
        box = made["box"]
        type_there(box, install)
        for command in looks:
            type_there(box, command)
        (metrics,) = manifests("Ask it")
        box.write("/etc/edgemesh/metrics.yaml", metrics)
        for command in commands("Ask it"):
            type_there(box, command)
        for name in ("release.pub", "edgemesh.bundle"):
            box.write(f"{HOME}/{name}", (tmp_path / name).read_bytes())
        for command in there:
            type_there(box, command)


def test_two_nodes() -> None:
    typed = commands("Two nodes and more")
    nodes, stolen = manifests("Two nodes and more")
    with boxes("shop-1", "shop-2") as made:
        for box in made.values():
            box.write("/etc/edgemesh/nodes.yaml", nodes)
        for command in typed:
            until_it_holds(made[command.where], command) if command.prints else type_there(made[command.where], command)
            if command.words.endswith("> token"):
                made["shop-2"].write(f"{HOME}/token", made[command.where].sh(f"cat {HOME}/token"))
        made["shop-1"].write("/etc/edgemesh/stolen.yaml", stolen)
        until_it_holds(made["shop-1"], Command("", "shop-1", True, "edgemesh certs", ("shop-2",)))
