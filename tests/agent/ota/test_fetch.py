"""Fetching over links that fail, from servers that lie: resumed where that is safe, counted, bounded; time is faked."""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.ota import fetch as module
from agent.ota.fetch import Fetched, FetchError, fetch, forget
from tests.ports import free_port

DATA = bytes(number * 7 % 251 for number in range(200_000))
TAG = '"one"'


class Clock:
    """Nobody sleeps in these tests: `slept` is what they would have."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return clock


class Asked:
    """One request's head."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.line = first
        self.fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def range(self) -> str:
        return self.fields.get("range", "")


Act = Callable[[Asked], bytes]


class Server:
    """Answers each connection with the next act's bytes and closes it; the last act stands for all that follow."""

    def __init__(self, *acts: Act) -> None:
        self.asked: list[Asked] = []
        self.acts = list(acts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/edgemesh.bundle"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (data := connection.recv(65536)):
                    head += data
                self.asked.append(Asked(head.partition(b"\r\n\r\n")[0]))
                act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                try:
                    connection.sendall(act(self.asked[-1]))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # until it has read all
                        pass
                except OSError:
                    pass  # it has seen enough

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)


def head(status: str, **fields: object) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items()),
        "connection: close",
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def serve(data: bytes = DATA, tag: str = TAG, cut: int | None = None) -> Act:
    """As RFC 9110 says; `cut`: break off after so many bytes."""

    def act(asked: Asked) -> bytes:
        if asked.range and asked.fields.get("if-range") == tag:
            first = int(asked.range.removeprefix("bytes=").removesuffix("-"))
            if first >= len(data):
                return head("416 Range Not Satisfiable", content_range=f"bytes */{len(data)}", content_length=0)
            part = data[first:]
            whole = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return head("206 Partial Content", etag=tag, content_length=len(part), content_range=whole) + part[:cut]
        return head("200 OK", content_length=len(data), **({"etag": tag} if tag else {})) + data[:cut]

    return act


def say(answer: bytes) -> Act:
    return lambda _: answer


