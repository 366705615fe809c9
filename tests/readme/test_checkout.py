"""What README.md says of a checkout, typed in its order in clean namespaces: as root, and the demo as an ordinary user too."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.conftest import ROOTLESS
from tests.readme.place import Place
from tests.readme.script import TREE, Command, commands, manifests, readme

# Sections whose commands tests/readme types, and where.
TYPED = {
    "See it": "here",
    "Use it": "here",
    "On a box": "boxes",
    "Updates": "boxes",
    "Two nodes and more": "boxes",
    "Ask it": "boxes",
}
# Commands that CI runs by itself, or that only differ from one that it runs by what they are for: what has to stand where.
ELSEWHERE = {
    "make test": (".ci/run", "stage test tests test test "),  # make test, and what failed once more
    "make dist": ("Makefile", "dist: dist-x86_64"),  # which `make smoke` of .ci/run builds and tries
    "make dist-aarch64": (".ci/run", "make smoke-aarch64"),
}
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def test_every_command_of_the_readme_is_run_by_somebody() -> None:
    for found in readme():
        if not isinstance(found, Command):
            continue
        if found.words in ELSEWHERE:
            file, line = ELSEWHERE[found.words]
            assert line in (TREE / file).read_text(), f"{found}: {file} does not run it any more"
        else:
            assert found.section in TYPED, f"no test types {found}"


def test_the_example_is_the_readmes() -> None:
    assert manifests("Use it") == [(TREE / "examples/shop/shop.yaml").read_text()]


@pytest.mark.timeout(600)
def test_see_it(place: Place) -> None:
    demo, nodes, hold, *meanwhile = commands("See it")
    assert "HOLD=1" in hold.words
    place.run(demo)
    place.run(nodes)
    with place.staying(hold, "holding"):
        for command in meanwhile:
            place.run(command)


@pytest.mark.timeout(600)
@pytest.mark.skipif(ROOTLESS, reason="an ordinary user is who runs this")
def test_see_it_as_an_ordinary_user(tmp_path: Path) -> None:
    """A fresh clone that is the user's own, with Debian's Python."""
    home = Path("/tmp") / f"edgemesh-readme-{os.getpid()}"
    try:
        home.mkdir(mode=0o755)
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=TREE, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        for name in filter(None, files):
            if (TREE / name).exists():
                (home / "edgemesh" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(TREE / name, home / "edgemesh" / name)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", home], check=True)
        place = Place(home / "edgemesh", NOBODY)
        place.environment |= {"HOME": str(home), "PYTHON": "/usr/bin/python3", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        try:
            place.run(commands("See it")[0], 500)
        finally:
            place.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_use_it(place: Place) -> None:
    up, run, *meanwhile, cleanup, down = commands("Use it")
    assert "edgemesh run" in run.words
    place.run(up)
    with place.staying(run, "enforces policy"):
        for command in meanwhile:
            place.run(command)
    place.run(cleanup)
    open_again = Command(
        "",
        "",
        True,
        "ip netns exec till curl -s -m 5 -o /dev/null -w '%{http_code}' -X DELETE http://10.1.0.3:8080/items",
        ("501",),
    )
    place.run(open_again)
    place.run(down)
