"""pack.py: pack /work/tree and /work/launcher into one file, /work/edgemesh.

build/launcher/launcher.c reads this format: the files one after another in order of their names, as one zstd frame;
then the index; then the trailer.
"""

import hashlib
import struct
import subprocess
from pathlib import Path

MAGIC = b"edgemsh1"
ENTRY = struct.Struct("<IIQ32s")  # size of the name, mode, size, digest; the name follows
TRAILER = struct.Struct("<QQ32s8s")  # size of the frame, size of the index, the index's digest, magic
PROGRAMS = ("edgemesh", "app")  # the loader and what it loads: only these are executable


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def entry(name: str, data: bytes) -> bytes:
    mode = 0o700 if name in PROGRAMS else 0o600
    return ENTRY.pack(len(name.encode()), mode, len(data), digest(data)) + name.encode()


def assemble(launcher: bytes, frame: bytes, index: bytes) -> bytes:
    return launcher + frame + index + TRAILER.pack(len(frame), len(index), digest(index), MAGIC)


def pack(tree: Path, launcher: Path, program: Path) -> None:
    """Pack the tree. The intermediate files `files` and `frame` stay beside `program`."""
    index, files, frame = b"", program.with_name("files"), program.with_name("frame")
    with files.open("wb") as out:
        for path in sorted(tree.rglob("*")):
            if path.is_dir():
                continue
            data = path.read_bytes()
            index += entry(path.relative_to(tree).as_posix(), data)
            out.write(data)
    # 8 MiB of window: unpacking takes that much memory, and boxes may have little.
    subprocess.run(
        ["zstd", "-q", "-f", "-19", "-T2", "--no-check", "--zstd=wlog=23", str(files), "-o", str(frame)], check=True
    )
    program.write_bytes(assemble(launcher.read_bytes(), frame.read_bytes(), index))
    program.chmod(0o755)


if __name__ == "__main__":
    pack(Path("/work/tree"), Path("/work/launcher"), Path("/work/edgemesh"))