def unsatisfiable(size: int) -> Act:
    return say(head("416 Range Not Satisfiable", content_range=f"bytes */{size}", content_length=0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "update"


def got(found: Fetched, data: bytes = DATA) -> tuple[int, int]:
    assert found.path.read_bytes() == data
    return found.received, found.resumed


def left(folder: Path) -> int:
    """Bytes that stay on the disk."""
    return sum(path.stat().st_size for path in folder.iterdir() if not path.name.endswith(".etag"))


# as it should be


def test_a_path_is_taken_as_it_is(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "b").write_bytes(DATA)
    found = fetch(str(tmp_path / "b"), folder)
    assert found == Fetched(tmp_path / "b", 0, 0)
    assert not folder.exists()
    for nothing in ("gone", "", "."):
        with pytest.raises(FetchError, match="no such file"):
            fetch(str(tmp_path / nothing), folder)


def test_fetched_and_counted(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    with Server(serve()) as server:
        assert got(fetch(server.url, folder, told=lambda done, whole: told.append((done, whole)))) == (len(DATA), 0)
    assert told[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert server.asked[0].fields["accept-encoding"] == "identity", "a compressed body has other bytes and other ranges"


def test_broken_off_and_resumed_and_no_byte_is_paid_for_twice(folder: Path) -> None:
    with Server(serve(cut=1000), serve(cut=1), serve(cut=50_000), serve()) as server:
        assert got(fetch(server.url, folder)) == (len(DATA), 0)
    assert [asked.range for asked in server.asked] == ["", "bytes=1000-", "bytes=1001-", "bytes=51001-"]
    assert {asked.fields.get("if-range") for asked in server.asked[1:]} == {TAG}


def test_resumed_by_the_next_start(folder: Path) -> None:
    with Server(serve(cut=70_000), say(b"")) as server:
        with pytest.raises(FetchError, match="70000 bytes are kept, and the next update goes on there"):
            fetch(server.url, folder)
        server.acts = [serve()]
        assert got(fetch(server.url, folder)) == (len(DATA) - 70_000, 70_000)


def test_whole_already_and_not_fetched_again(folder: Path) -> None:
    """Killed between the last byte and what comes after it."""
    with Server(serve()) as server:
        assert got(fetch(server.url, folder)) == (len(DATA), 0)
        assert got(fetch(server.url, folder)) == (0, len(DATA))


def test_another_version_in_between_begins_anew(folder: Path) -> None:
    """The server's word for it is the ETag; it answers 200 then, with all of the new one."""
    other = DATA[::-1]
    with Server(serve(cut=5000), serve(other, '"two"', cut=70_000), serve(other, '"two"')) as server:
        assert got(fetch(server.url, folder), other) == (5000 + len(other), 0)
    assert [asked.range for asked in server.asked] == ["", "bytes=5000-", "bytes=70000-"]


@pytest.mark.parametrize("tag", ["", 'W/"one"'])
def test_what_has_no_strong_name_is_not_resumed(folder: Path, tag: str) -> None:
    with Server(serve(tag=tag, cut=5000), serve(tag=tag)) as server:
        assert got(fetch(server.url, folder)) == (5000 + len(DATA), 0)
    assert [asked.range for asked in server.asked] == ["", ""]


def test_a_server_without_ranges_is_asked_and_all_of_it_comes(folder: Path) -> None:
    whole = say(head("200 OK", content_length=len(DATA), etag=TAG) + DATA)
    with Server(serve(cut=5000), whole) as server:
        assert got(fetch(server.url, folder)) == (5000 + len(DATA), 0)


def test_other_bundles_that_were_begun_are_given_up(folder: Path) -> None:
    with Server(serve(cut=5000), say(b"")) as server, pytest.raises(FetchError):
        fetch(server.url, folder)
    (folder / "keys").write_text("stays")
    with Server(serve()) as other:
        found = fetch(f"{other.url}?other", folder)
    assert {path.name for path in folder.iterdir()} == {"keys", found.path.name, f"{found.path.name}.etag"}
    forget(folder)
    assert {path.name for path in folder.iterdir()} == {"keys"}


# how fast


def test_not_faster_than_asked(folder: Path, clock: Clock) -> None:
    with Server(serve()) as server:
        began = clock.now
        fetch(server.url, folder, rate=20_000)
    assert clock.now - began == pytest.approx(len(DATA) / 20_000)
    assert max(clock.slept) <= 0.25 + 1e-6, "evenly, not in bursts"
    clock.slept.clear()
    forget(folder)
    with Server(serve()) as server:
        fetch(server.url, folder)
    assert not any(clock.slept)


# servers that fail, lie or never end


def test_it_is_tried_again_with_longer_rests_and_then_given_up(folder: Path, clock: Clock) -> None:
    with (
        Server(say(head("503 Service Unavailable", content_length=0))) as server,
        pytest.raises(FetchError, match="503 Service Unavailable"),
    ):
        fetch(server.url, folder)
    assert len(server.asked) == 5
    assert clock.slept == [2, 4, 8, 16]


def test_a_byte_more_is_progress(folder: Path) -> None:
    """A link that fails every few seconds gets there in the end."""
    data = DATA[:50]
    with Server(serve(data, cut=1)) as server:
        assert got(fetch(server.url, folder), data) == (50, 0)
    assert len(server.asked) == 50


def test_after_a_failure_of_the_server_it_goes_on(folder: Path) -> None:
    error = say(head("500 Internal Server Error", content_length=3) + b"no\n")
    with Server(error, serve(cut=9000), error, say(b""), say(b"nonsense\r\n\r\n"), serve()) as server:
        assert got(fetch(server.url, folder)) == (len(DATA), 0)


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "401 Unauthorized", "410 Gone"])
def test_a_no_is_a_no(folder: Path, clock: Clock, status: str) -> None:
    with (
        Server(say(head(status, content_length=0))) as server,
        pytest.raises(FetchError, match=f"the server says {status}"),
    ):
        fetch(server.url, folder)
    assert len(server.asked) == 1
    assert clock.slept == []


def test_nobody_there(folder: Path) -> None:
    port = free_port()
    with pytest.raises(FetchError, match=r"refused; 0 bytes are kept"):
        fetch(f"http://127.0.0.1:{port}/", folder)


def test_a_range_that_cannot_be_had_begins_anew(folder: Path) -> None:
    """416 for a version that has become shorter."""
    with Server(serve(cut=9000), unsatisfiable(50), serve()) as server:
        assert got(fetch(server.url, folder)) == (9000 + len(DATA), 0)
    assert [asked.range for asked in server.asked] == ["", "bytes=9000-", ""]


def test_416_for_ever_ends(folder: Path) -> None:
    with (
        Server(say(head("416 Range Not Satisfiable", content_length=0))) as server,
        pytest.raises(FetchError, match="416"),
    ):
        fetch(server.url, folder)
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"content_range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}", "etag": TAG},
        {"content_range": f"bytes 90-{len(DATA) - 1}/{len(DATA)}", "etag": TAG},
        {"content_range": f"bytes 9000-{len(DATA) - 1}/{len(DATA)}", "etag": '"two"'},
        {"content_range": f"bytes 9000-{len(DATA) - 1}/{len(DATA)}"},
        {"etag": TAG},
    ],
)
def test_another_part_than_asked_for_is_not_put_together(folder: Path, fields: dict[str, str]) -> None:
    wrong = say(head("206 Partial Content", content_length=100, **fields) + b"x" * 100)
    with Server(serve(cut=9000), wrong, serve()) as server:
        assert got(fetch(server.url, folder)) == (9000 + len(DATA), 0)
    assert [asked.range for asked in server.asked] == ["", "bytes=9000-", ""]


