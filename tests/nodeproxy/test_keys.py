"""keys.py: which files are keys, and that nobody else's and nothing unsafe is one."""

import os

import pytest
from trio.testing import MockClock

from nodeproxy.keys import AGAIN, Keys

KEY = b"0123456789abcdef"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop").mkdir()
    return tmp_path


def put(folder, name="shop/till", data=KEY, mode=0o600):
    path = folder / name
    path.write_bytes(data)
    path.chmod(mode)
    return path


async def test_a_key_is_a_file_of_its_namespace(folder):
    put(folder, data=KEY + b"\r\n")
    keys = Keys(str(folder))
    assert keys.get("shop/till") == KEY
    assert KEY.decode() not in repr(keys)


@pytest.mark.parametrize(
    "name", ["till", "shop/../shop/till", "../shop/till", "shop/", "/till", "shop/.x", "shop/none", ""]
)
async def test_a_name_leads_nowhere_else(folder, name):
    put(folder)
    put(folder, "shop/.x")
    assert Keys(str(folder)).get(name) is None
    assert Keys().get("shop/till") is None


@pytest.mark.parametrize(
    ("data", "mode"), [(KEY, 0o604), (KEY, 0o666), (b"short", 0o600), (b"a" * 5000, 0o600), (b"", 0o600)]
)
async def test_what_others_may_read_or_is_too_short_is_no_key(folder, caplog, data, mode):
    put(folder, data=data, mode=mode)
    assert Keys(str(folder)).get("shop/till") is None
    assert "shop/till" in caplog.text
    assert KEY.decode() not in caplog.text


async def test_what_is_no_file_is_no_key_and_holds_nobody_up(folder):
    os.mkfifo(folder / "shop" / "till", 0o600)
    (folder / "shop" / "folder").mkdir()
    keys = Keys(str(folder))
    assert keys.get("shop/till") is None
    assert keys.get("shop/folder") is None


async def test_a_new_key_is_in_force_after_a_while(folder, autojump_clock: MockClock):
    put(folder)
    keys = Keys(str(folder))
    assert keys.get("shop/till") == KEY
    put(folder, data=KEY[::-1])
    assert keys.get("shop/till") == KEY, "not read for each request"
    autojump_clock.jump(AGAIN)
    assert keys.get("shop/till") == KEY[::-1]
    (folder / "shop" / "till").unlink()
    autojump_clock.jump(AGAIN)
    assert keys.get("shop/till") is None
