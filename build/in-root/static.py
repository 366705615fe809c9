"""static.py SYSROOT TRIPLET: write /work/modules.h, the modules that are linked into the static form.

It also removes the modules that Nuitka would load from files from its table in /work/edgemesh.build.

static.py parts SYSROOT: write /work/parts, the libraries of the family and of the tools that went into /work/edgemesh,
from the linker's map.
"""

import re
import sys
from pathlib import Path

# The modules that Nuitka would load from files beside the program, and that are linked in instead. Those of Python's
# own library are built from its sources.
LINKED = {
    *("_cffi_backend", "_ctypes", "_decimal", "_hashlib", "_hmac", "_queue", "_ssl", "mmap", "resource", "termios"),
    *("cryptography.hazmat.bindings._rust", "msgspec._core", "nodeproxy.native._lane", "re2._re2", "yaml._yaml"),
}
# Modules that only code which we never reach would use; the modules that import them work without.
LEFT_OUT = re.compile(r"_(asyncio|bz2|codecs_\w+|interp\w+|lzma|multibytecodec|multiprocessing|posixshmem|uuid|zstd)")
# Of the modules built into Debian's interpreter: no XML.
WITHOUT = ("pyexpat", "_elementtree")


def modules(sysroot: Path, triplet: str) -> None:
    loader = Path("/work/edgemesh.build/__loader.c")
    text = loader.read_text()
    wanted = re.findall(r'^    "([\w.]+)",.*\bNUITKA_EXTENSION_MODULE_FLAG$', text, re.M)
    if unknown := [name for name in wanted if name not in LINKED and not LEFT_OUT.fullmatch(name)]:
        sys.exit(f"static: neither linked in nor left out: {', '.join(unknown)}")
    if missing := LINKED - set(wanted):
        sys.exit(f"static: linked in, but nothing imports them: {', '.join(sorted(missing))}")
    for name in wanted:
        text, count = re.subn(rf"^    &entry_{re.escape(name.replace('.', '$'))},\n", "", text, flags=re.M)
        if count != 1:
            sys.exit(f"static: {name} is not once in Nuitka's table")
    size = re.compile(r"(?<=registerMetaPathBasedLoader\(meta_path_loader_entries, bytecode_data, )\d+")
    text, count = size.subn(lambda old: str(int(old[0]) - len(wanted)), text)
    if count != 1:
        sys.exit("static: Nuitka's table has another form")
    loader.write_text(text)
    config = (
        (sysroot / f"usr/lib/python3.14/config-3.14-{triplet}/config.c").read_text().partition("ADDMODULE MARKER 2")[0]
    )
    within = [row for row in re.findall(r'^    \{"(\w+)", (\w+)\},', config, re.M) if row[0] not in WITHOUT]
    rows = within + [(name, f"PyInit_{name.rpartition('.')[2]}") for name in sorted(LINKED)]
    Path("/work/modules.h").write_text("".join(f'MODULE("{name}", {function})\n' for name, function in rows))


def parts(sysroot: Path) -> None:
    used = set(re.findall(r"^(/[^\s(]+\.[ao])\b", Path("/work/map").read_text(), re.M))
    rows = []
    for name in sorted(used):
        if name.startswith(f"{sysroot}/"):
            rows.append(f"edgemesh {name.removeprefix(f'{sysroot}/')}\n")
        elif not name.startswith("/work/"):
            rows.append(f"edgemesh tools {Path(name).resolve().relative_to('/')}\n")
    Path("/work/parts").write_text("".join(rows))


if sys.argv[1] == "parts":
    parts(Path(sys.argv[2]))
else:
    modules(Path(sys.argv[1]), sys.argv[2])