def test_a_part_that_nobody_asked_for(folder: Path) -> None:
    part = say(head("206 Partial Content", content_length=100, content_range="bytes 900-999/1000") + b"x" * 100)
    with Server(part) as server, pytest.raises(FetchError, match="another part than was asked for"):
        fetch(server.url, folder)
    assert not left(folder)


def test_a_body_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 100_000)
    with Server(say(head("200 OK", etag=TAG) + DATA)) as server, pytest.raises(FetchError, match="it does not end"):
        fetch(server.url, folder)
    assert list(folder.iterdir()) == [], "nor does it stay on the disk"


def test_more_than_a_bundle_can_be_is_not_begun(folder: Path) -> None:
    with (
        Server(say(head("200 OK", content_length=2**40))) as server,
        pytest.raises(FetchError, match="bytes are no bundle"),
    ):
        fetch(server.url, folder)


def test_more_than_the_disk_holds_is_not_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 << 10))
    with Server(serve()) as server, pytest.raises(FetchError, match="195 KiB are to come, and 100 are free"):
        fetch(server.url, folder)
    assert len(server.asked) == 1


@pytest.mark.parametrize("length", ["-1", "x", "\xb2", "0x10", "9" * 5000, "1e9", ""])
def test_lengths_that_are_none(folder: Path, length: str) -> None:
    with Server(say(head("200 OK", content_length=length, etag=TAG) + DATA)) as server:
        assert got(fetch(server.url, folder)) == (len(DATA), 0)


def test_a_length_greater_than_what_comes(folder: Path) -> None:
    """It is asked for the rest, until there is none."""
    lies = say(head("200 OK", content_length=len(DATA) + 9, etag=TAG) + DATA)
    with Server(lies, unsatisfiable(len(DATA))) as server:
        assert got(fetch(server.url, folder)) == (len(DATA), 0)


def test_chunks_that_break_off(folder: Path) -> None:
    whole = head("200 OK", transfer_encoding="chunked", etag=TAG) + b"%x\r\n%s\r\n" % (len(DATA), DATA)
    with Server(say(whole[:9000]), say(whole + b"0\r\n\r\n")) as server:
        assert fetch(server.url, folder).path.read_bytes() == DATA


def test_who_says_nothing_is_not_waited_for_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.02)
    monkeypatch.setattr(module, "_TRIES", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(FetchError, match="timed out"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", folder)


def test_a_disk_that_is_full_in_the_middle_ends_it_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    with Server(serve()) as server:
        at = folder / f"fetched-{hashlib.sha256(server.url.encode()).hexdigest()[:16]}"

        def opened(path, mode):
            return open("/dev/full" if path == at else path, mode)

        monkeypatch.setattr(module, "open", opened, raising=False)
        with pytest.raises(FetchError, match="No space left on device"):
            fetch(server.url, folder)
    assert len(server.asked) == 1


# where it may lead


def test_a_redirect_is_followed_and_resumed_as_well(folder: Path) -> None:
    with (
        Server(serve(cut=9000), serve()) as target,
        Server(say(head("307 Temporary Redirect", location=target.url, content_length=0))) as server,
    ):
        assert got(fetch(server.url, folder)) == (len(DATA), 0)
    assert [asked.range for asked in target.asked] == ["", "bytes=9000-"]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://x", "FILE:///etc/passwd"]
)
def test_a_redirect_leads_to_http_only(folder: Path, location: str) -> None:
    with Server(say(head("302 Found", location=location, content_length=0))) as server, pytest.raises(FetchError):
        fetch(server.url, folder)
    assert len(server.asked) == 1
    assert not left(folder)


def test_redirects_in_a_circle_end(folder: Path) -> None:
    with Server(say(b"")) as server:
        server.acts = [say(head("302 Found", location=server.url, content_length=0))]
        with pytest.raises(FetchError):
            fetch(server.url, folder)


@pytest.mark.parametrize(
    "source",
    [
        "ftp://x/y",
        "file:///etc/passwd",
        "FILE:///x",
        "://",
        "http://a b/",
        "http://x/\r\nHost: y",
        "http://é/",
        "http://[x/",
        "http://x:port/",
    ],
)
def test_no_url_of_ours(folder: Path, clock: Clock, source: str) -> None:
    with pytest.raises(FetchError):
        fetch(source, folder)
    assert clock.slept == [], "and it is not tried again"
