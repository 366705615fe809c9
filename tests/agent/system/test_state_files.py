"""Files of state: read whatever is there, believed only as it was written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.sources import directory
from agent.system import state_files


def test_what_was_sealed_is_what_comes_back_and_nothing_else_does() -> None:
    data = state_files.seal(b'{"name":"buyer"}')
    assert state_files.unseal(data) == b'{"name":"buyer"}'
    for at in range(len(b'{"digest"'), len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(state_files.UNREADABLE):
            if state_files.unseal(bytes(changed)) == b'{"name":"buyer"}':
                raise ValueError("white space, which says nothing")


def test_what_an_earlier_release_wrote_is_taken_as_it_is() -> None:
    assert state_files.unseal(b'{"version":1}') == b'{"version":1}'


def test_what_is_no_file_is_told_at_once_and_leaves_nothing_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large").write_bytes(bytes(11))
    open_before = len(os.listdir("/proc/self/fd"))
    for name in ("pipe", "folder.yaml"):
        with pytest.raises(OSError, match="it is no file"):
            state_files.read(tmp_path / name)
    with pytest.raises(OSError, match="larger than"):
        state_files.read(tmp_path / "large", 10)
    with pytest.raises(OSError, match="it is no file"):
        directory._read(str(tmp_path / "folder.yaml"))
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert state_files.read(tmp_path / "large", 11) == bytes(11)


def test_a_file_that_has_nothing_to_say_just_now_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg, which is a regular file to who asks, and may be in the place of one of ours by a link."""
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    monkeypatch.setattr("agent.system.state_files.stat.S_ISREG", lambda _: True)
    try:
        with pytest.raises(state_files.UNREADABLE):
            state_files.read(tmp_path / "pipe")
    finally:
        os.close(writer)


def test_no_word_of_what_was_read_is_told() -> None:
    assert state_files.why(ValueError("secret")) == "it is not what edgemesh wrote"
    assert state_files.why(state_files.DamagedError()).startswith("it is damaged")
    assert state_files.why(FileNotFoundError(2, "No such file or directory", "/path")) == "No such file or directory"
