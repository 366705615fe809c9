"""What was read of Secrets is kept for a start without the API server, and by nobody but us."""

import pytest

from agent.gateway.content import Followed, Ref
from agent.gateway.kept import FILE, Kept

TLS, OTHER = Ref("Secret", "shop", "tls"), Ref("ConfigMap", "shop", "roots")
KNOWN = {TLS: Followed({"tls.crt": b"chain", "tls.key": b"\x00key"}, ""), OTHER: Followed(None, "it does not exist")}


def test_what_was_saved_is_loaded_and_only_ours(tmp_path):
    assert Kept(tmp_path).load() == {}
    Kept(tmp_path).save(KNOWN)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert Kept(tmp_path).load() == {TLS: KNOWN[TLS]}


def test_what_is_gone_leaves_no_key_behind(tmp_path):
    kept = Kept(tmp_path)
    kept.save(KNOWN)
    kept.save({TLS: Followed(None, "it does not exist")})
    assert not (tmp_path / FILE).exists()
    assert Kept(tmp_path).load() == {}


def test_it_is_written_only_when_it_changes(tmp_path):
    Kept(tmp_path).save(KNOWN)
    kept = Kept(tmp_path)
    kept.load()
    before = (tmp_path / FILE).stat()
    kept.save(KNOWN)
    assert (tmp_path / FILE).stat().st_ino == before.st_ino


@pytest.mark.parametrize("harm", ["mode", "damage", "link", "folder"])
def test_a_file_that_is_not_as_we_wrote_it_is_not_used(tmp_path, harm):
    Kept(tmp_path).save(KNOWN)
    path = tmp_path / FILE
    if harm == "mode":
        path.chmod(0o640)
    elif harm == "damage":
        data = path.read_bytes()
        path.write_bytes(data.replace(b"tls.crt", b"tls.crx"))
    elif harm == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        path.mkdir()
    assert Kept(tmp_path).load() == {}


def test_what_cannot_be_written_stops_nothing(tmp_path):
    Kept(tmp_path / "gone").save(KNOWN)
