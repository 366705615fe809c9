"""The admin socket: ours alone, never taken from a living daemon, always where people look."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from agent.admin.listener import AdminSocket, AdminSocketError


def test_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "run" / "edgemesh.sock"
    admin = AdminSocket(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "run" / "edgemesh.sock.lock").read_text() == f"{os.getpid()}\n"
    assert repr(admin) == f"<AdminSocket {path}>"
    admin.close()
    assert not path.exists()


def test_a_living_daemon_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    admin = AdminSocket(path)
    inode = path.stat().st_ino
    with pytest.raises(AdminSocketError, match=f"edgemesh is already running as pid {os.getpid()} "):
        AdminSocket(path)
    assert path.stat().st_ino == inode
    admin.close()
    AdminSocket(path).close()


def test_a_leftover_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    (tmp_path / "s.lock").write_text("99999999\n")
    (tmp_path / "s.new").write_text("from a start that was killed")
    admin = AdminSocket(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert (tmp_path / "s.lock").read_text() == f"{os.getpid()}\n"
    admin.close()


def test_a_path_that_cannot_be_used_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AdminSocketError, match="a socket path may have 103 bytes; set adminSocket"):
        AdminSocket(tmp_path / ("x" * 110))
    (tmp_path / "file").write_text("")
    with pytest.raises(AdminSocketError, match="set --socket to a path that may be written"):
        AdminSocket(tmp_path / "file" / "s")
    with pytest.raises(AdminSocketError, match="is there, and is no socket"):
        AdminSocket(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "file.lock"]


def test_a_directory_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(AdminSocketError, match="Operation not permitted; set --socket"):
        AdminSocket(tmp_path / "s")
    assert os.listdir(tmp_path) == ["s.lock"]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "s.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(AdminSocketError):
        AdminSocket(tmp_path / "s")
    assert (tmp_path / "precious").read_text() == "keep"


# at an update


def copies(admin: AdminSocket) -> dict[str, list[int]]:
    """As they come to another process."""
    return {name: [os.dup(number) for number in numbers] for name, numbers in admin.descriptors().items()}


def held(path: Path) -> bool:
    lock = os.open(f"{path}.lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def test_a_successor_has_the_same_socket_and_the_same_lock(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = AdminSocket(path)
    inode = path.stat().st_ino
    new = AdminSocket(path, copies(old))
    assert path.stat().st_ino == inode
    (tmp_path / "s.lock").write_text("7\nlonger than a pid")
    new.own()
    assert (tmp_path / "s.lock").read_text() == f"{os.getpid()}\n"
    old.kept = True
    old.close()
    assert path.exists()
    assert held(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    new.close()
    assert not path.exists()
    assert not held(path)


def test_one_that_is_not_to_take_over_takes_nothing_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = AdminSocket(path)
    new = AdminSocket(path, copies(old))
    new.kept = True
    new.close()
    assert path.exists()
    assert held(path)
    old.close()


@pytest.mark.parametrize("lacks", ["lock", "socket", "all"])
def test_what_is_lent_in_part_is_not_enough(tmp_path: Path, lacks: str) -> None:
    path = tmp_path / "s"
    old = AdminSocket(path)
    lent = copies(old)
    for name in list(lent):
        if lacks == "all" or name.endswith("lock") == (lacks == "lock"):
            os.close(lent.pop(name)[0])
    with pytest.raises(AdminSocketError, match="already running"):
        AdminSocket(path, lent)
    for (number,) in lent.values():
        os.close(number)
    old.close()


def test_what_is_lent_for_another_path_is_closed(tmp_path: Path) -> None:
    """The manifests say another one since."""
    old = AdminSocket(tmp_path / "old")
    new = AdminSocket(tmp_path / "new", copies(old))
    old.kept = True
    old.close()
    assert not held(tmp_path / "old")
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(tmp_path / "old"))
    new.close()
