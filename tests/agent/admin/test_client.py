"""The CLI's side: documents when the daemon answers, and words that help when it does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.admin import client
from agent.admin.client import Answered, NotRunning, Unreachable, get, post


@contextmanager
def server(path: Path, reply: bytes) -> Iterator[list[bytes]]:
    """Answers one connection with these bytes; the list holds what was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join(20)


def reply(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_a_document(tmp_path: Path) -> None:
    with server(tmp_path / "s", reply("200 OK", b'{"a": [1]}')) as asked:
        assert get(str(tmp_path / "s"), "/explain", [("src", "a/b"), ("header", "x: y&z"), ("header", "q:1")]) == {
            "a": [1]
        }
    assert asked[0].startswith(b"GET /explain?src=a%2Fb&header=x%3A+y%26z&header=q%3A1 HTTP/1.1\r\n")


def test_no_is_an_answer_with_advice(tmp_path: Path) -> None:
    with (
        server(tmp_path / "s", reply("404 Not Found", b'{"error": "no such", "hint": "there is x"}')),
        pytest.raises(Answered) as caught,
    ):
        get(str(tmp_path / "s"), "/")
    assert (caught.value.status, caught.value.error, caught.value.hint) == (404, "no such", "there is x")


def test_not_ready_is_unreachable(tmp_path: Path) -> None:
    with (
        server(tmp_path / "s", reply("503 Service Unavailable", b'{"error": "no policy yet"}')),
        pytest.raises(ConnectionError, match="is not ready: no policy yet"),
    ):
        get(str(tmp_path / "s"), "/ready")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"])
def test_who_talks_nonsense(tmp_path: Path, answer: bytes) -> None:
    with server(tmp_path / "s", answer), pytest.raises(Unreachable, match=r"(?i)is it edgemesh that listens there"):
        get(str(tmp_path / "s"), "/")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"edgemesh is not running on this node(.|\n)*edgemesh run --config DIR"):
        get(str(tmp_path / "s"), "/")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    with pytest.raises(Unreachable, match="edgemesh is not running on this node"):
        get(str(tmp_path / "s"), "/")


def test_somebody_else_s_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(Unreachable, match=r"you may not open(.|\n)*usually root"):
        get(str(tmp_path / "s"), "/")


def test_a_daemon_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT", 0.01)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(Unreachable, match="did not answer"):
            get(str(tmp_path / "s"), "/")


def test_something_is_done(tmp_path: Path) -> None:
    with server(tmp_path / "s", reply("200 OK", b'{"version": "2.0"}')) as asked:
        assert post(str(tmp_path / "s"), "/update", [("release", "2.0-a&b")]) == {"version": "2.0"}
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /update?release=2.0-a%26b HTTP/1.1\r\n")
    assert body == b"", "the daemon takes none"


def test_nobody_who_could_do_it_is_another_answer_than_one_who_does_not(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        post(str(tmp_path / "s"), "/update")
    with server(tmp_path / "s", b""), pytest.raises(Unreachable) as caught:
        post(str(tmp_path / "s"), "/update")
    assert not isinstance(caught.value, NotRunning), "or a release would be installed that nobody has seen work"


def test_what_is_done_may_take_long(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(Unreachable, match="within 0 s"):
            post(str(tmp_path / "s"), "/update", timeout=0.01)
