"""build/image: the archive is an OCI layout whose every digest holds, for each CPU family that was named, and the same files give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from agent import __version__

TREE = Path(__file__).parents[2]
EPOCH = 1_700_000_000


def built(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    zstd = shutil.which("zstd")
    assert zstd, "needs zstd: apt-get install zstd"
    command = [sys.executable, str(TREE / "build/image"), "--zstd", zstd, "--out", str(out), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    )


class Archive:
    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            self.members = tar.getmembers()
            self.files = {one.name: tar.extractfile(one).read() for one in self.members if one.isfile()}  # type: ignore[union-attr]

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        data = self.files[f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"]
        assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert descriptor["size"] == len(data)
        return data

    def json(self, descriptor: dict[str, Any]) -> Any:
        return json.loads(self.blob(descriptor))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for family in ("x86_64", "loong64"):
        (tmp_path / family).write_bytes(family.encode() * 1000)
        (tmp_path / family).chmod(0o700)
    return [f"{family}={tmp_path / family}" for family in ("loong64", "x86_64")]


def test_one_index_names_an_image_for_each_family(tmp_path: Path, files: list[str]) -> None:
    assert built(tmp_path / "image.tar", *files).returncode == 0
    archive = Archive(tmp_path / "image.tar")
    assert json.loads(archive.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (named,) = json.loads(archive.files["index.json"])["manifests"]
    assert named["annotations"]["io.containerd.image.name"] == f"edgemesh.io/edgemesh:{__version__}"
    manifests = archive.json(named)["manifests"]
    assert [one["platform"]["architecture"] for one in manifests] == ["amd64", "loong64"]
    for one, family in zip(manifests, ("x86_64", "loong64"), strict=True):
        manifest = archive.json(one)
        config = archive.json(manifest["config"])
        assert (config["architecture"], config["os"]) == (one["platform"]["architecture"], "linux")
        assert config["config"]["Entrypoint"] == ["/edgemesh"]
        (layer,) = manifest["layers"]
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
        plain = subprocess.run(["zstd", "-dc"], input=archive.blob(layer), capture_output=True, check=True).stdout
        assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(plain).hexdigest()}"]
        with tarfile.open(fileobj=io.BytesIO(plain)) as inside:
            program = inside.getmember("edgemesh")
            assert (program.mode, program.uid, program.gid, program.mtime) == (0o755, 0, 0, EPOCH)
            assert inside.extractfile(program).read() == family.encode() * 1000  # type: ignore[union-attr]
            assert {"run", "tmp", "var/lib/edgemesh"} <= set(inside.getnames())  # where volumes are mounted


def test_every_blob_is_there_and_no_other(tmp_path: Path, files: list[str]) -> None:
    built(tmp_path / "image.tar", *files)
    archive = Archive(tmp_path / "image.tar")
    assert len({one.name for one in archive.members}) == len(archive.members)
    index = json.loads(archive.files["index.json"])["manifests"][0]
    images = archive.json(index)["manifests"]
    named = [index, *images]
    for one in images:
        manifest = archive.json(one)
        named += [manifest["config"], *manifest["layers"]]
    blobs = {one["digest"].removeprefix("sha256:") for one in named}
    assert {Path(name).name for name in archive.files if name.startswith("blobs/")} == blobs


def test_the_same_files_give_the_same_bytes(tmp_path: Path, files: list[str]) -> None:
    built(tmp_path / "one.tar", *files)
    (tmp_path / "x86_64").touch()  # another time, another order
    built(tmp_path / "other.tar", *reversed(files))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    done = built(tmp_path / "image.tar", f"mips={TREE / 'LICENSE'}")
    assert done.returncode == 2
    assert "x86_64, aarch64, riscv64, loong64" in done.stderr
    assert not (tmp_path / "image.tar").exists()
