"""Certificates from a folder: whole pairs, keys that are ours alone, and changes while the daemon runs."""

import os

import pytest
import trio

from agent.gateway.content import Ref
from agent.gateway.files import Files

TLS = Ref("Secret", "shop", "tls")


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "shop" / "tls"
    place.mkdir(parents=True)
    return place


def write(folder, mode=0o600, **files):
    for name, text in files.items():
        path = folder / f"tls.{name}"
        path.write_text(text)
        path.chmod(mode)


async def test_a_folder_is_read_as_kubernetes_mounts_a_secret(tmp_path, folder):
    files = Files(tmp_path, lambda: 1.0)
    assert files.known(TLS).content is None
    files.want(frozenset({TLS}))
    assert "holds no tls.crt and tls.key" in files.known(TLS).why
    write(folder, crt="chain", key="key")
    files.want(frozenset())
    files.want(frozenset({TLS}))
    assert files.known(TLS).content == {"tls.crt": b"chain", "tls.key": b"key"}


async def test_changes_are_told(tmp_path, folder, autojump_clock):
    files = Files(tmp_path, lambda: 1.0)
    files.want(frozenset({TLS}))
    told = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.run, lambda: told.append(files.known(TLS).content))
        await trio.sleep(2.5)
        assert told == []
        write(folder, crt="one", key="key")
        await trio.sleep(2)
        write(folder, crt="two")
        await trio.sleep(2)
        assert [one["tls.crt"] for one in told] == [b"one", b"two"]
        nursery.cancel_scope.cancel()


async def test_a_key_that_others_may_read_is_not_used(tmp_path, folder):
    write(folder, mode=0o640, crt="chain", key="key")
    files = Files(tmp_path, lambda: 1.0)
    files.want(frozenset({TLS}))
    known = files.known(TLS)
    assert (known.content, known.hint) == (None, f"chmod 600 {folder}/tls.key")
    assert "can be read by others" in known.why


@pytest.mark.parametrize("namespace", ["..", ".", "", "a/../../etc"])
async def test_no_name_leads_out_of_the_folder(tmp_path, folder, namespace):
    write(folder, crt="chain", key="key")
    files = Files(tmp_path / "shop", lambda: 1.0)
    ref = Ref("Secret", namespace, "tls")
    files.want(frozenset({ref}))
    assert files.known(ref).why == "its name is no name of a folder"


async def test_whatever_stands_at_the_path_does_not_block(tmp_path, folder):
    os.mkfifo(folder / "tls.crt")
    files = Files(tmp_path, lambda: 1.0)
    files.want(frozenset({TLS}))
    assert "cannot be read" in files.known(TLS).why
    os.unlink(folder / "tls.crt")
    write(folder, crt="x" * ((1 << 20) + 1))
    files.want(frozenset())
    files.want(frozenset({TLS}))
    assert "has more than 1 MiB" in files.known(TLS).why
