"""What the C files of the native lane show to each other, as nm lists it of their objects.

Every such symbol has our prefix: the static form links the lane into one ELF file with Python, OpenSSL, nghttp2 and others, where two
functions of one name are an error or, worse, the wrong function. And no file uses, however indirectly, one that uses it.
"""

import graphlib
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compiled import needs_lane

pytestmark = needs_lane

NATIVE = Path(__file__).parents[3] / "nodeproxy" / "native"
OURS = ("em_", "PyInit__lane")
LLHTTP = ("llhttp_",)  # llhttp/ is unchanged, and has a prefix of its own


def compiled(folder: Path, sources: list[Path]) -> list[Path]:
    compiler = os.environ.get("CC", "cc")
    flags = ["-c", "-w", "-O0", "-D_GNU_SOURCE", f"-I{sysconfig.get_path('include')}"]
    subprocess.run([compiler, *flags, *sources], cwd=folder, env=os.environ | {"LD_PRELOAD": ""}, check=True)
    return sorted(folder.glob("*.o"))


def symbols(one: Path, *which: str) -> Iterator[str]:
    listed = subprocess.run(["nm", *which, "--format=just-symbols", one], capture_output=True, text=True, check=True)
    return (line for line in listed.stdout.split("\n") if line)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("native"), sorted(NATIVE.glob("*.c")))


@pytest.fixture(scope="module")
def uses(objects):
    """By the name of a file: those whose symbols it uses."""
    owner = {name: one.stem for one in objects for name in symbols(one, "--defined-only")}
    return {
        one.stem: {owner[name] for name in symbols(one, "--undefined-only") if name.startswith("em_")} - {one.stem}
        for one in objects
    }


def external(objects):
    return [name for one in objects for name in symbols(one, "--extern-only", "--defined-only")]


def test_each_external_symbol_has_our_prefix(objects):
    ours = external(objects)
    assert "em_read_request" in ours
    assert [name for name in ours if not name.startswith(OURS)] == []


def test_each_external_symbol_of_llhttp_has_its_prefix(tmp_path):
    theirs = external(compiled(tmp_path, sorted(NATIVE.glob("llhttp/*.c"))))
    assert "llhttp_execute" in theirs
    assert [name for name in theirs if not name.startswith(LLHTTP)] == []


def test_no_circle(uses):
    assert "buffer" in uses["call"]
    graphlib.TopologicalSorter(uses).prepare()  # raises CycleError, which names the files


def test_events_know_nobody(uses):
    assert uses["loop"] == set()
    assert "loop" in uses["relay"]


def test_lines_are_short():
    sources = sorted([*NATIVE.glob("*.[ch]"), *(NATIVE.parents[1] / "tests" / "fuzz").glob("*.[ch]")])
    assert NATIVE / "call.c" in sources
    assert [
        f"{one.name}:{n}" for one in sources for n, line in enumerate(one.read_text().split("\n"), 1) if len(line) > 120
    ] == []
