"""collect.py TRIPLET SYSROOT: lay out /work/tree for one family, after the tree that Nuitka made for amd64.

The latter is in /work/edgemesh.dist. /work/parts records where each part came from. Data is copied. Each extension
module is replaced by the family's own, and every library that any of them needs is put beside it, down to the C library
and its loader: nothing of the box's is used. A missing part stops the build.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

triplet, sysroot = sys.argv[1], Path(sys.argv[2]).resolve()
dist, tree, lane = Path("/work/edgemesh.dist"), Path("/work/tree"), Path("/work/lane")
libraries = (sysroot / "usr/lib" / triplet, sysroot / "usr/lib")
modules = (sysroot / "usr/lib/python3.14/lib-dynload", sysroot / "usr/lib/python3/dist-packages", lane)
LOADER = re.compile(r"ld-linux.*\.so")


parts = []


def put(source: Path, at: Path) -> None:
    shutil.copyfile(source, at)
    if source.is_relative_to(sysroot):
        parts.append(f"{at.relative_to(tree)} {source.relative_to(sysroot)}\n")


def module(path: Path) -> Path:
    """Return the family's own extension module in place of this one."""
    stem = path.name.partition(".")[0]
    for folder in (modules[0], modules[1] / path.parent, lane):
        for found in (*folder.glob(f"{stem}.cpython-314*{triplet}.so"), *folder.glob(f"{stem}.abi3*.so")):
            return found
    sys.exit(f"collect: {path} has no counterpart for {triplet}")


def library(name: str) -> Path:
    for folder in libraries:
        if (folder / name).exists():
            return (folder / name).resolve()
    sys.exit(f"collect: {name} is not in the sysroot of {triplet}")


def needed(path: Path) -> list[str]:
    out = subprocess.run([f"{triplet}-readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*?)\]", out)


for path in sorted(dist.rglob("*")):
    relative = path.relative_to(dist)
    if (
        path.is_dir()
        or path.name == "edgemesh.bin"
        or re.match(r"_codecs_|_multibytecodec", path.name)
        or re.match(r"lib.*\.so", path.name)
    ):
        continue
    (tree / relative).parent.mkdir(parents=True, exist_ok=True)
    put(module(relative) if path.suffix == ".so" else path, tree / relative)
todo, seen = [tree / "app", *tree.rglob("*.so")], set()
while todo:
    for name in needed(todo.pop()):
        if name in seen:
            continue
        seen.add(name)
        if LOADER.match(name):
            put(library(name), tree / "edgemesh")
            continue
        put(library(name), tree / name)
        todo.append(tree / name)
Path("/work/parts").write_text("".join(sorted(parts)))
for path in (tree / "edgemesh", *tree.rglob("*.so*")):
    subprocess.run([f"{triplet}-strip", "--strip-unneeded", path], check=True)
