"""pack.py: /work/tree and /work/launcher to /work/edgemesh, one file. What is written here, build/launcher/launcher.c reads.

The files one after another in order of their names, as one zstd frame; then the index; then the trailer.
"""

import hashlib
import struct
import subprocess
from pathlib import Path

tree = Path("/work/tree")
index = b""
with Path("/work/files").open("wb") as out:
    for path in sorted(tree.rglob("*")):
        if path.is_dir():
            continue
        name, data = path.relative_to(tree).as_posix().encode(), path.read_bytes()
        mode = 0o700 if name in (b"edgemesh", b"app") else 0o600
        index += struct.pack("<IIQ", len(name), mode, len(data)) + hashlib.blake2b(data, digest_size=32).digest() + name
        out.write(data)
# 8 MiB of window: what unpacking takes of memory, on boxes that have little.
subprocess.run(["zstd", "-q", "-f", "-19", "-T2", "--no-check", "--zstd=wlog=23", "/work/files", "-o", "/work/frame"], check=True)
frame = Path("/work/frame").read_bytes()
trailer = struct.pack("<QQ32s8s", len(frame), len(index), hashlib.blake2b(index, digest_size=32).digest(), b"edgemsh1")
program = Path("/work/edgemesh")
program.write_bytes(Path("/work/launcher").read_bytes() + frame + index + trailer)
program.chmod(0o755)
