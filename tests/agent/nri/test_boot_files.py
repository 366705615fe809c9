"""boot_files.py: at every moment the runtime finds a whole program in its folder, or none, and nothing else."""

import os
import subprocess
import sys

import pytest

from agent.nri import boot_files as module
from agent.nri.boot_files import BootFiles, Known, marks


@pytest.fixture
def files(tmp_path):
    return BootFiles(tmp_path / "nri")


def test_the_program_is_a_copy_of_the_one_file(files, tmp_path, monkeypatch):
    one = tmp_path / "edgemesh"
    one.write_bytes(b"\x7fELF" + b"x" * 3_000_000)
    monkeypatch.setattr(module.program, "file", one)
    assert files.install()
    assert files.program.read_bytes() == one.read_bytes()
    assert os.access(files.program, os.X_OK)
    assert not files.install(), "it is there already"
    one.write_bytes(b"\x7fELF" + b"y" * 3_000_000)
    assert files.install(), "another version"
    files.program.chmod(0o644)
    assert files.install(), "one that was not finished"


def test_nothing_else_is_ever_in_the_runtimes_folder(files, monkeypatch):
    """containerd ends for good when an executable there is not named NN-NAME."""
    seen = []
    for name in ("copyfile", "rename"):
        owner = module.shutil if name == "copyfile" else module.Path
        real = getattr(owner, name)

        def look(*given, real=real):
            seen.append(sorted(os.listdir(files.program.parent)))
            return real(*given)

        monkeypatch.setattr(owner, name, look)
    files.install()
    seen.append(sorted(os.listdir(files.program.parent)))
    assert seen == [[], ["05-edgemesh"]]


def test_without_the_one_file_it_is_a_script_that_needs_no_path(files):
    files.install()
    assert not files.install()
    done = subprocess.run([str(files.program)], env={}, capture_output=True, text=True, check=False, timeout=60)
    assert "usage" in (done.stdout + done.stderr).lower()
    assert sys.executable in files.program.read_text()


def test_a_program_that_cannot_be_written_leaves_nothing(files, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    monkeypatch.setattr(module, "make_directory", lambda path, mode: path.mkdir(parents=True, exist_ok=True))
    with pytest.raises(OSError, match="No space left"):
        files.install()
    assert os.listdir(files.program.parent) == []
    assert os.listdir(files.program.parent.parent) == ["plugins"]


def test_what_is_known_is_read_back_and_a_damaged_file_says_nothing(files):
    assert files.load() == Known()
    known = Known(1, ("10.42.0.0/24",), {"shop": ({"openservicemesh.io/monitored-by": "osm"}, {})})
    files.save(known)
    assert files.load() == known
    path = files.program.parent.parent / "edgemesh.json"
    before = path.stat().st_ino
    files.save(known)
    assert path.stat().st_ino == before, "flash wears out"
    path.write_bytes(path.read_bytes().replace(b"shop", b"shep"))
    assert files.load() == Known()


def test_removed(files):
    assert not files.remove()
    files.install()
    files.save(Known())
    assert files.remove()
    assert os.listdir(files.program.parent.parent) == ["plugins"]
    assert os.listdir(files.program.parent) == []


def test_only_what_says_something_about_the_mesh_is_kept():
    labels = {"openservicemesh.io/ignore": "true", "kubernetes.io/metadata.name": "shop", "team": "x"}
    assert marks(labels, {"edgemesh.io/mesh": "disabled", "note": "y"}) == (
        {"openservicemesh.io/ignore": "true"},
        {"edgemesh.io/mesh": "disabled"},
    )
