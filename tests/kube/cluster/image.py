"""An OCI image archive made from files of this machine, with no container engine: what containerd, k3s and docker load.

image.py NAME:TAG OUT.tar [--entrypoint WORD]... [--busybox] SOURCE=PATH...

The archive has one layer for this machine's CPU family. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FAMILIES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "loongarch64": "loong64"}
BUSYBOX = Path("/bin/busybox")
USERS = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"


def write(
    name: str, archive: Path, files: Mapping[str, Path], entrypoint: Sequence[str] = (), busybox: bool = False
) -> None:
    """Write `archive`, an image called `name`, which holds `files`: path in the image -> file here. With `busybox` its applets too."""
    layer = _layer(files, busybox)
    blobs: dict[str, bytes] = {}

    def blob(kind: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    family = FAMILIES[platform.machine()]
    run = {"Env": ["PATH=/usr/bin:/bin"], "Entrypoint": list(entrypoint) or None}
    config = {
        "architecture": family,
        "os": "linux",
        "config": {key: value for key, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": [blob("layer.v1.tar+gzip", gzip.compress(layer, 1, mtime=0))],
    }
    entry = blob("manifest.v1+json", json.dumps(manifest).encode())
    entry["platform"] = {"architecture": family, "os": "linux"}
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    part = archive.with_name(f"{archive.name}.part")
    with tarfile.open(part, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            _add(tar, f"blobs/sha256/{digest}", data)
    part.replace(archive)


def _layer(files: Mapping[str, Path], busybox: bool) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "var"):
            made = tarfile.TarInfo(folder)
            made.type, made.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(made)
        _add(tar, "etc/passwd", USERS)
        for path, source in files.items():
            _add(tar, path.lstrip("/"), source.read_bytes(), 0o755)
        if busybox:
            _add(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
            applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
            for applet in sorted(set(applets) - {"busybox"}):
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("name")
    arguments.add_argument("archive", type=Path)
    arguments.add_argument("files", nargs="*", metavar="SOURCE=PATH")
    arguments.add_argument("--entrypoint", action="append", default=[])
    arguments.add_argument("--busybox", action="store_true")
    given = arguments.parse_intermixed_args()
    files = {path: Path(source) for source, path in (pair.split("=", 1) for pair in given.files)}
    write(given.name, given.archive, files, given.entrypoint, given.busybox)


if __name__ == "__main__":
    main()
