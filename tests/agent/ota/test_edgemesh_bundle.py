"""build/edgemesh-bundle, as who makes releases runs it; and what it makes, as a box reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key

from agent.ota.bundle import BundleError, find, read_head, read_manifest, whole_size
from agent.ota.keys import Keys, TrustedKeys

TOOL = Path(__file__).parents[3] / "build" / "edgemesh-bundle"


class Maker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: object, passphrase: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "EDGEMESH_KEY_PASSPHRASE": passphrase}
        command = [sys.executable, TOOL, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=environment, check=False)

    def key(self, name: str, passphrase: str = "") -> bytes:
        done = self.run("key", name, passphrase=passphrase)
        assert done.returncode == 0, done.stderr
        return self.public(name)

    def public(self, name: str) -> bytes:
        found: bytes = load_pem_public_key((self.folder / f"{name}.pub").read_bytes()).public_bytes_raw()  # type: ignore[union-attr, call-arg]
        return found

    def file(self, name: str, data: bytes = b"program") -> str:
        (self.folder / name).write_bytes(data)
        return name

    def made(self) -> bytes:
        return (self.folder / "out").read_bytes()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def test_a_key_is_for_its_owner_and_is_never_replaced(maker: Maker) -> None:
    maker.key("a")
    assert (maker.folder / "a.key").stat().st_mode & 0o777 == 0o600
    before = (maker.folder / "a.key").read_bytes()
    assert b"ENCRYPTED" not in before
    done = maker.run("key", "a")
    assert done.returncode != 0
    assert "File exists" in done.stderr
    assert (maker.folder / "a.key").read_bytes() == before


def test_a_bundle_is_what_a_box_takes(maker: Maker) -> None:
    key, other = maker.key("a"), maker.key("b")
    files = [maker.file("edgemesh-1.2-linux-x86_64", b"one"), maker.file("edgemesh-1.2-linux-loong64", b"another")]
    options = ("--epoch", 7, "--minimum", 3, "--rollback", 5, "--trust", "b.pub", "--key-serial", 2)
    done = maker.run("make", *files, "--out", "out", "--key", "a.key", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out: edgemesh 1.2, epoch 7, x86_64, loong64\n"
    data = maker.made()
    manifest = read_manifest(data, [key])
    assert (manifest.version, manifest.epoch, manifest.minimum, manifest.rollback) == ("1.2", 7, 3, 5)
    assert (manifest.key_serial, manifest.keys) == (2, (other.hex(),))
    head = read_head(data)
    assert whole_size(manifest, head) == len(data)
    for family, program in (("x86_64", b"one"), ("loong64", b"another")):
        file, at = find(manifest, head, family)
        assert data[at : at + file.size] == program
    trust = TrustedKeys(maker.folder / "state")
    trust.write(Keys(0, (key,)))
    trust.came_to(manifest)
    with pytest.raises(BundleError, match="none of the keys"):
        read_manifest(data, trust.keys().keys)
    assert {path.name for path in maker.folder.iterdir()} == {
        "a.key",
        "a.pub",
        "b.key",
        "b.pub",
        "out",
        "state",
        *files,
    }


def test_a_pattern_that_takes_the_sbom_too(maker: Maker) -> None:
    key = maker.key("a")
    names = [maker.file("edgemesh-1.2-linux-x86_64"), maker.file("edgemesh-1.2-linux-x86_64.cdx.json", b"{}")]
    done = maker.run("make", *names, "--out", "out", "--key", "a.key", "--epoch", 1)
    assert done.returncode == 0, done.stderr
    assert [row.family for row in read_manifest(maker.made(), [key]).files] == ["x86_64"]


def test_with_a_python_that_has_not_what_it_needs(maker: Maker) -> None:
    """As who types its name on a machine where the tree's environment is the only one that has edgemesh's packages."""
    bare = "import sys; sys.argv = sys.argv[1:]; sys.modules['msgspec'] = None; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", bare, TOOL, "key", "a"],
        capture_output=True,
        text=True,
        cwd=maker.folder,
        env={**os.environ, "EDGEMESH_KEY_PASSPHRASE": ""},
        check=False,
    )
    ours = TOOL.parent.parent / ".venv" / "bin" / "python"
    if ours.exists() and Path(sys.prefix) != ours.parent.parent:
        assert (maker.folder / "a.key").exists(), done.stderr
    else:
        assert done.returncode != 0
        assert f"first: make -C {TOOL.parent.parent} native" in done.stderr


def test_git_never_takes_a_secret_key(maker: Maker) -> None:
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "release.key"],
        cwd=TOOL.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "release.key\n"


def test_several_keys_sign(maker: Maker) -> None:
    keys = [maker.key("a"), maker.key("b")]
    name = maker.file("edgemesh-1.2-linux-x86_64")
    assert maker.run("make", name, "--out", "out", "--key", "a.key", "--key", "b.key", "--epoch", 1).returncode == 0
    for key in keys:
        assert read_manifest(maker.made(), [key]).version == "1.2"


def test_a_key_with_a_passphrase(maker: Maker) -> None:
    key = maker.key("a", "open sesame")
    assert b"ENCRYPTED" in (maker.folder / "a.key").read_bytes()
    words = ("make", maker.file("edgemesh-1.2-linux-x86_64"), "--out", "out", "--key", "a.key", "--epoch", 1)
    done = maker.run(*words, passphrase="wrong")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not (maker.folder / "out").exists()
    assert maker.run(*words, passphrase="open sesame").returncode == 0
    assert read_manifest(maker.made(), [key])


@pytest.mark.parametrize(
    ("files", "options", "what"),
    [
        (["edgemesh"], [], "expected one edgemesh-VERSION-linux-FAMILY"),
        (["edgemesh-1.2-linux-m68k"], [], "expected one edgemesh-VERSION-linux-FAMILY"),
        (["edgemesh-1.2-linux-x86_64", "edgemesh-1.3-linux-x86_64"], [], "for each family"),
        (["edgemesh-1.2-linux-x86_64", "edgemesh-1.3-linux-aarch64"], [], "of several versions"),
        (["edgemesh-1.2-linux-x86_64"], ["--epoch", "0"], "makes no sense"),
        (["edgemesh-1.2-linux-x86_64"], ["--version", "../x"], "is no version"),
        (["edgemesh-1.2-linux-x86_64"], ["--key", "gone"], "No such file"),
        (["edgemesh-1.2-linux-x86_64"], ["--trust", "gone"], "No such file"),
        (["edgemesh-1.2-linux-x86_64"], ["--key", "a.pub"], "edgemesh-bundle: "),
        (["edgemesh-1.2-linux-x86_64"], ["--key", "ec"], "no Ed25519 key"),
    ],
)
def test_what_boxes_would_refuse_is_not_made(maker: Maker, files: list[str], options: list[str], what: str) -> None:
    maker.key("a")
    ec = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (maker.folder / "ec").write_bytes(ec)
    done = maker.run("make", *map(maker.file, files), "--out", "out", "--key", "a.key", "--epoch", "1", *options)
    assert done.returncode != 0
    assert what in done.stderr
    assert "Traceback" not in done.stderr
    assert not (maker.folder / "out").exists()


def test_an_empty_file_is_not_signed(maker: Maker) -> None:
    maker.key("a")
    done = maker.run(
        "make", maker.file("edgemesh-1.2-linux-x86_64", b""), "--out", "out", "--key", "a.key", "--epoch", 1
    )
    assert done.returncode != 0
    assert "makes no sense" in done.stderr


def test_it_shows_what_is_in_a_bundle_and_what_is_wrong_with_it(maker: Maker) -> None:
    maker.key("a")
    maker.key("b")
    maker.run("make", maker.file("edgemesh-1.2-linux-x86_64"), "--out", "out", "--key", "a.key", "--epoch", 1)
    done = maker.run("show", "out", "a.pub")
    assert '"version": "1.2"' in done.stdout
    assert done.stdout.endswith("x86_64: as signed\n")
    assert "none of the keys" in maker.run("show", "out", "b.pub").stderr
    data = maker.made()
    (maker.folder / "out").write_bytes(data[:-1] + b"X")
    assert "x86_64: NOT as signed" in maker.run("show", "out", "a.pub").stdout
    (maker.folder / "out").write_bytes(data + b"X")
    assert "something was added" in maker.run("show", "out", "a.pub").stdout
    (maker.folder / "out").write_bytes(b"nonsense")
    assert maker.run("show", "out", "a.pub").returncode != 0
