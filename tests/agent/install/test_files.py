"""What setup writes: whole, only where it differs, and never over what a person or a package put there."""

import os
from pathlib import Path

import pytest

from agent.commands.check import look
from agent.install import files


def test_a_file_is_written_once_and_mended(tmp_path):
    path = tmp_path / "deep" / "file"
    assert files.put(path, "one\n").changed
    before = path.stat()
    assert not files.put(path, "one\n").changed
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files.put(path, "two\n").changed
    assert path.read_text() == "two\n"
    assert os.listdir(path.parent) == ["file"]


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine\n")
    (tmp_path / "file").symlink_to(other)
    assert files.put(tmp_path / "file", "mine\n").changed
    assert not (tmp_path / "file").is_symlink()
    assert other.read_text() == "mine\n"


def test_what_a_person_wrote_stays(tmp_path):
    path = tmp_path / "node.yaml"
    assert files.put_new(path, "ours").changed
    path.write_text("theirs")
    assert not files.put_new(path, "ours").changed
    assert path.read_text() == "theirs"


def test_a_link_follows_us_and_replaces_nobody_else(tmp_path):
    at = tmp_path / "bin" / "edgemesh"
    assert files.link(at, Path("/one")).changed
    assert not files.link(at, Path("/one")).changed
    assert files.link(at, Path("/two")).changed
    assert at.readlink() == Path("/two")
    at.unlink()
    at.write_text("a package's")
    with pytest.raises(FileExistsError):
        files.link(at, Path("/two"))
    assert at.read_text() == "a package's"


def test_the_settings_that_it_lays_have_no_fault(tmp_path):
    (tmp_path / "node.yaml").write_text(files.NODE_TEXT)
    published = look([tmp_path])
    assert (published.objects, published.problems) == (1, ())
    # Nor have they when what stands in the comments is taken out of them.
    lines = files.NODE_TEXT.replace("spec: {}", "spec:").splitlines()
    (tmp_path / "node.yaml").write_text(
        "\n".join(line.removeprefix("#") if line.startswith("#  ") else line for line in lines)
    )
    assert [problem for problem in look([tmp_path]).problems if problem.severity == "error"] == []


@pytest.mark.parametrize(
    ("node", "authority", "wanted"),
    [("", False, []), ("shop-1", True, ["EDGEMESH_NODE=shop-1", "EDGEMESH_OPTIONS=--authority"])],
)
def test_options(node, authority, wanted):
    assert [line for line in files.options_text(node, authority).splitlines() if not line.startswith("#")] == wanted


def test_the_unit_runs_what_the_links_lead_to():
    text = files.unit_text()
    assert f"ExecStart={files.STATE}/releases/current/edgemesh run --config {files.CONFIG} $EDGEMESH_OPTIONS" in text
    assert f"EnvironmentFile=-{files.OPTIONS}" in text
    for line in text.splitlines():
        assert line.isascii()
